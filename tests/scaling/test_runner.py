import json
from pathlib import Path

import pytest

from rectiflow import config
from rectiflow.processes import Finished
from rectiflow.runs import read_json, write_bytes
from rectiflow.scaling import runner
from rectiflow.scaling.costs import cost_of
from rectiflow.scaling.results import CELL, FILES, SCORES, read_result
from rectiflow.scaling.runner import Places, plan_study, run_study
from rectiflow.training.recipe import load_recipe
from tests.scaling.made_up import made_up_study, write_run

STUDY = made_up_study(2)
SCORED = {
    "overall": 0.25,
    "clip_score": {"mean": 0.5},
    "evaluated": {"model": "/home/x", "seed": 1},
}


class Program:
    """What the real one leaves behind, without training; it may be told to fail."""

    def __init__(self):
        self.calls = []
        self.fails_at = None

    def __call__(self, *words):
        verb, run = words[0], Path(words[words.index("--run") + 1])
        self.calls.append((verb, run.name))
        if (verb, run.name) == self.fails_at:
            raise RuntimeError(f"{verb} failed")
        if verb == "train":
            settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            recipe = load_recipe(words[1], settings)
            write_run(run, "?", -1, 0.5, 0, 0, config=config.to_dict(recipe))
            (run / "export").mkdir()
            for name in (CELL, SCORES):
                (run / name).unlink()
            return Finished(1.0, None, "")
        self.scored_with = words
        return Finished(1.0, None, json.dumps(SCORED))


@pytest.fixture
def program():
    return Program()


@pytest.fixture
def places(tmp_path):
    return Places(runs=tmp_path / "runs", out=tmp_path / "out")


def run(places, program, cells=None, **hooks):
    told = []
    run_study(
        STUDY,
        STUDY.cells() if cells is None else cells,
        places,
        lambda stage, done, total, facts: told.append((stage, done, total)),
        program=program,
        **hooks,
    )
    return told


def test_every_cell_is_trained_scored_and_kept_without_weights(places, program):
    finished = []
    told = run(places, program, on_finished=lambda: finished.append(len(program.calls)))
    names = [f"flops-{cell.name}" for cell in STUDY.cells()]
    assert program.calls == [(verb, name) for name in names for verb in ("train", "evaluate")]
    assert finished == [2, 4, 6, 8, 10, 12]
    assert told == [("runs", done, 6) for done in range(7)]
    kept = places.kept(STUDY, STUDY.cells()[-1])
    assert sorted(file.name for file in kept.iterdir()) == sorted(FILES)
    found = read_result(kept)
    assert (found.variant, found.seed) == ("blue", 1)
    assert found.values == {"val_loss": 0.5, "scenes": 0.25, "clip": 0.5}
    cost = cost_of("scenes-study", STUDY.cells()[-1].settings)
    assert read_json(kept / CELL)["training_flops"] == cost.training_flops
    assert found.cost.forward_flops == cost.forward_flops
    assert read_json(kept / SCORES)["evaluated"] == {"seed": 1}  # no place on this machine


def test_pictures_are_drawn_with_the_seed_of_the_run_and_enough_of_them(places, program):
    run(places, program)
    words = program.scored_with
    assert words[words.index("--seed") + 1] == "1"
    assert words[words.index("--prompts-per-task") + 1] == "24"


def test_finished_runs_are_skipped_and_unfinished_ones_go_on(places, program):
    program.fails_at = ("evaluate", "flops-green-0")
    with pytest.raises(RuntimeError, match="evaluate failed"):
        run(places, program)
    before, program.fails_at = len(program.calls), None
    run(places, program)
    again = program.calls[before:]
    assert again[:2] == [("evaluate", "flops-green-0"), ("train", "flops-blue-0")]
    assert ("train", "flops-red-0") not in again
    before = len(program.calls)
    run(places, program)
    assert len(program.calls) == before


def test_what_was_kept_is_enough_to_go_on_elsewhere(places, program, tmp_path):
    run(places, program)
    (places.kept(STUDY, STUDY.cells()[1]) / "scores.json").unlink()
    elsewhere = Places(runs=tmp_path / "nothing", out=places.out)
    program.calls.clear()
    run(elsewhere, program)
    assert program.calls == [("train", "flops-green-0"), ("evaluate", "flops-green-0")]


def test_runs_of_other_settings_are_refused_before_anything_runs(places, program):
    run(places, program)
    kept = places.kept(STUDY, STUDY.cells()[3])
    values = read_json(kept / "config.json")
    values["training"]["learning_rate"] = 0.5
    write_bytes(kept / "config.json", json.dumps(values).encode())
    program.calls.clear()
    with pytest.raises(ValueError, match=r"training\.learning_rate was 0\.5, now 0\.002"):
        run(places, program)
    with pytest.raises(ValueError, match=r"training\.learning_rate"):
        plan_study(STUDY, STUDY.cells(), places)
    assert program.calls == []


def test_a_run_that_logs_too_much_is_not_kept(places, program, monkeypatch):
    monkeypatch.setattr(runner, "MAX_KEPT_BYTES", 100)
    with pytest.raises(ValueError, match=r"<= 100 bytes.*log_every_steps"):
        run(places, program, STUDY.cells()[:1])
    assert not places.kept(STUDY, STUDY.cells()[0]).exists()


def test_the_plan_tells_states_costs_and_time(places, program):
    run(places, program, STUDY.cells(["red"])[:1])
    (places.run(STUDY, STUDY.cells()[1])).mkdir()
    plan = plan_study(STUDY, STUDY.cells(), places)
    states = {row["cell"]: row["state"] for row in plan["cells"]}
    assert states["red-0"] == "finished"
    assert states["green-0"] == "begun"
    assert states["blue-0"] == states["red-1"] == "to do"
    seconds = {row["cell"]: row["about_seconds"] for row in plan["cells"]}
    assert seconds["red-0"] == 0
    assert seconds["red-1"] == 90 + runner.SECONDS_BESIDE_TRAINING  # as red-0 took
    assert plan["about_minutes"] == pytest.approx(sum(seconds.values()) / 60, abs=0.06)
    assert plan["cells"][0]["images_seen"] == 700 * 32
