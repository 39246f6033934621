import dataclasses
import json
from pathlib import Path

import pytest

from rectiflow.bench import BENCHMARKS, BenchSettings, run_benchmarks
from rectiflow.bench.figure import Figure
from rectiflow.bench.machine import machine_facts
from rectiflow.bench.registry import Benchmark
from rectiflow.cli.bench import table
from rectiflow.cli.main import main

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.fixture
def measured(monkeypatch):
    """Two benchmarks that take no time; the second lacks what it needs if it is told so."""
    calls = []

    def refuse(settings):
        if settings.bundle == "absent":
            raise FileNotFoundError("no bundle or run 'absent'")

    def first(settings):
        calls.append("first")
        return {"seconds": Figure(value=2.0, unit="s", at_most=1.0)}

    def second(settings):
        calls.append("second")
        return {
            "rate": Figure(value=5.0, unit="1/s", at_least=5.0),
            "plain": Figure(value=1, unit=""),
        }

    monkeypatch.setitem(BENCHMARKS, "first", Benchmark("", first))
    taker = Benchmark("", second, refuse, "name a model", ("bundle",))
    monkeypatch.setitem(BENCHMARKS, "second", taker)
    return calls


def test_figures_come_by_name_with_unit_bar_and_verdict(measured):
    told = []
    report = run_benchmarks(["second", "first"], on_progress=lambda *args: told.append(args))
    assert report["figures"] == {
        "second: rate": {"value": 5.0, "unit": "1/s", "bar": ">= 5", "met": True},
        "second: plain": {"value": 1, "unit": "", "bar": None, "met": None},
        "first: seconds": {"value": 2.0, "unit": "s", "bar": "<= 1", "met": False},
    }
    assert report["quick"] is False
    assert told == [("second", 0, 2), ("first", 1, 2), ("first", 2, 2)]
    assert json.loads(json.dumps(report)) == report


def test_a_rough_look_is_held_against_no_bar(measured):
    report = run_benchmarks(["first"], BenchSettings(is_quick=True))
    assert report["quick"] is True
    assert report["figures"]["first: seconds"]["met"] is None


def test_what_is_missing_is_told_before_anything_is_measured(measured):
    with pytest.raises(FileNotFoundError, match=r"measure second: .*'absent'; name a model"):
        run_benchmarks(["first", "second"], BenchSettings(bundle="absent"))
    assert measured == []


def test_unknown_benchmarks_and_none_at_all_are_refused():
    with pytest.raises(ValueError, match="no benchmark 'stepp'; known: imports, help"):
        run_benchmarks(["stepp"])
    with pytest.raises(ValueError, match="at least one"):
        run_benchmarks([])


@pytest.mark.parametrize("name", ["encode", "step", "sample", "evaluate", "autoencoder"])
def test_a_model_that_is_not_there_is_one_line(name, capsys, tmp_path):
    absent = str(tmp_path / "absent")
    given = {
        "encode": ["--set", f"encoders.source={absent}"],
        "step": ["--set", f"encoders.source={absent}"],
        "autoencoder": ["--autoencoder", absent],
    }
    assert main(["bench", name, *given.get(name, ["--bundle", absent])]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"cannot measure {name}: " in told
    assert "; name " in told


def test_the_command_line_hands_everything_on_and_shows_a_table(measured, monkeypatch, capsys):
    assert main(["bench", "first", "second", "first"]) == 0
    assert measured == ["first", "second"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu ")
    assert lines[1].split() == ["first:", "seconds", "2", "s", "<=", "1", "MISSED"]
    assert lines[2].split() == ["second:", "rate", "5", "1/s", ">=", "5", "met"]
    assert lines[3].split() == ["second:", "plain", "1"]

    given = []
    taker = Benchmark(
        "",
        lambda s: given.append(s) or {},
        takes=("run", "autoencoders", "assignments", "num_repeats"),
    )
    monkeypatch.setitem(BENCHMARKS, "first", taker)
    command = ["bench", "first", "--run", "r", "--autoencoder", "a", "--autoencoder", "b"]
    assert main([*command, "--set", "model.depth=2", "--repeats", "3", "--quick", "--json"]) == 0
    assert given == [
        BenchSettings(
            run=Path("r"),
            autoencoders=("a", "b"),
            assignments=("model.depth=2",),
            num_repeats=3,
            is_quick=True,
        )
    ]
    assert json.loads(capsys.readouterr().out)["figures"] == {}


def test_mistakes_on_the_command_line_are_told_before_measuring(measured, capsys):
    for arguments, message in (
        (["stepp"], "no benchmark 'stepp'"),
        (["first", "--repeats", "0"], "repeats must be >= 1"),
        (["first", "--run", "a", "--bundle", "b"], "not both"),
        (["first", "--depth", "6"], "depths must be left out for first, it has an effect on model"),
        (["first", "second", "--run", "a"], "run must be left out for first, second"),
    ):
        assert main(["bench", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert measured == []


def test_a_table_without_figures_still_names_the_machine():
    assert table({"machine": {"cores": 2}, "figures": {}}) == "cores 2"


def test_the_facts_of_the_machine_are_json():
    facts = machine_facts()
    assert facts["cores"] >= 1
    assert len(facts["date"]) == len("2000-01-31")
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_has_its_place_in_the_docs(name):
    assert f"rectiflow bench {name}" in DOCS.read_text(encoding="utf-8")


def test_every_setting_is_taken_by_some_benchmark():
    fields = {field.name for field in dataclasses.fields(BenchSettings)}
    taken = {name for each in BENCHMARKS.values() for name in each.takes}
    assert taken | {"is_quick"} == fields
