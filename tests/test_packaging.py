"""What is built and installed, and whether README, Makefile and setup.py speak of things that exist."""

import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hf_vpdd import cli


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "hf_vpdd"


def names_of_sources() -> list[str]:
    return sorted(
        path.relative_to(ROOT / "src").as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file()
        and path.suffix != ".pyc"
        and not any(part.startswith(".") for part in path.relative_to(PACKAGE).parts)  # editors' and our own leftovers
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy, so that the clone gets no build/ folder."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", ".*"))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(out)], cwd=tree, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel):
    shipped = set(wheel.namelist())
    assert [name for name in names_of_sources() if name not in shipped] == []
    foreign = {name.split("/")[0] for name in shipped if ".dist-info/" not in name} - {"hf_vpdd"}
    assert foreign == set(), "tests or scripts would be installed as top-level packages"


def test_the_wheels_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "hf-vpdd"
    assert "Apache-2.0" in (metadata["License-Expression"] or metadata["License"])
    assert metadata["Requires-Python"] == ">=3.10"
    assert "# hf-vpdd" in metadata.get_payload(), "the README is the description"
    assert any(name.endswith("LICENSE") for name in wheel.namelist())
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "hf-vpdd = hf_vpdd.cli:main" in wheel.read(entry).decode()


def test_every_room_is_a_package():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py and would not be installed"


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py hands to setuptools."""
    import setuptools

    seen = {}
    real = setuptools.setup
    setuptools.setup = lambda **arguments: seen.update(arguments)
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = real
    return seen


def pinned_versions() -> dict[str, str]:
    """name -> version that constraints.txt pins for this Python."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#") and line.strip():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                (specifier,) = requirement.specifier
                assert specifier.operator == "==", line
                assert pins.setdefault(canonical(requirement.name), specifier.version) == specifier.version, line
    return pins


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_and_within_its_bounds(setup_arguments):
    pins = pinned_versions()
    asked = [*setup_arguments["install_requires"], *setup_arguments["extras_require"]["all"]]
    assert len(asked) > 20
    for requirement in map(Requirement, asked):
        version = pins.get(canonical(requirement.name))
        assert version, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} refuses the tested {version}"


def test_nothing_unrelated_is_required(setup_arguments):
    names = {canonical(Requirement(text).name) for text in setup_arguments["extras_require"]["all"]}
    names |= {canonical(Requirement(text).name) for text in setup_arguments["install_requires"]}
    # PyPI's pyrep is another project; rlbench and calvin are not there; torchvision's build breaks a CPU torch.
    assert not names & {"pyrep", "rlbench", "calvin", "calvin-env", "torchvision", "lerobot"}
    assert {"metaworld", "calvin", "rlbench", "lora", "serve", "demo", "train", "dev"} < set(
        setup_arguments["extras_require"]
    )


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_speak_of_what_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for verb in re.findall(r"^\s*hf-vpdd ([a-z]+)|`hf-vpdd ([a-z]+)", text, flags=re.MULTILINE):
        assert "".join(verb) in cli.verbs(), f"hf-vpdd {''.join(verb)}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE):
        assert target in targets, f"make {target}"
    for path in re.findall(r"(?:launch |--config |\]\()((?!http|-)[\w./-]+)", text):
        assert (ROOT / path).exists(), path


def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 2.7.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(ROOT), f"VENV={tmp_path}/venv", f"PYTHON={old}", "demo"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "needs Python 3.10 or newer" in done.stdout and "Python 2.7.18" in done.stdout
    assert not (tmp_path / "venv").exists()
