import dataclasses
import json

import pytest

from rectiflow.config import to_dict
from rectiflow.errors import DataError
from rectiflow.scaling.measures import (
    MEASURES,
    PLAN,
    SETTINGS,
    Features,
    Measures,
    Plan,
    Replicates,
    Scores,
    Setting,
    read_measures,
    read_plan,
    write_measures,
    write_plan,
)

FEATURES = Features(name="scenes-tiny", width=64, num_reference=2000, hash="61c2")


def scores(setting, clip=0.25, frechet=12.0, replicates=((0.24, 0.26), (11.0, 13.0))):
    return Scores(
        **setting._asdict(),
        num_pictures=128,
        clip=clip,
        frechet=frechet,
        bootstrap=Replicates(clip=replicates[0], frechet=replicates[1]),
    )


def measures(**changes):
    values = {
        "formulation": "rf",
        "seed": 1,
        "step": 600,
        "num_steps": 700,
        "val_loss_ema": 0.5,
        "velocity_error_ema": 0.5,
        "path_length": {"straightness": 1.02},
        "scenes": 0.2,
        "features": FEATURES,
        "settings": tuple(scores(setting) for setting in SETTINGS),
    }
    return Measures(**{**values, **changes})


def test_the_settings_are_the_papers_six_samplers_with_both_weights():
    assert len(set(SETTINGS)) == 12
    for weights in ("ema", "raw"):
        of = {(steps, scale) for w, steps, scale in SETTINGS if w == weights}
        assert of == {(50, 1), (50, 2.5), (50, 5), (5, 5), (10, 5), (25, 5)}


def test_measures_survive_the_file_but_for_digits_of_their_replicates(tmp_path):
    exact = measures(settings=(scores(SETTINGS[0], 1 / 3, 2 / 3, ((1 / 3, 0.25), (1e4 / 3, 2.0))),))
    write_measures(tmp_path, exact)
    found = read_measures(tmp_path)
    assert found.settings[0].bootstrap == Replicates(clip=(0.33333, 0.25), frechet=(3333.3, 2.0))
    kept = dataclasses.replace(found.settings[0], bootstrap=exact.settings[0].bootstrap)
    assert dataclasses.replace(found, settings=(kept,)) == exact
    assert found.num_replicates == 2


def test_scores_are_found_by_their_setting():
    run = measures(settings=(scores(SETTINGS[0], clip=0.1), scores(SETTINGS[4], clip=0.2)))
    found = run.scores(Setting("ema", 10, 5.0))
    assert SETTINGS[4] == ("ema", 10, 5.0)
    assert found is not None
    assert found.clip == 0.2
    assert run.scores(Setting("raw", 10, 5.0)) is None


def test_a_diverged_run_needs_neither_losses_nor_scores(tmp_path):
    run = Measures(formulation="edm/cos", seed=0, step=0, num_steps=700, diverged="loss nan")
    write_measures(tmp_path, run)
    assert read_measures(tmp_path) == run
    assert run.num_replicates == 0


def test_a_hundred_replicates_of_every_setting_stay_far_below_what_may_be_kept(tmp_path):
    many = tuple(1 / (3 + k) for k in range(100))
    write_measures(
        tmp_path, measures(settings=tuple(scores(each, 1, 1, (many, many)) for each in SETTINGS))
    )
    assert (tmp_path / MEASURES).stat().st_size < 40_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"step": 701}, "num_steps = 700, got 701"),
        ({"settings": (scores(SETTINGS[0]), scores(SETTINGS[0]))}, "each one once"),
        (
            {"settings": (scores(SETTINGS[0]), scores(SETTINGS[1], replicates=((), ())))},
            r"equally many replicates, got \[0, 2\]",
        ),
        ({"settings": ()}, "unless the run diverged"),
        ({"val_loss_ema": None}, "unless the run diverged"),
        ({"features": None}, "features must be named"),
    ],
)
def test_half_a_measurement_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        measures(**changes)


def test_replicates_of_different_number_are_refused():
    with pytest.raises(ValueError, match="got 2 and 1"):
        Replicates(clip=(1.0, 2.0), frechet=(1.0,))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda v: v.pop("seed"), "missing setting seed"),
        (lambda v: v.update(clips=1), "unknown setting clips"),
        (lambda v: v["settings"][2].update(clip="high"), "settings.2.clip: expected a number"),
        (lambda v: v["settings"][1].update(weights="best"), "settings.1.weights"),
        (lambda v: v.update(step=900), "got 900"),
    ],
)
def test_a_damaged_file_is_named_and_what_is_wrong_with_it(tmp_path, spoil, said):
    values = to_dict(measures())
    spoil(values)
    (tmp_path / MEASURES).write_text(json.dumps(values))
    with pytest.raises(DataError, match=said) as caught:
        read_measures(tmp_path)
    assert str(tmp_path / MEASURES) in str(caught.value)


def test_a_plan_survives_its_file_and_orders_its_runs_by_seed(tmp_path):
    plan = Plan(formulations=("rf", "edm/rf"), seeds=(0, 3))
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert plan.runs == (("rf", 0), ("edm/rf", 0), ("rf", 3), ("edm/rf", 3))
    (tmp_path / PLAN).write_text('{"formulations": ["rf"], "seeds": []}')
    with pytest.raises(DataError, match="seeds must be there"):
        read_plan(tmp_path)
    with pytest.raises(ValueError, match="formulations must be there, each once"):
        Plan(formulations=("rf", "rf"), seeds=(0,))
