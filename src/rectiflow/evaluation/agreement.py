"""How far the checker can be trusted: right pictures it accepts, wrong prompts it refuses.

The score of a model stands between these two. A checker that refuses right pictures, be they as
rendered, blurred, or sent through an autoencoder, hides what a model can do; one that accepts
pictures for prompts that are not theirs makes it look better than it is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from scipy.ndimage import gaussian_filter

from rectiflow.data.scenes import render
from rectiflow.evaluation.checker import DEFAULT, Parsed, Thresholds, parse
from rectiflow.evaluation.geneval import Metadata, judge
from rectiflow.evaluation.scenes_prompts import ground_truth
from rectiflow.evaluation.truth import truth_of

Picture = UInt8[np.ndarray, "height width 3"]
Change = Callable[[Sequence[Picture]], Sequence[Picture]]

REVERSED: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


def agreement(
    prompts: Sequence[Metadata],
    size_px: int = 64,
    change: Change | None = None,
    thresholds: Thresholds = DEFAULT,
) -> dict[str, float]:
    """Share of ground-truth pictures, by task, that the checker finds right for their prompt.

    Args:
        prompts: With their `scene_seed`; each is drawn once.
        size_px: Side of the pictures.
        change: What happens to all pictures before they are judged, such as the round trip
            through an autoencoder; None judges them as they were rendered.
        thresholds: Of the checker.

    Returns:
        Shares by task, GenEval's lenient rules, seen and held-out prompts alike.

    Raises:
        ValueError: If `change` loses pictures.
    """
    pictures: Sequence[Picture] = ground_truth_pictures(prompts, size_px)
    if change is not None:
        pictures = change(pictures)
    if len(pictures) != len(prompts):
        raise ValueError(f"expected {len(prompts)} pictures, got {len(pictures)}")
    hits = [judge(parse(p, thresholds), m).correct for p, m in zip(pictures, prompts, strict=True)]
    return shares((m["tag"], hit) for m, hit in zip(prompts, hits, strict=True))


def ground_truth_pictures(prompts: Sequence[Metadata], size_px: int = 64) -> list[Picture]:
    """A picture for every prompt that shows what it asks for and nothing else."""
    return [render(ground_truth(dict(prompt)), size_px) for prompt in prompts]


def blurred(pictures: Sequence[Picture], sigma: float) -> list[Picture]:
    """Pictures after a Gaussian blur.

    Args:
        pictures: What to blur.
        sigma: Standard deviation as a fraction of the picture's height.
    """
    softened = []
    for picture in pictures:
        width = sigma * picture.shape[0]
        soft = gaussian_filter(picture.astype(np.float64), (width, width, 0), mode="nearest")
        softened.append(np.rint(soft).astype(np.uint8))
    return softened


def accepted_in_error(
    prompts: Sequence[Metadata], size_px: int = 64, thresholds: Thresholds = DEFAULT
) -> dict[str, float]:
    """Share of (picture, prompt) pairs, by the prompt's task, that are accepted and should not be.

    Every ground-truth picture is held against every prompt that it does not show, strictly: a
    picture with more in it than the prompt asks for does not show it.
    """
    truths = [truth_of(ground_truth(dict(prompt)), size_px) for prompt in prompts]
    found = _parsed(prompts, size_px, thresholds)
    return shares(
        (prompt["tag"], judge(parsed, prompt).strict)
        for prompt in prompts
        for truth, parsed in zip(truths, found, strict=True)
        if not judge(truth, prompt).strict
    )


def swaps_accepted(
    prompts: Sequence[Metadata], size_px: int = 64, thresholds: Thresholds = DEFAULT
) -> dict[str, float]:
    """Share of pictures accepted for their own prompt with one thing turned round, by what it was.

    `colors`: the two objects of a color_attr prompt have changed colours. `relations`: the prompt
    of position asks for the opposite relation, or the two objects have changed places.
    """
    found = _parsed(prompts, size_px, thresholds)
    return shares(
        (what, judge(parsed, turned).correct)
        for prompt, parsed in zip(prompts, found, strict=True)
        for what, turned in turned_round(prompt)
    )


def turned_round(prompt: Metadata) -> Iterator[tuple[str, dict[str, Any]]]:
    """The false twins of a prompt; none for tasks without colours to swap or a relation."""
    if prompt["tag"] == "color_attr":
        first, second = prompt["include"]
        include = [{**first, "color": second["color"]}, {**second, "color": first["color"]}]
        yield "colors", {**prompt, "include": include}
    if prompt["tag"] == "position":
        target, subject = prompt["include"]
        relation, index = subject["position"]
        opposite = {**subject, "position": [REVERSED[relation], index]}
        yield "relations", {**prompt, "include": [target, opposite]}
        moved = {**target, "position": [relation, 0]}
        still = {name: value for name, value in subject.items() if name != "position"}
        yield "relations", {**prompt, "include": [still, moved]}


def shares(outcomes: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """From (group, outcome) to the share of true outcomes by group, in order of appearance."""
    counts: dict[str, list[int]] = {}
    for group, outcome in outcomes:
        count = counts.setdefault(group, [0, 0])
        count[0] += bool(outcome)
        count[1] += 1
    return {group: hits / total for group, (hits, total) in counts.items()}


def _parsed(prompts: Sequence[Metadata], size_px: int, thresholds: Thresholds) -> list[Parsed]:
    return [parse(picture, thresholds) for picture in ground_truth_pictures(prompts, size_px)]
