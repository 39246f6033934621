"""One picture with its captions: the unit between raw data and the encoded store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from rectiflow.errors import DataError

ImageU8 = UInt8[np.ndarray, "height width 3"]

CAPTION_NAMES = (("caption",), ("alt", "synthetic"))
"""What a source may carry: one caption, or the pair that training mixes."""


@dataclass(frozen=True)
class Loaded:
    """A picture as bytes, and whether it had to be enlarged to get there."""

    image: ImageU8
    is_enlarged: bool = False


@dataclass(frozen=True)
class Record:
    """A picture that can be loaded, and what is said about it.

    Attributes:
        id: Unique within its source; names the record in messages and in the store.
        captions: Text by name, either `caption` or the pair `alt` and `synthetic`.
        load: Decodes or draws the picture, square, at the source's size. May raise `BadRecord`.
    """

    id: str
    captions: Mapping[str, str]
    load: Callable[[], Loaded]


@dataclass(frozen=True)
class Quarantined:
    """A record left out, and why.

    Attributes:
        id: The record, or the file it would have come from.
        reason: A short fixed phrase, so that equal reasons can be counted.
        detail: What was found, for a person.
    """

    id: str
    reason: str
    detail: str = ""


class BadRecord(DataError):
    """A record that cannot be used; whoever prepares data quarantines it and goes on."""

    def __init__(self, id: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{id}: {reason}" + (f" ({detail})" if detail else ""))
        self.quarantined = Quarantined(id, reason, detail)


@runtime_checkable
class RecordSource(Protocol):
    """A sequence of records, the same every time it is read."""

    @property
    def size_px(self) -> int:
        """Side of every loaded picture."""
        ...

    @property
    def caption_names(self) -> tuple[str, ...]:
        """Names every record's captions have, one of `CAPTION_NAMES`."""
        ...

    @property
    def quarantined(self) -> Sequence[Quarantined]:
        """What was left out while listing, before any picture was opened."""
        ...

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """Record `index`, 0 <= index < len; its picture is not loaded yet."""
        ...

    def description(self) -> Mapping[str, Any]:
        """What the source is, as JSON; equal descriptions mean equal records."""
        ...
