"""Charts that take the page's own ink, so that they are readable on dark and on light."""

from io import BytesIO, StringIO
from typing import Any, Final

from matplotlib.figure import Figure

INK: Final = "#010203"
"""Drawn where the colour of the text around the chart is to stand."""

STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rectiflow",  # the same curves give the same file
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
}
"""For `matplotlib.rc_context`, around all that draws."""

_NO_METADATA: Final = {"Creator": None, "Date": None, "Format": None, "Type": None}


def inline_svg(figure: Figure) -> str:
    """The figure as an <svg> element to stand in a page."""
    text = _svg(figure, transparent=True)
    return text[text.index("<svg") :].replace(INK, "currentColor")


def svg_file(figure: Figure) -> bytes:
    """The figure as a file of its own, on white."""
    lines = _svg(figure, facecolor="white").splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def png_file(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as pixels, on white."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=dots_per_inch, facecolor="white")
    return out.getvalue()


def _svg(figure: Figure, **options: Any) -> str:
    out = StringIO()
    figure.savefig(out, format="svg", metadata=_NO_METADATA, **options)
    return out.getvalue()
