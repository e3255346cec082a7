"""Damage inside of PNG files, which Pillow shows as another picture: it does not look at the sums of the pixels."""

import zlib


_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_damage(data: bytes) -> str | None:
    """What is wrong with a PNG by its own checksums; None if nothing is, or if it is a file of another kind."""
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
