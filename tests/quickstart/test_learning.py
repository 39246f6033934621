import numpy as np
from PIL import Image

from rectiflow.quickstart.learning import learning_of
from rectiflow.runs import Run
from rectiflow.sampling.images import contact_sheet


def noise(num, side, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for _ in range(num)
    ]


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
