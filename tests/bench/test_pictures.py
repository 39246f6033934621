import pytest

from rectiflow.bench import pictures


def test_every_picture_is_rendered_or_judged_as_often_as_it_is_counted(monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, "render", lambda scene, size_px: seen.append(scene))
    pictures.scene_rates(num_scenes=4, num_repeats=2, size_px=64)
    places = [(scene.seed, scene.index) for scene in seen]
    once = [(seed, index) for seed in (0, 1) for index in range(12)]  # the warm-up, two repeats
    assert places == once

    judged = []
    monkeypatch.setattr(pictures, "ground_truth_pictures", lambda prompts, size_px: ["a", "b"])
    monkeypatch.setattr(pictures, "parse", judged.append)
    assert len(pictures.checker_rates(num_pictures=5, num_repeats=2, size_px=64)) == 2
    assert "".join(judged) == "ababa" * 3


def test_only_functions_that_measure_can_be_called():
    with pytest.raises(KeyError):
        pictures.main("exec", "{}")
