"""Kill -9 at random moments: always resumable, nothing half taken for whole, the same in the end.

Sixty moments in all: of a small training with everything that it can keep, of a recipe from its
first scene to its export (encoding, checkpoints, validation, pictures), of a preparation in shards,
of an evaluation.
"""

import random
import signal

import pytest

from tests.faults.comparing import (
    assert_nothing_half,
    assert_same_contents,
    assert_stores_whole,
)


def test_a_training_killed_at_three_moments_ends_as_if_it_had_not_been(light, training, tmp_path):
    reference, num_events = training
    folder, draw = tmp_path / "run", random.Random(0)
    for share in (0.6, 0.3, 0.2):
        event = round(num_events * share * draw.uniform(0.7, 1.1))
        assert light.do("train", folder, event=event, root=folder) == -signal.SIGKILL
        assert_nothing_half(folder)
    assert light.do("train", folder) == 0
    assert_same_contents(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_training_killed_before_any_file_event_ends_the_same(light, training, tmp_path, seed):
    """Five moments each: anywhere in what an undisturbed run does to files."""
    reference, num_events = training
    draw, folder = random.Random(seed), tmp_path / "run"
    for _ in range(5):
        light.do("train", folder, event=draw.randint(1, num_events), root=folder)
        assert_nothing_half(folder)
    assert light.do("train", folder) == 0
    assert_same_contents(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["event", "seconds"])
def test_a_recipe_killed_from_its_first_scene_to_its_export_ends_the_same(
    heavy, recipe, tmp_path, by
):
    """Ten moments each: encoding, training, checkpoints, validation, pictures, export."""
    root, num_events, seconds = recipe
    draw, folder, codes = random.Random(by), tmp_path / "run", []
    for _ in range(10):
        moment = draw.randint(1, num_events) if by == "event" else draw.uniform(0.0, seconds)
        codes.append(heavy.do("train", folder, **{by: moment}, root=tmp_path))
        assert_nothing_half(folder)
    assert set(codes) <= {0, -signal.SIGKILL}
    assert heavy.do("train", folder) == 0
    assert_same_contents(folder, root / "run")
    assert_same_contents(tmp_path / "stores", root / "stores")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_preparation_killed_before_any_file_event_ends_the_same(light, store, tmp_path, seed):
    """Five moments each."""
    root, num_events = store
    draw = random.Random(seed)
    for _ in range(5):
        light.do("encode", tmp_path / "store", event=draw.randint(1, num_events), root=tmp_path)
        assert_stores_whole(tmp_path)
    assert light.do("encode", tmp_path / "store") == 0
    assert_same_contents(tmp_path, root)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_of_two_that_prepare_one_store_the_death_of_one_costs_nothing(
    light, other, store, tmp_path, share
):
    root, num_events = store
    folder = tmp_path / "store"
    light.start("encode", folder, event=round(share * num_events), root=tmp_path)
    other.start("encode", folder)
    codes = light.end()[0], other.end()[0]
    assert codes[0] in (0, -signal.SIGKILL)  # 0 if the other left it too little to do
    assert codes[1] == 0
    assert light.do("encode", folder) == 0
    assert_same_contents(tmp_path, root)


def test_an_evaluation_killed_between_two_pictures_ends_as_if_it_had_not_been(light, tmp_path):
    reference, folder = tmp_path / "reference", tmp_path / "suite"
    event = light.count_events("evaluate", reference, root=reference) // 2
    assert light.do("evaluate", folder, event=event, root=folder) == -signal.SIGKILL
    assert 0 < len(list(folder.rglob("*.png"))) < 6
    assert light.do("evaluate", folder) == 0
    assert_same_contents(folder, reference)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["event", "seconds"])
def test_an_evaluation_of_a_run_killed_at_any_moment_ends_the_same(heavy, evaluation, tmp_path, by):
    """Five moments each: what decides the pictures, prompts, pictures, results."""
    run, reference, num_events, seconds = evaluation
    draw, folder = random.Random(by), tmp_path / "suite"
    for _ in range(5):
        moment = draw.randint(1, num_events) if by == "event" else draw.uniform(0.0, seconds)
        code = heavy.do("evaluate", run, folder, **{by: moment}, root=folder)
        assert code in (0, -signal.SIGKILL)
    assert heavy.do("evaluate", run, folder) == 0
    assert_same_contents(folder, reference)
