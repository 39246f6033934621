import re
from pathlib import Path

import pytest

import rectiflow
from rectiflow.errors import DataError
from rectiflow.scaling.architectures import architecture_study
from rectiflow.scaling.evaluating import figure_of, kept_of
from rectiflow.scaling.page import section, with_section, write_page
from rectiflow.scaling.results import read_result, read_results
from rectiflow.scaling.runner import CELL, MAX_KEPT_BYTES
from rectiflow.scaling.tables import by_variant, difference_table, reading, score_table
from tests.scaling.made_up import made_up_study, write_run, write_study

STUDY = made_up_study()
PUBLISHED = Path(rectiflow.__file__).parent.parent.parent / "docs" / "studies"


@pytest.fixture
def results(tmp_path):
    write_study(tmp_path)
    return read_results(tmp_path, STUDY)


def rows_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_run_is_read_from_its_folder(tmp_path):
    write_run(tmp_path / "blue-4", "blue", 4, 0.5, 0.25, 0.125)
    found = read_result(tmp_path / "blue-4")
    assert (found.variant, found.seed) == ("blue", 4)
    assert found.values == {"val_loss": 0.5, "scenes": 0.25, "clip": 0.125}
    assert found.curve == ((40, 2.0), (80, 0.5))  # of the averaged weights, over pictures
    assert found.cost.training_flops == 3 * 2_000_000 * 80
    assert found.made_on == "torch 2.0, Abacus, cpu, fp32"


def test_results_stand_in_the_order_of_the_variants(results):
    assert [(r.variant, r.seed) for r in results] == [
        *(("red", seed) for seed in range(3)),
        *(("green", seed) for seed in range(3)),
        ("blue", 0),
    ]


def test_the_table_gives_means_and_intervals_known_in_closed_form(results):
    """Red's losses 1.0, 1.2, 1.4: s = 0.2, half width 4.3027 * 0.2 / sqrt(3) = 0.4968."""
    red, green, blue = rows_of(score_table(by_variant(results), STUDY))[2:]
    assert red == ["Red", "3", "1.2000 ± 0.4968", "0.200 ± 0.248", "0.520 ± 0.050"]
    assert green[3] == "0.150 ± 0.000"
    assert blue == ["Blue", "1", "1.5000", "0.100", "0.400"]  # one seed has no interval


def test_differences_are_paired_and_bold_where_they_exclude_zero(results):
    """Green minus red: losses -0.1, -0.1, -0.11; scores 0.05, -0.05, -0.15."""
    green, blue = rows_of(difference_table(by_variant(results), STUDY))[2:]
    half = 4.3027 * 0.0057735 / 3**0.5
    assert green[1] == f"**-0.1033 ± {half:.4f}**"
    assert green[2] == "-0.050 ± 0.248"
    assert blue[1] == "+0.5000"


def test_words_say_no_more_than_the_intervals(results):
    groups = by_variant(results)
    loss, scenes, _ = reading(groups, STUDY)
    assert loss == "Validation loss: Green: better than the reference."  # lower is better
    assert scenes == "Scenes score: Green: not told apart from the reference."
    turned = made_up_study(reference="green")
    assert "Red: worse than the reference" in reading(groups, turned)[0]
    few = {name: of[:1] for name, of in groups.items()}
    assert "no interval yet" in reading(few, STUDY)[0]


def test_a_page_is_written_again_without_a_change_and_what_people_wrote_stays(tmp_path):
    write_study(kept_of(STUDY, tmp_path))
    page = tmp_path / "colours.md"
    page.write_text(
        "# Mine\n\nBefore.\n\n<!-- flops: generated -->\nOUTDATED\n<!-- flops: end -->\nAfter.\n"
    )
    assert write_page(STUDY, tmp_path) == page
    text, figure = page.read_text(), figure_of(STUDY, tmp_path).read_text()
    assert text.startswith("# Mine\n\nBefore.\n")
    assert text.endswith("\nAfter.\n")
    assert "OUTDATED" not in text
    assert "**Partial: 7 of 9 runs are there.** Missing: blue-1, blue-2." in text
    assert "](colours/flops.svg)" in text
    assert "0.4968" in text
    write_page(STUDY, tmp_path)
    assert page.read_text() == text
    assert figure_of(STUDY, tmp_path).read_text() == figure
    for label in ("Red", "Green", "Blue", "pictures seen", "CLIP score"):
        assert f">{label}<" in figure


def test_a_complete_study_says_so(results):
    study = made_up_study(1)
    complete = [result for result in results if result.seed == 0]
    assert "All 3 runs are there." in section(study, complete, "x.svg")
    assert "**Partial: 0 of 3 runs are there.**" in section(study, [], "x.svg")


def test_a_section_is_put_at_the_end_of_a_page_that_has_none_and_the_others_stay():
    once = with_section("# Title\n", "flops", "one")
    twice = with_section(once, "parameters", "two")
    assert twice.index("one") < twice.index("two")
    assert with_section(twice, "flops", "three") == twice.replace("one", "three")
    with pytest.raises(DataError, match="found one of them"):
        with_section("<!-- flops: generated -->\n", "flops", "x")
    with pytest.raises(DataError, match="found one of them"):
        with_section("<!-- flops: end --><!-- flops: generated -->\n", "flops", "x")


def test_unfinished_runs_are_passed_over_and_strangers_refused(tmp_path):
    write_study(tmp_path)
    (tmp_path / "red-1" / "scores.json").unlink()
    (tmp_path / "red-2" / "result.json").write_text("{}")
    assert [r.seed for r in read_results(tmp_path, STUDY) if r.variant == "red"] == [0]
    write_run(tmp_path / "pink-0", "pink", 0, 1, 1, 1)
    with pytest.raises(DataError, match="a run of 'pink', no variant"):
        read_results(tmp_path, STUDY)


def test_a_damaged_run_is_named(tmp_path):
    write_run(tmp_path / "red-0", "red", 0, 1, 1, 1)
    (tmp_path / "red-0" / CELL).write_text('{"variant": "red"}')
    with pytest.raises(DataError, match="red-0 is damaged: KeyError"):
        read_results(tmp_path, STUDY)


def test_the_published_page_is_what_the_published_runs_give():
    text = (PUBLISHED / "architectures.md").read_text(encoding="utf-8")
    parts = re.findall(r"<!-- (\w+): generated -->", text)
    assert "flops" in parts
    for part in parts:
        study = architecture_study(part)
        found = read_results(kept_of(study, PUBLISHED), study)
        figure = figure_of(study, PUBLISHED)
        assert with_section(text, part, section(study, found, f"architectures/{part}.svg")) == text
        assert figure.is_file() == bool(found)
        for folder in kept_of(study, PUBLISHED).glob("*/"):
            assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_KEPT_BYTES
