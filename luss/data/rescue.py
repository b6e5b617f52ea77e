"""Files whose pixels are all there although something around them is not: the same pixels, as a file that decoders take.

What is left out: metadata that cannot be read (thumbnails, profiles, texts). What is added: the end of a file that was cut off just
behind its pixels. A file that lacks pixels is not mended: its caller decodes every form that `rescued` gives, and where they differ, what
was added has become pixels.
"""

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
# What PNG's pixels need, and the orientation.
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf")
_EXIF = b"Exif\0\0"
_END = b"\xff\xd9"
# What a decoder of JPEG takes for pixels, where some are missing.
_PIXELS = b"\x5a\xa5" * 2048


def rescued(data: bytes) -> list[bytes]:
    """Other forms of a file that cannot be read.

    Args:
        data: The file.

    Returns:
        Files of the same format without unreadable metadata and with an end; empty where nothing can be done. If decoding all of them
        gives the same image, every pixel was in the file.
    """
    if data.startswith(_PNG):
        return [_png(data)]
    if data.startswith(b"\xff\xd8\xff"):
        plain = _jpeg(data)
        return [plain + _END, plain + _PIXELS + _END]
    if data.startswith(b"BM"):
        # Rows end at multiples of four bytes.
        return [data + bytes(3), data + b"\xff" * 3]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return [_webp(data)]
    return []


def _png(data: bytes) -> bytes:
    """Only chunks that pixels need; of the others none that is damaged."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        chunk = data[place:end]
        if end > len(data) or name == b"IEND":
            break
        # Decoders check the sum of a chunk that they cannot do without.
        is_sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _PNG_KEPT and (name[:1].isupper() or (is_sound and length)):
            kept.append(chunk)
        place = end
    # Pixels of a last chunk whose end is missing.
    if data[place + 4 : place + 8] == b"IDAT":
        pixels = data[place + 8 :]
        body = b"IDAT" + pixels[: struct.unpack(">I", data[place : place + 4])[0]]
        kept.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join([*kept, struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))])


def _jpeg(data: bytes) -> bytes:
    """Without comments and application segments, but for those that say how to read colours (JFIF, Adobe) and the orientation (EXIF)."""
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : end]
        is_kept = {
            0xE0: body.startswith(b"JFIF\0") and len(body) >= 14,
            0xE1: body.startswith(_EXIF),
            0xEE: body.startswith(b"Adobe") and len(body) >= 12,
        }
        if is_kept.get(marker, not 0xE0 <= marker <= 0xEF and marker != 0xFE):
            kept.append(data[place:end])
        place = end
        if marker == 0xDA:  # pixels follow
            break
    return b"".join([*kept, data[place:].removesuffix(_END).removesuffix(_END[:1])])


def _webp(data: bytes) -> bytes:
    """Only the pixels of a still picture, and what they need."""
    kept, place = [], 12
    while place + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if len(body) == length and name in (b"VP8X", b"ALPH", b"VP8 ", b"VP8L"):
            if name == b"VP8X":
                # No profile, metadata or animation; transparency stays.
                body = bytes([body[0] & 0x10]) + body[1:]
            kept.append(struct.pack("<4sI", name, length) + body + b"\0" * (length % 2))
        place += 8 + length + length % 2
    content = b"".join([b"WEBP", *kept])
    return struct.pack("<4sI", b"RIFF", len(content)) + content
