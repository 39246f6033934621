"""The built-in data set: coloured shapes and words on grey, drawn and captioned from a seed."""

from rectiflow.data.scenes.captions import Captions, caption
from rectiflow.data.scenes.glyphs import GLYPHS
from rectiflow.data.scenes.heldout import HELDOUT
from rectiflow.data.scenes.layout import make_scene
from rectiflow.data.scenes.palette import BACKGROUND, PALETTE
from rectiflow.data.scenes.rendering import render
from rectiflow.data.scenes.scene import RELATIONS, Scene, Thing, Word
from rectiflow.data.scenes.shapes import SHAPES, shape_coverage

__all__ = [
    "BACKGROUND",
    "GLYPHS",
    "HELDOUT",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "Captions",
    "Scene",
    "Thing",
    "Word",
    "caption",
    "make_scene",
    "render",
    "shape_coverage",
]
