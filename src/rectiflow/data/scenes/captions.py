"""What a scene is called: a complete description, and what the web might write instead.

Both are pure functions of the scene. Every form that evaluation prompts take, colourless ones
included, is a form that training captions take.
"""

from dataclasses import replace
from typing import Final, NamedTuple

from rectiflow.data.scenes.dice import Dice
from rectiflow.data.scenes.layout import Group
from rectiflow.data.scenes.scene import Scene

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five")
# Around a description, with weights; "there is" becomes "there are" before a number above one.
FRAMES: Final = {
    "{}": 0.60,
    "a photo of {}": 0.08,
    "a picture of {}": 0.08,
    "an image of {}": 0.08,
    "there is {}": 0.08,
    "{} on grey": 0.08,
}
ONE_OF: Final = {"a": 0.70, "one": 0.20, "a single": 0.10}  # how one object is introduced
WORD_FORMS: Final = (
    'the word "{text}" in {color}',
    'the {color} word "{text}"',
    '"{text}" in {color} letters',
    '{color} letters "{text}"',
)
WORD_ALTS: Final = {
    'the word "{text}"': 0.60,
    '"{text}"': 0.10,
    '{color} "{text}"': 0.10,
    "a {color} word": 0.05,
    "a word": 0.05,
    "some letters": 0.05,
    "text on grey": 0.05,
}
ALTS: Final = {"colorless": 0.60, "partly": 0.15, "unrelated": 0.05, "tags": 0.10, "vague": 0.10}
VAGUE: Final = ("some shapes", "shapes on grey", "a drawing", "a picture", "untitled", "clip art")


class Captions(NamedTuple):
    """Two captions of one picture.

    Args:
        alt: Short and true as far as it goes, but partial, vague or noisy.
        synthetic: Says everything the picture shows, in one of several phrasings.
    """

    alt: str
    synthetic: str


def caption(scene: Scene) -> Captions:
    """Both captions of a scene, at most 12 words each."""
    dice = Dice(scene.seed, scene.index, "captions")
    if scene.word is not None:
        named = {"text": scene.word.text, "color": scene.word.color}
        alt = dice.weighted(WORD_ALTS).format(**named)
        return Captions(alt, synthetic=dice.choose(WORD_FORMS).format(**named))
    groups = groups_of(scene)
    synthetic = describe(groups, scene.relation, dice.weighted(FRAMES), _one(dice))
    return Captions(_alt(groups, scene.relation, dice), synthetic)


def groups_of(scene: Scene) -> list[Group]:
    """The objects of a scene, counted by shape and colour, in the order of the scene."""
    counts: dict[tuple[str, str], int] = {}
    for thing in scene.things:
        counts[thing.shape, thing.color] = counts.get((thing.shape, thing.color), 0) + 1
    return [Group(shape, color, count) for (shape, color), count in counts.items()]


def describe(
    groups: list[Group], relation: str | None = None, frame: str = "{}", one: str = "a"
) -> str:
    """Name groups of objects; an empty colour is left out.

    Args:
        groups: One or two groups.
        relation: Of the first to the second; None joins them with "and".
        frame: Pattern with one {} for the description.
        one: How a single object is introduced; "one" is used beside a larger group.
    """
    if any(group.count > 1 for group in groups):
        one = "one"
    elif len(groups) > 1 and one == "a single":
        one = "a"
    named = f" {relation or 'and'} ".join(_noun(group, one) for group in groups)
    text = frame.format(named)
    return text.replace("there is", "there are") if groups[0].count > 1 else text


def _noun(group: Group, one: str) -> str:
    words = f"{group.color} {group.shape}".strip()
    if group.count > 1:
        return f"{NUMBERS[group.count]} {words}{'es' if words.endswith('s') else 's'}"
    if one == "a":
        one = "an" if words[0] in "aeiou" else "a"
    return f"{one} {words}"


def _one(dice: Dice) -> str:
    return dice.weighted(ONE_OF)


def _alt(groups: list[Group], relation: str | None, dice: Dice) -> str:
    style = dice.weighted(ALTS)
    if style == "vague":
        return dice.choose(VAGUE)
    if style == "tags":
        return _tags(groups, dice)
    if style == "unrelated":
        return describe(groups, None, "{}", _one(dice))
    bare = [replace(group, color="") for group in groups]
    if style == "partly":
        keep = dice.between(0, len(groups) - 1)
        bare[keep] = groups[keep]
    return describe(bare, relation, dice.weighted(FRAMES), _one(dice))


def _tags(groups: list[Group], dice: Dice) -> str:
    """Bare words in any order.

    Of two groups only shapes or only colours, for "red star" must not arise from a star beside
    something red.
    """
    if len(groups) == 1:
        words = [groups[0].shape, groups[0].color]
    else:
        by_shape = dice.uniform() < 0.5
        words = [group.shape if by_shape else group.color for group in groups]
    return " ".join(dice.sample(words, dice.between(1, len(words))))
