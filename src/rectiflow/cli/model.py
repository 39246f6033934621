"""`rectiflow model`: which networks there are, what one is made of, and what it costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, say, say_json

if TYPE_CHECKING:
    from rectiflow.nn.tables import Row


def register(app: typer.Typer) -> None:
    """Add the verbs of models to the program."""
    group = typer.Typer(help="Look at models, and average their weights.", rich_markup_mode=None)
    group.command("list", epilog=example("rectiflow model list"))(list_models)
    group.command(epilog=example("rectiflow model info scenes-tiny --json"))(info)
    group.command(epilog=example("rectiflow model table unet"))(table)
    group.command(
        epilog=example("rectiflow model average --run runs/mine --width 0.07 --out bundles/w07")
    )(average)
    app.add_typer(group, name="model")


def list_models(as_json: options.Json = False) -> None:
    """List every network with a name: parameters, GMACs of a forward pass, where it comes from."""
    from rectiflow.nn.tables import every_row

    rows = every_row()
    if as_json:
        say_json([_listed(row) for row in rows])
        return
    say(f"{'name':<18}{'kind':<10}{'parameters':>14}{'GMACs':>10}  {'at':>6}  from")
    for row in rows:
        sizes = f"{row.num_parameters:>14,}{row.layer_macs / 1e9:>10.2f}"
        say(f"{row.name:<18}{row.kind:<10}{sizes}  {row.side_px:>3} px  {row.source}")
    say("GMACs: multiply-adds in linear and convolution layers, one picture, one forward pass.")


def table(
    name: Annotated[str, typer.Argument(help="unet, pixart or mmdit.")],
    as_json: options.Json = False,
) -> None:
    """Print a table of the papers: each row as counted beside the paper's own numbers."""
    from rectiflow.config import nearest
    from rectiflow.nn.tables import TABLES

    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; {nearest(name, list(TABLES))}")
    rows = TABLES[name]
    if as_json:
        say_json([_compared(row) for row in rows])
        return
    say(f"{'name':<18}{'parameters':>15}{'paper':>7} B  {'GMACs':>8}{'paper':>7}  agrees")
    for row in rows:
        facts = _compared(row)
        counted = f"{row.num_parameters:>15,}{row.printed_billions or '-':>7}    "
        compute = f"{row.layer_macs / 1e9:>8.2f}{row.printed_gmacs or '-':>7}"
        say(f"{row.name:<18}{counted}{compute}  {_verdict(facts)}")
    say("At 256 px. GMACs: linear and convolution layers, as the paper counts, text included.")


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `rectiflow model list`, a bundle by name or folder, or a run folder."
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Print a model's shape, parameters, FLOPs per picture, and memory or files."""
    from rectiflow.nn.tables import row_of

    row = row_of(model)
    facts = _described(model) if row is None else _costs(row)
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        if name == "pictures":
            for side, costs in value.items():
                say(f"{f'at {side} px':<20} {_sentence(costs)}")
        else:
            say(f"{name:<20} {_sentence(value)}")


def average(
    run: Annotated[Path, typer.Option(help="A flow run that kept averages of its weights.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; must not be there.")],
    width: Annotated[
        float | None,
        typer.Option(help="Relative width of the average to make, of any size up to 0.2887."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="With --width: average up to this step (default: the last).")
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="One of training.averages.decays, as it is.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a bundle with another average of a run's weights; sample and evaluate take it.

    Any width can be made afterwards from the snapshots that training.averages.widths and
    training.averages.snapshot_every_steps let a run keep (post-hoc EMA, arXiv:2312.02696).
    """
    from rectiflow.jobs.averaging import export_average

    facts = export_average(run, out, width=width, step=step, decay=decay)
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:<20} {value}")


def _sentence(value: Any) -> str:
    """A fact for a reader: thousands separated, the parts of a fact side by side."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_sentence(part)}" for name, part in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _described(model: str) -> dict[str, Any]:
    """Facts about a trained model."""
    from rectiflow.config import nearest
    from rectiflow.nn.tables import every_row
    from rectiflow.sampling.sources import find_source

    try:
        source = find_source(model)
    except FileNotFoundError as error:
        near = nearest(model, [row.name for row in every_row()])
        more = near if near.startswith("did") else "see rectiflow model list"
        raise FileNotFoundError(f"{error}; {more}") from None
    from rectiflow.sampling.describe import describe

    return describe(source)


def _costs(row: "Row") -> dict[str, Any]:
    """Facts about a network with a name; no weights are read."""
    from rectiflow.nn.named import cost_of

    return cost_of(row)


def _listed(row: "Row") -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "parameters": row.num_parameters,
        "layer_macs": row.layer_macs,
        "side_px": row.side_px,
        "source": row.source,
    }


def _compared(row: "Row") -> dict[str, Any]:
    """A row with the paper's numbers, as printed; None where it prints none."""
    from rectiflow.nn.tables import agreement

    return {
        **_listed(row),
        "paper_parameters_billions": row.printed_billions or None,
        "paper_gmacs": row.printed_gmacs or None,
        "parameters_agree": agreement(row.num_parameters / 1e9, row.printed_billions) or None,
        "gmacs_agree": agreement(row.layer_macs / 1e9, row.printed_gmacs) or None,
    }


def _verdict(facts: dict[str, Any]) -> str:
    """Whether a row agrees with the paper; what does not is named."""
    each = {what: facts[f"{what}_agree"] for what in ("parameters", "gmacs")}
    told = {what: verdict for what, verdict in each.items() if verdict}
    odd = [f"{what} {verdict}" for what, verdict in told.items() if verdict != "yes"]
    return ", ".join(odd) or ("yes" if told else "-")
