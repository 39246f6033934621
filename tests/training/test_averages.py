"""Power-function averages: closed forms, and any width made afterwards of those that were kept."""

import numpy as np
import pytest
import torch
from torch import nn

from rectiflow import checkpoints
from rectiflow.errors import DataError
from rectiflow.runs import Run, without_clock
from rectiflow.training import checkpoint
from rectiflow.training.averages import (
    Profile,
    coefficients,
    exponent_of,
    overlap,
    reconstruct,
    relative_width,
)
from rectiflow.training.ema import Ema, power_function
from rectiflow.training.settings.sections import WIDEST, AveragesSettings
from tests.training.test_restart import Killed, killing_at
from tests.training.tiny import shard_of, tiny_settings, tiny_train

AVERAGES = AveragesSettings(decays=(0.5,), widths=(0.05, 0.2), snapshot_every_steps=2)


def density(profile, s):
    gamma, t = profile.exponent, profile.num_steps
    return np.where(s <= t, (gamma + 1) * s**gamma / t ** (gamma + 1), 0.0)


def midpoints(t, num=200_000):
    return (np.arange(num) + 0.5) * t / num


def tracked(exponent, path):
    """The average that is kept up step by step, after each step."""
    model = nn.Linear(1, 1, bias=False).double()
    average, seen = Ema(model, power_function(exponent)), []
    for step, value in enumerate(path, start=1):
        nn.init.constant_(model.weight, value)
        average.update(step)
        seen.append(average.tensors["weight"].item())
    return seen


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25, WIDEST])
def test_a_width_is_the_standard_deviation_of_its_profile(width):
    exponent = exponent_of(width)
    assert relative_width(exponent) == pytest.approx(width, rel=1e-9)
    s = midpoints(1)
    p = density(Profile(exponent, 1), s) / len(s)
    mean = (p * s).sum()
    assert p.sum() == pytest.approx(1, rel=1e-6)
    assert ((p * (s - mean) ** 2).sum()) ** 0.5 == pytest.approx(width, rel=1e-5)


