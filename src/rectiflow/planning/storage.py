"""Bytes of an encoded data set: ours beside those of the SD3 paper (Table 7). Loads no torch."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rectiflow.data.manifest import SAMPLE_ARRAYS, ArraySpec

TABLE_7: Final[Mapping[str, int]] = MappingProxyType(
    {"latent": 65_536, "clip_l": 121_344, "clip_g": 202_240, "t5": 630_784}
)
"""Bytes per sample of 256 px in the SD3 paper (arXiv:2403.03206, App. E.1, Table 7, in kB there): a
latent of 32 x 32 x 16 in float32; 77 states of each encoder in float16, and for the CLIPs a pooled
vector in float32."""

_DTYPE_BYTES: Final = {"float32": 4, "float16": 2}


def sample_bytes(arrays: Mapping[str, ArraySpec], num_captions: int = 1) -> dict[str, int]:
    """Bytes of one sample of a store by array, and their `total`; captions each have their text.

    At most: equal captions of a shard are stored once.
    """
    parts = {
        name: math.prod(array.shape)
        * _DTYPE_BYTES[array.dtype]
        * (1 if name in SAMPLE_ARRAYS else num_captions)
        for name, array in arrays.items()
    }
    return parts | {"total": sum(parts.values())}


def paper_bytes(side_px: int) -> int:
    """Table 7's total, its latent scaled to pictures of another side."""
    texts = sum(nbytes for name, nbytes in TABLE_7.items() if name != "latent")
    return texts + TABLE_7["latent"] * side_px**2 // 256**2
