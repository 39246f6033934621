import json
import re
from collections import Counter

import numpy as np

from rectiflow.data.scenes import HELDOUT, PALETTE, SHAPES, render
from rectiflow.evaluation.scenes_prompts import TAGS, generate, ground_truth, load_prompts, write

PROMPTS = load_prompts()


def test_the_committed_file_is_what_the_generator_writes(tmp_path):
    write(tmp_path / "scenes.jsonl")
    lines = (tmp_path / "scenes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == PROMPTS == generate()


def test_every_task_has_a_hundred_seen_prompts_and_composition_is_held_out():
    counts = Counter((prompt["tag"], prompt["split"]) for prompt in PROMPTS)
    assert len(TAGS) == 7
    for tag in TAGS:
        assert counts[tag, "seen"] >= 100
    for tag in ("counting", "colors", "position", "color_attr", "text"):
        assert counts[tag, "heldout"] >= 18


def test_no_two_prompts_share_their_noise_and_no_task_repeats_a_prompt():
    assert len({prompt["scene_seed"] for prompt in PROMPTS}) == len(PROMPTS)
    assert len({(prompt["tag"], prompt["prompt"]) for prompt in PROMPTS}) == len(PROMPTS)


def test_the_keys_are_those_of_geneval_and_four_more():
    for prompt in PROMPTS:
        assert list(prompt)[:2] == ["tag", "include"]
        optional = {"exclude", "text"} & set(prompt)
        assert set(prompt) - optional == {"tag", "include", "prompt", "split", "scene_seed"}
        assert ("exclude" in prompt) == (prompt["tag"] == "counting")
        assert ("text" in prompt) == (prompt["tag"] == "text")
        for clause in prompt["include"]:
            assert clause["shape"] in SHAPES
            assert clause.get("color", "red") in PALETTE


def asked_combinations(prompt):
    """Held-out sets are disjoint in form, so one pool of tuples serves."""
    for clause in prompt["include"]:
        yield clause["shape"], clause.get("color")
        yield clause["shape"], clause["count"]
        if "position" in clause:
            relation, index = clause["position"]
            yield clause["shape"], relation, prompt["include"][index]["shape"]
    for place, letter in enumerate(prompt.get("text", "")):
        yield letter, place


def test_prompts_are_held_out_exactly_if_they_ask_for_a_held_out_combination():
    pool = HELDOUT.shape_color | HELDOUT.shape_count | HELDOUT.relations | HELDOUT.letters
    for prompt in PROMPTS:
        assert (prompt["split"] == "heldout") == bool(set(asked_combinations(prompt)) & pool)


def test_the_words_of_a_prompt_and_its_clauses_agree():
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5}
    for prompt in PROMPTS:
        text = prompt["prompt"]
        assert text.count(f'"{prompt["text"]}"') == 1 if "text" in prompt else '"' not in text
        found = re.findall(
            rf"({'|'.join(numbers)})? ?({'|'.join(PALETTE)})? ?({'|'.join(SHAPES)})", text
        )
        said = [(shape, numbers.get(number, 1), color or None) for number, color, shape in found]
        clauses = prompt["include"]
        if prompt["tag"] == "position":
            clauses = clauses[::-1]  # "a A left of a B": clause 0 is B, clause 1 is A
            assert f" {clauses[0]['position'][0]} " in text
            assert clauses[0]["position"][1] == 0
        assert said == [(c["shape"], c["count"], c.get("color")) for c in clauses]


def test_counting_excludes_one_object_more_than_wanted():
    counts = Counter()
    for prompt in PROMPTS:
        if prompt["tag"] == "counting":
            (wanted,), (refused,) = prompt["include"], prompt["exclude"]
            assert refused == {**wanted, "count": wanted["count"] + 1}
            counts[wanted["count"]] += 1
    assert set(counts) == {1, 2, 3, 4, 5}


def test_ground_truth_shows_what_is_asked_and_nothing_else():
    for prompt in PROMPTS:
        scene = ground_truth(prompt)
        if "text" in prompt:
            assert scene.word.text == prompt["text"]
            assert not scene.things
            continue
        shown = Counter(thing.shape for thing in scene.things)
        assert shown == {clause["shape"]: clause["count"] for clause in prompt["include"]}
        first = {thing.shape: thing for thing in scene.things}
        for clause in prompt["include"]:
            colors = {t.color for t in scene.things if t.shape == clause["shape"]}
            assert len(colors) == 1
            assert clause.get("color") in (None, *colors)
            if "position" in clause:
                relation, index = clause["position"]
                a, b = first[clause["shape"]], first[prompt["include"][index]["shape"]]
                ahead = {
                    "left of": b.x - a.x,
                    "right of": a.x - b.x,
                    "above": b.y - a.y,
                    "below": a.y - b.y,
                }
                assert ahead[relation] > 0.2


def test_samples_of_one_prompt_differ_and_repeat():
    prompt = PROMPTS[0]
    pictures = [render(ground_truth(prompt, sample)) for sample in (0, 1, 0)]
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[0], pictures[2])
