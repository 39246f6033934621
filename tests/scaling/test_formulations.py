import dataclasses
import json
from pathlib import Path

import pytest

import rectiflow
from rectiflow import config
from rectiflow.errors import DataError
from rectiflow.evaluation.frechet import FewPicturesWarning
from rectiflow.flow.formulations import STUDY, TABLE_1
from rectiflow.processes import Finished
from rectiflow.runs import Run, read_json
from rectiflow.scaling import formulations
from rectiflow.scaling.formulations import (
    BUDGET,
    REFERENCE,
    Budget,
    Request,
    cells_of,
    chosen_names,
    note_plan,
    places_of,
    plan,
    procedure,
    settle,
)
from rectiflow.scaling.measures import Plan, read_plan
from rectiflow.scaling.runner import MAX_KEPT_BYTES
from rectiflow.scaling.scheduling import Crew, Slot
from rectiflow.training.recipe import load_recipe
from tests.scaling.made_up_formulations import made_up_run, write_run

PUBLISHED = Path(rectiflow.__file__).parents[2] / "docs" / "studies" / "formulations"
HALF_MINUTE = Request(minutes_per_run=0.5)
PACED = Budget(
    recipe="scenes-study", num_steps=300, num_pictures=64, minutes_per_run=0.5, step_seconds=0.1
)


class Processes:
    """Trainings whose steps take 9 s at first and 0.1 s in the mean from step 6 on."""

    def __init__(self):
        self.calls = []

    def __call__(self, command, environment, *, group, keep_open):
        words = command[3:]
        self.calls.append(words)
        run = Run(Path(words[words.index("--run") + 1])).create()
        seconds = [9.0] * 5 + [0.05, 0.15] * 10
        rows = [{"step": i, "step_seconds": each} for i, each in enumerate(seconds, start=1)]
        run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Finished(1.0, None, "")


@pytest.fixture
def processes():
    return Processes()


@pytest.fixture
def settled(tmp_path, processes):
    crew = Crew([Slot({})], processes)
    return lambda request: settle(tmp_path / "runs", tmp_path / "out", request, crew)


def test_the_rows_of_table_1_come_first_in_the_papers_order():
    assert chosen_names() == TABLE_1
    assert len(TABLE_1) == 16
    whole = chosen_names(is_whole=True)
    assert whole[:16] == TABLE_1
    assert sorted(whole) == sorted(STUDY)
    assert len(whole) == 61


def test_patterns_choose_and_names_with_parentheses_stand_for_themselves():
    assert chosen_names(["rf/mode*", "rf"]) == ("rf/mode(1.29)", "rf/mode(1.75)", "rf")
    assert chosen_names(["rf/lognorm(0.50,0.60)"]) == ("rf/lognorm(0.50,0.60)",)
    assert len(chosen_names(["rf/lognorm*"], is_whole=True)) == 30


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("rf/cosmpa", "did you mean rf/cosmap"), ("rf/lognorm(-1.00,0.20)", "add --all")],
)
def test_a_pattern_that_fits_nothing_is_refused(pattern, said):
    with pytest.raises(ValueError, match=said):
        chosen_names([pattern])


def test_runs_come_table_1_first_and_seed_by_seed():
    names = ("rf", "eps/cos", "rf/cosmap")  # eps/cos is not in Table 1
    cells = cells_of(names, range(2), PACED)
    runs = [(cell.variant, cell.seed) for cell in cells]
    rows = [("rf", 0), ("rf/cosmap", 0), ("rf", 1), ("rf/cosmap", 1)]
    assert runs == [*rows, ("eps/cos", 0), ("eps/cos", 1)]


def test_every_run_has_a_folder_of_its_own_that_a_shell_takes_as_it_is():
    names = [cell.name for cell in cells_of(chosen_names(is_whole=True), [0], PACED)]
    assert len(set(names)) == 61
    assert "edm_-1.20_1.20-0" in names
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)


def test_runs_differ_in_formulation_and_seed_alone():
    recipes = [load_recipe(c.recipe, c.settings) for c in cells_of(TABLE_1, range(2), PACED)]
    told = {(recipe.objective.formulation, recipe.seed) for recipe in recipes}
    assert told == {(name, seed) for name in TABLE_1 for seed in (0, 1)}
    same = {
        config.to_json(
            dataclasses.replace(
                recipe, seed=0, objective=dataclasses.replace(recipe.objective, formulation="rf")
            )
        )
        for recipe in recipes
    }
    assert len(same) == 1
    training = recipes[0].training
    assert training.num_steps == 300
    assert training.retain.best
    assert training.validate_every_steps == 60


def test_minutes_become_steps_once_by_the_pace_of_the_reference(tmp_path, processes, settled):
    """0.5 minutes are 300 steps of 0.1 s; the slow first five do not count."""
    budget = settled(HALF_MINUTE)
    assert budget.num_steps == 300
    assert budget.step_seconds == pytest.approx(0.1)
    (words,) = processes.calls
    assert words[:2] == ["train", "scenes-study"]
    assert f'objective.formulation="{REFERENCE}"' in words
    assert settled(HALF_MINUTE) == settled(Request()) == budget
    assert len(processes.calls) == 1
    assert (tmp_path / "out" / BUDGET).is_file()


def test_steps_may_be_given(settled):
    budget = settled(Request(recipe="scenes-tiny", num_steps=7, num_pictures=100))
    assert (budget.recipe, budget.num_steps, budget.num_pictures) == ("scenes-tiny", 7, 100)


