"""What a recipe says of drawing is checked before anything is trained."""

import pytest

from rectiflow.jobs import run_training
from rectiflow.jobs.grids import PictureGrid, drawing_options
from rectiflow.training.recipe import load_recipe
from tests.sampling import tiny


def told(*assignments):
    return load_recipe("scenes-tiny", assignments)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["apg_eta=0.5"], "apg_eta would have no effect without guidance_method apg"),
        (["tolerance=0.1"], "tolerance would have no effect without an adaptive solver"),
        (["guidance_scale=1.0", "guidance_end=0.5"], "guidance_end would have no effect at"),
        (["guidance_end=0.01"], "no step begins at a time there"),
        (["solver=heun", "guidance_method=apg", "apg_momentum=0.5"], "must ask once in each"),
        (["guidance_method=cfg_zero", "zero_init_steps=25"], "zero_init_steps must be < the steps"),
    ],
)
def test_what_cannot_be_drawn_or_changes_nothing_is_refused(assignments, message):
    recipe = told(*(f"sampling.{assignment}" for assignment in assignments))
    with pytest.raises(ValueError, match=message):
        PictureGrid(tiny.network(), tiny.autoencoder(), tiny.text(), recipe, [])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sampling.shift=3.0", "shift must be 1 on the grid karras, got 3"),
        ("sampling.guidance_method=cfg_zero", "begins at sigma 80: give zero_init_steps 0"),
    ],
)
def test_what_a_formulation_cannot_do_is_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        drawing_options(told("objective.formulation=edm/rf", assignment))


def test_what_goes_together_is_taken():
    given = ["guidance_method=apg", "apg_eta=0.5", "solver=unipc_3", "num_steps=9", "shift=2.0"]
    options = drawing_options(told(*(f"sampling.{each}" for each in given)))
    assert (options.apg_eta, options.solver, options.num_steps) == (0.5, "unipc_3", 9)


@pytest.mark.parametrize("dry_run", [True, False])
def test_training_is_refused_before_anything_is_encoded(tmp_path, dry_run):
    with pytest.raises(ValueError, match="apg_eta would have no effect"):
        run_training(
            "scenes-tiny", ["sampling.apg_eta=0.5"], tmp_path / "run", dry_run, lambda *_: None
        )
    assert not (tmp_path / "stores").exists()
