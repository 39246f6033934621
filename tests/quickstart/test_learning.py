import numpy as np
import pytest
from PIL import Image

from rectiflow.quickstart.learning import learning_of, spread
from rectiflow.runs import Run
from rectiflow.sampling.images import contact_sheet, sheet_pictures


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


def test_pictures_of_training_are_read_at_the_size_they_were_drawn(tmp_path):
    run = Run(tmp_path)
    run.samples.mkdir()
    drawn = {step: noise(4, 32, seed=step) for step in (7, 30)}
    for step, small in drawn.items():
        large = [picture.resize((128, 128), Image.Resampling.NEAREST) for picture in small]
        sheet = contact_sheet(large, captions=["a", "b", "c", "d"])
        sheet.save(run.samples / f"step-{step:08d}.png")
    learning = learning_of(run, 4, 32)
    assert learning.steps == [7, 30]
    assert learning.prompts[0] == "a red circle"
    for step, pictures in zip(learning.steps, learning.pictures, strict=True):
        for picture, expected in zip(pictures, drawn[step], strict=True):
            np.testing.assert_array_equal(picture, np.asarray(expected))


def test_a_run_without_samples_has_learned_without_witnesses(tmp_path):
    learning = learning_of(Run(tmp_path), 4, 32)
    assert list(learning.steps) == []
