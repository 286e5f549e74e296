"""Pictures for tests, made and looked at with Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def picture(
    kind: str, size: tuple[int, int] = (400, 300), mode: str = "RGB", **options: Any
) -> bytes:
    """A picture with a gradient."""
    made = Image.linear_gradient("L").resize(size)
    if mode == "RGBA":
        made = Image.merge("RGBA", (made, made, made, made))
        made.paste((0, 0, 0, 0), (0, 0, size[0], size[1] // 2))
    elif mode == "P":
        made = made.convert("RGB").quantize(16)
    else:
        made = made.convert(mode)
    out = io.BytesIO()
    made.save(out, kind, **options)
    return out.getvalue()


def animation(kind: str, frames: int = 3, size: tuple[int, int] = (120, 90)) -> bytes:
    """An animation of single colours, of which each frame lasts 70 ms more than the last."""
    made = [Image.new("RGB", size, (10, 20 + 200 * n // frames, 30)) for n in range(frames)]
    out = io.BytesIO()
    durations = [70 * (n + 1) for n in range(frames)]
    made[0].save(out, kind, save_all=True, append_images=made[1:], duration=durations, loop=0)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    """The picture, decoded as a whole."""
    found = Image.open(io.BytesIO(data))
    found.load()
    return found


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says that it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
