"""What happens around a training: a stop is asked for, its data goes, the clock jumps."""

import random
import signal
import time

import pytest

from tests.faults.comparing import assert_nothing_half, assert_same_contents

GRACE_SECONDS = 30.0


@pytest.mark.slow
def test_sigterm_at_any_moment_ends_in_time_and_costs_nothing(heavy, recipe, tmp_path):
    """Ten moments: libraries, encoding, training, validation, pictures, export."""
    root, _, seconds = recipe
    draw, folder, codes = random.Random(0), tmp_path / "run", []
    for _ in range(10):
        moment = draw.uniform(0.0, seconds)
        started = time.monotonic()
        codes.append(heavy.do("train", folder, seconds=moment, number=signal.SIGTERM))
        assert time.monotonic() - started - moment < GRACE_SECONDS / 3  # the machine may be busy
        assert_nothing_half(folder)
    assert set(codes) <= {0, -signal.SIGTERM}
    assert heavy.do("train", folder) == 0
    assert_same_contents(folder, root / "run")
    assert_same_contents(tmp_path / "stores", root / "stores")


@pytest.mark.slow
def test_sigterm_ends_an_evaluation_at_once_and_costs_nothing(heavy, evaluation, tmp_path):
    run, reference, _, seconds = evaluation
    folder, codes = tmp_path / "suite", []
    for share in (0.3, 0.5, 0.7):
        started = time.monotonic()
        more = {"seconds": share * seconds, "number": signal.SIGTERM}
        codes.append(heavy.do("evaluate", run, folder, **more))
        assert time.monotonic() - started - share * seconds < GRACE_SECONDS / 3
    assert codes[0] == -signal.SIGTERM
    assert set(codes) <= {0, -signal.SIGTERM}
    assert heavy.do("evaluate", run, folder) == 0
    assert_same_contents(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4])
def test_a_store_that_is_deleted_while_it_is_read_is_made_again(heavy, recipe, tmp_path, step):
    root, folder = recipe[0], tmp_path / "run"
    assert heavy.do("train_while_the_store_goes", folder, step) == 0
    assert_nothing_half(folder)
    assert heavy.do("train", folder) == 0
    assert_same_contents(folder, root / "run")


@pytest.mark.slow
def test_the_wall_clock_changes_nothing(heavy, recipe, tmp_path):
    assert heavy.do("train_while_clocks_jump", tmp_path / "run") == 0
    assert_same_contents(tmp_path / "run", recipe[0] / "run")
