"""What is no image, or wants to harm, is told on the page in words, and the server goes on."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import DESKTOP, watched_page
from tests.server.conftest import GRADIO_WARNS, LIMITS, Served

pytestmark = GRADIO_WARNS

SLOW = 60_000
SCRIPT = b'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=1"><script>document.title=1</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(ran.txt) (w) file closefile\n%%EOF\n"


def png(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    """A grey PNG whose header may promise more than its data hold."""

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


BROKEN = {
    "text.jpg": (b"this is a shopping list", "text.jpg: not an image in any format"),
    "empty.png": (b"", "empty.png: the file is empty"),
    "script.png": (SCRIPT, "script.png: not an image in any format"),
    "postscript.jpg": (EPS, "postscript.jpg: not an image in any format"),
    "archive.png": (zip_bomb(), "archive.png: not an image in any format"),
    "promise.png": (png(50_000, 50_000, b""), "promise.png: Image size (2500000000 pixels) exceeds limit"),
    "large.png": (png(1001, 1000, zlib.compress(bytes(1002 * 1000))), "large.png: 1001x1000 is more than max_pixels"),
    "told.png": (
        png(8, 8, zlib.compress(bytes(72)), b"a\0\0" + zlib.compress(bytes(50_000_000))),
        "told.png: cannot be opened (Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK)",
    ),
    "cut.png": (png(500, 500, zlib.compress(bytes(501 * 500))[:40]), "cut.png: cannot be decoded"),
    "<b>markup.jpg": (b"x", "<b>markup.jpg: not an image in any format"),
}


@pytest.fixture
def opened(page: Page, served: Served) -> Page:
    page.goto(served.address)
    expect(page.locator("#found .hint")).to_be_visible(timeout=SLOW)
    return page


def upload(page: Page, name: str, content: bytes) -> None:
    if not page.locator("#found .hint").is_visible():
        page.get_by_label("Clear").click()
        expect(page.locator("#found .hint")).to_be_visible(timeout=SLOW)
    page.set_input_files("#drop input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": content})


def test_what_is_no_image_is_told_and_the_server_goes_on(
    opened: Page, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (content, message) in BROKEN.items():
        upload(opened, name, content)
        expect(opened.get_by_role("alert")).to_contain_text(message, timeout=SLOW)
        said = opened.get_by_role("alert").inner_text()
        assert str(served.folder) not in said
        assert opened.locator(".found").count() == 0
        assert opened.get_by_role("alert").locator("b").count() == 0
    assert opened.title() == "tokenloc"
    assert list(tmp_path.iterdir()) == []
    upload(opened, "good.jpg", encoded(Image.new("RGB", (40, 30), "red"), "JPEG"))
    expect(opened.locator(".found")).to_be_visible(timeout=SLOW)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_odd_images_are_read(opened: Page, served: Served, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    frames = [Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)) for _ in range(3)]
    odd = {
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "deep.png": encoded(Image.fromarray(rng.integers(0, 65536, (30, 40), np.uint16)), "PNG"),
        "print.jpg": encoded(colours.convert("CMYK"), "JPEG"),
        "glass.webp": encoded(colours.convert("RGBA"), "WEBP"),
        "one.tiff": encoded(colours, "TIFF"),
    }
    for name, content in odd.items():
        path = tmp_path / name
        path.write_bytes(content)
        upload(opened, name, content)
        expected = served.localizer(path)
        expect(opened.locator(".found h3")).to_contain_text(f"{expected.label} {expected.score:.0%}", timeout=SLOW)


def test_a_file_that_is_too_large_or_of_another_kind_is_refused_in_the_browser(
    browser: Browser, served: Served
) -> None:
    # Gradio asks how far an upload is that it has not begun.
    known = ["Failed to load resource: the server responded with a status of 404 (Not Prediction)", "Response"]
    with watched_page(browser, DESKTOP, known) as page:
        page.goto(served.address)
        expect(page.locator("#found .hint")).to_be_visible(timeout=SLOW)
        upload(page, "a.png", bytes(LIMITS.max_bytes + 1))
        message = "File(s) exceed the maximum allowed size of 293.0 Kb"
        expect(page.get_by_text(message).first).to_be_visible(timeout=SLOW)
        upload(page, "a.svg", SCRIPT)
        expect(page.get_by_text("Invalid file type: a.svg. Only .avif, .bmp").first).to_be_visible(timeout=SLOW)
        assert page.locator(".found").count() == 0


def test_a_image_that_is_no_longer_kept(opened: Page, served: Served) -> None:
    upload(opened, "gone.png", encoded(Image.new("RGB", (33, 21), "blue"), "PNG"))
    expect(opened.locator(".found")).to_be_visible(timeout=SLOW)
    for path in served.folder.rglob("gone.png"):
        path.unlink()
    opened.locator("#classes input[type=range]").fill("4")
    expect(opened.get_by_role("alert")).to_contain_text("gone.png is no longer kept here; drop it again", timeout=SLOW)
