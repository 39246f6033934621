"""The MM-DiTs of the SD3 paper (arXiv:2403.03206) and of the released SD3 and SD3.5 models."""

from collections.abc import Mapping
from typing import Final

from rectiflow.nn.mmdit import MMDiTConfig

PAPER_DEPTHS: Final = (15, 18, 21, 24, 30, 38)


def _released(
    depth: int, *, qk_norm: bool, table_side: int = 192, dual_attention: tuple[int, ...] = ()
) -> MMDiTConfig:
    return MMDiTConfig(
        depth=depth,
        context_width=4096,
        pooled_width=2048,
        base_side=64,
        table_side=table_side,
        qk_norm=qk_norm,
        dual_attention=dual_attention,
    )


RELEASES: Final[Mapping[str, MMDiTConfig]] = {
    "sd3-medium": _released(24, qk_norm=False),
    "sd3.5-medium": _released(24, qk_norm=True, table_side=384, dual_attention=tuple(range(13))),
    "sd3.5-large": _released(38, qk_norm=True),
    "sd3.5-large-turbo": _released(38, qk_norm=True),
    **{f"mmdit-d{depth}": _released(depth, qk_norm=False) for depth in PAPER_DEPTHS},
}
"""Shapes by name. Those of the paper (`mmdit-d...`) are as it pretrains them, without QK norm; the
positions are those of 1024 px, with an autoencoder of factor 8."""
