"""`rectiflow bundle`: make a bundle from a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, say, say_json


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(
        epilog=example("rectiflow bundle --run runs/scenes-tiny --out bundles/scenes-tiny")
    )(bundle)


def bundle(
    run: Annotated[Path, typer.Option(help="The finished run of a flow recipe.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; must be empty.")],
    stored_as: Annotated[
        str, typer.Option("--precision", help="Type of the stored weights: fp16, bf16 or fp32.")
    ] = "fp16",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Put a trained model, its encoders and its record into one checksummed folder."""
    from rectiflow.sampling.bundle import assemble, check_assembly

    if dry_run:
        facts = check_assembly(run, out, stored_as)
        say_json({"run": run, "out": out, "stored_as": stored_as, "files": list(facts["files"])})
        return
    assemble(run, out, stored_as)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if as_json:
        say_json({"bundle": out, "bytes": size})
    else:
        say(f"{out}  {size / 1e6:.1f} MB")
