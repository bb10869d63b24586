"""Mutated images, and HTTP requests for a running ``tokenloc serve``, for experiments/fuzz.py."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

import numpy as np
from PIL import Image

WORDS = [
    "",
    "0",
    "-1",
    "1e999",
    "nan",
    "Infinity",
    "2147483648",
    "9" * 400,
    "true",
    "null",
    "[]",
    "{}",
    "a" * 5000,
    "\0",
    "%00",
    "%n%s",
    "../" * 12 + "etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:1/",
    "C:\\x",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "' OR 1=1--",
    "$(touch executed)",
    "__import__('os').system('touch executed')",
    "é",
    "🐦",
    "\u202e",
    "\ud800",
    "\r\nX-Injected: 1",
    "\uff1b\uff1d",
    "largest",
    "all",
    "none",
    "affinity",
    "affinity,reprediction",
]
BOUNDARY = "fuzz"
FIELDS = ["model", "top_k", "threshold", "objects", "refine", "images", "keep", "image", "unknown", ""]
FILE_NAMES = [
    "a.png",
    "../../etc/cron.d/x",
    "a/b\\c.jpg",
    "..",
    "",
    "con.png",
    "a\0.png",
    "🐦.jpg",
    "x" * 400,
    "-rf",
    "a%0d%0a.png",
]
TYPES = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=fuzz; charset=idna",
    "multipart/form-data; boundary=fuzz; charset=undefined",
    "multipart/form-data; boundary=" + "x" * 300,
    "multipart/form-data; boundary=\xff",
    "application/json",
    "application/x-www-form-urlencoded",
    "text/xml",
    "image/png",
    "",
]
HEADERS = [
    ("Host", "evil.example"),
    ("Host", "localhost"),
    ("Host", "["),
    ("Host", ""),
    ("Origin", "http://evil.example"),
    ("Origin", "null"),
    ("Origin", "http://localhost"),
    ("Expect", "100-continue"),
    ("Expect", "x"),
    ("Upgrade", "websocket"),
    ("Connection", "upgrade"),
    ("Connection", "keep-alive"),
    ("Range", "bytes=0-0,-1"),
    ("Cookie", "tokenloc-session=" + "x" * 32),
    ("Cookie", '\xff=;;=;"\\'),
    ("Content-Length", "-1"),
    ("Content-Length", "99999999999999999999"),
    ("Content-Length", "1e3"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip"),
    ("X-Forwarded-For", "x"),
    ("X-Forwarded-Proto", "javascript"),
    ("Content-Encoding", "gzip"),
    ("Accept", "\x01"),
    ("X", "a" * 70_000),
    ("Content-Type", "\0"),
    ("If-Modified-Since", "x"),
]
METHODS = [
    "GET",
    "POST",
    "PUT",
    "HEAD",
    "OPTIONS",
    "DELETE",
    "TRACE",
    "CONNECT",
    "PATCH",
    "PRI",
    "get",
    "A" * 300,
    "\xff",
]
PATHS = [
    "/",
    "/health",
    "/models",
    "/predict",
    "/openapi.json",
    "/results/{token}",
    "/results/{token}/annotations/",
    "/docs",
    "//",
    "*",
]
FORMATS = ["coco", "voc", "yolo", "csv", "parquet", "label-studio"]


def images(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of hostile image files, without an end."""
    seeds = _seed_images()
    kinds: list[Callable[[], tuple[str, bytes]]] = [lambda: _mutated_image(rng, seeds)] * 8
    kinds += [lambda: _png_bomb(rng), lambda: _extreme_size(rng), lambda: ("noise", rng.randbytes(rng.randrange(2000)))]
    while True:
        yield rng.choice(kinds)()


