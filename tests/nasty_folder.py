"""A folder with every kind of image file that people have: odd sizes, modes, names and links, and files that no program can read."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def add_image(path: Path, size: tuple[int, int] = (4, 3), mode: str = "RGB", **options: Any) -> Path:
    """Saves an image of one colour, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **options)
    return path


def nasty_folder(root: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Makes one file of every kind that a folder of images may hold.

    Args:
        root: The folder, made when absent.

    Returns:
        (width, height) of each good file, upright, and a word of the reason for each bad one; by relative path.
    """
    exif = Image.Exif()
    exif[274] = 6
    add_image(root / "UPPER.JPEG")
    add_image(root / "alpha.webp", mode="RGBA")
    add_image(root / "bitmap.Bmp")
    add_image(root / "cmyk.jpg", mode="CMYK")
    add_image(root / "deep/er/größe 猫 a.jpg")
    add_image(root / "grey.png", mode="L")
    add_image(root / "high.tif", mode="I;16")
    add_image(root / "palette.png", mode="P")
    add_image(root / "tall.png", (1, 300))
    add_image(root / "turned.jpg", (40, 20), exif=exif)
    add_image(root / "wide.png", (20_000, 5))
    (root / "link.png").symlink_to(root / "grey.png")
    (root / "linked folder").symlink_to(root / "deep")
    usual = ["UPPER.JPEG", "alpha.webp", "bitmap.Bmp", "cmyk.jpg", "grey.png", "high.tif", "palette.png", "link.png"]
    good = dict.fromkeys([*usual, "deep/er/größe 猫 a.jpg", "linked folder/er/größe 猫 a.jpg"], (4, 3))
    good |= {"tall.png": (1, 300), "turned.jpg": (20, 40), "wide.png": (20_000, 5)}

    (root / "bad empty.jpg").touch()
    (root / "bad text.jpg").write_text("not a picture")
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (root / "bad huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + bytes(8))
    (root / "bad link.png").symlink_to(root / "gone.png")
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "bad truncated.jpg")
    os.truncate(root / "bad truncated.jpg", 3000)
    (root / "bad corrupt.png").write_bytes((root / "grey.png").read_bytes()[:20] + b"\xff" * 50)
    bad = {
        "bad corrupt.png": "",
        "bad empty.jpg": "empty file",
        "bad huge.png": "50000 x 50000 pixels, above the limit",
        "bad link.png": "no such file",
        "bad text.jpg": "not an image",
        "bad truncated.jpg": "truncated",
    }

    # Neither images nor worth a line.
    (root / "loop").symlink_to(root)
    (root / "notes.txt").write_text("hello")
    add_image(root / ".hidden.png")
    add_image(root / ".cache/thumb.png")
    return good, bad
