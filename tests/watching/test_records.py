"""A run's state is told from its folder alone, whatever is in it."""

import json
from pathlib import Path

import pytest

from rectiflow.runs import Run
from rectiflow.watching.records import QUIET_SECONDS, find_runs, read_run, read_runs
from tests.watching import made_up
from tests.watching.made_up import NOW


def read(made):
    return read_run(made, NOW, "it")


def test_states_are_told_apart(tmp_path):
    rows = made_up.rows(10)
    found = {
        "running": made_up.run(tmp_path / "a", rows),
        "stopped": made_up.run(tmp_path / "b", rows, written_seconds_ago=QUIET_SECONDS + 1),
        "new": made_up.run(tmp_path / "c", written_seconds_ago=QUIET_SECONDS + 1),
        "finished": made_up.finished(tmp_path / "d"),
        "diverged": made_up.run(tmp_path / "e", rows, diverged={"step": 101, "why": "inf in mlp"}),
    }
    assert {read(made).status: made for made in found.values()} == found
    assert read(found["diverged"]).diverged == "inf in mlp"


def test_a_run_with_rare_lines_is_not_taken_for_stopped(tmp_path):
    rows = [{"step": k, "loss": 1.0, "elapsed_seconds": 400.0 * k} for k in (1, 2, 3)]
    assert read(made_up.run(tmp_path / "a", rows, written_seconds_ago=1900)).status == "running"
    assert read(made_up.run(tmp_path / "b", rows, written_seconds_ago=2100)).status == "stopped"


def test_a_run_in_progress_knows_what_is_left(tmp_path):
    record = read(made_up.run(tmp_path, made_up.rows(10)))
    assert (record.step, record.total_steps) == (100, 300)
    assert record.seconds_left == pytest.approx(200 * 0.5)
    assert read(made_up.finished(tmp_path / "done")).seconds_left is None


def test_a_run_given_in_minutes_has_the_steps_of_its_pace(tmp_path):
    config = made_up.recipe(training__num_steps=None, training__minutes=5.0)
    assert read(made_up.run(tmp_path / "a", None, config)).total_steps is None
    made = made_up.run(tmp_path / "b", None, config, pace={"minutes": 5.0, "num_steps": 77})
    assert read(made).total_steps == 77


def test_checkpoints_pictures_and_roll_backs_are_listed(tmp_path):
    made = made_up.run(
        tmp_path,
        made_up.rows(4),
        roll_backs={"roll_backs": [{"step": 55, "to_step": 50, "why": "a spike"}]},
    )
    for name in ("step-00000050", "step-00000100", ".damaged-step-00000060", "averages-00000050"):
        (made.checkpoints / name).mkdir(parents=True)
    made_up.sheet(made, 20)
    record = read(made)
    assert record.checkpoints == [50, 100]
    assert record.sheets == [20]
    assert record.roll_backs == [{"step": 55, "to_step": 50, "why": "a spike"}]
    assert record.step == 100  # the checkpoint tells of more steps than the lines do


DAMAGES = (b"", b"{", b"[]", b"\xff\x00", b"[" * 100_000, b'{"num_steps": "many"}')


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
@pytest.mark.parametrize("name", ["config", "result", "pace", "diverged", "roll_backs", "metrics"])
def test_no_damage_keeps_a_run_from_being_read(tmp_path, name, damage):
    made = made_up.finished(tmp_path)
    path = made.metrics_path if name == "metrics" else tmp_path / f"{name}.json"
    path.write_bytes(damage + b"\n")
    (record,) = read_runs([tmp_path], NOW)
    if name == "config":
        assert record.status in {"damaged", "finished"}
        assert record.batch_size is None
    if damage in (b"{", b"[]", b"\xff\x00"):
        assert any(path.name in problem for problem in record.problems)


def test_values_of_the_wrong_kind_are_not_taken_for_settings(tmp_path):
    config = {"training": {"num_steps": "ten", "batch_size": -3, "minutes": []}, "sampling": 7}
    result = {"metrics": {"loss_of_old": float("inf"), "x": True}, "num_steps": 10**400}
    record = read(made_up.run(tmp_path, made_up.rows(2), config, result))
    assert record.total_steps is None
    assert record.metric("loss_of_old") is record.metric("x") is None
    assert record.batch_size is None
    assert record.setting("sampling.num_pictures") is None
    assert record.metric("nothing") is None


def test_folders_are_searched_for_runs_and_runs_are_not(tmp_path):
    made_up.finished(tmp_path / "study" / "a")
    inside = tmp_path / "study" / "a" / "export"
    made_up.run(inside)  # an export holds the recipe too
    made_up.run(tmp_path / "b", made_up.rows(1))
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "config.json").write_text('{"depth": 2}')
    made_up.run(tmp_path / ".hidden")
    lost = Run(tmp_path / "lost").create()  # its config.json is gone
    lost.metrics_path.write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    records = read_runs([tmp_path], NOW)
    assert [record.name for record in records] == ["b", "lost", "study/a"]
    assert records[1].status == "damaged"
    assert records[1].problems == ("config.json is missing",)


def test_a_run_that_is_given_twice_is_read_once_and_equal_names_are_told_apart(tmp_path):
    for place in ("one", "two"):
        made_up.finished(tmp_path / place / "same")
    places = [tmp_path / "one", tmp_path / "two" / "same", tmp_path / "one" / "same"]
    records = read_runs(places, NOW)
    assert [r.name for r in records] == [str(tmp_path / p / "same") for p in ("one", "two")]


def test_links_in_a_circle_end(tmp_path):
    made_up.finished(tmp_path / "a")
    (tmp_path / "around").symlink_to(tmp_path)
    assert len(find_runs([tmp_path])) == 1


def test_folders_of_others_are_passed_over(tmp_path, monkeypatch):
    made_up.finished(tmp_path / "ours")
    made_up.finished(tmp_path / "theirs")
    is_file = Path.is_file

    def checked(path):
        if path.parent.name == "theirs":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", checked)
    assert [run.folder.name for run in find_runs([tmp_path])] == ["ours"]


def test_a_place_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at"):
        find_runs([tmp_path / "nothing"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_runs([tmp_path / "file"])
    assert read_runs([tmp_path], NOW) == []
