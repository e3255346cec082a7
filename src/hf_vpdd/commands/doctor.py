"""`hf-vpdd doctor`: is everything there that the demo needs, and if not, which command mends it.

hf-vpdd doctor              # the whole machine; exit status 1 when `hf-vpdd demo` cannot run
hf-vpdd doctor rlbench      # how to install a simulator that pip alone cannot install
hf-vpdd doctor calvin       # the same, and tries it out: a picture, steps a second
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path

from ..envs import calvin_setup, gl, rlbench_setup
from ..errors import InputError
from ..registration import DEFAULT_CHECKPOINT
from ..version import __version__


SUMMARY = "Check this machine: packages, rendering, simulators; says what to install."
LIGHT = True  # must run where torch or transformers cannot even be imported

OLDEST_PYTHON = (3, 10)
FREE_DISK = 2e9  # bytes: the frame caches and reports of a quickstart fit with room to spare

HOW_TO = {
    "metaworld": """\
Meta-World runs on this package's extra alone:

    pip install 'hf-vpdd[metaworld]'
    sudo apt-get install -y libegl1 libgl1        # Linux without a screen

`hf-vpdd doctor` then draws a test picture to see that it works.""",
    "calvin": calvin_setup.HOW_TO,
    "rlbench": rlbench_setup.HOW_TO,
}


@dataclass
class Finding:
    """One line of the report. `fix` is empty when all is well; `blocks_demo`: the demo fails until it is mended."""

    name: str
    found: str
    fix: str = ""
    blocks_demo: bool = False


def add_arguments(parser):
    parser.add_argument(
        "topic", nargs="?", choices=sorted(HOW_TO), default=None, help="tell how to install this simulator instead"
    )
    parser.add_argument(
        "--missing-packages",
        action="store_true",
        help="print only the system packages that rendering lacks, on one line (for scripts; empty when none)",
    )


def run(args) -> int:
    if args.topic:
        print(HOW_TO[args.topic])
        if args.topic == "rlbench":
            print("What this machine has of it:\n")
            _print([Finding(*astuple(part)) for part in rlbench_setup.examine()])
        if args.topic == "calvin":
            return _calvin()
        return 0
    if args.missing_packages:
        print(" ".join(missing_system_packages()))
        return 0
    findings = examine()
    print(f"hf-vpdd {__version__} on {platform.platform()}\n")
    _print(findings)
    blocked = [finding.name for finding in findings if finding.fix and finding.blocks_demo]
    if blocked:
        print(f"\nThe demo cannot run yet. Mend first: {', '.join(blocked)}.")
        return 1
    print("\nAll that the demo needs is there: `hf-vpdd demo`.")
    return 0


def _calvin() -> int:
    """What there is of CALVIN, and if nothing lacks, whether it runs; 1 if it should but does not."""
    from ..envs.calvin_process import CalvinServerError
    from ..envs.calvin_trial import try_out

    print("What this machine has of it:\n")
    parts = calvin_setup.examine()
    _print([Finding(*astuple(part)) for part in parts])
    if any(part.fix and part.name != calvin_setup.OPENGL for part in parts):
        return 0
    print("\nTrying it out (some seconds):\n")
    status = 0
    renderers = ["tiny"] + ["egl"] * all(not part.fix for part in parts)
    for renderer in renderers:
        picture = Path(tempfile.gettempdir()) / f"hf-vpdd-calvin-{renderer}.png"
        try:
            print(f"  {renderer:<4}  {try_out(renderer, picture)}")
        except (InputError, CalvinServerError) as error:
            print(f"  {renderer:<4}  FAILED  {error}")
            status = 1
    return status


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if not finding.fix else ("MISSING" if finding.blocks_demo else "note")
        print(f"  {finding.name:<{width}}  {mark:<7}  {finding.found}")
        if finding.fix:
            print(f"  {'':<{width}}  {'':<7}  -> {finding.fix}")


def examine() -> list[Finding]:
    """Looks at everything; takes a few seconds, most of them for importing the package in a fresh process."""
    return [
        _python(),
        *_packages(),
        _imports(),
        _checkpoint(),
        _rendering(),
        *_other_simulators(),
        _cores(),
        _disk(Path.cwd()),
    ]


def missing_system_packages() -> tuple[str, ...]:
    """Debian's names of the packages that drawing without a screen lacks here; empty when its libraries load."""
    if not sys.platform.startswith("linux"):
        return ()
    backend = gl.diagnose(render=False)["backend"]
    if backend is None:
        return gl.PACKAGES["egl"]
    if backend in gl.PACKAGES and not gl.diagnose(render=False)["libraries"][backend]:
        return gl.PACKAGES[backend]
    return ()


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", found, "needs Python 3.10 or newer: make PYTHON=python3.12 demo", True)
    return Finding("python", found)


