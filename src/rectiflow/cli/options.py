"""Options that several verbs share: one name, one meaning, one help text."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path | None, typer.Option(help="A run folder: its newest checkpoint.")]
Bundle = Annotated[
    str | None,
    typer.Option(help="A packaged bundle by name, or a bundle's folder (default: scenes-tiny)."),
]
Model = Annotated[
    str | None,
    typer.Option(help="A released model: a single file, a diffusers folder, or OWNER/NAME."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps (default: the best there is).")]
Precision = Annotated[str, typer.Option(help="auto (bf16 where it is faster), fp32 or bf16.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the solver.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is off.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
