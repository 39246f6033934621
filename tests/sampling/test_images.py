import numpy as np
import pytest
import torch
from PIL import Image

from rectiflow.sampling.images import contact_sheet, file_name, save_png, to_bytes


def test_bytes_and_floats_are_the_same_picture():
    every_byte = torch.arange(256, dtype=torch.float64).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    picture = to_bytes((every_byte / 127.5 - 1).float())
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[1, ..., 2], np.arange(256).reshape(16, 16))


def test_values_outside_the_range_are_clamped_not_wrapped():
    image = torch.tensor([-1.5, 1.5]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    np.testing.assert_array_equal(to_bytes(image)[0, 0, :, 0], [0, 255])


def test_a_png_carries_its_facts_in_any_script(tmp_path):
    facts = {"prompt": "два круга \u2605", "seed": 7, "negative": ""}
    save_png(Image.new("RGB", (4, 4), (1, 2, 3)), tmp_path / "a" / "b.png", facts)
    with Image.open(tmp_path / "a" / "b.png") as image:
        assert image.text == {"prompt": "два круга \u2605", "seed": "7", "negative": ""}
        assert image.getpixel((0, 0)) == (1, 2, 3)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_a_failed_write_leaves_the_old_picture_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (4, 4), (9, 9, 9)), path, {})
    before = path.read_bytes()

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_png(Image.new("RGB", (4, 4)), path, {})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_file_names_sort_by_index_and_are_safe():
    assert file_name(3, "Two red circles!") == "0003_two-red-circles.png"
    assert file_name(12, "../../etc/passwd") == "0012_etc-passwd.png"
    assert file_name(0, "★") == "0000_empty.png"
    assert len(file_name(0, "a" * 500)) < 80


def test_a_sheet_holds_every_picture_in_reading_order():
    colors = [(i, 0, 0) for i in range(5)]
    sheet = contact_sheet([Image.new("RGB", (8, 6), color) for color in colors], 2, gap_px=1)
    assert sheet.size == (1 + 2 * 9, 1 + 3 * 7)
    assert [sheet.getpixel((1 + i % 2 * 9, 1 + i // 2 * 7)) for i in range(5)] == colors
    assert sheet.getpixel((1 + 9, 1 + 2 * 7)) == (255, 255, 255)  # the cell without a picture


def test_captions_stand_below_the_pictures_and_never_over_them():
    image = Image.new("RGB", (60, 20), (200, 200, 200))
    bare = contact_sheet([image], gap_px=0)
    captioned = contact_sheet([image], captions=["a long caption that needs lines"], gap_px=0)
    assert captioned.width == bare.width
    assert captioned.height > bare.height + 2 * 12  # at least two lines
    assert captioned.crop((0, 0, 60, 20)).tobytes() == image.tobytes()
    assert captioned.getextrema()[0][0] < 128  # ink


def test_an_empty_sheet_is_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="columns must be >= 1, got 0"):
        contact_sheet([Image.new("RGB", (4, 4))], 0)
