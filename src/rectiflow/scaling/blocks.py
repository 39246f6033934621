"""What a report is made of, said once and written as Markdown or as one HTML page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rectiflow.pages.parts import page
from rectiflow.pages.parts import table as html_table
from rectiflow.scaling.markdown import markdown


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; one that must not be overlooked is bold."""

    text: str
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """Lines of a list."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row names it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture by name, with what it shows in words."""

    name: str
    shows: str


Block = Text | Bullets | Table | Chart


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


def to_markdown(parts: Sequence[Part], level: int, path_of: Callable[[str], str]) -> str:
    """The parts in Markdown.

    Args:
        parts: In their order.
        level: Of their headings.
        path_of: Path of a chart's file from the page, by its name.
    """

    def written(block: Block) -> str:
        match block:
            case Text(text, is_bold):
                return f"**{text}**" if is_bold else text
            case Bullets(lines):
                return "\n".join(f"- {line}" for line in lines)
            case Table(head, rows):
                return markdown(head, rows)
            case Chart(name, shows):
                return f"![{shows}]({path_of(name)})"

    each = (["#" * level + " " + part.title, *map(written, part.blocks)] for part in parts)
    return "\n\n".join(text for texts in each for text in texts)


def to_html(title: str, lead: str, parts: Sequence[Part], charts: Mapping[str, str]) -> str:
    """The parts as one page that needs no other file.

    Args:
        title: Of the page.
        lead: The line under it.
        parts: In their order.
        charts: <svg> elements by the names of the charts.
    """

    def written(block: Block) -> str:
        match block:
            case Text(text, is_bold):
                inside = escape(text)
                return f"<p>{f'<strong>{inside}</strong>' if is_bold else inside}</p>"
            case Bullets(lines):
                return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
            case Table(head, rows):
                return f'<div class="block">{html_table(head, rows, "numbers")}</div>'
            case Chart(name, shows):
                label = escape(shows)
                inside = f'role="img" aria-label="{label}">{charts[name]}'
                return f'<div class="block chart" {inside}</div>'

    sections = (
        f"<section>\n<h2>{escape(part.title)}</h2>\n"
        + "\n".join(map(written, part.blocks))
        + "\n</section>"
        for part in parts
    )
    head = f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(lead)}</p>'
    return page(title, "\n".join([head, *sections]))
