"""`rectiflow runs` as its users meet it."""

import json
import os
import subprocess
import sys

import pytest

from rectiflow.cli.main import main
from rectiflow.watching.summary import filled, text_table
from tests.watching import made_up


@pytest.fixture
def folder(tmp_path):
    made_up.finished(tmp_path / "b", level=0.5, training__learning_rate=2e-3)
    made_up.finished(tmp_path / "a", level=1.0)
    made_up.run(tmp_path / "c", made_up.rows(2), diverged={"step": 21, "why": "nan in block 3"})
    return tmp_path


def lines_of(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_list_has_a_line_for_each_run_and_sorts_it(folder, capsys):
    assert main(["runs", "list", str(folder)]) == 0
    head, *lines = lines_of(capsys)
    assert head[:6] == ["run", "status", "step", "loss", "validation", "samples/s"]
    assert [line[0] for line in lines] == ["a", "b", "c"]
    assert lines[0][:3] == ["a", "finished", "300/300"]
    assert lines[0][4:6] == ["1.007", "16"]
    assert lines[2][1] == "diverged"
    assert " ".join(lines[2]).endswith("diverged: nan in block 3")
    assert main(["runs", "list", str(folder), "--sort", "validation"]) == 0
    assert [line[0] for line in lines_of(capsys)[1:]] == ["b", "a", "c"]


def test_list_is_json_for_machines(folder, capsys):
    assert main(["runs", "list", str(folder), "--json"]) == 0
    first, *_ = json.loads(capsys.readouterr().out)
    assert (first["name"], first["step"], first["images_seen"]) == ("a", 300, 2400)
    assert (first["best_step"], first["seconds_left"]) == (300, None)


def test_no_runs_is_no_mistake_of_a_list_but_of_the_others(tmp_path, capsys):
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert "no runs under" in capsys.readouterr().err
    for verb in ("show", "compare", "plot"):
        assert main(["runs", verb, str(tmp_path)]) == 2
        assert "no runs under" in capsys.readouterr().err
    assert main(["runs", "list", str(tmp_path / "nothing")]) == 2


def test_show_tells_metrics_and_losses_by_time(folder, capsys):
    assert main(["runs", "show", str(folder / "a")]) == 0
    lines = lines_of(capsys)
    assert ["val_loss_ema", "1.007", "1.007", "300"] in lines
    assert ["0.1-0.2", "-"] in lines
    assert ["0.9-1.0", "1.9", "#" * 30] in lines
    assert ["0.0-0.1", "1", "#" * 16] in lines
    assert main(["runs", "show", str(folder / "a"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["metrics"]["val_loss_ema"] == 1 + 2 / 300
    assert told["recipe"] == made_up.recipe()


def test_compare_tells_what_differs(folder, capsys):
    places = [str(folder / "a"), str(folder / "b")]
    assert main(["runs", "compare", *places]) == 0
    assert ["training.learning_rate", "0.001", "0.002"] in lines_of(capsys)
    assert main(["runs", "compare", *places, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"] == {"training.learning_rate": [1e-3, 2e-3]}
    assert told["results"]["val_loss_ema"] == [1 + 2 / 300, 0.5 + 2 / 300]
    assert main(["runs", "compare", places[0]]) == 2
    assert "at least two" in capsys.readouterr().err


def test_plot_writes_a_page(folder, capsys):
    out = folder / "page.html"
    assert main(["runs", "plot", str(folder / "a"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "1.007" in out.read_text()
    assert main(["runs", "plot", str(folder), "--out", "x.txt"]) == 2


def test_columns_that_hold_nothing_are_left_out_and_numbers_stand_to_the_right():
    head, rows = filled(["run", "x", "left"], [["a", "1", "-"], ["bcd", "10", ""]])
    assert text_table(head, rows) == ["run   x", "a     1", "bcd  10"]


@pytest.mark.slow
def test_hundreds_of_long_runs_are_listed_in_seconds(tmp_path):
    """In a process of its own, without the checks of types that slow these tests down."""
    lines = made_up.rows(5000)
    for k in range(300):
        made_up.run(tmp_path / f"run{k}", lines)
    command = [sys.executable, "-m", "rectiflow", "runs", "list", str(tmp_path)]
    before = os.times().children_user
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert os.times().children_user - before < 5  # of one core
    assert len(listed.stdout.splitlines()) == 301
