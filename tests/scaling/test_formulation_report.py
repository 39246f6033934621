import dataclasses
import json
import re
from pathlib import Path

import pytest

import rectiflow
from rectiflow.cli.main import main
from rectiflow.errors import DataError
from rectiflow.flow import formulations
from rectiflow.scaling.formulation_report import report_parts, with_report, write_report
from rectiflow.scaling.formulation_results import findings_of, read_formulations
from rectiflow.scaling.formulation_tables import (
    agreement_lines,
    claims_table,
    losses_table,
    table_1,
    table_2,
    verdict,
)
from rectiflow.scaling.measures import Plan, write_plan
from rectiflow.scaling.paper_values import TABLE_1, TABLE_2
from rectiflow.scaling.resampling import Interval
from tests.scaling.made_up_formulations import (
    FEATURES,
    made_up_run,
    write_partial_study,
    write_run,
    write_whole_study,
)

PUBLISHED = Path(rectiflow.__file__).parent.parent.parent / "docs" / "studies"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Without noise every score follows the paper's average rank over all settings."""
    folder = tmp_path_factory.mktemp("whole")
    write_whole_study(folder, noise=0.0)
    return findings_of(read_formulations(folder))


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    write_partial_study(folder)
    return folder


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_the_papers_names_are_those_of_the_formulations():
    assert tuple(TABLE_1) == formulations.TABLE_1
    assert set(TABLE_2) <= set(formulations.STUDY)


def test_runs_as_good_as_the_paper_ranks_them_give_its_order(whole):
    assert whole.order == tuple(TABLE_1)
    rows = rows_of(table_1(whole))
    for place, (name, paper) in enumerate(TABLE_1.items(), start=1):
        rank = f"{place:.2f} ({place:.2f} to {place:.2f})"
        shown = [f"{value:.2f}" for value in paper]
        assert rows[name] == ("2", rank, rank, rank, *shown)
    first = agreement_lines(whole)[0]
    assert "correlation 1.00 (1.00 to 1.00) over 16 formulations" in first
    assert "either way in at most 5 % of cases" in first
    assert "Of 120 pairs that the paper orders, 120 have the same order here" in first
    # All columns have the order of the first here, so the paper's changes of order are not found.
    verdicts = [row[-1] for row in claims_table(whole).rows]
    assert verdicts == [*["same order"] * 9, "opposite order", "same order"]


def test_a_verdict_goes_no_further_than_its_interval():
    assert verdict(Interval(1.0, 0.1, 2.0)) == "same order"
    assert verdict(Interval(-1.0, -2.0, -0.1)) == "opposite order"
    assert verdict(Interval(1.0, 0.0, 2.0)) == verdict(Interval(-1.0, -2.0, 0.0))
    assert verdict(Interval(1.0, -0.1, 2.0)) == "not told apart"
    assert verdict(None) == "not run"


def test_table_2_is_of_averaged_weights_at_25_steps_beside_the_papers_values(whole):
    """Without noise: CLIP .36 - .004 rank - .2 / 25, distance 10 + rank (1 + 20 / 25)."""
    rows = rows_of(table_2(whole))
    clip, frechet, *paper = rows["rf"]
    assert clip.startswith(f"{0.36 - 0.004 * 5.67 - 0.2 / 25:.3f} (")
    assert frechet.startswith(f"{10 + 5.67 * 1.8:.2f} (")
    assert paper == ["0.247", "49.70", "0.217", "94.90"]
    assert rows["edm/cos"][2:] == ("-",) * 4


def test_losses_are_means_over_seeds(whole):
    rows = rows_of(losses_table(whole))
    errors = [run.velocity_error_ema for run in whole.results.of("rf")]
    steps, _, error, length, loss, scenes = rows["rf"]
    assert steps == "650, 600"
    assert error.startswith(f"{sum(errors) / 2:.4f} ± ")
    assert (length[:5], loss[:5], scenes[:5]) == ("1.213", "0.567", "0.193")


def test_what_is_missing_diverged_or_of_one_seed_is_said(partial):
    results = read_formulations(partial)
    findings = findings_of(results)
    text = str(report_parts(results, findings))
    assert "Partial: 7 of 32 runs are there." in text
    assert re.search(r"Missing with seed 1: rf/lognorm\(0.00,1.00\).* v/cos, edm/cos", text)
    assert "edm/cos, seed 0: diverged. loss is nan" in text
    assert "v/cos has no scores in: ema, 5 steps, scale 5; raw, 5 steps, scale 5." in text
    rows = rows_of(table_1(findings))
    assert list(rows)[-2:] == ["v/cos † §", "edm/cos † ‡"]
    assert {"rf", "eps/linear", "rf/lognorm(0.00,1.00) †"} == set(rows) - set(list(rows)[-2:])
    # Both have no scores at 5 steps and share the last front, after those of the three others.
    assert rows["v/cos † §"][2] == rows["edm/cos † ‡"][2] == "4.00 (4.00 to 4.00)"
    assert rows_of(table_2(findings))["edm/cos † ‡"][:2] == ("-", "-")


