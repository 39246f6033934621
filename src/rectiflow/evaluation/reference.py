"""True pictures that drawn ones are held against, and the moments of their features, kept on disk.

The moments of thousands of pictures are the same for every model that is compared, so they are
computed once. A file is named by the hash of all that decides it (the weights and the
preprocessing of the CLIP, the pictures), so one that does not fit is never read.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rectiflow.data.scenes import render
from rectiflow.errors import DataError
from rectiflow.evaluation.features import Clip, Picture, chunks
from rectiflow.evaluation.frechet import Features, Moments, stream_moments
from rectiflow.evaluation.scenes_prompts import ground_truth
from rectiflow.runs import replacing

FORMAT: Final = "rectiflow-moments-1"
_NUM_PROBES: Final = 64


@runtime_checkable
class TruePictures(Protocol):
    """A fixed set of pictures in a fixed order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Picture]: ...

    def description(self) -> Mapping[str, Any]:
        """What decides the pictures, ready for JSON."""
        ...


@dataclass(frozen=True)
class TrueScenes:
    """Scenes that show what prompts ask for: picture k shows prompt k modulo their number.

    What a prompt leaves open (places, sizes, colours it does not name) differs from one picture of
    it to the next.

    Args:
        prompts: Metadata of the scenes suite.
        num: Pictures, >= 1.
        size_px: Side at which they are drawn.
        first: Number of the first picture; sets that do not overlap share no picture.

    Raises:
        ValueError: If there are no prompts or no pictures.
    """

    prompts: Sequence[Mapping[str, Any]]
    num: int
    size_px: int
    first: int = 0

    def __post_init__(self) -> None:
        if not self.prompts or self.num < 1:
            raise ValueError(
                "true scenes need prompts and at least one picture, "
                f"got {len(self.prompts)} prompts and {self.num} pictures"
            )

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[Picture]:
        return map(self.picture, range(self.num))

    def picture(self, index: int) -> Picture:
        """Picture `index` of the set."""
        sample, prompt = divmod(self.first + index, len(self.prompts))
        return render(ground_truth(dict(self.prompts[prompt]), sample), self.size_px)

    def description(self) -> Mapping[str, Any]:
        """The arguments, and a hash of some of the pictures, which sees a change of the code."""
        probes = hashlib.sha256()
        num = min(_NUM_PROBES, self.num)
        for place in range(num):
            probes.update(self.picture(place * self.num // num).tobytes())
        prompts = json.dumps([dict(prompt) for prompt in self.prompts], sort_keys=True)
        return {
            "kind": "true scenes",
            "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
            "num": self.num,
            "size_px": self.size_px,
            "first": self.first,
            "probes": probes.hexdigest(),
        }


@dataclass(frozen=True, eq=False)
class Reference:
    """Moments of true pictures and where they come from.

    Args:
        moments: Of their features.
        hash: SHA-256 of the CLIP's identity and of what decides the pictures.
    """

    moments: Moments
    hash: str


def reference_of(
    clip: Clip,
    pictures: TruePictures,
    folder: Path | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Reference:
    """Moments of the pictures' features, read from `folder` if they were computed before.

    Args:
        clip: Makes the features.
        pictures: The true ones.
        folder: Where moments are kept; None keeps none.
        on_progress: Called with the number of pictures done and their total.

    Raises:
        DataError: If the kept file is damaged.
    """
    facts = {"format": FORMAT, "clip": clip.identity(), "pictures": dict(pictures.description())}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    file = None if folder is None else folder / f"moments-{key[:16]}.safetensors"
    if file is not None and file.is_file() and (kept := _read(file, key, clip.width)) is not None:
        return Reference(kept, key)
    moments = stream_moments(_features(clip, pictures, on_progress))
    if file is not None:
        tensors = {"mean": moments.mean, "scatter": moments.scatter}
        with replacing(file) as temporary:
            save_file(tensors, temporary, {"hash": key, "num": str(moments.num)})
    return Reference(moments, key)


def cache_folder() -> Path:
    """Where moments are kept unless told otherwise: in the user's folder for caches."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "rectiflow" / "moments"


def _features(
    clip: Clip, pictures: TruePictures, on_progress: Callable[[int, int], object]
) -> Iterator[Features]:
    done = 0
    for part in chunks(pictures):
        yield clip.image_features(part)
        done += len(part)
        on_progress(done, len(pictures))


def _read(file: Path, key: str, width: int) -> Moments | None:
    """The moments in a file; None if it is of something else."""
    try:
        with safe_open(str(file), framework="numpy") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("hash") != key:
                return None
            mean, scatter = opened.get_tensor("mean"), opened.get_tensor("scatter")
            num = int(metadata["num"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"{file} is damaged, delete it: {error}") from error
    has_shapes = mean.shape == (width,) and scatter.shape == (width, width)
    if not has_shapes or num < 1 or not np.isfinite(mean).all() or not np.isfinite(scatter).all():
        raise DataError(f"{file} is damaged, delete it: no moments of {width} features")
    return Moments(num, mean, scatter)
