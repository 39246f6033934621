"""Pictures rendered and judged per second, run as a process of its own (see `processes`)."""

import json
import sys
from itertools import cycle, islice
from typing import Any

from rectiflow.bench.timing import rates
from rectiflow.data.scenes import caption, make_scene, render
from rectiflow.evaluation.agreement import ground_truth_pictures
from rectiflow.evaluation.checker import parse
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.subset import evenly


def scene_rates(num_scenes: int, num_repeats: int, size_px: int) -> dict[str, list[float]]:
    """Scenes per second: `rendered` from ready scenes, `made` from numbers, with captions too.

    Every repeat has scenes of its own, as in training.
    """
    scenes = [make_scene(0, index) for index in range(num_scenes * (num_repeats + 1))]

    def draw(repeat: int) -> int:
        for scene in scenes[repeat * num_scenes : (repeat + 1) * num_scenes]:
            render(scene, size_px)
        return num_scenes

    def make(repeat: int) -> int:
        for index in range(repeat * num_scenes, (repeat + 1) * num_scenes):
            scene = make_scene(1, index)
            caption(scene)
            render(scene, size_px)
        return num_scenes

    return {"rendered": rates(draw, num_repeats), "made": rates(make, num_repeats)}


def checker_rates(num_pictures: int, num_repeats: int, size_px: int) -> list[float]:
    """Pictures judged per second: right pictures, every task in its share of the suite."""
    prompts = evenly(load_prompts(), max(1, num_pictures // 12))  # 7 tasks, 5 with held-out prompts
    pictures = ground_truth_pictures(prompts, size_px)

    def check(_: int) -> int:
        for picture in islice(cycle(pictures), num_pictures):
            parse(picture)
        return num_pictures

    return rates(check, num_repeats)


def main(function: str, arguments: str) -> None:
    """Call a function of this module with arguments in JSON; writes the result as JSON."""
    functions: dict[str, Any] = {"scene_rates": scene_rates, "checker_rates": checker_rates}
    sys.stdout.write(json.dumps(functions[function](**json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
