"""An evaluation that was stopped goes on: what is whole stays, the rest comes as it would have."""

import json

import numpy as np
import pytest

from rectiflow.errors import DataError
from rectiflow.evaluation import suite
from rectiflow.evaluation.kept import KeptPictures
from rectiflow.evaluation.layout import picture_name, read_folder
from rectiflow.evaluation.prompt_check import picture_seed
from rectiflow.evaluation.suite import SuiteSettings, evaluate_pictures
from tests.evaluation.pictures import some_prompts
from tests.faults.comparing import assert_same_contents

PROMPTS = some_prompts(150)[:3]
SETTINGS = SuiteSettings(images_per_prompt=2, controls=False)  # six pictures
FACTS = {"seed": 7}


class Drawer:
    """A colour by prompt, seed, and the batch it is drawn in; can die at a batch."""

    def __init__(self, dies_at=None):
        self.batches = []
        self.dies_at = dies_at

    def __call__(self, prompts, seeds):
        if len(self.batches) == self.dies_at:
            raise KeyboardInterrupt
        self.batches.append(list(seeds))
        return [self._picture(text, seed, seeds) for text, seed in zip(prompts, seeds, strict=True)]

    def _picture(self, text, seed, batch):
        key = [seed, len(text), sum(batch)]
        colour = np.random.default_rng(key).integers(0, 256, 3, np.uint8)
        return np.tile(colour, (32, 32, 1))


@pytest.fixture(autouse=True)
def batches_of_three(monkeypatch):
    monkeypatch.setattr(suite, "BATCH", 3)


def evaluate(folder, draw, facts=FACTS, prompts=PROMPTS, settings=SETTINGS, **more):
    kept = KeptPictures(folder, facts, {"network": "abc"})
    return evaluate_pictures(draw, prompts, settings, kept=kept, **more)


def file_of(folder, number):
    return folder / picture_name(*divmod(number, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "BATCH", 3)
        return folder, evaluate(folder, Drawer())


def test_one_that_died_goes_on_at_its_batch_and_ends_as_if_it_had_not(whole, tmp_path):
    folder, seen, died = tmp_path / "out", [], Drawer(dies_at=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, died)
    with pytest.raises(DataError, match="lacks pictures: its evaluation has not ended; repeat it"):
        read_folder(folder)
    again = Drawer()
    found = evaluate(folder, again, on_pictures=lambda texts, pictures: seen.extend(pictures))
    seeds = [picture_seed(prompt, k) for prompt in map(dict, PROMPTS) for k in range(2)]
    assert (died.batches, again.batches) == ([seeds[:3]], [seeds[3:]])
    assert found == whole[1]
    assert_same_contents(folder, whole[0])
    uninterrupted = Drawer()
    texts = [prompt["prompt"] for prompt in PROMPTS for _ in range(2)]
    for at in (0, 3):
        drawn = uninterrupted(texts[at : at + 3], seeds[at : at + 3])
        assert all((a == b).all() for a, b in zip(drawn, seen[at : at + 3], strict=True))


def cut(folder):
    file = file_of(folder, 5)
    file.write_bytes(file.read_bytes()[:-30])


def remove(folder):
    file_of(folder, 5).unlink()


def exchange(folder):
    file_of(folder, 5).write_bytes(file_of(folder, 0).read_bytes())


def forget_the_prompt(folder):
    (folder / "00002" / "metadata.jsonl").unlink()


@pytest.mark.parametrize("damage", [cut, remove, exchange, forget_the_prompt])
def test_a_picture_that_is_not_whole_is_drawn_again_in_the_company_it_had(whole, tmp_path, damage):
    folder, again = tmp_path / "out", Drawer()
    evaluate(folder, Drawer())
    damage(folder)
    untouched = file_of(folder, 3).stat().st_ino
    assert evaluate(folder, again) == whole[1]
    assert [len(batch) for batch in again.batches] == [3]
    assert file_of(folder, 3).stat().st_ino == untouched
    assert_same_contents(folder, whole[0])


def test_a_finished_one_is_scored_again_and_nothing_is_drawn(whole):
    assert evaluate(whole[0], Drawer(dies_at=0)) == whole[1]


def test_a_folder_of_another_evaluation_is_refused_and_stays_as_it_was(whole, tmp_path):
    folder = tmp_path / "out"
    evaluate(folder, Drawer())
    for change, told in (
        ({"facts": {"seed": 8}}, "seed"),
        ({"prompts": PROMPTS[1:]}, "prompts"),
        ({"settings": SuiteSettings(images_per_prompt=1)}, "images_per_prompt"),
        ({"facts": {**FACTS, "guide": "x"}, "prompts": PROMPTS[1:]}, "guide, prompts"),
    ):
        with pytest.raises(ValueError, match=f"an evaluation with other {told}; choose") as caught:
            evaluate(folder, Drawer(), **change)
        assert "\n" not in str(caught.value)
    assert_same_contents(folder, whole[0])


def test_what_a_kill_left_half_written_goes_and_what_is_not_ours_stays(whole, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, Drawer(dies_at=1))
    for name in ("00000/samples/.0000.png.1.partial", "00000/.metadata.jsonl.1.partial"):
        (folder / name).write_text("half")
    for name in (".results.jsonl.1.partial", ".suite.json.1.partial", ".summary.txt.1.partial"):
        (folder / name).write_text("half")
    (folder / ".mine.partial").write_text("a note")
    evaluate(folder, Drawer())
    (folder / ".mine.partial").unlink()
    assert_same_contents(folder, whole[0])


def test_what_decides_the_pictures_is_written_first(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, Drawer(dies_at=0))
    settings = json.loads((tmp_path / "suite.json").read_text())
    assert {name: settings[name] for name in ("seed", "network")} == {"seed": 7, "network": "abc"}
    assert list(settings)[2:] == ["images_per_prompt", "prompts"]
