"""Pages in Markdown: tables, and sections that are written anew between marks."""

from collections.abc import Iterable, Sequence

from rectiflow.errors import DataError


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; numbers to the right would need marks that few readers miss."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_section(text: str, part: str, content: str) -> str:
    """A page with the content between its marks replaced, or put at its end with marks.

    Raises:
        DataError: If only one of the two marks is there, or they are turned round.
    """
    begin, end = f"<!-- {part}: generated -->", f"<!-- {part}: end -->"
    new = f"{begin}\n{content}\n{end}"
    if begin not in text and end not in text:
        return text.rstrip("\n") + f"\n\n{new}\n"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise DataError(f"the page needs {begin!r} and after it {end!r}, found one of them")
    return before + new + after
