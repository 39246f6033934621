import json

import numpy as np
import pytest
from PIL import Image

from rectiflow.data.scenes import render
from rectiflow.evaluation.geneval import TASKS, format_summary
from rectiflow.evaluation.kept import KeptPictures
from rectiflow.evaluation.layout import read_lines
from rectiflow.evaluation.prompt_check import picture_seed
from rectiflow.evaluation.scenes_prompts import ground_truth
from rectiflow.evaluation.suite import SuiteSettings, evaluate_folder, evaluate_pictures
from tests.evaluation.pictures import blurred, some_prompts

PROMPTS = some_prompts(40, offset=3)
TAGS = {prompt["tag"] for prompt in PROMPTS}


def perfect(prompts, seeds):
    """A model that draws every prompt right, each seed another way."""
    by_seed = {picture_seed(p, sample): (p, sample) for p in PROMPTS for sample in range(4)}
    pictures = []
    for text, seed in zip(prompts, seeds, strict=True):
        prompt, sample = by_seed[seed]
        assert prompt["prompt"] == text
        pictures.append(render(ground_truth(prompt, sample + 1)))
    return pictures


def grey(prompts, seeds):
    return [np.full((64, 64, 3), 128, np.uint8) for _ in prompts]


def test_the_sample_of_prompts_covers_all_tasks():
    assert {*TASKS, "text"} == TAGS


def test_a_perfect_model_scores_one_and_shuffled_prompts_zero():
    found = evaluate_pictures(
        perfect, PROMPTS, round_trip=lambda ps: [blurred(p, 0.01) for p in ps]
    )
    summary = found.summary
    for name in ("overall", "text", "strict", "heldout"):
        assert summary[name] == 1.0, name
        assert summary["controls"]["ground_truth"][name] == 1.0
        assert summary["controls"]["round_trip"][name] == 1.0
    assert summary["controls"]["shuffled"]["overall"] == 0.0
    assert summary["controls"]["shuffled"]["strict"] == 0.0
    json.dumps(summary)


def test_an_empty_model_scores_zero_while_its_controls_say_the_checker_works():
    summary = evaluate_pictures(grey, PROMPTS).summary
    assert (summary["overall"], summary["text"], summary["strict"]) == (0.0, 0.0, 0.0)
    assert summary["controls"]["ground_truth"]["overall"] == 1.0
    assert "round_trip" not in summary["controls"]


def test_a_broken_autoencoder_shows_in_its_control_only():
    summary = evaluate_pictures(perfect, PROMPTS, round_trip=lambda ps: grey(ps, ps)).summary
    assert summary["overall"] == 1.0
    assert summary["controls"]["round_trip"]["overall"] == 0.0


def test_pictures_kept_in_a_folder_score_the_same_when_read_back(tmp_path):
    settings = SuiteSettings(images_per_prompt=2, controls=False)
    drawn = evaluate_pictures(perfect, PROMPTS, settings, kept=KeptPictures(tmp_path))
    read = evaluate_folder(tmp_path, settings)
    assert read == drawn
    assert len(drawn.rows) == 2 * len(PROMPTS)
    assert read_lines(tmp_path / "results.jsonl") == drawn.rows
    assert (tmp_path / "summary.txt").read_text() == format_summary(drawn.rows) + "\n"
    assert drawn.rows[0]["checker"] == drawn.summary["checker"]["hash"]


def test_kept_pictures_tell_their_origin_and_are_not_mixed_with_others(tmp_path):
    settings = SuiteSettings(controls=False)
    facts = {"seed": 7, "recipe_hash": "abc"}
    kept = KeptPictures(tmp_path, facts)
    evaluate_pictures(perfect, PROMPTS[:2], settings, kept=kept)
    text = Image.open(tmp_path / "00001" / "samples" / "0000.png").text
    index = str(picture_seed(PROMPTS[1], 0))
    assert text == {
        "prompt": PROMPTS[1]["prompt"],
        "seed": "7",
        "index": index,
        "recipe_hash": "abc",
    }
    with pytest.raises(ValueError, match="holds an evaluation with other prompts; choose another"):
        evaluate_pictures(perfect, PROMPTS[:1], settings, kept=kept)
    (tmp_path / "suite.json").unlink()
    with pytest.raises(ValueError, match="holds pictures of a suite already"):
        evaluate_pictures(perfect, PROMPTS[:2], settings, kept=kept)


def test_progress_reaches_its_total():
    calls = []
    evaluate_pictures(
        grey, PROMPTS[:3], SuiteSettings(controls=False), on_progress=lambda *c: calls.append(c)
    )
    assert calls[-1] == (3, 3)


def test_a_drawer_that_loses_pictures_is_caught():
    with pytest.raises(ValueError, match="draw must return 2 pictures, got 1"):
        evaluate_pictures(lambda prompts, seeds: grey([0], seeds), PROMPTS[:2])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="images_per_prompt must be >= 1, got 0"):
        SuiteSettings(images_per_prompt=0)
    with pytest.raises(ValueError, match="size_px must be >= 32, got 16"):
        SuiteSettings(size_px=16)


def test_no_prompt_at_all_is_refused_and_is_not_the_whole_suite():
    with pytest.raises(ValueError, match="a suite needs at least one prompt, got none"):
        evaluate_pictures(grey, [])