def _packages() -> list[Finding]:
    """One line for what is installed, and one for each requirement that is not met."""
    if importlib.util.find_spec("packaging") is None:
        return [Finding("packages", "`packaging` is missing: cannot compare versions", "pip install packaging", True)]
    found, problems = [], []
    extras = {"": True, "metaworld": True, "demo": True, "lora": False, "train": False}
    seen = set()
    for extra, needed in extras.items():
        for name, bounds in requirements(extra):
            if name in seen:
                continue
            seen.add(name)
            target = f"'hf-vpdd[{extra}]'" if extra else "hf-vpdd"
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                problems.append(
                    Finding(
                        name,
                        "not installed" if needed else f"not installed (optional: {extra})",
                        f"pip install {target}",
                        needed,
                    )
                )
                continue
            if not satisfies(version, bounds):
                problems.append(
                    Finding(name, f"{version}, but {bounds} is needed", f'pip install "{name}{bounds}"', needed)
                )
            elif name in ("torch", "transformers", "diffusers", "metaworld", "mujoco", "numpy"):
                found.append(f"{name} {version}")
    return [Finding("packages", ", ".join(found)), *problems]


def requirements(extra: str = "") -> list[tuple[str, str]]:
    """What the installed package asks for: (name, version bounds) of the core, or of one extra, for this Python."""
    from packaging.requirements import Requirement

    chosen = []
    for text in metadata.requires("hf-vpdd") or ():
        requirement = Requirement(text)
        of_extra = "extra ==" in str(requirement.marker or "")
        if of_extra != bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        chosen.append((requirement.name, str(requirement.specifier)))
    return chosen


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ">=5.20,<6"; a local label ("+cpu") does not matter."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)


def _imports() -> Finding:
    """Imports the package as a user would, in a child: a broken wheel may take the process down with it."""
    start = time.perf_counter()
    child = subprocess.run([sys.executable, "-W", "ignore", "-c", "import hf_vpdd"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if child.returncode == 0:
        return Finding("import", f"`import hf_vpdd` works ({seconds:.1f} s)")
    return Finding("import", *diagnose_import(child.stderr, child.returncode), True)


def diagnose_import(stderr: str, status: int) -> tuple[str, str]:
    """What a failed import says, in one line, and what to do about it."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()] or [f"exit status {status}"]
    # A torchvision of another build than torch breaks transformers as a whole, although we do not use it.
    if re.search(r"torchvision", stderr):
        return lines[-1], "torchvision does not fit this torch, and hf-vpdd needs none: pip uninstall torchvision"
    return lines[-1], "reinstall: pip install --force-reinstall hf-vpdd; the whole error: python -c 'import hf_vpdd'"


def _checkpoint() -> Finding:
    weights = DEFAULT_CHECKPOINT / "model.safetensors"
    if not weights.is_file():
        return Finding(
            "checkpoint", f"{DEFAULT_CHECKPOINT.name} is missing", "incomplete install: reinstall hf-vpdd", True
        )
    return Finding("checkpoint", f"{DEFAULT_CHECKPOINT.name}, {weights.stat().st_size / 1e6:.1f} MB, ships inside")


def _rendering() -> Finding:
    state = gl.diagnose()
    if state["ok"]:
        return Finding("rendering", f"MuJoCo draws without a screen ({state['backend']})")
    return Finding("rendering", "; ".join(state["problems"]), "; ".join(state["install"]), True)


def _other_simulators() -> list[Finding]:
    """One line for each simulator that nobody needs, and one for the package that harms RLBench."""
    if not any(os.environ.get(name) for name in (calvin_setup.PYTHON_VARIABLE, calvin_setup.ROOT_VARIABLE)):
        findings = [Finding("calvin", "not installed (optional; `hf-vpdd doctor calvin`)")]
    else:
        lacks = ", ".join(part.name for part in calvin_setup.missing())
        findings = [Finding("calvin", "installed", f"not ready: {lacks}; hf-vpdd doctor calvin" if lacks else "")]
    missing = ", ".join(part.name for part in rlbench_setup.missing())
    if rlbench_setup.package_folder("rlbench") is None:
        findings.append(Finding("rlbench", "not installed (optional; `hf-vpdd doctor rlbench`)"))
    else:
        fix = f"not ready: {missing}; hf-vpdd doctor rlbench" if missing else ""
        findings.append(Finding("rlbench", "installed", fix))
    pyrep = rlbench_setup.package_folder("pyrep")
    if pyrep is not None and rlbench_setup.is_unrelated_pyrep(pyrep):
        findings.append(
            Finding(
                "pyrep", "the one from PyPI is an unrelated project", "pip uninstall pyrep; hf-vpdd doctor rlbench"
            )
        )
    return findings


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = "an NVIDIA GPU" if shutil.which("nvidia-smi") else "no NVIDIA GPU (none is needed)"
    threads = {key: os.environ[key] for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key in os.environ}
    settings = "".join(f", {key}={value}" for key, value in threads.items())
    return Finding("cores", f"{cores}, {gpus}{settings}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.0f} GB free in {folder}"
    if free < FREE_DISK:
        return Finding("disk", found, "recordings and reports need about 2 GB: make room or work elsewhere")
    return Finding("disk", found)
