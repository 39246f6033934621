"""What a scene truly contains, in the checker's own words: the oracle of its tests and controls."""

from rectiflow.data.scenes import Scene, Thing
from rectiflow.data.scenes.glyphs import CAP_HEIGHT, word_width
from rectiflow.evaluation.checker import Object, Parsed, ReadWord
from rectiflow.evaluation.checker.found import Box


def truth_of(scene: Scene, size_px: int = 64) -> Parsed:
    """The parse that a faultless checker gives the picture of a scene."""
    objects = tuple(_object(thing, size_px) for thing in scene.things)
    words = ()
    if scene.word is not None:
        word, half = scene.word, word_width(len(scene.word.text)) / 2
        top, bottom = word.y - CAP_HEIGHT / 2, word.y + CAP_HEIGHT / 2
        box = (word.x - half, top, word.x + half, bottom)
        words = (ReadWord(word.text, _pixels(box, size_px), word.color, 1.0),)
    return Parsed(objects, words, junk=0)


def _object(thing: Thing, size_px: int) -> Object:
    x, y, r = thing.x, thing.y, thing.radius
    box = _pixels((x - r, y - r, x + r, y + r), size_px)
    return Object(thing.shape, thing.color, box, (x * size_px, y * size_px), 1.0)


def _pixels(box: Box, size_px: int) -> Box:
    left, top, right, bottom = (edge * size_px for edge in box)
    return left, top, right, bottom