def test_too_few_pictures_for_the_features_are_told_before_anything_runs(settled, processes):
    told = "96 features needs more than 96 pictures on each side, got 32 and 5000"
    with pytest.warns(FewPicturesWarning, match=told):
        settled(Request(num_steps=7, num_pictures=32))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(num_steps=7, num_pictures=905), "pictures must be 2 to 904, one a prompt"),
        (Request(num_steps=7, recipe="BLIND"), "hold no vision tower to score with"),
        (Request(num_steps=7, recipe="autoencoder-tiny"), "objective"),
    ],
)
def test_what_could_not_be_measured_is_not_trained(
    tmp_path, monkeypatch, settled, processes, request_, said
):
    if request_.recipe == "BLIND":
        monkeypatch.setattr("rectiflow.evaluation.features.FOLDER", "no_such_tower")
        request_ = dataclasses.replace(request_, recipe="scenes-study")
    with pytest.raises(ValueError, match=said):
        settled(request_)
    assert processes.calls == []
    with pytest.raises(ValueError, match=said):
        plan(TABLE_1, 1, request_, tmp_path / "runs", tmp_path / "out", 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(minutes_per_run=4.0), "minutes_per_run 0.5, got 4.0"),
        (Request(num_steps=7), "num_steps 300, got 7"),
        (Request(recipe="scenes-tiny"), "recipe scenes-study, got scenes-tiny"),
        (Request(num_pictures=7), "num_pictures 128, got 7"),
    ],
)
def test_a_study_keeps_its_budget(settled, request_, said):
    settled(HALF_MINUTE)
    with pytest.raises(ValueError, match=said):
        settled(request_)


def test_a_new_study_needs_a_budget_and_nothing_runs_before_it_is_told(settled, processes):
    with pytest.raises(ValueError, match="--minutes-per-run or --steps-per-run"):
        settled(Request())
    assert processes.calls == []


def test_a_damaged_budget_is_named(tmp_path, settled):
    settled(HALF_MINUTE)
    values = read_json(tmp_path / "out" / BUDGET)
    (tmp_path / "out" / BUDGET).write_text(json.dumps({**values, "num_steps": "many"}))
    with pytest.raises(DataError, match=r"budget\.json is damaged: num_steps"):
        settled(Request())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_steps": 3, "minutes_per_run": 1.0}, "not both"),
        ({"num_steps": 0}, "steps per run must be >= 1, got 0"),
        ({"minutes_per_run": 0.0}, "minutes per run must be > 0, got 0"),
        ({"num_pictures": 1}, "pictures must be >= 2, got 1"),
    ],
)
def test_what_is_no_budget_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Request(**values)


def test_the_plan_of_a_study_grows_and_never_shrinks(tmp_path):
    note_plan(tmp_path, TABLE_1, 1)
    note_plan(tmp_path, ("eps/cos", "rf"), 2)
    assert read_plan(tmp_path) == Plan(formulations=(*TABLE_1, "eps/cos"), seeds=(0, 1))
    note_plan(tmp_path, ("rf",), 1)
    assert read_plan(tmp_path) == Plan(formulations=(*TABLE_1, "eps/cos"), seeds=(0, 1))


def test_a_run_is_measured_by_the_program_with_the_pictures_of_the_budget(tmp_path):
    (cell,) = cells_of(["rf"], [1], PACED)
    run = places_of(tmp_path, tmp_path, PACED).run(cell)
    assert run.folder == tmp_path / "formulations" / "scenes-study-300-rf-1"
    said = []
    procedure(PACED).measure(cell, run, lambda *words: said.append(words))
    assert said == [("study", "measure", str(run.folder), "--pictures", "64")]


def test_measures_of_another_number_of_pictures_are_not_taken_for_those_of_this_study(tmp_path):
    """Two studies of the same steps share their runs, whose weights are the same."""
    run = made_up_run("rf", 0)
    folder = Run(write_run(tmp_path, run))
    found = {num: procedure(dataclasses.replace(PACED, num_pictures=num)) for num in (64, 128)}
    assert {each.num_pictures for each in run.settings} == {128}
    assert found[128].is_current(folder)
    assert not found[64].is_current(folder)


def test_a_dry_run_tells_the_time_before_and_after_the_pace_is_known(tmp_path, settled):
    """32 runs of half a minute and measuring, two at a time; nothing is written."""
    arguments = (TABLE_1, 2, HALF_MINUTE, tmp_path / "runs", tmp_path / "out", 2)
    expected = 16 * (30 + formulations.MEASURING_SECONDS) / 60
    assert plan(*arguments)["about_minutes"] == pytest.approx(expected, rel=0.01)
    assert not any(tmp_path.iterdir())
    settled(HALF_MINUTE)
    told = plan(*arguments)
    assert told["about_minutes"] == pytest.approx(expected, rel=0.01)
    assert len(told["cells"]) == 32
    assert {row["num_steps"] for row in told["cells"]} == {300}


def test_the_published_study_is_gone_on_with_from_its_small_folders(tmp_path):
    """A change of the recipe would make all of its runs those of another study."""
    if not PUBLISHED.is_dir():
        pytest.skip("not published yet")
    kept = read_plan(PUBLISHED)
    arguments = (kept.formulations, len(kept.seeds), Request(), tmp_path / "runs", PUBLISHED, 1)
    finished = {row["cell"] for row in plan(*arguments)["cells"] if row["state"] == "finished"}
    folders = list(PUBLISHED.glob("*/"))
    assert finished == {folder.name for folder in folders}
    for folder in folders:
        files = list(folder.iterdir())
        assert {file.suffix for file in files} == {".json", ".jsonl"}
        assert sum(file.stat().st_size for file in files) <= MAX_KEPT_BYTES
