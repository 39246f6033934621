import numpy as np
import pytest

from rectiflow.scaling.measures import Features, Measures, Replicates, Scores, Setting
from rectiflow.scaling.resampling import CLIP, FRECHET, interval, score_draws

FIRST, SECOND = Setting("ema", 25, 5.0), Setting("raw", 5, 5.0)
FEATURES = Features(name="clip", width=4, num_reference=9, hash="a")
OTHERS = Features(name="clip", width=4, num_reference=9, hash="b")


def run(
    name,
    seed,
    clip=0.0,
    *,
    settings=(FIRST, SECOND),
    num=4,
    features=FEATURES,
    pictures=8,
    **changes,
):
    """CLIP score `clip` + b / 100 in replicate b, Frechet distance a hundred times as much."""
    clips = [clip + b / 100 for b in range(num)]
    scores = tuple(
        Scores(
            **setting._asdict(),
            num_pictures=pictures,
            clip=clip,
            frechet=100 * clip,
            bootstrap=Replicates(clip=tuple(clips), frechet=tuple(100 * c for c in clips)),
        )
        for setting in settings
    )
    values = {"step": 1, "num_steps": 1, "val_loss_ema": 1.0, "features": features, **changes}
    return Measures(formulation=name, seed=seed, settings=scores, **values)


def test_points_are_means_over_seeds():
    found = score_draws([run("rf", 0, 1.0), run("v/cos", 0, 5.0), run("rf", 1, 2.0)], 8)
    assert found.formulations == ("rf", "v/cos")
    assert found.settings == (FIRST, SECOND)
    assert found.point[:, :, CLIP].tolist() == [[1.5, 1.5], [5, 5]]
    assert found.point[:, :, FRECHET].tolist() == [[150, 150], [500, 500]]


def test_a_draw_takes_the_same_prompts_everywhere_and_every_replicate_equally_often():
    found = score_draws([run("rf", 0, 1.0), run("v/cos", 0, 5.0)], 8)
    shifts = found.draws - found.point
    assert shifts[:, 0, 0, CLIP] == pytest.approx([0, 0.01, 0.02, 0.03] * 2)
    assert shifts[..., CLIP] == pytest.approx(np.broadcast_to(shifts[:, :1, :1, CLIP], (8, 2, 2)))
    assert shifts[..., FRECHET] == pytest.approx(100 * shifts[..., CLIP])


def test_seeds_are_drawn_with_replacement_alike_for_all_formulations():
    """Of seeds 0 and 1 the mean is that of 0, 0 | 0, 1 | 1, 1 with shares 1/4, 1/2, 1/4."""
    runs = [run(name, seed, float(seed), num=1) for name in ("rf", "v/cos") for seed in (0, 1)]
    draws = score_draws(runs, 4000).draws[:, :, 0, CLIP]
    assert (draws[:, 0] == draws[:, 1]).all()
    values, counts = np.unique(draws[:, 0], return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    again = score_draws(runs, 4000, seed=1).draws[:, :, 0, CLIP]
    assert (draws != again).any()


def test_a_formulation_of_one_seed_keeps_it_in_every_draw():
    runs = [run("rf", 0, 0.0, num=1), run("rf", 1, 1.0, num=1), run("v/cos", 1, 7.0, num=1)]
    draws = score_draws(runs, 50).draws[:, :, 0, CLIP]
    assert len(np.unique(draws[:, 0])) == 3
    assert (draws[:, 1] == 7).all()


def test_without_replicates_the_draws_are_of_seeds_alone():
    draws = score_draws([run("rf", 0, 0.0, num=0), run("rf", 1, 1.0, num=0)], 50).draws
    assert set(draws[:, 0, 0, CLIP].tolist()) == {0, 0.5, 1}


def test_a_diverged_seed_is_not_dropped_in_favour_of_the_other():
    runs = [run("rf", 0, 1.0), run("rf", 1, 2.0, diverged="nan"), run("v/cos", 0, 5.0)]
    found = score_draws(runs, 200)
    assert np.isnan(found.point[0]).all()
    assert found.missing("rf") == (FIRST, SECOND)
    assert found.missing("v/cos") == ()
    # In about a quarter of the draws both seeds are the one that did not diverge.
    is_there = np.isfinite(found.draws[:, 0, 0, CLIP])
    assert 0.15 < is_there.mean() < 0.35
    assert np.isfinite(found.draws[:, 1]).all()
    assert found.interval("rf", FIRST, CLIP) is None


def test_a_missing_setting_is_missing_alone():
    found = score_draws([run("rf", 0, 1.0, settings=(FIRST,)), run("v/cos", 0, 5.0)], 8)
    assert found.missing("rf") == (SECOND,)
    assert found.point[0, 0].tolist() == [1, 100]


def test_intervals_lie_around_what_was_measured():
    """Replicates of 1.00 ... 1.03 tell a spread, not that the score was 1.015."""
    found = score_draws([run("rf", 0, 1.0)], 400).interval("rf", FIRST, CLIP)
    assert found == pytest.approx((1.0, 0.985, 1.015))
    assert interval(0.0, np.arange(1001.0)) == pytest.approx((0, 25, 975))
    assert score_draws([run("rf", 0)], 4).interval("rf", Setting("ema", 7, 1.0), CLIP) is None


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "scores of at least one run, got 0"),
        ([run("rf", 0, diverged="nan")], "got 1 without any"),
        ([run("rf", 0), run("rf", 0)], r"got twice: \[\('rf', 0\)\]"),
        ([run("rf", 0), run("rf", 1, num=5)], r"number of replicates, got \[4, 5\]"),
        ([run("rf", 0), run("v/cos", 0, pictures=9)], r"number of pictures, got \[8, 9\]"),
        ([run("rf", 0), run("rf", 1, features=OTHERS)], "same features, got .*hash='a'.*hash='b'"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs, said):
    with pytest.raises(ValueError, match=said):
        score_draws(runs)
