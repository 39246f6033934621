"""Runs side by side: what differs in their recipes, and what differs in their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rectiflow.pages.words import duration, shown
from rectiflow.watching.records import RunRecord
from rectiflow.watching.summary import best_validation, images_seen, number, text_table

MADE_ON = ("num_parameters", "device", "precision", "machine", "torch", "store")
ABSENT = "-"
SIDE_BY_SIDE = 5
"""So many runs are columns of a table; more are its lines."""

_OF_NO_EFFECT = {"data.cache_dir", "data.cache_bytes"}
_WINDOW = 0.1  # of the pictures both have seen: the stretch that their losses are averaged over


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that differs, or a result.

    Args:
        name: A setting's dotted name, or the result's.
        values: Of each run; None where a run has none.
        texts: The same, to be shown.
    """

    name: str
    values: Sequence[Any]
    texts: Sequence[str]

    @property
    def is_told_apart(self) -> bool:
        """Whether two of the runs that have it differ in it."""
        return len({text for text in self.texts if text != ABSENT}) > 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between runs.

    Args:
        names: Of the runs, in order.
        recipe: Settings that are not the same in all of them.
        made_on: Facts of machine and network that are not.
        results: What came out.
        notes: What to mind when the results are read.
    """

    names: Sequence[str]
    recipe: Sequence[Row]
    made_on: Sequence[Row]
    results: Sequence[Row]
    notes: Sequence[str]


def compare(records: Sequence[RunRecord]) -> Comparison:
    """Compare runs.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(records) < 2:
        raise ValueError(f"a comparison needs at least two runs, got {len(records)}")
    recipe = differing([flat(record.config) for record in records])
    facts = differing([{n: r.result[n] for n in MADE_ON if n in r.result} for r in records])
    # A run that has not ended, or went wrong, has no such facts: that is no difference.
    made_on = [row for row in facts if row.is_told_apart]
    return Comparison(
        [record.name for record in records],
        recipe,
        made_on,
        _results(records),
        _notes({row.name for row in (*recipe, *made_on) if row.is_told_apart}, records),
    )


def differing(tables: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The entries that are not the same in all of the tables; last those that not all have."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = []
    for name in names:
        values = [table.get(name) for table in tables]
        is_there = [name in table for table in tables]
        if any(value != values[0] for value in values) or not all(is_there):
            texts = [
                shown(value) if there else ABSENT
                for value, there in zip(values, is_there, strict=True)
            ]
            rows.append(Row(name, values, texts))
    return sorted(rows, key=lambda row: ABSENT in row.texts)


def common_images(records: Sequence[RunRecord]) -> int | None:
    """The number of pictures that every run has learned from; None if one's is not known."""
    seen = [images_seen(record) for record in records]
    known = [value for value in seen if value]
    return min(known) if len(known) == len(seen) else None


def loss_at(record: RunRecord, num_images: int) -> float | None:
    """Mean training loss of the last tenth of the first `num_images` pictures."""
    if record.batch_size is None:
        return None
    steps, losses = record.history.curve("loss")
    images = steps * record.batch_size
    inside = (images > (1 - _WINDOW) * num_images) & (images <= num_images)
    return float(losses[inside].mean()) if inside.any() else None


def _results(records: Sequence[RunRecord]) -> list[Row]:
    rows = [
        _row("status", [record.status for record in records], str),
        _row("steps", [record.step for record in records], shown),
        _row("images_seen", [images_seen(record) for record in records], shown),
        _row("elapsed", [record.metric("elapsed_seconds") for record in records], duration),
        _numbers("samples_per_second", [r.history.recent("samples_per_second") for r in records]),
        _numbers("loss", [record.history.recent("loss") for record in records]),
    ]
    if common := common_images(records):
        losses = [loss_at(record, common) for record in records]
        rows.append(_numbers(f"loss at {common:,} pictures", losses))
    names = dict.fromkeys(
        name
        for record in records
        for name in record.history.curves
        if name.startswith(("val_", "velocity_error"))
    )
    rows += [_numbers(name, [record.metric(name) for record in records]) for name in names]
    best = [best_validation(record) for record in records]
    rows.append(_numbers("least validation loss", [None if b is None else b.value for b in best]))
    rows.append(_row("at step", [None if b is None else b.step for b in best], shown))
    rows.append(_row("went back", [len(record.roll_backs) or None for record in records], shown))
    return [row for row in rows if any(value is not None for value in row.values)]


def _row(name: str, values: Sequence[Any], text: Callable[[Any], str]) -> Row:
    return Row(name, values, [ABSENT if value is None else text(value) for value in values])


def _numbers(name: str, values: Sequence[float | None]) -> Row:
    return _row(name, values, number)


def _notes(names: set[str], records: Sequence[RunRecord]) -> list[str]:
    notes = []
    if names & {"kind", "objective.formulation"}:
        notes.append(
            "formulations differ: loss and val_loss are each of their own target, "
            "velocity_error compares them"
        )
    of_data = {name for name in names if name.startswith(("data.", "encoders."))} - _OF_NO_EFFECT
    if of_data or "store" in names:
        notes.append("data or encoders differ: losses are of other pictures or latents")
    if names & {"device", "machine", "precision"}:
        notes.append("machines or precisions differ: speeds are of different machines")
    if len({images_seen(record) for record in records}) > 1:
        notes.append("lengths differ: compare the loss at the pictures that all have seen")
    notes += [f"{r.name}: {problem}" for r in records for problem in r.problems]
    return notes


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of a recipe by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def comparison_lines(comparison: Comparison) -> list[str]:
    """The comparison as text: few runs beside each other, many below each other."""
    parts = (
        ("recipes differ in:", comparison.recipe),
        ("made on:", comparison.made_on),
        ("results:", comparison.results),
    )
    lines: list[str] = []
    for title, rows in parts:
        if not rows:
            continue
        lines += ["", title] if lines else [title]
        if len(comparison.names) <= SIDE_BY_SIDE:
            head, body = ["", *comparison.names], [[row.name, *row.texts] for row in rows]
        else:
            head = ["run", *(row.name for row in rows)]
            body = [
                [name, *(row.texts[k] for row in rows)] for k, name in enumerate(comparison.names)
            ]
        lines += [f"  {line}" for line in text_table(head, body)]
    if not comparison.recipe:
        lines = ["the recipes are the same", "", *lines]
    return [*lines, *(f"  ! {each}" for each in comparison.notes)]
