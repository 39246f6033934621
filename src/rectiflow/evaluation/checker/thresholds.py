"""Every number the checker decides by, in one versioned place whose hash goes into the results.

They were chosen on rendered scenes under blur, noise and ringing, never on pictures of a trained
model: a checker tuned on the pictures it judges would flatter them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Decision thresholds. Colour distances are CIE76 in CIELAB, lengths are parts of the side.

    Args:
        version: Raise it whenever the meaning of a result changes.
        median_from_px: Pictures at least this wide get a 3x3 median first; strokes of smaller
            pictures are too thin for it.
        background_tolerance: The border's median is the background if within this distance of
            the named background, else the named background is.
        contrast: Least distance from the background that is visible at all.
        contrast_noise: The same in multiples of the border's median absolute deviation.
        smoothing: Gaussian sigma of the contrast map.
        half_maximum: Edge of a piece, as part of its own 90th percentile of coverage; the
            half-maximum edge stays where it is under blur.
        min_area: Least area of an object, as part of the picture.
        junk_area: Least area of a piece that still counts as junk.
        max_area: Largest area of a single object, as part of the picture.
        min_radius: Least radius of an object.
        max_radius: Largest radius of an object.
        core_depth: The core of a piece lies at least this part of its greatest depth inside.
        max_color_distance: Farther from every palette colour is no colour.
        max_core_spread: Greatest mean distance of core pixels from their own median.
        voting_reach: Pixels nearer to the background than this do not vote on a piece's colours.
        second_color: Least share of a piece that makes a second colour in it real.
        rim_contact: A piece with this part of its outline along a larger one is its rim.
        min_match: Least correlation of a piece with a shape's template.
        min_margin: Least lead of the best shape over the second best.
        single_match: A piece that matches one shape this well is not tried as several.
        split_extent: Least width or height of a piece that may be several shapes.
        split_residual: Greatest part of a piece that its several shapes may fail to explain.
        split_least: Least part of a shape's area that it must add to what is explained already.
        split_overlap: Greatest part of such a shape that another may cover.
        word_match: Least correlation of a redrawn word.
        letter_match: Least correlation of its worst letter.
        word_lead: Least lead of a word's correlation over its letters' as shapes.
    """

    version: int = 1
    median_from_px: int = 96
    background_tolerance: float = 25.0
    contrast: float = 14.0
    contrast_noise: float = 6.0
    smoothing: float = 0.004
    half_maximum: float = 0.5
    min_area: float = 0.004
    junk_area: float = 0.001
    max_area: float = 0.14
    min_radius: float = 0.05
    max_radius: float = 0.24
    core_depth: float = 0.6
    max_color_distance: float = 30.0
    max_core_spread: float = 14.0
    voting_reach: float = 0.6
    second_color: float = 0.12
    rim_contact: float = 0.3
    min_match: float = 0.9
    min_margin: float = 0.001
    single_match: float = 0.94
    split_extent: float = 0.26
    split_residual: float = 0.18
    split_least: float = 0.4
    split_overlap: float = 0.3
    word_match: float = 0.78
    letter_match: float = 0.55
    word_lead: float = -0.15

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any threshold."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


DEFAULT = Thresholds()
