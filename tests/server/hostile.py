"""Files that are not images, or that try to exhaust memory, with the messages that they cause."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from PIL import Image

SCRIPT = b'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=1"><script>document.title=1</script></svg>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(ran.txt) (w) file closefile\n%%EOF\n"


def png(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    """A grey PNG whose header may announce more than its data contain."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    text = chunk(b"zTXt", extra) if extra else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(100_000_000))
    return file.getvalue()


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


BROKEN = {
    "text.jpg": (b"this is a shopping list", "text.jpg: not an image in any format"),
    "empty.png": (b"", "empty.png: the file is empty"),
    "script.png": (SCRIPT, "script.png: not an image in any format"),
    "postscript.jpg": (POSTSCRIPT, "postscript.jpg: not an image in any format"),
    "archive.png": (zip_bomb(), "archive.png: not an image in any format"),
    "huge.png": (png(50_000, 50_000, b""), "huge.png: Image size (2500000000 pixels) exceeds limit"),
    "large.png": (png(1001, 1000, zlib.compress(bytes(1002 * 1000))), "large.png: 1001x1000 is more than max_pixels"),
    "bomb.png": (
        png(8, 8, zlib.compress(bytes(72)), b"a\0\0" + zlib.compress(bytes(50_000_000))),
        "bomb.png: cannot be opened (Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK)",
    ),
    "cut.png": (png(500, 500, zlib.compress(bytes(501 * 500))[:40]), "cut.png: cannot be decoded"),
    "<b>markup.jpg": (b"x", "<b>markup.jpg: not an image in any format"),
}
