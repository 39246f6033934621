"""The ways in which one tensor of ours is held in the files of others, as pairs of inverses."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isqrt

import torch
from torch import Tensor


class Form(Enum):
    """How tensors of others, in the order of their names, make one of ours."""

    ROWS = "one after another along the rows; a single tensor is itself"
    STACK = "each is a row"
    SWAP = "a single one whose upper half is our lower half"
    CONV = "a convolution (width, channels, patch, patch); ours takes (row, column, channel)"
    TABLE = "(1, side * side, width), row by row; ours is (side, side, width)"


@dataclass(frozen=True)
class Piece:
    """One tensor of ours and what holds it elsewhere.

    Args:
        ours: Name in the state of our network.
        theirs: Names in the other layout.
        form: How these make ours.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = Form.ROWS

    def to_ours(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensor of theirs."""
        first = parts[0]
        match self.form:
            case Form.ROWS:
                return first if len(parts) == 1 else torch.cat(list(parts))
            case Form.STACK:
                return torch.stack(list(parts))
            case Form.SWAP:
                return torch.cat(first.chunk(2)[::-1])
            case Form.CONV:
                return first.permute(0, 2, 3, 1).flatten(1)
            case Form.TABLE:
                side = isqrt(first.shape[1])
                return first[0].unflatten(0, (side, side))

    def to_theirs(self, value: Tensor, patch_size: int) -> tuple[Tensor, ...]:
        """Their tensors of ours, in the order of `theirs`."""
        match self.form:
            case Form.ROWS:
                return value.chunk(len(self.theirs))
            case Form.STACK:
                return value.unbind(0)
            case Form.SWAP:
                return (torch.cat(value.chunk(2)[::-1]),)
            case Form.CONV:
                return (value.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2),)
            case Form.TABLE:
                return (value.flatten(0, 1)[None],)
