"""`rectiflow plan`: what a training run costs, before it is paid for."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, note, say, say_json

GPU_NAMES = ("b200", "h200", "h100", "a100", "l40s", "rtx4090", "cpu")  # help loads no planning


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(epilog=example("rectiflow plan mmdit-d38 --gpu h200 --gpus 256"))(plan)


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name or path, or a name of `rectiflow model list`.")
    ],
    gpu: Annotated[str, typer.Option(help=", ".join(GPU_NAMES))] = "h200",
    gpus: Annotated[int, typer.Option(help="How many of them.")] = 1,
    images: Annotated[
        float | None, typer.Option(help="Samples of the run (default: its own; 2e9 is a number).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples of a step over all GPUs (default: its own).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels.")] = None,
    parallel: Annotated[str, typer.Option(help="auto, single, ddp, hsdp or fsdp.")] = "auto",
    efficiency: Annotated[
        float | None,
        typer.Option(help="Share of the peak as measured, in place of the modelled one."),
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="Without torch.compile.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Change a setting of the recipe."),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Folder for curves over depth, size and GPUs, as PNG.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tell FLOPs, memory per GPU, the way to spread it, time, energy and storage of a run.

    Nothing is trained or measured: FLOPs and memory follow from the shape, time from a simulated
    step. docs/planning.md says how, and how far published runs agree.
    """
    from rectiflow.jobs.subjects import subject_of
    from rectiflow.planning.advice import Cluster
    from rectiflow.planning.forecast import forecast
    from rectiflow.planning.gpus import gpu_named
    from rectiflow.planning.memory import strategy_named

    strategy = None if parallel == "auto" else strategy_named(parallel)
    device = gpu_named(gpu)
    subject = subject_of(recipe, settings or [], size)
    cluster = Cluster(
        gpu=device,
        num_gpus=gpus,
        batch=batch or subject.batch,
        optimizer=subject.optimizer,
        num_averages=subject.num_averages,
        is_compiled=device.is_compiled and not eager,
        efficiency=efficiency,
    )
    facts = forecast(subject, cluster, images=images, strategy=strategy)
    if curves is not None:
        from rectiflow.planning.curves import draw_curves

        facts["curves"] = draw_curves(subject, cluster, curves)
    if as_json:
        say_json(facts)
    else:
        _tell(facts)


def _tell(facts: dict[str, Any]) -> None:
    network, run, cluster = facts["network"], facts["run"], facts["cluster"]
    gpu, best = cluster["gpu"], facts["advised"]
    say(f"{facts['name']} at {facts['size_px']} px on {cluster['num_gpus']} {gpu['name']}")
    say(f"  parameters  {network['parameters']:,}")
    say(
        f"  FLOPs       {network['training_flops']:.4g} to train on a picture, of them "
        f"{network['forward_flops']:.4g} forward; {network['layer_macs'] / 1e9:.2f} GMACs in layers"
    )
    say(
        f"  run         {run['images']:.4g} pictures, {run['num_steps']:,} steps of "
        f"{run['batch']:,}, {run['training_flops']:.3g} FLOPs"
    )
    _tell_paper(facts.get("paper"))
    _tell_ways(facts)
    say(f"\nadvised: {best['strategy']}" if best["fits"] else "")
    for reason in best["reasons"]:
        say(f"  {reason}")
    say(
        f"  {best['images_per_second']:,.4g} pictures/s, {best['flops_per_gpu'] / 1e12:.3g} "
        f"TFLOP/s on each GPU, {best['share_of_peak']:.1%} of its peak"
    )
    say(
        f"  {facts['days']:.3g} days, {facts['gpu_hours']:,.4g} GPU-hours, {facts['kwh']:,.4g} kWh "
        f"at {gpu['watts']:,.4g} W a GPU with its share of the node"
    )
    if facts["days_as_published"]:
        low, high = facts["days_as_published"]
        say(f"  {low:.3g} to {high:.3g} days if it fares as published runs did beside this model")
    _tell_storage(facts["storage"])
    say(f"\nhardware: {gpu['source']}")
    for each in facts["notes"]:
        note(f"note: {each}")
    for file in facts.get("curves", ()):
        say(f"wrote {file}")


def _tell_paper(paper: dict[str, float] | None) -> None:
    if paper:
        say(
            f"  the paper   {paper['printed_flops']:.0e} FLOPs in print; its 256 px stage (500,000 "
            f"steps of 4096) counts {paper['counted_flops']:.3g}, and {paper['naive_flops']:.3g} "
            "by 6 per weight and token"
        )


def _tell_ways(facts: dict[str, Any]) -> None:
    parts = list(facts["advised"]["memory_bytes"])
    say(f"\nGB on a GPU of {facts['usable_bytes'] / 1e9:.1f} to fill")
    say(f"  {'way':<8}" + "".join(f"{part:>12}" for part in parts))
    for way in facts["ways"]:
        row = "".join(f"{nbytes / 1e9:>12.2f}" for nbytes in way["memory_bytes"].values())
        say(f"  {way['strategy']:<8}{row}{'' if way['fits'] else '  too much'}")
    columns = ("computing", "exposed", "optimizer", "total")
    say("\nseconds of a simulated step; exposed: exchange that computing does not hide")
    head = "".join(f"{name:>11}" for name in columns)
    say(f"  {'way':<8}{'GPUs':>6}{'passes':>10}{'anew':>6}{head}{'pictures/s':>13}{'of peak':>9}")
    for way in facts["ways"]:
        seconds = "".join(f"{way['step_seconds'][name]:>11.4g}" for name in columns)
        passes = f"{way['num_microbatches']} x {way['microbatch']}"
        anew = "yes" if way["is_checkpointed"] else "no"
        say(
            f"  {way['strategy']:<8}{way['num_gpus']:>6}{passes:>10}{anew:>6}{seconds}"
            f"{way['images_per_second']:>13,.4g}{way['share_of_peak']:>9.1%}"
        )


def _tell_storage(storage: dict[str, Any]) -> None:
    ours, paper = storage["sample_bytes"]["total"], storage["paper_sample_bytes"]
    captions = f"{storage['num_captions']} caption{'s' * (storage['num_captions'] > 1)}"
    say(
        f"\nstored, encoded: {ours:,} bytes a picture with {captions}, {ours / 1e3:,.4g} TB a "
        f"billion; the paper's Table 7: {paper:,} bytes, {paper / 1e3:,.4g} TB"
    )
