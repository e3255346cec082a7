"""Grids of frames as PNG files."""

import io
from pathlib import Path

import numpy as np

from ..files import atomic_write_bytes


def grid(rows: list[list[np.ndarray]], gap: int = 2, scale: int = 2) -> np.ndarray:
    """Rows of uint8 (H, W, 3) frames of one size -> one uint8 picture on white, each pixel `scale` times as large."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    out = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row):
            out[r * (height + gap) : r * (height + gap) + height, c * (width + gap) : c * (width + gap) + width] = (
                frame
            )
    return out.repeat(scale, axis=0).repeat(scale, axis=1)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    atomic_write_bytes(path, buffer.getvalue())


def to_uint8(pixels) -> np.ndarray:
    """Tensor (..., 3, H, W) in [-0.5, 0.5] -> uint8 (..., H, W, 3)."""
    return ((pixels.detach().float().clamp(-0.5, 0.5) + 0.5) * 255).round().byte().movedim(-3, -1).cpu().numpy()


def side_by_side(strips: list[np.ndarray], gap: int = 2, scale: int = 2) -> np.ndarray:
    """Videos of one length and size, uint8 (T, H, W, 3) each, as one."""
    return np.stack([grid([list(frames)], gap, scale) for frames in zip(*strips, strict=True)])


def save_video(path: str | Path, frames: np.ndarray, fps: int) -> Path:
    """uint8 (T, H, W, 3), even sides, as an mp4 that browsers play."""
    from ..data.video import encode_video

    return encode_video(path, frames, fps, crf=22, gop=250)
