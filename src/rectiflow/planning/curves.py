"""Curves of what training costs: over depth, over the size of pictures, over GPUs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from rectiflow.pages.ink import STYLE, png_file
from rectiflow.planning.advice import Cluster, Way, advised, ways_of
from rectiflow.planning.subject import Subject
from rectiflow.planning.workload import Workload, of_depth, workload_of

DEPTHS: Final = (12, 15, 18, 21, 24, 30, 38)
SIZES_PX: Final = (256, 512, 1024)
FAMILIES: Final = ("mmdit", "dit", "crossdit")
BILLION: Final = 10**9
PER_GPU: Final = 64
"""Samples of a step on one GPU, in the curves over depth and size."""

MARKERS: Final = {"single": "o", "ddp": "s", "hsdp": "^", "fsdp": "D"}


def draw_curves(subject: Subject, cluster: Cluster, folder: Path) -> list[Path]:
    """Write the curves of a plan as PNG.

    Returns:
        The files: `over_size`; `over_depth` where depth sets the size of the network; `over_gpus`
        where there are several.
    """
    makers = {"over_size": _size_figure}
    if subject.workload.kind in FAMILIES:
        makers["over_depth"] = _depth_figure
    if cluster.num_gpus > 1:
        makers["over_gpus"] = _gpus_figure
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, make in makers.items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9.6, 3.8), layout="constrained")
            left, right = figure.subplots(1, 2)
            make(left, right, subject, cluster)
            file = folder / f"{name}.png"
            file.write_bytes(png_file(figure))
        files.append(file)
    return files


def _depth_figure(left: Axes, right: Axes, subject: Subject, cluster: Cluster) -> None:
    """GPU-days of a billion images, and images per second and GPU, one curve per size."""
    for size_px in _sizes(subject):
        side = size_px * subject.latent_side // subject.size_px
        works = {
            depth: workload_of(of_depth(subject.config, depth), side, subject.segments)
            for depth in DEPTHS
            if _takes(of_depth(subject.config, depth), side)
        }
        _pair(left, right, works, cluster, f"{size_px} px")
    _name(left, right, cluster, "depth (width 64 times as many)")
    for axes in (left, right):
        _ticks(axes, DEPTHS)
    left.legend()


def _size_figure(left: Axes, right: Axes, subject: Subject, cluster: Cluster) -> None:
    works = {
        size_px: workload_of(
            subject.config, size_px * subject.latent_side // subject.size_px, subject.segments
        )
        for size_px in _sizes(subject)
    }
    _pair(left, right, works, cluster, subject.name)
    _name(left, right, cluster, "side of the pictures, px")
    for axes in (left, right):
        axes.set_xscale("log")
        _ticks(axes, list(works))


def _gpus_figure(left: Axes, right: Axes, subject: Subject, cluster: Cluster) -> None:
    """Days of a billion images at a fixed batch, and the share of the peak, by way."""
    nums = [2**n for n in range(20) if 2**n <= 4 * cluster.num_gpus and cluster.batch % 2**n == 0]
    curves: dict[str, list[tuple[int, Way]]] = {}
    for num in nums:
        for way in ways_of(subject.workload, dataclasses.replace(cluster, num_gpus=num)):
            if way.fits and way.num_gpus == num:
                curves.setdefault(way.strategy, []).append((num, way))
    for name, found in curves.items():
        rates = [way.images_per_second for _, way in found]
        places, days = [num for num, _ in found], [BILLION / rate / 86_400 for rate in rates]
        each = subject.workload.products.training_flops / cluster.gpu.peak_flops
        shares = [rate / num * each for (num, _), rate in zip(found, rates, strict=True)]
        left.plot(places, days, marker=MARKERS[name], label=name, markersize=5)
        right.plot(places, shares, marker=MARKERS[name], label=name, markersize=5)
    left.set(title="days per billion images", xscale="log", yscale="log")
    right.set(title="share of the peak", xscale="log", ylim=(0, 1))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        axes.set_xlabel(f"{cluster.gpu.name}s, {cluster.batch} samples a step")
        _ticks(axes, nums)
    _plain(left)
    left.legend()


def _pair(
    left: Axes, right: Axes, works: dict[int, Workload], cluster: Cluster, label: str
) -> None:
    found = {place: _best(work, cluster) for place, work in works.items()}
    rates = {place: way.images_per_second / way.num_gpus for place, way in found.items() if way}
    days = [BILLION / rate / 86_400 for rate in rates.values()]
    left.plot(list(rates), days, "o-", label=label, markersize=5)
    right.plot(list(rates), list(rates.values()), "o-", label=label, markersize=5)


def _best(work: Workload, cluster: Cluster) -> Way | None:
    """The advised way with `PER_GPU` samples on each GPU; None where nothing fits."""
    larger = dataclasses.replace(cluster, batch=PER_GPU * cluster.num_gpus)
    try:
        return advised(ways_of(work, larger), larger.num_gpus)
    except ValueError:
        return None


def _sizes(subject: Subject) -> list[int]:
    """The usual sizes and the subject's own that the network takes, ascending."""
    sizes = {*SIZES_PX, subject.size_px} if subject.size_px >= 256 else {subject.size_px}
    if len(sizes) == 1:
        sizes |= {2 * subject.size_px}
    scale = subject.size_px // subject.latent_side
    return sorted(px for px in sizes if _takes(subject.config, px // scale))


def _takes(config: object, side: int) -> bool:
    most = getattr(config, "max_latent_side", None)
    return (most is None or side <= most) and side % getattr(config, "latent_multiple", 1) == 0


def _name(left: Axes, right: Axes, cluster: Cluster, place: str) -> None:
    name, num = cluster.gpu.name, cluster.num_gpus
    left.set(title=f"{name}-days per billion images", xlabel=place, yscale="log")
    right.set(
        title=f"images/s on each of {num}, {PER_GPU} samples a step", xlabel=place, yscale="log"
    )
    _plain(left)
    _plain(right)


def _ticks(axes: Axes, places: Sequence[int]) -> None:
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
