"""From times, text vectors and pictures to the network's width, and positions in a picture."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

FREQUENCY_WIDTH = 256  # of the sinusoid of time (DiT, arXiv:2212.09748; SD3's released code)


def time_features(t: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
    """Cosines, then sines, of 1000 t at frequencies 10000^(-i / 128), in float32.

    The factor 1000 of the discrete timesteps of diffusion models lives here, and for diffusers'
    networks in `discrete_time`.
    """
    half = FREQUENCY_WIDTH // 2
    rank = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10000) / half * rank)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class VectorEmbedding(nn.Module):
    """Two-layer perceptron that brings a vector to the network's width (linear, SiLU, linear)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width_in, width)
        self.project = nn.Linear(width, width)

    def forward(self, vector: Float[Tensor, "batch width_in"]) -> Float[Tensor, "batch width"]:
        hidden = self.expand(vector.to(self.expand.weight.dtype))
        return self.project(nn.functional.silu(hidden))


def patchify(
    x: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch tokens features"]:
    """Cut a picture into square patches, row by row; features in the order (row, column, channel).

    Raises:
        ValueError: If a side is not a multiple of the patch size.
    """
    batch, channels, height, width = x.shape
    if height % size or width % size:
        raise ValueError(f"sides must be multiples of the patch size {size}, got {height}x{width}")
    x = x.view(batch, channels, height // size, size, width // size, size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def unpatchify(
    tokens: Float[Tensor, "batch tokens features"], size: int, height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Inverse of `patchify` for a picture of `height` x `width`."""
    batch = tokens.shape[0]
    x = tokens.view(batch, height // size, width // size, size, size, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)


class PositionTable(nn.Module):
    """Positions of the tokens of the largest picture, cropped around their centre to a picture.

    The table, `position_table`, is part of the checkpoint, as in the released files.

    Args:
        width: Channels, a multiple of 4.
        base_side: Tokens per side at the base size.
        rows: Tokens of the tallest picture.
        columns: Tokens of the widest picture.
    """

    table: Tensor  # (rows, columns, width), float32

    def __init__(self, width: int, base_side: int, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("table", position_table(width, base_side, rows, columns))

    def forward(self, rows: int, columns: int) -> Float[Tensor, "tokens width"]:
        """Positions of a picture of `rows` x `columns` tokens, row by row.

        Raises:
            ValueError: If the picture is larger than the table.
        """
        height, width, _ = self.table.shape
        if rows > height or columns > width:
            raise ValueError(f"pictures may have {height}x{width} tokens, got {rows}x{columns}")
        top, left = (height - rows) // 2, (width - columns) // 2
        return self.table[top : top + rows, left : left + columns].flatten(0, 1)


def position_table(
    width: int, base_side: int, rows: int, columns: int
) -> Float[Tensor, "{rows} {columns} {width}"]:
    """Sine-cosine positions of a grid of tokens, in float32 (SD3, App. C.2).

    Position i of an axis of N has the coordinate (i - (N - s) / 2) * 16 / s. So the central s x s
    tokens, a square picture of the base size, span 0 to 16 whatever s and N (with N - s odd there
    is no central square, and they lie half a token off): other base sizes are interpolated, longer
    sides extend outward. The released models have s = 64 and N = 192 or 384.
    The first half of the channels encodes the horizontal coordinate, the second the vertical one;
    each half holds sines, then cosines.

    Args:
        width: Channels, a multiple of 4.
        base_side: Tokens per side at the base size (s).
        rows: Tokens of the vertical axis.
        columns: Tokens of the horizontal axis.
    """
    down, across = (
        _sines_and_cosines(
            (torch.arange(num, dtype=torch.float64) - (num - base_side) / 2) * 16 / base_side, width
        )
        for num in (rows, columns)
    )
    shape = (rows, columns, width // 2)
    return torch.cat([across[None].expand(shape), down[:, None].expand(shape)], dim=-1)


def _sines_and_cosines(coordinate: Tensor, width: int) -> Tensor:
    """Features of a coordinate at width / 4 frequencies, shape (positions, width / 2), float32."""
    frequency = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.outer(coordinate, frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()
