"""The checker's bars on samples; the full measurement is marked slow."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from rectiflow.data.scenes import PALETTE, SHAPES, Scene, Thing, Word, make_scene, render
from rectiflow.evaluation.checker import DEFAULT, Thresholds, parse
from rectiflow.evaluation.geneval import judge
from rectiflow.evaluation.scenes_prompts import ground_truth, load_prompts
from rectiflow.evaluation.truth import truth_of
from tests.evaluation.pictures import (
    blurred,
    decoded,
    noisy,
    picture_of,
    ringing,
    scene_of,
    some_prompts,
)

REVERSED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def content(parsed):
    things = Counter((o.shape, o.color) for o in parsed.objects)
    return things, [(w.text, w.color) for w in parsed.words], parsed.junk


def strict_share(prompts, size_px, change=lambda picture: picture):
    verdicts = [judge(parse(change(picture_of(p, size_px))), p).strict for p in prompts]
    return sum(verdicts) / len(verdicts)


@pytest.mark.parametrize("size_px", [64, 128])
def test_every_scene_is_read_without_error(size_px):
    for index in range(40):
        scene = make_scene(3, index)
        assert content(parse(render(scene, size_px))) == content(truth_of(scene, size_px))


@pytest.mark.parametrize(
    "change",
    [lambda p: blurred(p, 0.02), lambda p: noisy(p, 8), ringing, decoded],
    ids=["blurred", "noisy", "ringing", "decoded"],
)
def test_degraded_ground_truth_still_shows_its_prompt(change):
    assert strict_share(some_prompts(16), 64, change) >= 0.98


def test_places_and_boxes_are_right_within_a_pixel_at_every_size():
    scene = scene_of(Thing("star", "red", 0.3, 0.3, 0.14), Thing("cross", "blue", 0.7, 0.7, 0.12))
    for size_px in (64, 100, 128, 256, 520):
        found = {o.shape: o for o in parse(render(scene, size_px)).objects}
        for truth in truth_of(scene, size_px).objects:
            atol = 1.0 + size_px / 64
            np.testing.assert_allclose(found[truth.shape].centre, truth.centre, atol=atol)
        np.testing.assert_allclose(
            found["cross"].box, np.array([0.58, 0.58, 0.82, 0.82]) * size_px, atol=1 + size_px / 64
        )


def test_pictures_without_objects_have_none():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    empty = [np.full((64, 64, 3), level, np.uint8) for level in (0, 128, 255)]
    blobs = []
    for sigma_px in (2, 4, 6, 12):
        for _ in range(5):
            field = ndimage.gaussian_filter(
                generator.normal(size=(64, 64, 3)), (sigma_px, sigma_px, 0)
            )
            blobs.append(np.clip(128 + 60 * field / field.std(), 0, 255).astype(np.uint8))
    for picture in [noise, *empty, *blobs]:
        parsed = parse(picture)
        assert parsed.objects == ()
        assert parsed.words == ()


def test_no_picture_passes_for_a_prompt_that_its_scene_does_not_show():
    prompts = some_prompts(17)
    accepted = pairs = 0
    for prompt in prompts:
        scene = ground_truth(prompt)
        truth, parsed = truth_of(scene), parse(render(scene))
        for other in prompts:
            if not judge(truth, other).strict:
                pairs += 1
                accepted += judge(parsed, other).strict
    assert pairs > 2000
    assert accepted / pairs <= 0.01


def test_swapped_colors_and_reversed_relations_are_refused():
    for prompt in some_prompts(6, tag="color_attr"):
        one, other = prompt["include"]
        swapped = [{**one, "color": other["color"]}, {**other, "color": one["color"]}]
        parsed = parse(picture_of(prompt))
        assert not judge(parsed, {**prompt, "include": swapped}).correct
    for prompt in some_prompts(6, tag="position"):
        target, subject = prompt["include"]
        relation = REVERSED[subject["position"][0]]
        turned = [target, {**subject, "position": [relation, 0]}]
        parsed = parse(picture_of(prompt))
        assert not judge(parsed, {**prompt, "include": turned}).correct


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reach", [1.99, 1.62])
def test_touching_and_overlapping_objects_of_one_color_are_split(shape, reach):
    """Centres 1.62 radii apart cover 10 to 15 % of a disc or square."""
    for color, angle in (("red", 0.0), ("white", 1.2), ("brown", 2.6)):
        dx, dy = 0.06 * reach * np.cos(angle), 0.06 * reach * np.sin(angle)
        things = (
            Thing(shape, color, 0.5 - dx, 0.5 - dy, 0.12),
            Thing(shape, color, 0.5 + dx, 0.5 + dy, 0.12),
        )
        parsed = parse(render(scene_of(*things)))
        assert content(parsed) == (Counter({(shape, color): 2}), [], 0)


def test_three_objects_in_contact_are_three():
    things = [Thing("circle", "blue", 0.26 + 0.22 * i, 0.5, 0.115) for i in range(3)]
    assert content(parse(render(scene_of(*things)))) == (Counter({("circle", "blue"): 3}), [], 0)


def test_a_row_of_black_rings_is_no_word():
    things = [Thing("ring", "black", 0.17 + 0.33 * i, 0.5, 0.12) for i in range(3)]
    assert content(parse(render(scene_of(*things)))) == (Counter({("ring", "black"): 3}), [], 0)


@pytest.mark.parametrize("size_px", [64, 128])
def test_words_are_read_through_blur(size_px):
    prompts = some_prompts(3, tag="text")
    read = [parse(blurred(picture_of(p, size_px), 0.02)).words for p in prompts]
    right = [len(w) == 1 and w[0].text == p["text"] for w, p in zip(read, prompts, strict=True)]
    assert sum(right) / len(right) >= 0.95


def test_every_letter_is_read_at_every_place():
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for start in range(26):
        text = "".join(letters[(start + 7 * k) % 26] for k in range(4))
        scene = Scene(0, 0, "word", (), word=Word(text, "white", 0.49, 0.52))
        assert [w.text for w in parse(render(scene)).words] == [text]


def test_specks_are_junk_and_fail_only_strictly():
    prompt = {"tag": "single_object", "prompt": "a circle"}
    prompt["include"] = [{"shape": "circle", "count": 1}]
    picture = render(scene_of(Thing("circle", "red", 0.3, 0.3, 0.12)))
    picture[50:53, 50:53] = PALETTE["blue"]
    parsed = parse(picture)
    assert parsed.junk == 1
    verdict = judge(parsed, prompt)
    assert (verdict.correct, verdict.strict) == (True, False)


def test_a_stray_color_has_no_name():
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[20:36, 20:36] = (60, 220, 220)  # cyan
    parsed = parse(picture)
    assert parsed.objects == ()
    assert parsed.junk == 1


def test_a_tiny_picture_is_refused():
    with pytest.raises(ValueError, match="at least 32 px"):
        parse(np.zeros((16, 64, 3), np.uint8))


def test_every_threshold_is_part_of_the_hash():
    values = json.loads(json.dumps(DEFAULT.__dict__))
    hashes = {replace(DEFAULT, **{name: value + 1}).hash for name, value in values.items()}
    assert len(hashes | {DEFAULT.hash}) == len(values) + 1
    assert Thresholds().hash == DEFAULT.hash


@pytest.mark.slow
@pytest.mark.parametrize("size_px", [64, 128])
def test_all_prompts_reach_the_bars_in_every_task(size_px):
    for tag in dict.fromkeys(p["tag"] for p in load_prompts()):
        prompts = some_prompts(1, tag=tag)
        assert strict_share(prompts, size_px) >= 0.995
        assert strict_share(prompts, size_px, lambda p: blurred(p, 0.02)) >= 0.98
