import json

import pytest

from rectiflow.errors import DataError
from rectiflow.evaluation.prompt_check import checked, picture_seed, read_prompts
from rectiflow.evaluation.scenes_prompts import load_prompts

GOOD = {"tag": "t", "prompt": "p", "include": [{"shape": "circle", "count": 1}]}
STAR = {"shape": "star", "count": 1}


def test_committed_prompts_pass_unchanged():
    for number, prompt in enumerate(load_prompts()):
        assert checked(prompt, number) == prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"include": [{"shape": "zebra", "count": 1}]}, r"shape must be one of .*, got 'zebra'"),
        ({"include": [{"shape": "star", "count": 1, "color": "teal"}]}, "color must be one of"),
        ({"include": [{"shape": "star", "count": 0}]}, "count must be a number >= 1, got 0"),
        ({"include": [{"shape": "star", "count": 10}]}, "at most 9 objects, got 10"),
        ({"include": []}, "asks for nothing"),
        ({"include": [], "text": "cat"}, "text must be 3 to 5 capital letters"),
        ({"include": [{"shape": "star", "count": 1, "position": ["on", 0]}]}, "relation must be"),
        ({"include": [{"shape": "star", "count": 1, "position": ["above", 0]}]}, "must join"),
        ({"include": [STAR, {**STAR, "position": ["above", 5]}]}, "must join clause 1 to clause 0"),
        ({"include": [{**STAR, "position": "above"}]}, r"position must be \[relation, clause\]"),
        ({"include": [STAR], "text": "CAT"}, "objects or a word, got include and text"),
        ({"include": [], "text": None}, "text must be 3 to 5 capital letters A-Z, got None"),
        ({"include": {"shape": "star"}}, "include must be a list of objects"),
        ({"exclude": ["star"]}, r"exclude must be a list of objects, got \['star'\]"),
        ({"include": [{"shape": ["star"], "count": 1}]}, r"shape must be one of .*\['star'\]"),
        ({"include": [{"shape": "star", "count": True}]}, "count must be a number >= 1, got True"),
        ({"tag": 3}, "tag must be text, got 3"),
        ({"prompt": None}, "prompt must be text, got None"),
        ({"scene_seed": "1"}, "scene_seed must be a whole number, got '1'"),
        ({"split": "test"}, "split must be one of seen, heldout, got 'test'"),
    ],
)
def test_what_scenes_cannot_show_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        checked({**GOOD, **change}, 7)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="lacks the key 'tag'"):
        checked({"prompt": "p", "include": GOOD["include"]}, 0)


def test_class_serves_for_shape_and_a_missing_seed_is_filled_in():
    clause = {"class": "circle", "count": 2, "color": "red"}
    found = checked({**GOOD, "include": [clause]}, 3)
    assert found["include"] == [{"shape": "circle", "count": 2, "color": "red"}]
    assert checked(GOOD, 3)["scene_seed"] != checked(GOOD, 4)["scene_seed"]


def test_no_two_pictures_share_a_seed():
    prompts = load_prompts()
    seeds = [picture_seed(prompt, sample) for prompt in prompts for sample in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_prompt_files_are_read_and_damage_is_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    assert read_prompts(file)[0]["include"] == GOOD["include"]
    file.write_text("")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(file)
