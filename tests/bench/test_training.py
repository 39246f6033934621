import pytest

from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.training import FIRST_STEP, LEAN, step_figures
from rectiflow.training.recipe import load_recipe


def line(step, seconds):
    """A line of a run whose steps take `seconds`, a tenth of them outside the work."""
    shares = {"data": 0.05, "forward": 0.3, "backward": 0.4, "optimizer": 0.2, "other": 0.05}
    phases = {f"{name}_seconds": share * seconds for name, share in shares.items()}
    return {"step": step, "step_seconds": seconds, "elapsed_seconds": 0.0, **phases}


def run_of(seconds_by_step):
    rows, elapsed, last = [], 0.0, 0
    for step, seconds in seconds_by_step.items():
        elapsed += (step - last) * seconds / 0.9
        rows.append({**line(step, seconds), "elapsed_seconds": elapsed})
        last = step
    return rows


def test_figures_are_medians_over_the_lines_after_the_first_steps():
    rows = run_of({5: 90.0, FIRST_STEP: 80.0, 25: 2.0, 30: 50.0, 35: 1.0})
    figures = step_figures(rows)
    assert figures["seconds"].repeats == (2.0, 50.0, 1.0)
    assert figures["seconds"].value == 2.0
    assert figures["forward seconds"].value == pytest.approx(0.6)
    assert figures["outside"].value == pytest.approx(0.1)
    assert figures["outside"].is_met
    assert figures["outside, logging included"].value == pytest.approx(1 - 0.9 * 0.9)
    assert figures["outside, logging included"].is_met is False


def test_a_run_that_was_too_short_is_refused():
    with pytest.raises(ValueError, match="between two lines, got 1"):
        step_figures(run_of({5: 1.0, FIRST_STEP: 1.0}))


def test_a_lean_run_differs_from_the_recipe_in_nothing_that_a_step_costs():
    usual = load_recipe("scenes-tiny")
    lean = load_recipe("scenes-tiny", [*LEAN, "training.num_steps=40"])
    assert (lean.model, lean.objective, lean.encoders) == (
        usual.model,
        usual.objective,
        usual.encoders,
    )
    same = ("batch_size", "num_microbatches", "optimizer", "precision", "ema_decay", "clip_norm")
    for name in same:
        assert getattr(lean.training, name) == getattr(usual.training, name)
    assert lean.training.minutes is None


def test_how_thorough_a_measurement_is_can_be_chosen():
    assert BenchSettings().repeats(9) == 9
    assert BenchSettings(is_quick=True).repeats(9) == 1
    assert BenchSettings(is_quick=True, num_repeats=4).repeats(9) == 4
    assert BenchSettings(is_quick=True).amount(100, 5) == 5
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        BenchSettings(num_repeats=0)
