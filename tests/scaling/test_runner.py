import dataclasses
import json
from pathlib import Path

import pytest

from rectiflow import config
from rectiflow.processes import Finished
from rectiflow.runs import Run, read_json, write_bytes, write_json
from rectiflow.scaling import runner
from rectiflow.scaling.costs import cost_of
from rectiflow.scaling.evaluating import SCORES, evaluation, places_of
from rectiflow.scaling.results import read_result
from rectiflow.scaling.runner import CELL, Procedure, files_of, plan_cells, run_cells
from rectiflow.scaling.scheduling import Crew, Slot
from rectiflow.training.recipe import load_recipe
from tests.scaling.made_up import made_up_study, write_run

STUDY = made_up_study(2)
CELLS = STUDY.cells()
PROCEDURE = evaluation(STUDY)
SCORED = {
    "overall": 0.25,
    "clip_score": {"mean": 0.5},
    "evaluated": {"model": "/home/x", "seed": 1},
}


class Processes:
    """What the program leaves behind, without training; it may be told to fail."""

    def __init__(self):
        self.calls = []
        self.fails_at = None
        self.diverges_at = None

    def __call__(self, command, environment, *, group, keep_open):
        assert command[1:3] == ["-m", "rectiflow"]
        words = command[3:]
        verb, run = words[0], Path(words[words.index("--run") + 1])
        self.calls.append((verb, run.name))
        if (verb, run.name) == self.fails_at:
            raise RuntimeError(f"{verb} failed")
        if verb == "train":
            self.train(words, run)
            return Finished(1.0, None, "")
        self.scored_with = words
        return Finished(1.0, None, json.dumps(SCORED))

    def train(self, words, run):
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        recipe = load_recipe(words[1], settings)
        write_run(run, "?", -1, 0.5, 0, 0, config=config.to_dict(recipe))
        for name in (CELL, SCORES):
            (run / name).unlink()
        if ("train", run.name) == self.diverges_at:
            (run / "result.json").unlink()
            write_json(Run(run).diverged_path, {"step": 3, "why": "the loss is not finite"})
            raise RuntimeError("ended with 1")
        (run / "export").mkdir()


@pytest.fixture
def processes():
    return Processes()


@pytest.fixture
def places(tmp_path):
    return places_of(STUDY, tmp_path / "runs", tmp_path / "out")


def run(places, processes, cells=CELLS, procedure=PROCEDURE, **hooks):
    told = []
    run_cells(
        cells,
        places,
        procedure,
        Crew([Slot({})], processes),
        lambda stage, done, total, facts: told.append((stage, done, total)),
        **hooks,
    )
    return told


def test_every_cell_is_trained_scored_and_kept_without_weights(places, processes):
    finished = []
    told = run(places, processes, on_finished=lambda: finished.append(1))
    names = [f"flops-{cell.name}" for cell in CELLS]
    assert processes.calls == [(verb, name) for name in names for verb in ("train", "evaluate")]
    assert len(finished) == 6
    assert told == [("runs", done, 6) for done in range(7)]
    kept = places.kept_run(CELLS[-1]).folder
    assert sorted(file.name for file in kept.iterdir()) == sorted(files_of(PROCEDURE))
    found = read_result(kept)
    assert (found.variant, found.seed) == ("blue", 1)
    assert found.values == {"val_loss": 0.5, "scenes": 0.25, "clip": 0.5}
    cost = cost_of("scenes-study", CELLS[-1].settings)
    facts = read_json(kept / CELL)
    assert facts["training_flops"] == cost.training_flops
    assert (facts["study"], facts["match"]) == ("colours", "flops")
    assert found.cost.forward_flops == cost.forward_flops
    assert read_json(kept / SCORES)["evaluated"] == {"seed": 1}  # no place on this machine


def test_pictures_are_drawn_with_the_seed_of_the_run_and_enough_of_them(places, processes):
    run(places, processes)
    words = processes.scored_with
    assert words[words.index("--seed") + 1] == "1"
    assert words[words.index("--prompts-per-task") + 1] == "24"


def test_a_failure_leaves_the_others_done_and_the_same_call_goes_on_where_it_failed(
    places, processes
):
    processes.fails_at = ("evaluate", "flops-green-0")
    with pytest.raises(RuntimeError, match="evaluate failed"):
        run(places, processes)
    assert processes.calls[-1] == ("evaluate", "flops-blue-1")
    processes.calls.clear()
    processes.fails_at = None
    run(places, processes)
    assert processes.calls == [("evaluate", "flops-green-0")]
    run(places, processes)
    assert len(processes.calls) == 1


