"""Pictures of a suite on disk, so that an evaluation that was killed goes on where it stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rectiflow.data.manifest import json_hash
from rectiflow.errors import DataError
from rectiflow.evaluation import layout
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.prompt_check import picture_seed
from rectiflow.runs import read_json, write_json

_HALF_WRITTEN: Final = (
    *(f".{name}.*.partial" for name in (layout.SETTINGS, layout.RESULTS, "summary.*")),
    "[0-9]*/.metadata.jsonl.*.partial",
    "[0-9]*/samples/.*.png.*.partial",
)


@dataclass(frozen=True)
class PictureJob:
    """One picture of a suite.

    Args:
        index: Number of its prompt.
        sample: Number of the picture among those of its prompt.
        prompt: Metadata of the prompt, checked.
    """

    index: int
    sample: int
    prompt: Metadata

    @property
    def seed(self) -> int:
        return picture_seed(self.prompt, self.sample)

    @property
    def name(self) -> str:
        """Path within the folder."""
        return layout.picture_name(self.index, self.sample)


@dataclass(frozen=True)
class KeptPictures:
    """A folder in GenEval's layout that holds the pictures of one evaluation and of no other.

    Args:
        folder: Made by `begin` if it is not there.
        facts: Kept in every picture beside its prompt and its seed, there called `index`.
        settings: What else decides the pictures, ready for JSON; kept in `suite.json`.
    """

    folder: Path
    facts: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, prompts: Sequence[Metadata], images_per_prompt: int) -> None:
        """Claim the folder, or go on with it if what decides its pictures is the same.

        Raises:
            ValueError: If it holds pictures of another evaluation, or of an unknown one, which
                would be judged with these by the next to read it.
            DataError: If its `suite.json` is damaged.
        """
        own = {"images_per_prompt": images_per_prompt, "prompts": json_hash(prompts)}
        wanted = json.loads(json.dumps({**self.facts, **self.settings, **own}))
        file = self.folder / layout.SETTINGS
        if file.is_file():
            found = read_json(file)
            if other := [k for k in {**wanted, **found} if found.get(k) != wanted.get(k)]:
                raise ValueError(
                    f"{self.folder} holds an evaluation with other {', '.join(other)}; choose "
                    "another folder"
                )
        elif any(self.folder.glob("*/samples")):
            raise ValueError(
                f"{self.folder} holds pictures of a suite already; choose another folder"
            )
        else:
            write_json(file, wanted)
        for half in (file for pattern in _HALF_WRITTEN for file in self.folder.glob(pattern)):
            half.unlink(missing_ok=True)

    def find(self, job: PictureJob) -> NDArray[np.uint8] | None:
        """The picture if it is there, whole, and by its own account this one."""
        file = self.folder / job.name
        try:
            told, picture = layout.read_facts(file), layout.read_picture(file)
            rows = layout.read_lines(layout.metadata_file(file))
        except (FileNotFoundError, DataError):
            return None
        is_it = told == {name: str(value) for name, value in self._facts(job).items()}
        return picture if is_it and rows == [json.loads(json.dumps(job.prompt))] else None

    def write(self, job: PictureJob, picture: NDArray[np.uint8]) -> None:
        """Keep a picture; it appears whole or not at all."""
        where = (self.folder, job.index, job.sample)
        layout.write_picture(*where, job.prompt, picture, self._facts(job))

    def _facts(self, job: PictureJob) -> dict[str, object]:
        return {**self.facts, "prompt": job.prompt["prompt"], "index": job.seed}