def requests(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of hostile requests, without an end.

    ``{token}`` and ``{session}`` in them stand for those of a result that the server keeps.
    """
    uploads = images(rng)
    kinds: list[Callable[[], tuple[str, bytes]]] = [
        lambda: _upload(rng, *next(uploads)),
        lambda: _upload(rng, *next(uploads)),
        lambda: _call(rng),
        lambda: _result(rng),
        lambda: _other_body(rng),
        lambda: _mutated_request(rng, *_upload(rng, *next(uploads))),
        lambda: _mutated_request(rng, *_call(rng)),
    ]
    while True:
        yield rng.choice(kinds)()


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Return ``content`` with some bits, numbers or ranges changed, or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 1, 2, 4, 40, 1000]))
        change = rng.randrange(6)
        if change == 0 and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[start:end] = rng.randbytes(end - start)
        elif change == 2:
            number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            width = rng.choice("BHIQ")
            value = struct.pack(rng.choice("<>") + width, number % (1 << 8 * struct.calcsize(width)))
            data[start : start + len(value)] = value
        elif change == 3:
            del data[start:end]
        elif change == 4:
            data[start:start] = data[start:end] * rng.choice([1, 2, 50])
        else:
            del data[start:]
    return bytes(data)


def _seed_images() -> list[tuple[str, bytes]]:
    numbers = np.random.default_rng(0)
    color = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), np.uint8))
    grey, alpha = color.convert("L"), color.convert("RGBA")
    deep = Image.fromarray(numbers.integers(0, 65536, (24, 32), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [
        (color, "JPEG", {"exif": exif}),
        (color, "JPEG", {"progressive": True}),
        (color.convert("CMYK"), "JPEG", {}),
        (color, "PNG", {}),
        (alpha, "PNG", {}),
        (deep, "PNG", {}),
        (color.quantize(16), "PNG", {"transparency": 3}),
        (color, "BMP", {}),
        (color, "PPM", {}),
        (grey, "GIF", {"save_all": True, "append_images": [grey.rotate(9)]}),
        (alpha, "WEBP", {}),
        (color, "WEBP", {"lossless": True}),
        (color, "TIFF", {}),
        (color, "TIFF", {"compression": "tiff_lzw"}),
        (color, "TIFF", {"compression": "jpeg"}),
        (color, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (color.convert("1"), "TIFF", {"compression": "group4"}),
        (color, "AVIF", {}),
    ]
    return [
        (form, _encoded(image, form, **options))
        for image, form, options in seeds
        if form in Image.SAVE or form != "AVIF"
    ]


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _mutated_image(rng: random.Random, seeds: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    form, content = rng.choice(seeds)
    if rng.random() < 0.1:
        other = rng.choice(seeds)[1]
        return f"{form} spliced", content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    return f"{form} mutated", mutated(rng, content)


def _png_bomb(rng: random.Random) -> tuple[str, bytes]:
    """Return a PNG of extreme dimensions, or with more data or text than it announces."""
    width, height = (rng.choice([0, 1, 8, 5000, 20_000, 100_000, 0x7FFFFFFF, 0xFFFFFFFF]) for _ in range(2))
    depth, color = rng.choice([1, 8, 16, 255]), rng.choice([0, 2, 3, 4, 6, 7])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, rng.randrange(2)))
    text = _chunk(rng.choice([b"zTXt", b"iCCP", b"eXIf"]), b"a\0\0" + zlib.compress(bytes(rng.choice([0, 10_000_000]))))
    data = _chunk(b"IDAT", zlib.compress(bytes(rng.choice([0, 100, 10_000_000]))))
    name = f"PNG {width}x{height}, depth {depth}, color {color}"
    return name, b"\x89PNG\r\n\x1a\n" + header + text + data * rng.randrange(3) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _extreme_size(rng: random.Random) -> tuple[str, bytes]:
    sizes = [(1, 1), (1, 20_000), (30_000, 1), (1, 400_000), (20, 8000), (3, 2)]
    size = rng.choice(sizes)
    return f"PNG {size[0]}x{size[1]}", _encoded(Image.new(rng.choice(["1", "L", "RGB", "RGBA"]), size), "PNG")


def _request(method: str, path: str, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> bytes:
    fields = {"Host": "localhost", **({"Content-Length": str(len(body))} if body else {})}
    lines = [f"{name}: {value}\r\n" for name, value in [*fields.items(), *(headers or [])]]
    return _bytes(f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n") + body


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _form(rng: random.Random, parts: list[tuple[str, str | None, bytes]]) -> bytes:
    body = b""
    for name, file_name, content in parts:
        file = "" if file_name is None else f'; filename="{file_name}"'
        extra = rng.choice(
            ["", "", "Content-Type: text/html; charset=idna\r\n", "Content-Transfer-Encoding: base64\r\n", "X\r\n"]
        )
        body += (
            _bytes(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{extra}\r\n')
            + content
            + b"\r\n"
        )
    return body + _bytes(rng.choice([f"--{BOUNDARY}--\r\n"] * 4 + [f"--{BOUNDARY}\r\n", ""]))


def _upload(rng: random.Random, name: str, image: bytes) -> tuple[str, bytes]:
    parts: list[tuple[str, str | None, bytes]] = [("image", rng.choice(FILE_NAMES), image)] * rng.choice(
        [1, 1, 1, 1, 0, 2]
    )
    for field in rng.sample(FIELDS, rng.choice([0, 1, 3])):
        parts.append((field, rng.choice([None, None, None, "x"]), _bytes(rng.choice(WORDS))))
    rng.shuffle(parts)
    headers = [("Content-Type", rng.choice([f"multipart/form-data; boundary={BOUNDARY}"] * 8 + TYPES))]
    if rng.random() < 0.2:
        headers.append(rng.choice(HEADERS))
    return f"upload of {name}", _request("POST", "/predict", _form(rng, parts), headers)


def _call(rng: random.Random) -> tuple[str, bytes]:
    path, word = rng.choice(PATHS), rng.choice(WORDS)
    written = rng.choice([word, quote(word, safe="", errors="replace"), quote(quote(word, errors="replace"))])
    path += rng.choice(
        ["", f"/{written}", f"?{written}", f"?threshold={written}&objects={written}", "/" * 3000, f"/%2e%2e/{written}"]
    )
    headers = [rng.choice(HEADERS) for _ in range(rng.choice([0, 1, 2, 200]))]
    return f"call {path[:60]!r}", _request(rng.choice([*METHODS, "GET", "GET", "GET"]), path, headers=headers)


def _result(rng: random.Random) -> tuple[str, bytes]:
    path = "/results/{token}" + rng.choice(["", *(f"/annotations/{form}" for form in FORMATS)])
    query = f"?threshold={rng.choice(['', '0', '1', '0.5', quote(rng.choice(WORDS), errors='replace')])}"
    cookie = ("Cookie", "tokenloc-session=" + rng.choice(["{session}", "{session}", "{session}", "x", ""]))
    return f"result {path}", _request("GET", path + rng.choice(["", query, query + "&objects=all"]), headers=[cookie])


def _other_body(rng: random.Random) -> tuple[str, bytes]:
    count = rng.choice([1, 1000, 200_000])
    name, content = rng.choice(
        [
            ("deep JSON", b"[" * count),
            ("deep objects", b'{"a":' * count),
            ("urlencoded", b"&" * count),
            ("boundaries", b"--fuzz\r\n" * (count // 10)),
            ("line breaks", b"\r\n" * count),
            ("XML", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
            ("zeros", bytes(count)),
            ("many fields", b'--fuzz\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * min(count, 3000)),
            ("header", b"--fuzz\r\nA: " + b"a" * count),
        ]
    )
    kind = rng.choice([*TYPES, f"multipart/form-data; boundary={BOUNDARY}"])
    return f"{name} as {kind[:60]!r}", _request(
        "POST", rng.choice(["/predict", "/", "/x"]), content, [("Content-Type", kind)]
    )


def _mutated_request(rng: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return f"mutated {name}", mutated(rng, content)
