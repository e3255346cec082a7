"""The command line itself; what the verbs do is tested beside their own rooms."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hf_vpdd import cli, commands
from hf_vpdd.errors import InputError
from hf_vpdd.version import __version__


@pytest.fixture
def verb(tmp_path, monkeypatch):
    """Adds a verb `probe` whose `run` has the given body, in a folder of its own on the path of `hf_vpdd.commands`."""

    def add(body: str, extra: str = ""):
        source = f"""
            from hf_vpdd.errors import InputError
            SUMMARY = "A verb for this test."
            LIGHT = True
            {extra}
            def add_arguments(parser):
                parser.add_argument("--number", type=int, default=3, help="a number")
            def run(args):
                {body}
        """
        (tmp_path / "probe.py").write_text(textwrap.dedent(source))
        monkeypatch.setattr(commands, "__path__", [str(tmp_path)])
        monkeypatch.setattr(commands, "__file__", str(tmp_path / "__init__.py"))
        monkeypatch.delitem(sys.modules, "hf_vpdd.commands.probe", raising=False)

    yield add
    sys.modules.pop("hf_vpdd.commands.probe", None)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_every_verb_with_its_summary(words, capsys):
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert cli.verbs()
    for name, summary in cli.verbs().items():
        assert name in printed
        assert summary and summary in printed


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-vpdd {__version__}\n"


def test_a_misspelt_verb_is_answered_with_the_near_one(capsys):
    assert cli.main(["docter"]) == 2
    assert "did you mean doctor?" in capsys.readouterr().err


def test_an_unknown_verb_is_answered_with_all(capsys):
    assert cli.main(["xyzzy"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in cli.verbs())


@pytest.mark.parametrize("body, status", [("return None", 0), ("return 0", 0), ("return 7", 7)])
def test_the_verbs_return_value_is_the_exit_status(verb, body, status):
    verb(body)
    assert cli.main(["probe"]) == status


def test_arguments_reach_the_verb(verb):
    verb("return args.number")
    assert cli.main(["probe"]) == 3
    assert cli.main(["probe", "--number", "5"]) == 5
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--number", "many"])
    assert stop.value.code == 2


def test_bad_input_is_told_in_one_line_without_a_traceback(verb, capsys):
    verb("raise InputError(\"unknown task 'reech-v3': did you mean reach-v3?\")")
    assert cli.main(["probe"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "hf-vpdd probe: unknown task 'reech-v3': did you mean reach-v3?\n"
    assert printed.out == ""


def test_other_errors_keep_their_traceback(verb):
    verb("raise ValueError('a bug')")
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["probe"])


def test_ctrl_c_is_130(verb, capsys):
    verb("raise KeyboardInterrupt")
    assert cli.main(["probe"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_verb_is_imported_only_when_chosen(verb):
    verb("return 0", extra='raise RuntimeError("imported")')
    assert cli.main(["--help"]) == 0
    assert cli.verbs() == {"probe": "A verb for this test."}
    with pytest.raises(RuntimeError, match="imported"):
        cli.main(["probe"])


def test_every_shipped_verb_has_the_three_parts():
    """Read from the text, because some verbs import much."""
    for path in sorted(Path(commands.__file__).parent.glob("[a-z]*.py")):
        body = ast.parse(path.read_text()).body
        functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        assert {"add_arguments", "run"} <= functions, path.name
        assert cli._summary(path).endswith("."), f"{path.name}: SUMMARY is one sentence with a full stop"


def test_input_error_is_an_ordinary_value_error():
    assert issubclass(InputError, ValueError)


def test_the_installed_command_answers_fast_without_torch(tmp_path):
    """As the console script does it: the process is called `hf-vpdd`, so nothing heavy is imported for --help."""
    script = tmp_path / "hf-vpdd"
    script.write_text(
        "import sys\nfrom hf_vpdd.cli import main\nstatus = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\nassert not heavy, heavy\nsys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_a_closed_pipe_is_no_traceback(tmp_path):
    """`hf-vpdd doctor rlbench | head -0`"""
    script = tmp_path / "hf-vpdd"
    script.write_text(
        "import sys\nfrom hf_vpdd.cli import main\nsys.stdin.read()\nsys.exit(main(['doctor', 'rlbench']))\n"
    )
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-u", str(script)], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    os.close(reader)  # nobody listens any more
    _, errors = child.communicate(b"", timeout=60)
    assert child.returncode == 141
    assert errors == b""
