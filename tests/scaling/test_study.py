import pytest

from rectiflow.scaling.study import Variant
from tests.scaling.made_up import made_up_study


def test_cells_come_seed_by_seed_so_that_a_part_can_be_compared_in_pairs():
    names = [cell.name for cell in made_up_study(2).cells()]
    assert names == ["red-0", "green-0", "blue-0", "red-1", "green-1", "blue-1"]


def test_a_cell_has_the_settings_of_its_variant_and_its_seed():
    cell = made_up_study().cells()[-1]
    assert (cell.variant, cell.seed, cell.recipe) == ("blue", 2, "scenes-study")
    assert cell.settings == ("model.kind=dit", "model.depth=1", "seed=2")


def test_some_variants_may_be_chosen():
    cells = made_up_study(1).cells(["blue", "red"])
    assert [cell.name for cell in cells] == ["red-0", "blue-0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 0}, "seeds must be >= 1, got 0"),
        ({"reference": "rad"}, "no variant 'rad'; did you mean red"),
        (
            {"variants": (Variant(name="red", label="", settings=()),) * 2},
            "different names, got red, red",
        ),
    ],
)
def test_what_is_no_study_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made_up_study(**changes)


def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no variant 'bleu'; did you mean blue"):
        made_up_study().cells(["bleu"])
