import re
from collections import Counter

import pytest

from rectiflow.data.scenes import HELDOUT, PALETTE, RELATIONS, SHAPES, caption, make_scene
from rectiflow.data.scenes.captions import describe
from rectiflow.data.scenes.layout import Group
from rectiflow.evaluation.scenes_prompts import load_prompts

SCENES = [make_scene(2, i) for i in range(20_000)]
CAPTIONS = [caption(scene) for scene in SCENES]
NUMBERS = {"a": 1, "an": 1, "one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5}
NOUNS = {**{shape: shape for shape in SHAPES}, **{f"{shape}s": shape for shape in SHAPES}}
NOUNS["crosses"] = NOUNS.pop("crosss")


def parse(text):
    """Groups {(shape, colour or None): count}, in order, and the relation: a parser of its own."""
    groups, number, color = [], None, None
    for word in text.split():
        number = NUMBERS.get(word, number)
        color = word if word in PALETTE else color
        if word in NOUNS:
            groups.append((NOUNS[word], color, number))
            number = color = None
    relation = re.search("|".join(RELATIONS), text)
    return groups, relation and relation.group()


def test_synthetic_captions_say_exactly_what_the_picture_shows():
    for scene, captions in zip(SCENES, CAPTIONS, strict=True):
        if scene.word:
            assert re.findall("[A-Z]+", captions.synthetic) == [scene.word.text]
            assert [w for w in captions.synthetic.split() if w in PALETTE] == [scene.word.color]
            continue
        groups, relation = parse(captions.synthetic)
        counts = Counter((thing.shape, thing.color) for thing in scene.things)
        assert {(shape, color): count for shape, color, count in groups} == counts
        assert relation == scene.relation
        if relation:
            assert [shape for shape, _, _ in groups] == [thing.shape for thing in scene.things]


def test_alt_captions_leave_out_but_never_contradict():
    for scene, captions in zip(SCENES, CAPTIONS, strict=True):
        words = captions.alt.split()
        if scene.word:
            assert re.findall("[A-Z]+", captions.alt) in ([], [scene.word.text])
            continue
        counts = Counter(thing.shape for thing in scene.things)
        assert {w for w in words if w in PALETTE} <= {thing.color for thing in scene.things}
        groups, relation = parse(captions.alt)
        assert relation in (None, scene.relation)
        for shape, color, count in groups:
            assert count in (None, counts[shape])
            if color and len(words) > 2:
                assert (shape, color) in {(thing.shape, thing.color) for thing in scene.things}


def test_no_caption_names_a_held_out_combination():
    for text in {text for captions in CAPTIONS for text in captions}:
        groups, relation = parse(text)
        for shape, color, count in groups:
            assert (shape, color) not in HELDOUT.shape_color, text
            assert (shape, count) not in HELDOUT.shape_count, text
        if relation:
            a, b = (shape for shape, _, _ in groups)
            assert (a, relation, b) not in HELDOUT.relations, text
        for pair in zip(text.split(), text.split()[1:], strict=False):
            assert pair[::-1] not in HELDOUT.shape_color, text


def test_captions_are_short_and_their_vocabulary_small():
    texts = [text for captions in CAPTIONS for text in captions]
    lengths = [len(text.split()) for text in texts]
    assert max(lengths) <= 12
    assert sum(length <= 9 for length in lengths) > 0.9 * len(lengths)
    vocabulary = {w for text in texts for w in text.split() if not re.search("[A-Z]", w)}
    assert len(vocabulary) <= 64
    assert all(re.fullmatch("[a-z]+", word) for word in vocabulary)


def test_a_caption_has_several_phrasings():
    red = [
        captions.synthetic
        for scene, captions in zip(SCENES, CAPTIONS, strict=True)
        if [(t.shape, t.color) for t in scene.things] == [("circle", "red")]
    ]
    assert len(set(red)) >= 6


def skeleton(text):
    text = re.sub('"[A-Z]+"', "WORD", text)
    names = {
        **dict.fromkeys(PALETTE, "COLOR"),
        **dict.fromkeys(NOUNS, "SHAPE"),
        **dict.fromkeys(("two", "three", "four", "five"), "NUMBER"),
        "an": "a",
    }
    return " ".join(names.get(word, word) for word in text.split())


def test_every_evaluation_prompt_is_phrased_like_some_training_caption():
    trained = {skeleton(text) for captions in CAPTIONS for text in captions}
    asked = {skeleton(prompt["prompt"]) for prompt in load_prompts()}
    assert asked <= trained


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([Group("circle", "orange")],), "an orange circle"),
        (([Group("cross", "", 3)],), "three crosses"),
        (([Group("star", ""), Group("square", "")], "left of"), "a star left of a square"),
        (
            ([Group("circle", "red", 2), Group("square", "blue")], None, "there is {}"),
            "there are two red circles and one blue square",
        ),
        (
            ([Group("ring", "red")], None, "a photo of {}", "a single"),
            "a photo of a single red ring",
        ),
    ],
)
def test_descriptions_are_plain_english(arguments, text):
    assert describe(*arguments) == text
