"""Scenes as records: drawn when asked for, never stored as pictures."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from rectiflow.data.records import Loaded, Quarantined, Record
from rectiflow.data.scenes import caption, make_scene, render

VALIDATION_SEED: Final = 2403_03206
"""Seed of the scenes that validation losses are measured on, the same for every run."""

_NUM_PROBES: Final = 16


class SceneRecords:
    """Scenes `first` .. `first + num_scenes - 1` of a seed.

    Args:
        seed: Seed of the scenes.
        num_scenes: How many, > 0.
        size_px: Side at which they are drawn.
        first: Index of the first.

    Raises:
        ValueError: If `num_scenes` is not positive.
    """

    caption_names = ("alt", "synthetic")
    quarantined: tuple[Quarantined, ...] = ()

    def __init__(self, seed: int, num_scenes: int, size_px: int, *, first: int = 0) -> None:
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be >= 1, got {num_scenes}")
        self.seed = seed
        self.num_scenes = num_scenes
        self.size_px = size_px
        self.first = first

    def __len__(self) -> int:
        return self.num_scenes

    def record(self, index: int) -> Record:
        """Scene `first + index` with both captions; `load` draws it."""
        scene = make_scene(self.seed, self.first + index)
        alt, synthetic = caption(scene)
        return Record(
            id=f"scene-{self.seed}-{self.first + index}",
            captions={"alt": alt, "synthetic": synthetic},
            load=lambda: Loaded(render(scene, self.size_px)),
        )

    def description(self) -> Mapping[str, Any]:
        """The arguments, and a hash of the first scenes, which sees a change of the code."""
        digest = hashlib.sha256()
        for index in range(min(_NUM_PROBES, self.num_scenes)):
            record = self.record(index)
            digest.update(json.dumps(record.captions, sort_keys=True).encode())
            digest.update(record.load().image.tobytes())
        return {
            "kind": "scenes",
            "seed": self.seed,
            "num_scenes": self.num_scenes,
            "first": self.first,
            "size_px": self.size_px,
            "probe": digest.hexdigest(),
        }
