"""The small pieces that a report's page is made of."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rectiflow.pages.style import CSS


def page(title: str, body: str) -> str:
    """A whole page that needs no other file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A heading, what one should know to read what follows, and that."""
    head = f'<h2>{escape(title)}</h2>\n<p class="soft">{escape(note)}</p>'
    return f"<section>\n{head}\n{body}\n</section>"


def picture(image_u8: UInt8[np.ndarray, "height width 3"], says: str) -> str:
    """A picture inside the page, without loss.

    Args:
        image_u8: Of any size; the style sheet scales it, pixels staying sharp.
        says: Shown to who cannot see it, and to who points at it.
    """
    file = BytesIO()
    Image.fromarray(image_u8).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = image_u8.shape[:2]
    text = escape(says)
    return (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{text}" title="{text}">'
    )


def figure(image: str, caption: str, kind: str = "") -> str:
    """A picture with a line under it."""
    start = f'<figure class="{kind}">' if kind else "<figure>"
    return f"{start}{image}<figcaption>{escape(caption)}</figcaption></figure>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Large values, each with what it is below it."""
    each = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in facts
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of text; the first cell of a row names it."""
    lines = (
        f"<tr><th scope='row'>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return grid(head, "".join(lines), kind)


def grid(head: Sequence[str], body: str, kind: str = "") -> str:
    """A table whose rows are given as HTML; without `head` it has no first line."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def folded(title: str, body: str) -> str:
    """Something that is shown on demand."""
    return f'<details><summary>{escape(title)}</summary><div class="inside">{body}</div></details>'
