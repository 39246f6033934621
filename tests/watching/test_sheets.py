"""Pictures over time are those of the sheets, at the size they were drawn."""

import numpy as np
import pytest
from PIL import Image

from rectiflow.runs import Run
from rectiflow.sampling.images import contact_sheet, sheet_captions, sheet_pictures
from rectiflow.watching.records import sheet_steps
from rectiflow.watching.sheets import moments_of, spread
from tests.watching import made_up


def noise(num, side, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for _ in range(num)
    ]


@pytest.mark.parametrize("num", [1, 2, 5, 16])
def test_cutting_a_sheet_gives_back_the_pictures_put_on_it(num):
    pictures = noise(num, 40)
    captions = [f"caption {'with many words ' * (i % 3)}" for i in range(num)]
    for texts in (None, captions):
        cut = sheet_pictures(contact_sheet(pictures, captions=texts), num)
        assert [p.tobytes() for p in cut] == [p.tobytes() for p in pictures]


@pytest.mark.parametrize("num", [100, 10**12])
def test_a_sheet_too_small_for_its_pictures_is_refused(num):
    with pytest.raises(ValueError, match=f"a sheet of {num} pictures must have room for them"):
        sheet_pictures(contact_sheet(noise(4, 10)), num)


def test_captions_are_cut_from_below_their_pictures():
    black = [Image.new("RGB", (40, 40)) for _ in range(5)]
    cut = sheet_captions(contact_sheet(black, captions=["a", "b", "", "b", "a b c d e f g h"]), 5)
    arrays = [np.asarray(each) for each in cut]
    assert {array.shape for array in arrays} == {arrays[0].shape}
    assert arrays[0].shape[1] == 40
    assert (arrays[2] == 255).all()  # no text, and nothing of the black pictures
    np.testing.assert_array_equal(arrays[1], arrays[3])
    assert (arrays[0] != arrays[1]).any()


def test_chosen_moments_keep_both_ends_and_are_denser_at_the_beginning():
    chosen = spread([150 * i for i in range(1, 41)], 7)
    assert len(chosen) == 7
    assert (chosen[0], chosen[-1]) == (150, 6000)
    assert chosen == sorted(set(chosen))
    gaps = np.diff(chosen)
    assert (np.diff(gaps) >= 0).all()


@pytest.mark.parametrize("num", range(1, 12))
def test_never_more_moments_than_there_is_room_for(num):
    steps = [150 * i for i in range(1, num + 1)]
    chosen = spread(steps, 7)
    assert len(chosen) == min(num, 7)
    assert set(chosen) <= set(steps)
    assert spread(steps, 7)[-1] == steps[-1]


def test_moments_are_the_pictures_as_drawn_newest_last(tmp_path):
    run = Run(tmp_path)
    drawn = {step: made_up.sheet(run, step, seed=step) for step in (30, 7)}
    moments = moments_of(run, sheet_steps(run), 4, 16)
    assert moments.steps == [7, 30]
    for step, pictures in zip(moments.steps, moments.pictures, strict=True):
        np.testing.assert_array_equal(np.stack(pictures), np.stack(drawn[step]))
    assert len(moments.captions) == 4
    assert (moments.captions[0] != moments.captions[1]).any()
    assert moments_of(run, sheet_steps(run), 4, 16, num_moments=1).steps == [30]


def test_large_pictures_are_shrunk(tmp_path):
    run = Run(tmp_path)
    made_up.sheet(run, 5, side=256, shown=256)
    (pictures,) = moments_of(run, [5], 4, 256).pictures
    assert pictures[0].shape == (128, 128, 3)


def test_damaged_and_missing_sheets_are_passed_over(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3, 4, 5):
        made_up.sheet(run, step, seed=step)
    whole = run.sheet_path(2).read_bytes()
    run.sheet_path(2).write_bytes(whole[: len(whole) // 2])
    run.sheet_path(3).write_bytes(b"")
    run.sheet_path(4).write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    assert moments_of(run, [1, 2, 3, 4, 5, 6], 4, 16).steps == [1, 5]
    Image.new("RGB", (2, 2)).save(run.sheet_path(1))  # no sheet of four
    assert moments_of(run, [1, 5], 4, 16).steps == [5]
