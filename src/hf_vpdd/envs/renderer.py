"""Draws a MuJoCo scene into an array, in a GL context of its own that is made current before every picture."""

import atexit
import functools
import weakref

import numpy as np

from .gl import configure_gl


class OffscreenRenderer:
    """Pictures of one MuJoCo model without a window.

    Why not gymnasium's `MujocoRenderer`: it makes its GL context current only when one renderer owns several viewers.
    With several environments in one process every picture is then drawn in the context made last, that is with the
    meshes and textures of another model, and no error is raised. Here `draw` always switches first.

    Args:
        model: `mujoco.MjModel`. Its `vis.quality` and `vis.global_.offwidth/offheight` are read now and not again;
            positions, colours, lights and cameras are read at every picture.
        data: The `mujoco.MjData` that moves.
        width: Pixels. At most `model.vis.global_.offwidth`.
        height: Pixels. At most `model.vis.global_.offheight`.
    """

    def __init__(self, model, data, width: int, height: int) -> None:
        configure_gl()
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._context = None
        self._gl = _gl_context_class()(width, height)
        _close_at_exit()
        self.make_context_current()
        self._scene = mujoco.MjvScene(model, 1000)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera, self._option = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        _open_renderers.add(self)

    def make_context_current(self) -> None:
        """Directs the GL calls of this thread to this renderer's context (a few microseconds)."""
        self._gl.make_current()

    def draw(self, camera_id: int) -> np.ndarray:
        """One picture from a camera of the model.

        Returns:
            uint8 (height, width, 3) RGB, **bottom row first** as OpenGL stores it; overwritten by the next call.
        """
        mujoco = self._mujoco
        self.make_context_current()
        self._camera.fixedcamid = camera_id
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels

    def close(self) -> None:
        """Frees the GL resources. May be called twice."""
        if self._gl is None:
            return
        if self._context is not None:
            self.make_context_current()  # the context's textures live in this GL context and must be freed there
            self._context.free()
            self._context = None
        self._gl.free()
        self._gl = None

    def __del__(self) -> None:
        # Left to itself, the MjrContext would be freed in whatever GL context is current, and take the textures of
        # another environment along: names of GL objects repeat from context to context.
        if getattr(self, "_gl", None) is not None:
            self.close()


_open_renderers: "weakref.WeakSet[OffscreenRenderer]" = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Frees all contexts before the EGL display ends, or each would print a traceback when the interpreter shuts down.

    MuJoCo registers the display's end when it makes its first context, and exit handlers run last in, first out: so
    this has to be called after that first context was made.
    """
    atexit.register(lambda: [renderer.close() for renderer in list(_open_renderers)])


def _gl_context_class():
    backend = configure_gl()
    if backend == "egl":
        from mujoco.egl import GLContext
    elif backend == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco import GLContext
    return GLContext