def test_what_was_kept_is_enough_to_go_on_elsewhere(places, processes, tmp_path):
    run(places, processes)
    (places.kept_run(CELLS[1]).folder / "scores.json").unlink()
    elsewhere = places_of(STUDY, tmp_path / "nothing", tmp_path / "out")
    processes.calls.clear()
    run(elsewhere, processes)
    assert processes.calls == [("train", "flops-green-0"), ("evaluate", "flops-green-0")]


def test_runs_of_other_settings_are_refused_before_anything_runs(places, processes):
    run(places, processes)
    kept = places.kept_run(CELLS[3])
    values = read_json(kept.config_path)
    values["training"]["learning_rate"] = 0.5
    write_bytes(kept.config_path, json.dumps(values).encode())
    processes.calls.clear()
    with pytest.raises(ValueError, match=r"training\.learning_rate was 0\.5, now 0\.002"):
        run(places, processes)
    with pytest.raises(ValueError, match=r"training\.learning_rate"):
        plan_cells(CELLS, places, PROCEDURE, 1)
    assert processes.calls == []


def test_a_run_that_logs_too_much_is_not_kept(places, processes, monkeypatch):
    monkeypatch.setattr(runner, "MAX_KEPT_BYTES", 100)
    with pytest.raises(ValueError, match=r"<= 100 bytes.*log_every_steps"):
        run(places, processes, CELLS[:1])
    assert not places.kept_run(CELLS[0]).folder.exists()


def test_measures_that_another_study_asked_for_are_made_anew_and_nothing_is_trained(
    places, processes
):
    run(places, processes, CELLS[:1])
    (places.kept_run(CELLS[0]).folder / SCORES).unlink()
    processes.calls.clear()
    other = dataclasses.replace(PROCEDURE, is_current=lambda run: False)
    run(places, processes, CELLS[:1], other)
    assert processes.calls == [("evaluate", "flops-red-0")]


def test_divergence_is_a_result_where_it_may_be_one_and_is_not_tried_again(places, processes):
    def measure(cell, run, program):
        write_json(run.folder / "measures.json", {"diverged": run.diverged()["why"]})

    may = Procedure(measure=measure, measures="measures.json", seconds=1, may_diverge=True)
    processes.diverges_at = ("train", "flops-red-0")
    for _ in range(2):
        run(places, processes, CELLS[:1], may)
    assert processes.calls == [("train", "flops-red-0")]
    kept = places.kept_run(CELLS[0])
    assert kept.diverged() == {"step": 3, "why": "the loss is not finite"}
    assert read_json(kept.folder / "measures.json") == {"diverged": "the loss is not finite"}
    assert plan_cells(CELLS[:1], places, may, 1)["cells"][0]["state"] == "finished"


def test_divergence_is_a_failure_where_it_may_not_be_a_result(places, processes):
    processes.diverges_at = ("train", "flops-red-0")
    with pytest.raises(RuntimeError, match="ended with 1"):
        run(places, processes, CELLS[:1])
    assert not places.kept_run(CELLS[0]).folder.exists()


def test_the_plan_tells_states_costs_and_time(places, processes):
    run(places, processes, STUDY.cells(["red"])[:1])
    places.run(CELLS[1]).create()
    plan = plan_cells(CELLS, places, PROCEDURE, 1)
    states = {row["cell"]: row["state"] for row in plan["cells"]}
    assert states["red-0"] == "finished"
    assert states["green-0"] == "begun"
    assert states["blue-0"] == states["red-1"] == "to do"
    seconds = {row["cell"]: row["about_seconds"] for row in plan["cells"]}
    assert seconds["red-0"] == 0
    assert seconds["red-1"] == 90 + PROCEDURE.seconds  # as red-0 took
    assert plan["about_minutes"] == pytest.approx(sum(seconds.values()) / 60, abs=0.06)
    assert plan["cells"][0]["images_seen"] == 700 * 32


def test_two_at_a_time_take_half_the_time(places):
    paced = Procedure(measure=PROCEDURE.measure, measures=SCORES, seconds=20, training_seconds=100)
    alone, together = (plan_cells(CELLS, places, paced, num)["about_minutes"] for num in (1, 2))
    assert (alone, together) == (12.0, 6.0)
