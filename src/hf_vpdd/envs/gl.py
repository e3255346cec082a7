"""OpenGL without a screen: which backend MuJoCo shall use, and what is missing if none works.

    hf-vpdd doctor            # prints `diagnose()`

MuJoCo reads `MUJOCO_GL` once, when it is imported, and its default (glfw) needs a display. So `configure_gl()` has to
run before the first `import mujoco`, in every process that renders (a spawned worker inherits the variables of its
parent).
"""

import ctypes
import ctypes.util
import importlib.util
import os
import subprocess
import sys

from ..errors import InputError


# Debian/Ubuntu packages. libegl1 alone is not enough: PyOpenGL's EGL platform also loads libGL.
PACKAGES = {"egl": ("libegl1", "libgl1"), "osmesa": ("libosmesa6",)}
_LIBRARIES = {"egl": ("EGL", "GL"), "osmesa": ("OSMesa",)}

_PROBE = """
import os
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.2' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0, "the picture is black"
print("ok", flush=True)
os._exit(0)
"""


def configure_gl() -> str:
    """Chooses MuJoCo's OpenGL backend for this process and returns its name.

    A `MUJOCO_GL` that is already set is respected. Otherwise, on Linux: EGL if its libraries load, else OSMesa. macOS
    and Windows have their own backend and need no variable. Software rendering (llvmpipe) gets one thread: more
    threads do not make a 96-pixel picture faster, more processes do.

    Raises:
        InputError: No usable library was found; names the packages to install.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if not sys.platform.startswith("linux"):
        return "native"
    for backend in ("egl", "osmesa"):
        if _loads(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise InputError(
        "no OpenGL library for rendering without a screen was found. Install one: "
        f"`sudo apt-get install -y {' '.join(PACKAGES['egl'])}` (preferred) or "
        f"`sudo apt-get install -y {' '.join(PACKAGES['osmesa'])}`; then `hf-vpdd doctor` checks it"
    )


def diagnose(render: bool = True) -> dict:
    """What rendering and the Meta-World simulator have and lack on this machine.

    Args:
        render: Also draw one picture in a child process (half a second), the only proof that drivers work.

    Returns:
        A dictionary: `ok` (nothing to do), `backend` (egl | osmesa | native | what MUJOCO_GL says | None), `libraries`
        ({backend: it loads}), `modules` ({module: version or None}), `rendered` (True | False | None if not tried),
        `problems` (list of sentences) and `install` (commands that mend them).
    """
    libraries = {backend: _loads(backend) for backend in PACKAGES}
    modules = {name: _version(name) for name in ("mujoco", "gymnasium", "metaworld", "packaging")}
    problems, install = [], []
    missing = [name for name, version in modules.items() if version is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}")
        install.append("pip install 'hf-vpdd[metaworld]'")

    backend = os.environ.get("MUJOCO_GL") or next((name for name, there in libraries.items() if there), None)
    if not sys.platform.startswith("linux"):
        backend = backend or "native"
    if backend is None or (backend in libraries and not libraries[backend]):
        problems.append(
            "no OpenGL library for rendering without a screen"
            if backend is None
            else f"MUJOCO_GL={backend}, but its libraries do not load"
        )
        install.append(f"sudo apt-get install -y {' '.join(PACKAGES.get(backend or 'egl', PACKAGES['egl']))}")

    rendered = None
    if render and not problems:
        rendered, message = _render_probe(backend)
        if not rendered:
            problems.append(f"MUJOCO_GL={backend} is there, but drawing a test picture failed: {message}")
            install.append(
                f"sudo apt-get install -y {' '.join(PACKAGES['egl'])}, or try MUJOCO_GL=osmesa with "
                f"{' '.join(PACKAGES['osmesa'])}"
            )
    return {
        "ok": not problems,
        "backend": backend,
        "libraries": libraries,
        "modules": modules,
        "rendered": rendered,
        "problems": problems,
        "install": install,
    }


def _loads(backend: str) -> bool:
    for name in _LIBRARIES[backend]:
        path = ctypes.util.find_library(name)
        try:
            if path is None:
                return False
            ctypes.CDLL(path)
        except OSError:
            return False
    return True


def _version(module: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    if importlib.util.find_spec(module) is None:
        return None
    try:
        return version(module)
    except PackageNotFoundError:
        return "unknown"


def _render_probe(backend: str) -> tuple[bool, str]:
    """Draws in a child, because a broken driver may take the whole process down."""
    environment = os.environ | {"LP_NUM_THREADS": "1"} | ({} if backend == "native" else {"MUJOCO_GL": backend})
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, env=environment
        )
    except subprocess.TimeoutExpired:
        return False, "no picture after 120 s"
    lines = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()
    return child.stdout.strip().endswith("ok"), lines[-1]
