"""Networks by name: the rows of the papers' tables and the releases, as configurations."""

from typing import Any

from rectiflow.nn.backbones import BACKBONES
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.tables import TABLES, Row

# Of Tables 1 and 2 of arXiv:2404.02883: latents of 4 channels at 256 px, text of OpenCLIP-H.
_SCALABILITY = {
    "latent_channels": 4,
    "context_width": 1024,
    "pooled_width": 1024,
    "base_latent_side": 32,
}
SEGMENTS = {"unet": (77,), "pixart": (77,), "mmdit": (77, 77)}
"""Text tokens of each table, by group of encoders."""


def row_of(name: str) -> Row | None:
    """The row of that name, whatever the table; None if there is none."""
    rows = [row for table in TABLES.values() for row in table if row.name == name]
    return rows[0] if rows else None


def config_of(row: Row) -> Any:
    """The configuration of a row's network."""
    if row.kind == "mmdit":
        return RELEASES[row.name]
    return BACKBONES[row.kind].config(**_SCALABILITY, **row.shape)
