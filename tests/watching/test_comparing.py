"""What differs in recipes stands beside what differs in results, and no more."""

import json

import pytest

from rectiflow.watching.comparing import common_images, compare, comparison_lines, flat, loss_at
from rectiflow.watching.plots import ranked
from rectiflow.watching.records import read_runs
from tests.watching import made_up
from tests.watching.made_up import NOW


def records_of(tmp_path, **runs):
    for name, changes in runs.items():
        made_up.finished(tmp_path / name, **changes)
    return read_runs([tmp_path], NOW)


def values(rows):
    return {row.name: list(row.values) for row in rows}


def test_settings_that_differ_are_listed_and_equal_ones_are_not(tmp_path):
    records = records_of(tmp_path, a={}, b={"training__learning_rate": 2e-3, "model__depth": 4})
    found = values(compare(records).recipe)
    assert found == {"model.depth": [2, 4], "training.learning_rate": [1e-3, 2e-3]}


def test_a_setting_that_only_some_have_is_a_difference_and_comes_last(tmp_path):
    records = records_of(tmp_path, a={"aaa__new": None}, b={"training__learning_rate": 2e-3})
    comparison = compare(records)
    assert [row.name for row in comparison.recipe] == ["training.learning_rate", "aaa.new"]
    assert comparison.recipe[1].texts == ["not set", "-"]


def test_results_stand_beside_each_other(tmp_path):
    records = records_of(tmp_path, a={"level": 1.0}, b={"level": 0.5})
    found = values(compare(records).results)
    assert found["val_loss_ema"] == [1 + 2 / 300, 0.5 + 2 / 300]
    assert found["images_seen"] == [2400, 2400]
    assert found["at step"] == [300, 300]
    assert found["loss at 2,400 pictures"] == pytest.approx(
        [level + sum(10 / s for s in (280, 290, 300)) / 3 for level in (1.0, 0.5)]
    )


def test_runs_of_unequal_length_are_compared_where_both_have_been(tmp_path):
    made_up.finished(tmp_path / "a")
    made_up.run(tmp_path / "b", made_up.rows(10), made_up.recipe(training__batch_size=16))
    records = read_runs([tmp_path], NOW)
    assert common_images(records) == 1600
    assert loss_at(records[0], 1600) == pytest.approx(1 + (10 / 190 + 10 / 200) / 2)
    assert loss_at(records[1], 1600) == pytest.approx(1 + 10 / 100)
    assert any("lengths differ" in note for note in compare(records).notes)


def test_what_makes_losses_incomparable_is_said(tmp_path):
    records = records_of(
        tmp_path, a={}, b={"objective__formulation": "edm"}, c={"data__size_px": 32}
    )
    notes = " / ".join(compare(records).notes)
    assert "formulations differ" in notes
    assert "data or encoders differ" in notes
    assert "lengths" not in notes
    assert compare(records[:1] * 2).notes == []


def test_what_a_run_does_not_tell_is_no_difference(tmp_path):
    """One has ended, one goes on, one has a recipe from before a setting was there."""
    records = records_of(tmp_path, a={"data__latent": "mean", "data__cache_bytes": 1}, b={})
    path = records[0].run.result_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store": "x", "machine": "m"}))
    made_up.run(tmp_path / "c", made_up.rows(), made_up.recipe(data__cache_bytes=2))
    comparison = compare(read_runs([tmp_path], NOW))
    assert comparison.notes == []
    assert [row.name for row in comparison.made_on] == []
    path = records[1].run.result_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store": "y", "machine": "n"}))
    comparison = compare(read_runs([tmp_path], NOW))
    assert values(comparison.made_on) == {"machine": ["m", "n", None], "store": ["x", "y", None]}
    assert [note.split(":")[0] for note in comparison.notes] == [
        "data or encoders differ",
        "machines or precisions differ",
    ]


def test_a_comparison_needs_two(tmp_path):
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        compare(records_of(tmp_path, a={}))


def test_few_runs_are_columns_and_many_are_lines(tmp_path):
    records = records_of(tmp_path, **{f"run{k}": {"seed": k} for k in range(6)})
    few = comparison_lines(compare(records[:2]))
    assert [line.split() for line in few if line.split()[:1] == ["seed"]] == [["seed", "0", "1"]]
    many = comparison_lines(compare(records))
    assert ["run", "seed"] in [line.split() for line in many]
    assert ["run5", "5"] in [line.split() for line in many]


def test_equal_recipes_are_said_to_be(tmp_path):
    records = records_of(tmp_path, a={}, b={"level": 2.0})
    assert comparison_lines(compare(records))[0] == "the recipes are the same"


def test_recipes_are_flat_by_dotted_names():
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


def test_runs_are_ranked_by_validation_and_those_without_come_last(tmp_path):
    made_up.run(tmp_path / "a", made_up.rows(2))
    records = records_of(tmp_path, b={"level": 2.0}, c={"level": 0.5})
    assert [record.name for record in ranked(records)] == ["c", "b", "a"]
