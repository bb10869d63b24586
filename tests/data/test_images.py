"""Finding and reading images of every kind, and refusing other files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.data.images import MAX_PIXELS, find_images, read_image, read_size

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(width: int, height: int, data: bytes) -> bytes:
    """A greyscale PNG whose header may promise more than its data hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_path_bytes_and_an_image_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_given_image_is_not_changed() -> None:
    given = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    read_image(given).putpixel((0, 0), (1, 2, 3))
    assert given.mode == "RGBA"
    assert given.getpixel((0, 0)) == (10, 20, 30, 0)
    rgb = Image.new("RGB", (3, 2))
    read_image(rgb).putpixel((0, 0), (1, 2, 3))
    assert rgb.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_pillow_does(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)).convert(mode)
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image.convert("RGB")))


def test_a_cmyk_jpeg_is_read() -> None:
    image = read_image(_encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert image.getpixel((4, 4)) == pytest.approx((254, 0, 0), abs=3)


@pytest.mark.parametrize("kind", ["I;16", "I", "I;16B"])
def test_16_bit_grey_is_divided_by_257_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 385, 386], [32896, 65278, 65406, 65535]], np.uint16)
    if kind == "I;16B":
        image = Image.frombytes("I;16B", (4, 2), values.astype(">u2").tobytes())
    else:
        image = Image.fromarray(values).convert(kind)
    expected = np.array([[0, 1, 1, 2], [128, 254, 254, 255]])
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.stack([expected] * 3, axis=-1))
    data = _encoded(Image.fromarray(np.full((3, 3), 25700, np.uint16)), "PNG")
    assert read_image(data).getpixel((1, 1)) == (100, 100, 100)


@pytest.mark.parametrize("value", [-5, 70000])
def test_32_bit_grey_beyond_16_bits_and_float_pixels_are_refused(value: int) -> None:
    image = Image.fromarray(np.full((2, 2), value, np.int32))
    with pytest.raises(ValueError, match=rf"cannot be decoded \(32-bit grey values {value}.*save it as 8-bit"):
        read_image(image)
    data = _encoded(Image.fromarray(np.full((2, 2), value, np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"bytes: cannot be decoded \(32-bit float pixels.*save it as 8-bit"):
        read_image(data)


def test_transparent_pixels_are_composited_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [0, 128, 255]
    image = read_image(Image.fromarray(rgba))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == pytest.approx((227, 127, 127), abs=1)
    assert image.getpixel((2, 0)) == (200, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_images_are_converted_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (7, 5), np.uint16)
    image = Image.fromarray(values)
    if mode != "I;16":
        image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (7, 5, 4), np.uint8)).convert(mode)
        image.info["transparency"] = 3
    at_once = np.asarray(read_image(image))
    monkeypatch.setattr("tokenloc.data.images._BAND_PIXELS", 11)  # two rows
    np.testing.assert_array_equal(np.asarray(read_image(image)), at_once)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_palette_entry_is_composited_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putdata([0, 1])
    read = read_image(_encoded(image, "PNG", transparency=transparency))
    assert [read.getpixel((0, 0)), read.getpixel((1, 0))] == [(255, 255, 255), (50, 60, 70)]


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBa"])
def test_rare_modes_with_alpha_are_read(mode: str) -> None:
    image = Image.new("LA" if mode == "LA" else "RGBA", (2, 2)).convert(mode)
    assert read_image(image).getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(RAMP[:10, :16]), "PNG", exif=exif)
    stored = RAMP[:10, :16]
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    image = read_image(data)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], upright)
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image))  # not rotated twice


@pytest.mark.parametrize("orientation", range(9))
def test_the_size_of_the_header_is_that_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(Image.fromarray(RAMP[:10, :16]), "JPEG", exif=exif))
    assert read_size(path) == read_image(path).size
    assert read_size(path) == ((10, 16) if orientation > 4 else (16, 10))
    path.write_bytes(path.read_bytes()[:-8])  # the pixels are not read
    assert read_size(path) == ((10, 16) if orientation > 4 else (16, 10))


def test_a_broken_exif_block_is_ignored() -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01"
    data = _encoded(Image.new("RGB", (8, 4), "red"), "JPEG", exif=exif)
    assert read_image(data).size == read_size(data) == (8, 4)


