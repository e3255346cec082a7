"""Pictures from files: whole, or an error."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError


_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), whatever the file's own kind of colours.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        # Read at once: Pillow would decode lazily, and report a file that is cut short later or not at all.
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            picture = np.asarray(image.convert("RGB"))
        if damage := png_damage(data):
            raise ValueError(damage)
        return picture
    except FileNotFoundError:
        raise InputError(f"{path} is missing; copy it again") from None
    except UnidentifiedImageError:  # its message has an address in it, which is another each time
        raise InputError(f"{path} is not a picture; copy it again") from None
    except Exception as error:  # a damaged picture fails in as many ways as there are formats
        raise InputError(f"{path} is not a picture (cut short or damaged): {error}; copy it again") from error


def png_damage(data: bytes) -> str | None:
    """What is wrong with a PNG by its own checksums; None if nothing is, or if it is a file of another kind.

    Pillow does not look at the sums of the pixels, and shows a damaged file as another picture.
    """
    if not data.startswith(_SIGNATURE):
        return None
    place = len(_SIGNATURE)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            break
        kind = data[place + 4 : place + 8]
        if zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"its part {kind.decode('latin-1')} does not agree with its checksum"
        if kind == b"IEND":
            return None
        place = end
    return "it is cut short"
