"""Images of single files: the listed formats and no others, and what 8 bits of one page cannot say."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pyrovae.data import load
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")


@pytest.fixture
def refusal(tmp_path):
    """The message with which a folder of one good image and a bad one is refused."""

    def of(name, write):
        Image.new("L", (4, 3)).save(tmp_path / "0.png")
        write(tmp_path / name)
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        return str(caught.value)

    return of


def test_postscript_is_not_run_whatever_its_name(refusal, monkeypatch):
    """Pillow opens PostScript by its content, and gives it to Ghostscript."""
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: ran.append(args))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\n%%EndComments\n"
    message = refusal("1.png", lambda path: path.write_bytes(script))
    assert "1.png cannot be read as an image: cannot identify" in message
    assert not ran


@pytest.mark.parametrize("suffix", ["PCX", "TGA", "ICNS"])
def test_formats_that_are_not_listed_are_refused(refusal, suffix):
    message = refusal("1.png", lambda path: Image.new("RGB", (16, 16)).save(path, format=suffix))
    assert "cannot be read as an image" in message


def deep_png(path, colour, channels):
    """Write a PNG of 16 bits for each channel, which Pillow cannot write."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + bytes(range(4 * channels * 2)) for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_is_refused(refusal, colour, channels):
    message = refusal("1.png", lambda path: deep_png(path, colour, channels))
    assert "1.png has more than 8 bits a pixel" in message or "transparent" in message


def deep_tiff(path):
    pixels = np.arange(36, dtype="<u2").tobytes()
    entries = [
        (256, 3, 1, 4),
        (257, 3, 1, 3),
        (258, 3, 3, 134),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 140),
        (277, 3, 1, 3),
        (278, 3, 1, 3),
        (279, 4, 1, len(pixels)),
    ]
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    content = (b"II*\0" + struct.pack("<I", 8) + table).ljust(134, b"\0")
    path.write_bytes(content + struct.pack("<HHH", 16, 16, 16) + pixels)


def test_colour_of_16_bits_in_other_formats_is_refused(refusal):
    assert "1.tif has more than 8 bits a pixel" in refusal("1.tif", deep_tiff)


@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
@pytest.mark.parametrize("largest", [256, 1023, 65535])
def test_pnm_of_more_than_8_bits_is_refused(refusal, magic, channels, largest):
    content = magic + b" 4 3 %d\n" % largest + bytes(12 * channels * 2)
    assert "has more than 8 bits" in refusal("1.ppm", lambda path: path.write_bytes(content))


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_images_of_several_pages_are_refused(refusal, suffix):
    def write(path):
        first, *others = (Image.new("L", (4, 3), 90 * i) for i in range(3))
        first.save(path, save_all=True, append_images=others)

    assert "has 3 pages, of which one can be read" in refusal(f"1.{suffix}", write)


def test_of_a_cameras_image_with_previews_the_image_is_read(tmp_path):
    for i in range(5):
        first, *previews = (Image.new("L", (16, 8), shade) for shade in (60, 0, 0))
        first.save(tmp_path / f"{i}.jpg", format="MPO", save_all=True, append_images=previews)
    assert (load(tmp_path).x_train * 255 - 60).abs().max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_by_their_exif_orientation(tmp_path, orientation):
    """A photograph of a row of four brightening pixels, as a camera held in each way stores it."""
    upright = np.array([[0, 60, 120, 180]] * 3, dtype=np.uint8) + np.arange(3, dtype=np.uint8)[:, None] * 20
    stored = {  # from the definition: which corner row 0 and column 0 show
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(5):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"{i}.png", exif=exif)
    found = load(tmp_path).x_train[0, 0].numpy() * 255
    assert np.array_equal(found.round(), upright)


def test_a_fifo_among_images_is_refused_and_not_waited_for(refusal):
    assert "1.png is not an ordinary file" in refusal("1.png", os.mkfifo)


def test_a_link_to_nothing_is_refused_by_name(refusal):
    message = refusal("1.png", lambda path: path.symlink_to(path.parent / "nothing"))
    assert "1.png cannot be read as an image: No such file" in message