def test_other_files_are_reported(tmp_path: Path) -> None:
    for read in (read_image, read_size):
        with pytest.raises(FileNotFoundError, match=r"no.jpg: no such image; check the path"):
            read(tmp_path / "no.jpg")
        with pytest.raises(ValueError, match=rf"{tmp_path}: a folder, not an image; find_images lists"):
            read(tmp_path)
        (tmp_path / "a.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=r"a.jpg: the file is empty; copy or download it again"):
            read(tmp_path / "a.jpg")
        with pytest.raises(ValueError, match="0 bytes: the file is empty"):
            read(b"")
        (tmp_path / "a.jpg").write_text("<html>Not found</html>")
        with pytest.raises(ValueError, match=r"a.jpg: not an image in any format.*convert it"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_reported(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = _encoded(noise, kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{path}: .*copy or download it again"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_corrupted_files_raise_only_value_errors_with_their_name(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    data = np.frombuffer(_encoded(Image.fromarray(RAMP), kind), np.uint8)
    for _ in range(60):
        corrupted = data.copy()
        places = generator.integers(0, len(data), 6)
        corrupted[places] = generator.integers(0, 256, 6)
        path = tmp_path / "corrupted"
        path.write_bytes(corrupted.tobytes())
        try:
            mode, message = read_image(path, max_pixels=10**6).mode, ""
        except ValueError as error:
            mode, message = "", str(error)
        assert mode == "RGB" or message.startswith(f"{path}: ")


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(_png(12_000, 12_000, b"not even data"))  # to decode it would fail otherwise
    with pytest.raises(ValueError, match=r"bomb.png: 12000x12000 is more than max_pixels = 1,000,000 pixels.*raise"):
        read_image(bomb, max_pixels=1_000_000)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(bomb)


def test_the_limit_is_exact_and_adjustable() -> None:
    image = Image.new("L", (20, 10))
    assert read_image(image, max_pixels=200).size == (20, 10)
    with pytest.raises(ValueError, match=r"PIL image: 20x10 is more than max_pixels = 199"):
        read_image(image, max_pixels=199)


def test_pillows_own_limit_is_explained_and_untouched(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(_png(60_000, 60_000, b""))
    with pytest.raises(ValueError, match=r"bomb.png: .*3600000000 pixels.*raise PIL.Image.MAX_IMAGE_PIXELS"):
        read_image(bomb, max_pixels=10**12)
    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert 2 * before == pytest.approx(MAX_PIXELS, abs=2)


def test_a_sufficient_size_speeds_jpegs_and_is_off_by_default() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)).resize((800, 600))
    data = _encoded(image, "JPEG")
    assert read_image(data).size == (800, 600)
    assert read_image(data, min_size=(200, 100)).size == (400, 300)  # not below 200 either way
    assert read_image(_encoded(image, "PNG"), min_size=(50, 50)).size == (800, 600)
    small = np.asarray(read_image(data, min_size=(64, 64)).resize((64, 64)), np.float32)
    whole = np.asarray(read_image(data).resize((64, 64)), np.float32)
    assert np.abs(small - whole).mean() < 3


def test_images_are_found_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.png", "a/x/1.jpeg", "a/notes.txt", ".hidden/1.jpg", "b/._2.jpg", "c/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("a/x/1.jpeg", "b/10.png", "b/2.JPG")]
    assert find_images(tmp_path) == expected
    assert find_images([str(tmp_path / "b/2.JPG"), tmp_path]) == [expected[2], *expected[:2]]
    assert find_images(tmp_path / "a/notes.txt") == [tmp_path / "a/notes.txt"]  # a named file counts


def test_wildcards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.jpg", "b/10.png", "a/x/1.jpeg", "a/notes.txt", "b/.3.jpg", "[c]/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path / "?/*.jpg", f"{tmp_path}/a"]) == [tmp_path / "b/2.jpg", tmp_path / "a/x/1.jpeg"]
    assert find_images(tmp_path / "a/*") == [tmp_path / "a/x/1.jpeg"]
    monkeypatch.chdir(tmp_path)
    assert find_images("**/1*") == [Path("a/x/1.jpeg"), Path("b/10.png")]
    assert find_images("[c]") == [Path("[c]/4.jpg")]  # an existing path has no wildcards
    with pytest.raises(FileNotFoundError, match=r"b/\*\.gif: no such file or folder"):
        find_images("b/*.gif")


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "pets/cat").mkdir(parents=True)
    (tmp_path / "pets/cat/1.jpg").touch()
    (tmp_path / "pets/cat/up").symlink_to(tmp_path / "pets")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.jpg").touch()
    (tmp_path / "pets/dog").symlink_to(tmp_path / "elsewhere")
    assert find_images(tmp_path / "pets") == [tmp_path / "pets/cat/1.jpg", tmp_path / "pets/dog/2.jpg"]


def test_missing_paths_and_folders_without_images_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder; check the path"):
        find_images([tmp_path, tmp_path / "nowhere"])
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match=rf"no images in {tmp_path}; looked for files that end in .*\.jpg"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="no images in an empty list of paths"):
        find_images([])