def test_widths_of_the_paper():
    """arXiv:2312.02696, Section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert exponent_of(0.05) == pytest.approx(16.97, abs=5e-3)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=5e-3)
    assert exponent_of(WIDEST) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"must be in \(0, 0.2887\], got 0.3"):
        exponent_of(0.3)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 6.94])
def test_step_s_of_n_weighs_s_to_the_power_less_that_of_s_minus_1(exponent):
    path = np.random.default_rng(0).standard_normal(40)
    s = np.arange(1, 41) / 40
    shares = s ** (exponent + 1) - (s - 1 / 40) ** (exponent + 1)
    assert tracked(exponent, path)[-1] == pytest.approx((shares * path).sum(), rel=1e-9)
    if exponent == 0:
        assert tracked(exponent, path)[-1] == pytest.approx(path.mean(), rel=1e-9)


@pytest.mark.parametrize(("steps", "others"), [(50, 50), (30, 50), (50, 7)])
def test_the_overlap_is_the_integral_of_the_product(steps, others):
    a, b = Profile(2.0, steps), Profile(5.5, others)
    s = midpoints(50)
    product = (density(a, s) * density(b, s)).sum() * 50 / len(s)
    assert overlap(a, b) == pytest.approx(product, rel=1e-4)
    assert overlap(a, b) == overlap(b, a)


def test_an_average_that_was_kept_is_given_back_alone():
    kept = [Profile(exponent_of(w), t) for t in (10, 20, 30) for w in (0.05, 0.1)]
    factors = coefficients(kept, kept[3])
    np.testing.assert_allclose(factors, np.eye(6)[3], atol=1e-8)


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15])
def test_a_held_out_width_comes_out_as_if_it_had_been_tracked(width):
    """Weights that wander: the combination errs a 20th of what the nearer of its two errs."""
    rng = np.random.default_rng(1)
    steps, paths = 400, np.cumsum(rng.standard_normal((8, 400)), axis=1)
    kept = [Profile(exponent_of(w), t) for t in range(20, steps + 1, 20) for w in (0.05, 0.1)]
    factors = coefficients(kept, Profile(exponent_of(width), steps))
    assert factors.sum() == pytest.approx(1, rel=1e-9)
    errors, nearest = [], []
    for path in paths:
        ours = {w: tracked(exponent_of(w), path) for w in (0.05, 0.1)}
        values = [ours[w][t - 1] for t in range(20, steps + 1, 20) for w in (0.05, 0.1)]
        exact = tracked(exponent_of(width), path)[-1]
        errors.append(factors @ values - exact)
        nearest.append(min(abs(ours[w][-1] - exact) for w in ours))
    assert np.linalg.norm(errors) < 0.05 * np.linalg.norm(nearest)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages")
    tiny_train(folder, tiny_settings(averages=AVERAGES))
    return Run(folder)


def test_a_run_keeps_what_makes_other_widths(run, tmp_path):
    """A width that the run tracked, left out of what is kept, against itself."""
    assert [path.name[-2:] for path in checkpoints.list_averages(run)] == [
        f"{step:02d}" for step in (2, 4, 6, 8, 10, 12)
    ]
    last = checkpoint.load(checkpoints.newest(run)).tensors
    given_back = reconstruct(run, 0.2)
    assert (given_back.step, given_back.num_averages) == (12, 12)
    assert given_back.error < 1e-6
    for name, tensor in last["power_0.2"].items():
        torch.testing.assert_close(given_back.tensors[name], tensor)
    averages = AveragesSettings(widths=(0.12,), snapshot_every_steps=12)
    tiny_train(tmp_path, tiny_settings(averages=averages))
    direct = checkpoint.load(checkpoints.newest(Run(tmp_path))).tensors["power_0.12"]
    made = reconstruct(run, 0.12)
    assert made.error < 0.05
    name = "final.project.weight"
    apart = torch.linalg.norm(last["power_0.2"][name] - direct[name])
    assert torch.linalg.norm(made.tensors[name] - direct[name]) < 0.05 * apart


def test_averages_change_nothing_that_is_trained(run, tmp_path):
    tiny_train(tmp_path)
    ours, plain = (checkpoint.load(checkpoints.newest(r)) for r in (run, Run(tmp_path)))
    assert ours.tensors.keys() - plain.tensors.keys() == {"ema_0.5", "power_0.05", "power_0.2"}
    for group, tensors in plain.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[group][name], tensor)
    for row, expected in zip(run.metrics(), Run(tmp_path).metrics(), strict=True):
        row, expected = without_clock(row), without_clock(expected)
        assert row.items() >= expected.items()
        if "val_loss" in expected:
            assert row["val_loss_ema_0.5"] != row["val_loss_power_0.2"]
            assert row["val_loss_power_0.2"] != row["val_loss_ema"]


def test_averages_resume_bit_for_bit(run, tmp_path):
    settings = tiny_settings(averages=AVERAGES)
    with pytest.raises(Killed):
        tiny_train(tmp_path, settings, on_progress=killing_at(9))
    assert checkpoints.list_averages(Run(tmp_path))[-1].name == "averages-00000008"
    with pytest.raises(Killed):  # goes on from step 5; the averages of 6 and 8 are made again
        tiny_train(tmp_path, settings, on_progress=killing_at(6))
    assert checkpoints.list_averages(Run(tmp_path))[-1].name == "averages-00000006"
    tiny_train(tmp_path, settings)
    for kind in (checkpoints.list_averages, checkpoints.list_checkpoints):
        for ours, theirs in zip(kind(Run(tmp_path)), kind(run), strict=True):
            ours, theirs = checkpoint.load(ours), checkpoint.load(theirs)
            assert ours.step == theirs.step
            for group, tensors in theirs.tensors.items():
                for name, tensor in tensors.items():
                    assert torch.equal(ours.tensors[group][name], tensor), f"{group} {name}"


def test_what_was_not_kept_or_is_damaged_is_refused(tmp_path):
    settings = tiny_settings(num_steps=4, averages=AVERAGES)
    with pytest.raises(ValueError, match=r"has kept no averages: train it with"):
        reconstruct(Run(tmp_path), 0.1)
    tiny_train(tmp_path, settings)
    with pytest.raises(ValueError, match=r"step must be in \[2, 4\], what was kept, got 7"):
        reconstruct(Run(tmp_path), 0.1, step=7)
    assert reconstruct(Run(tmp_path), 0.1, step=3).num_averages == 2
    file = shard_of(checkpoints.list_averages(Run(tmp_path))[0], "power_0.05")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"power_0.05.shard-.* is damaged"):
        reconstruct(Run(tmp_path), 0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decays": (0.5, 0.5)}, r"decays must differ from each other, got \[0.5, 0.5\]"),
        ({"decays": (1.0,)}, r"decays must be in \[0, 1\), got 1.0"),
        ({"widths": (0.3,), "snapshot_every_steps": 1}, r"widths must be in .*, got 0.3"),
        ({"widths": (0.1,)}, r"snapshot_every_steps must be >= 1 where widths are given"),
        ({"snapshot_every_steps": 5}, r"and 0 where none are, got 5 and widths \[\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AveragesSettings(**values)
