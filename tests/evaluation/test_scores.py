import numpy as np
import pytest

from rectiflow.evaluation.geneval import TASKS
from rectiflow.evaluation.scores import bootstrap_interval, summarize


def row(tag, prompt, correct, strict=None, split="seen"):
    strict = correct if strict is None else strict
    return {
        "tag": tag, "metadata": f"{tag}/{prompt}", "correct": correct, "strict": strict,
        "split": split,
    }  # fmt: skip


def test_overall_is_the_mean_of_task_means_and_leaves_text_out():
    rows = [row(task, i, correct=i < k) for k, task in enumerate(TASKS) for i in range(5)]
    rows += [row("text", i, correct=True) for i in range(40)]
    found = summarize(rows)
    assert found["overall"] == pytest.approx(np.mean([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    assert found["text"] == 1.0
    assert found["tasks"]["counting"] == pytest.approx(0.4)


def test_heldout_prompts_count_apart_and_strict_is_its_own_score():
    rows = [row("colors", 0, True, strict=False), row("colors", 1, False)]
    rows += [row("colors", 2, True, split="heldout"), row("position", 3, False, split="heldout")]
    found = summarize(rows)
    assert (found["overall"], found["strict"], found["heldout"]) == (0.5, 0.0, 0.5)
    assert found["heldout_tasks"] == {"colors": 1.0, "position": 0.0}
    assert (found["num_pictures"], found["num_prompts"]) == (4, 4)


def test_scores_without_pictures_are_none():
    found = summarize([row("text", 0, True)])
    assert (found["overall"], found["heldout"], found["overall_interval"]) == (None, None, None)


def test_the_interval_has_the_width_of_a_binomial_over_prompts():
    generator = np.random.default_rng(1)
    rows = [row(task, i, bool(generator.random() < 0.6)) for task in TASKS for i in range(100)]
    low, high = bootstrap_interval(rows)
    shares = [np.mean([r["correct"] for r in rows if r["tag"] == task]) for task in TASKS]
    error = np.sqrt(np.sum([p * (1 - p) / 100 for p in shares])) / 6
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < np.mean(shares) < high


def test_pictures_of_one_prompt_do_not_make_the_interval_narrower():
    """Four equal pictures of a prompt say no more than one."""
    rows = [row(task, i, i % 3 == 0) for task in TASKS for i in range(60)]
    one, four = bootstrap_interval(rows), bootstrap_interval(rows * 4)
    assert four == pytest.approx(one)