def test_the_report_is_the_same_files_each_time_and_its_page_needs_no_other(partial):
    path = write_report(partial)
    page = path.read_text(encoding="utf-8")
    text = (partial / "report.md").read_text(encoding="utf-8")
    for name in ("ranks", "steps", "velocity_error"):
        assert f"({name}.png)" in text
        assert (partial / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (partial / f"{name}.svg").read_bytes().startswith(b"<?xml")
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    for each in (page, text):
        assert "Partial: 7 of 32 runs are there." in each
        assert "edm/cos, seed 0: diverged. loss is nan" in each
    found = json.loads((partial / "report.json").read_text())
    assert (found["num_runs"], found["num_planned"], len(found["missing"])) == (7, 32, 25)
    assert found["diverged"] == [{"formulation": "edm/cos", "seed": 0, "why": "loss is nan"}]
    best = found["formulations"][0]
    assert best["name"] == "rf/lognorm(0.00,1.00)"
    assert best["paper_ranks"] == {"all": 1.54, "few_steps": 1.25, "many_steps": 1.5}
    assert found["agreement"]["all"]["spearman"]["value"] == 1
    lacking = next(row for row in found["formulations"] if row["name"] == "v/cos")
    assert lacking["last_for_want_of_scores"] == ["ema, 5 steps, scale 5", "raw, 5 steps, scale 5"]
    assert len(lacking["scores"]) == 10
    names = ("report.html", "report.json", "steps.svg")
    before = [(partial / name).read_bytes() for name in names]
    write_report(partial)
    assert [(partial / name).read_bytes() for name in names] == before


def test_a_page_beside_the_folder_gets_the_report_and_keeps_what_people_wrote(tmp_path):
    folder, page = tmp_path / "formulations", tmp_path / "formulations.md"
    write_run(folder, made_up_run("rf", 0))
    page.write_text(
        "# Mine\n\n<!-- results: generated -->\nOUTDATED\n<!-- results: end -->\nAfter.\n"
    )
    write_report(folder)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n")
    assert text.endswith("\nAfter.\n")
    assert "OUTDATED" not in text
    assert "](formulations/ranks.svg)" in text
    assert "1 of 32 runs" in text  # 16 rows of Table 1 with two seeds where no plan says otherwise


def test_what_was_run_beside_the_plan_stands_after_it(tmp_path):
    write_plan(tmp_path, Plan(formulations=("v/cos", "rf"), seeds=(0,)))
    for name, seed in (("rf/lognorm(2.00,2.00)", 3), ("rf", 0), ("v/cos", 0)):
        write_run(tmp_path, made_up_run(name, seed, quality=1.0))
    (tmp_path / "begun").mkdir()  # a folder without measures
    results = read_formulations(tmp_path)
    assert [run.formulation for run in results.runs] == ["v/cos", "rf", "rf/lognorm(2.00,2.00)"]
    assert results.plan.seeds == (0, 3)
    assert results.made_on == ("torch 2.13.0, Abacus, cpu, bf16",)


def test_without_scores_the_program_writes_a_report_all_the_same(tmp_path, capsys):
    nothing = {"diverged": "loss is nan", "settings": ()}
    write_run(tmp_path, dataclasses.replace(made_up_run("rf", 0), **nothing))
    assert main(["study", "report", str(tmp_path)]) == 0
    assert "report.html: 1 of 32 runs" in capsys.readouterr().out
    assert main(["study", "report", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["diverged"]) == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No run has scores yet." in text
    assert "rf, seed 0: diverged. loss is nan" in text
    assert not list(tmp_path.glob("*.svg"))


def test_too_few_pictures_for_the_features_are_told_with_numbers(tmp_path, whole):
    wide = dataclasses.replace(FEATURES, width=128)
    write_run(tmp_path, made_up_run("rf", 0, features=wide))
    results = read_formulations(tmp_path)
    text = str(report_parts(results, findings_of(results)))
    assert "128 features need more than 128, here are 128." in text
    assert "Too few pictures" not in str(report_parts(whole.results, whole))


def test_runs_that_do_not_compare_are_refused(tmp_path, capsys):
    write_run(tmp_path, made_up_run("rf", 0))
    others = dataclasses.replace(FEATURES, hash="other")
    write_run(tmp_path, made_up_run("rf", 1, features=others))
    assert main(["study", "report", str(tmp_path)]) == 2
    assert "same features" in capsys.readouterr().err
    assert main(["study", "report", str(tmp_path / "nowhere")]) == 2
    assert "no study in" in capsys.readouterr().err


def test_a_damaged_run_is_named(tmp_path):
    place = write_run(tmp_path, made_up_run("rf", 0))
    (place / "measures.json").write_text("{")
    with pytest.raises(DataError, match="rf-0"):
        write_report(tmp_path)


def test_the_published_page_is_what_the_published_runs_give():
    page, folder = PUBLISHED / "formulations.md", PUBLISHED / "formulations"
    text = page.read_text(encoding="utf-8")
    if not folder.is_dir():
        assert "generated" not in text
        return
    results = read_formulations(folder)
    assert with_report(text, folder.name, report_parts(results, findings_of(results))) == text
