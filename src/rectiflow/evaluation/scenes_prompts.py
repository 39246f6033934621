"""The prompts of the scenes suite: how `prompts/scenes.jsonl` was made, and reading it.

The schema is GenEval's (djghosh13/geneval, `evaluation_metadata.jsonl`), `shape` in place of
`class`, with three keys more: `text` (the word to read), `split` ("heldout" if the prompt asks for
a combination that no training scene shows) and `scene_seed` (for noise and ground truth, so that
no two prompts share theirs). As in GenEval, "a A left of a B" has B as clause 0 and A as clause 1
with `position: ["left of", 0]`, and counting excludes one object more than wanted.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import permutations, product
from pathlib import Path
from typing import Any, Final

from rectiflow.data.scenes import HELDOUT, PALETTE, RELATIONS, SHAPES, Scene
from rectiflow.data.scenes.captions import FRAMES, ONE_OF, describe
from rectiflow.data.scenes.dice import Dice
from rectiflow.data.scenes.glyphs import GLYPHS
from rectiflow.data.scenes.layout import MAX_COUNT, Group, place, place_word
from rectiflow.data.scenes.words import COMMON_WORDS

Prompt = dict[str, Any]  # one line of the file, as GenEval's own tools read it

TAGS: Final = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
    "text",
)
SEED: Final = 43
NUM_SAMPLED: Final = 120  # in tasks with more possible prompts than one wants to draw
NUM_COLORED_COUNTS: Final = 60
HELDOUT_REPEATS: Final = 4
# Real words with a letter at a held-out place.
HELDOUT_WORDS: Final = (
    *("JAM", "JET", "CUP", "MAP", "TOP", "OWL", "TWO", "JAZZ", "JUMP", "SWAN", "TWIG", "MILK"),
    *("DESK", "BOOK", "JOKER", "SWORD", "RAPID", "HAPPY", "PAPER", "SUNNY", "PARTY", "SWEET"),
)


def generate() -> list[Prompt]:
    """All prompts in the order of the file, a pure function of this module and the scenes."""
    makers = (_single_object, _two_object, _counting, _colors, _position, _color_attr, _text)
    prompts = []
    for tag, make in zip(TAGS, makers, strict=True):
        for number, prompt in enumerate(make(Dice(SEED, 0, tag))):
            scene_seed = Dice(SEED, number, f"{tag}/scene_seed").between(0, 2**31 - 1)
            prompts.append({"tag": tag, **prompt, "scene_seed": scene_seed})
    return prompts


def write(path: Path) -> None:
    """Write the generated prompts as JSON lines."""
    lines = [json.dumps(prompt) for prompt in generate()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@cache
def _committed() -> str:
    return files("rectiflow.evaluation").joinpath("prompts/scenes.jsonl").read_text("utf-8")


def load_prompts() -> list[Prompt]:
    """The committed prompts, which scores are measured on."""
    return [json.loads(line) for line in _committed().splitlines()]


def ground_truth(prompt: Prompt, sample: int = 0) -> Scene:
    """A scene that shows what a prompt asks for and nothing else.

    Colours and counts that the prompt leaves open are drawn from `scene_seed` and `sample`; only
    the prompt itself may bring in a held-out pair of shape and colour.
    """
    seed = prompt["scene_seed"]
    dice = Dice(seed, sample, "ground truth")
    if "text" in prompt:
        return Scene(seed, sample, "word", (), word=place_word(prompt["text"], dice))
    groups, relation = [], None
    for clause in prompt["include"]:
        color = clause.get("color") or dice.choose(_seen_colors(clause["shape"]))
        groups.append(Group(clause["shape"], color, clause["count"]))
        if "position" in clause:
            relation, target = clause["position"]
            groups = [groups[-1], groups[target]]
    things = place(groups, relation, dice)
    return Scene(seed, sample, _kind(groups, relation), things, relation=relation)


def _kind(groups: list[Group], relation: str | None) -> str:
    if relation is not None:
        return "relation"
    if len(groups) == 1:
        return "counting" if groups[0].count > 1 else "single"
    return "count_attr" if any(group.count > 1 for group in groups) else "pair"


def _seen_colors(shape: str) -> list[str]:
    return [color for color in PALETTE if (shape, color) not in HELDOUT.shape_color]


def _clause(group: Group) -> dict[str, Any]:
    clause: dict[str, Any] = {"shape": group.shape, "count": group.count}
    return {**clause, "color": group.color} if group.color else clause


def _prompt(include: list[dict[str, Any]], prompt: str, *, heldout: bool, **extra: Any) -> Prompt:
    split = "heldout" if heldout else "seen"
    return {"include": include, **extra, "prompt": prompt, "split": split}


def _single_object(dice: Dice) -> Iterator[Prompt]:
    for frame, one, shape in product(FRAMES, ONE_OF, SHAPES):
        group = Group(shape, "")
        yield _prompt([_clause(group)], describe([group], None, frame, one), heldout=False)


def _two_object(dice: Dice) -> Iterator[Prompt]:
    frames = list(FRAMES)[: NUM_SAMPLED // len(SHAPES) // (len(SHAPES) - 1)]
    for frame, (a, b) in product(frames, permutations(SHAPES, 2)):
        groups = [Group(a, ""), Group(b, "")]
        yield _prompt([_clause(g) for g in groups], describe(groups, None, frame), heldout=False)


def _counting(dice: Dice) -> Iterator[Prompt]:
    every = list(product(SHAPES, range(1, MAX_COUNT + 1)))
    seen = [pair for pair in every if pair not in HELDOUT.shape_count]
    for shape, count in seen:
        yield _count_prompt(Group(shape, "", count), "{}")
    for shape, count in seen:
        yield _count_prompt(Group(shape, "", count), dice.choose(list(FRAMES)[1:]))
    several = [pair for pair in seen if pair[1] > 1]
    for shape, count, color in _colored(several, NUM_COLORED_COUNTS, dice):
        yield _count_prompt(Group(shape, color, count), "{}")
    heldout = sorted(HELDOUT.shape_count)
    for shape, count in heldout:
        yield _count_prompt(Group(shape, "", count), "{}")
    for shape, count, color in _colored(heldout, HELDOUT_REPEATS * len(heldout), dice):
        yield _count_prompt(Group(shape, color, count), "{}")


def _colored(pairs: list[tuple[str, int]], num: int, dice: Dice) -> Iterator[tuple[str, int, str]]:
    """`num` pairs taken in turn, no two with the same seen colour."""
    orders = {pair: dice.sample(_seen_colors(pair[0]), 9) for pair in pairs}
    for i in range(num):
        shape, count = pairs[i % len(pairs)]
        yield shape, count, orders[shape, count][i // len(pairs)]


def _count_prompt(group: Group, frame: str) -> Prompt:
    exclude = [{**_clause(group), "count": group.count + 1}]
    heldout = (group.shape, group.count) in HELDOUT.shape_count
    text = describe([group], None, frame, "one")
    return _prompt([_clause(group)], text, heldout=heldout, exclude=exclude)


def _colors(dice: Dice) -> Iterator[Prompt]:
    for heldout, ones in ((False, ("a", "one")), (True, tuple(ONE_OF))):
        for one, shape, color in product(ones, SHAPES, PALETTE):
            if ((shape, color) in HELDOUT.shape_color) == heldout:
                group = Group(shape, color)
                text = describe([group], one=one)
                yield _prompt([_clause(group)], text, heldout=heldout)


def _position(dice: Dice) -> Iterator[Prompt]:
    for heldout, frames in ((False, ("{}",)), (True, ("{}", "a photo of {}"))):
        for frame, (a, b), relation in product(frames, permutations(SHAPES, 2), RELATIONS):
            if ((a, relation, b) in HELDOUT.relations) == heldout:
                subject, target = Group(a, ""), Group(b, "")
                include = [_clause(target), {**_clause(subject), "position": [relation, 0]}]
                text = describe([subject, target], relation, frame)
                yield _prompt(include, text, heldout=heldout)


def _color_attr(dice: Dice) -> Iterator[Prompt]:
    seen = set()
    while len(seen) < NUM_SAMPLED:
        a, b = dice.sample(SHAPES, 2)
        colors = dice.sample(list(PALETTE), 2)
        groups = (Group(a, colors[0]), Group(b, colors[1]))
        if groups in seen or {(g.shape, g.color) for g in groups} & HELDOUT.shape_color:
            continue
        seen.add(groups)
        yield _prompt([_clause(g) for g in groups], describe(list(groups)), heldout=False)
    for shape, color in sorted(HELDOUT.shape_color):
        for i, other in enumerate(dice.sample([s for s in SHAPES if s != shape], HELDOUT_REPEATS)):
            colors = [name for name in _seen_colors(other) if name != color]
            pair = [Group(shape, color), Group(other, dice.choose(colors))]
            groups = pair if i % 2 == 0 else pair[::-1]
            yield _prompt([_clause(g) for g in groups], describe(groups), heldout=True)


def _text(dice: Dice) -> Iterator[Prompt]:
    """As many words of 3 as of 4 and of 5 letters, half of each real and half random letters."""
    for length in (3, 4, 5):
        real = [word for word in COMMON_WORDS if len(word) == length]
        words = dice.sample(real, NUM_SAMPLED // 6)
        while len(words) < NUM_SAMPLED // 3:
            word = "".join(dice.choose(list(GLYPHS)) for _ in range(length))
            if not HELDOUT.has_word(word) and word not in real and word not in words:
                words.append(word)
        for word in words:
            yield _prompt([], f'the word "{word}"', heldout=False, text=word)
    for word in HELDOUT_WORDS:
        yield _prompt([], f'the word "{word}"', heldout=True, text=word)


if __name__ == "__main__":
    write(Path(__file__).parent / "prompts" / "scenes.jsonl")
