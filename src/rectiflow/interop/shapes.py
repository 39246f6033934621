"""The configuration of an MM-DiT, read from the shapes of its tensors, and held against them."""

import re
from collections.abc import Iterable, Sequence
from math import isqrt
from pathlib import Path

import torch

from rectiflow.errors import DataError
from rectiflow.interop.forms import Piece
from rectiflow.interop.keys import Foreign, landmarks
from rectiflow.interop.tensors import Tensors
from rectiflow.nn.embeddings import position_table
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.releases import RELEASES

HEAD_WIDTH = 64  # of all released models; shapes tell it only where queries and keys are normalised
BASE_SIDE = 64  # of all released models: 1024 px
RELEASED = ("sd3-medium", "sd3.5-medium", "sd3.5-large")
TURBO = "sd3.5-large-turbo"
MAX_LISTED = 20


def infer_config(
    layout: Foreign, tensors: Tensors, *, head_width: int | None = None, sample_side: int | None
) -> MMDiTConfig:
    """Read a configuration from names and shapes.

    Only `base_side`, which no shape tells, needs values: the first row of the position table. If no
    base side gives that row, the table is one of its own; it is kept as it is, and the base side
    is `sample_side`.

    Args:
        layout: Whose names the tensors bear.
        tensors: Of one network.
        head_width: Width of an attention head, if known from elsewhere; else it is that of the
            normalised keys, and 64 without these.
        sample_side: Image tokens per side that the network was made for, if known from elsewhere;
            None for 64, or the table's side if that is less.

    Raises:
        DataError: If the shapes are not those of an MM-DiT.
    """
    marks, shapes = landmarks(layout), tensors.shapes
    needed = (marks.patch, marks.table, marks.context, marks.pooled)
    if absent := [name for name in needed if name not in shapes]:
        raise DataError(f"is no MM-DiT: {_listed('it lacks', absent)}")
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise DataError(f"is no MM-DiT: {_listed('empty', empty)}")
    norms = [shape for name, shape in shapes.items() if name.endswith(f".{marks.norm}")]
    blocks = _blocks(shapes, marks.block)
    try:
        width, channels, patch_size, _ = shapes[marks.patch]
        (_, num_positions, _), (_, context_width) = shapes[marks.table], shapes[marks.context]
        _, pooled_width = shapes[marks.pooled]
        (head_width,) = norms[0] if norms else (head_width or HEAD_WIDTH,)
        table_side = isqrt(num_positions)
        base_side = _base_side(tensors, marks.table, table_side, width)
        return MMDiTConfig(
            depth=len(blocks),
            num_heads=_heads(width, head_width, len(blocks)),
            patch_size=patch_size,
            latent_channels=channels,
            context_width=context_width,
            pooled_width=pooled_width,
            base_side=base_side or min(sample_side or BASE_SIDE, table_side),
            table_side=table_side,
            qk_norm=bool(norms),
            head_width=head_width,
            dual_attention=tuple(
                i for i in blocks if f"{marks.block}.{i}.{marks.own_attention}" in shapes
            ),
        )
    except ValueError as error:
        given = ", ".join(f"{name} {list(shapes[name])}" for name in needed)
        raise DataError(f"is no MM-DiT: {error}; it holds {given}") from error


def check_fit(pieces: Sequence[Piece], config: MMDiTConfig, tensors: Tensors) -> None:
    """Compare names and shapes with what a network of this configuration has.

    Raises:
        DataError: If one is missing, unknown or of another shape; the message lists them.
    """
    expected, shapes = expected_shapes(pieces, config), tensors.shapes
    missing, unknown = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    misshapen = [
        f"{name} {list(shapes[name])} for {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    found = [
        _listed(what, names)
        for what, names in (("missing", missing), ("unknown", unknown), ("shape", misshapen))
        if names
    ]
    if found:
        raise DataError(f"does not fit an MM-DiT of {config.depth} blocks: {'; '.join(found)}")


def expected_shapes(pieces: Sequence[Piece], config: MMDiTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors in the layout of `pieces`."""
    with torch.device("meta"):
        state = MMDiT(config).state_dict()
    shapes = {}
    for piece in pieces:
        parts = piece.to_theirs(state[piece.ours], config.patch_size)
        shapes |= {name: tuple(x.shape) for name, x in zip(piece.theirs, parts, strict=True)}
    return shapes


def release_of(config: MMDiTConfig, path: Path, noted: object = None) -> str | None:
    """The release whose shape this is.

    SD3.5 Large Turbo has the shape of Large. It is known by `turbo` in the name of its file, of its
    folder or of the repository in the hub's cache, or by what we noted when we converted it.

    Args:
        config: The network's shape.
        path: Its file or folder; of a `transformer` folder the name of the one around it counts.
        noted: The release that a file of ours says it was made of.
    """
    release = next((name for name in RELEASED if RELEASES[name] == config), None)
    place = path.absolute()
    place = place.parent if place.name == "transformer" else place
    names = [place.name, *(part for part in place.parts if part.startswith("models--"))]
    is_turbo = noted == TURBO or any("turbo" in name.lower() for name in names)
    return TURBO if release == "sd3.5-large" and is_turbo else release


def _blocks(names: Iterable[str], prefix: str) -> list[int]:
    """Numbers that stand where those of blocks do, ascending; gaps show as missing tensors."""
    pattern = re.compile(re.escape(prefix) + r"\.(0|[1-9]\d{0,3})\.")
    matches = (pattern.match(name) for name in names)
    return sorted({int(match[1]) for match in matches if match})


def _heads(width: int, head_width: int, depth: int) -> int | None:
    if width % head_width:
        raise ValueError(f"the width must be a multiple of {head_width}, a head's, got {width}")
    return None if width == head_width * depth else width // head_width


def _base_side(tensors: Tensors, name: str, table_side: int, width: int) -> int | None:
    """The base side that gives the first row of the table; None if there is none."""
    shape = tensors.shapes[name]
    if shape != (1, table_side**2, width) or width % 4:
        return None  # told as a wrong shape
    row = tensors.read(name)[0, :table_side, : width // 2].double()
    tolerance = max(1e-4, 2 * torch.finfo(tensors.weight_dtype(name)).eps)
    sides = torch.arange(1, table_side + 1, dtype=torch.float64)[:, None]
    index = torch.arange(table_side, dtype=torch.float64)
    sines = torch.sin((index - (table_side - sides) / 2) * 16 / sides)  # frequency 1 comes first
    error = (sines - row[:, 0]).abs().amax(dim=1)
    fitting = (error < tolerance).nonzero().flatten() + 1
    for side in map(int, fitting):
        expected = position_table(width, side, 1, table_side)[0, :, : width // 2]
        if (expected - row).abs().max() < tolerance:
            return side
    return None


def _listed(what: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return f"{what} {', '.join(ordered[:MAX_LISTED])}{more}"
