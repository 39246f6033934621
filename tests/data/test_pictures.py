import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rectiflow.data.pictures import MAX_PIXELS, load_square
from rectiflow.data.records import BadRecord


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every corner and every side differs."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 128 + 0 * x], axis=-1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and then holds one byte of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"\0") + chunk(b"IEND", b"")


def reason(path, **kwargs) -> str:
    with pytest.raises(BadRecord) as caught:
        load_square(path, "it", 32, **kwargs)
    assert str(caught.value).startswith("it: ")
    return caught.value.quarantined.reason


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = gradient(48, 48)
    # How a camera stores a picture that these eight values ask to be turned back.
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = upright
    for turn in stored:
        image = image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    loaded = load_square(tmp_path / "a.png", "a", 48).image
    np.testing.assert_array_equal(loaded, np.asarray(upright))
    image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    from_jpeg = load_square(tmp_path / "a.jpg", "a", 48).image
    assert np.abs(from_jpeg.astype(int) - np.asarray(upright)).max() <= 3


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[...] = (255, 0, 0, 128)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixel = load_square(tmp_path / "a.png", "a", 8).image[0, 0]
    np.testing.assert_allclose(pixel, [255, 127, 127], atol=1)  # 255 (1 - 128/255) = 127


def test_a_transparent_palette_is_laid_on_white_too(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((3, 3), 1)
    image.save(tmp_path / "a.png", transparency=0)
    loaded = load_square(tmp_path / "a.png", "a", 8).image
    assert loaded[0, 0].tolist() == [255, 255, 255]
    assert loaded[3, 3].tolist() == [200, 100, 0]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 90, (90, 90, 90)),
        ("RGBA", (9, 8, 7, 255), (9, 8, 7)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value, expected):
    Image.new(mode, (8, 8), value).save(tmp_path / "a.png")
    assert load_square(tmp_path / "a.png", "a", 8).image[4, 4].tolist() == list(expected)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(
        load_square(tmp_path / "a.jpg", "a", 8).image[4, 4], [255, 0, 0], atol=3
    )


def test_a_floating_point_picture_has_no_known_white(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tif")
    assert reason(tmp_path / "a.tif") == "unsupported pixel type"


def test_the_centre_square_is_cut_and_nothing_beside_it(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200  # exactly the centre; its neighbours are black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_square(tmp_path / "a.png", "a", 10)
    assert (loaded.image == 200).all()
    assert not loaded.is_enlarged
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "b.png")
    assert (load_square(tmp_path / "b.png", "b", 10).image == 200).all()


def test_scaling_keeps_the_place_of_things(tmp_path):
    gradient(512, 512).save(tmp_path / "a.jpg", quality=98)
    expected = np.asarray(gradient(512, 512)).reshape(32, 16, 32, 16, 3).mean(axis=(1, 3))
    loaded = load_square(tmp_path / "a.jpg", "a", 32).image
    assert np.abs(loaded - expected)[2:-2, 2:-2].max() <= 2.5


def test_a_small_picture_is_enlarged_and_marked(tmp_path):
    gradient(20, 31).save(tmp_path / "a.png")
    loaded = load_square(tmp_path / "a.png", "a", 32)
    assert loaded.image.shape == (32, 32, 3)
    assert loaded.is_enlarged


@pytest.mark.parametrize("side", [9_460, 30_000])  # just above the bound; above Pillow's hard limit
def test_a_huge_picture_is_refused_by_its_header(tmp_path, side):
    assert side**2 > MAX_PIXELS
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    # Decoding would find the pixels missing: this reason shows that it was not tried.
    assert reason(tmp_path / "a.png") == "too many pixels"


def test_the_bound_on_pixels_is_a_setting(tmp_path):
    gradient(40, 30).save(tmp_path / "a.png")
    assert reason(tmp_path / "a.png", max_pixels=1199) == "too many pixels"
    assert load_square(tmp_path / "a.png", "a", 8, max_pixels=1200).image.shape == (8, 8, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_a_truncated_picture_is_damaged(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(file)
    assert load_square(file, "it", 32).image.shape == (32, 32, 3)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert reason(file) == "damaged picture"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_bytes_that_are_no_picture_are_damaged_and_reach_no_foreign_decoder(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path / "a.png") == "damaged picture"


def test_a_file_that_cannot_be_opened_is_unreadable(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    assert reason(tmp_path / "a.png") == "unreadable file"


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "gif", "tiff"])
def test_flipped_bytes_give_a_picture_or_a_reason_and_nothing_else(tmp_path, suffix):
    buffer = io.BytesIO()
    gradient(40, 40).save(buffer, suffix)
    rng = np.random.default_rng(1)
    file, found = tmp_path / f"a.{suffix}", set()
    for _ in range(60):
        content = bytearray(buffer.getvalue())
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(0, 256)
        file.write_bytes(bytes(content))
        try:
            assert load_square(file, "it", 32).image.shape == (32, 32, 3)
        except BadRecord as error:
            found.add(error.quarantined.reason)
    assert found <= {"damaged picture", "too many pixels"}
