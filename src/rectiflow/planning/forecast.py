"""The whole plan of a run as plain facts, ready for JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rectiflow.nn.releases import RELEASES
from rectiflow.nn.sizes import num_parameters, products
from rectiflow.planning.advice import Cluster, Way, advised, reasons, ways_of
from rectiflow.planning.memory import Strategy
from rectiflow.planning.published import REACHED
from rectiflow.planning.storage import TABLE_7, paper_bytes, sample_bytes
from rectiflow.planning.subject import PAPER_BATCH, PAPER_STEPS, Subject

PAPER_FLOPS: Final = 5e22
"""Training FLOPs of the SD3 paper's largest model, as printed (arXiv:2403.03206, Sec. 5.3)."""

DAY_SECONDS: Final = 86_400
SHORT_STEP_SECONDS: Final = 0.02
_LARGEST: Final = ("mmdit-d38", "sd3.5-large", "sd3.5-large-turbo")


def forecast(
    subject: Subject,
    cluster: Cluster,
    *,
    images: float | None = None,
    strategy: Strategy | None = None,
) -> dict[str, Any]:
    """Everything that a run would cost.

    Args:
        subject: Network and data.
        cluster: What it runs on.
        images: Samples seen; None for the subject's own.
        strategy: How it is spread; None for the advised way.

    Raises:
        ValueError: If nothing fits, the strategy is not possible, or images are less than one.
    """
    if images is not None and not 1 <= images < float("inf"):
        raise ValueError(f"images must be >= 1, got {images}")
    ways = ways_of(subject.workload, cluster)
    best = advised(ways, cluster.num_gpus, strategy)
    seen = int(images or 0) or subject.images or _images_in(subject, best)
    flops = subject.workload.products.training_flops
    days = seen / best.images_per_second / DAY_SECONDS
    is_timed = images is None and subject.images is None  # it takes so many minutes, come what may
    facts = {
        "name": subject.name,
        "size_px": subject.size_px,
        "network": _network(subject),
        "cluster": dataclasses.asdict(cluster),
        "run": {
            "images": seen,
            "batch": cluster.batch,
            "num_steps": -(-seen // cluster.batch),
            "training_flops": flops * seen,
        },
        "ways": [_way(way, cluster, flops) for way in ways],
        "usable_bytes": int(cluster.usable_bytes),
        "advised": {
            **_way(best, cluster, flops),
            "reasons": reasons(best, ways, cluster.usable_bytes),
        },
        "days": days,
        "days_as_published": [] if is_timed else [days / share for share in reversed(REACHED)],
        "gpu_hours": days * 24 * cluster.num_gpus,
        "kwh": days * 24 * cluster.num_gpus * cluster.gpu.watts / 1000,
        "storage": _storage(subject),
        "notes": _notes(subject, best, cluster),
    }
    return facts | ({"paper": paper_run()} if subject.name in _LARGEST else {})


def paper_run() -> dict[str, float]:
    """The SD3 paper's largest run: its printed FLOPs, and what is counted of its 256 px stage.

    Returns:
        `printed_flops`; `counted_flops` of 500,000 steps of 4096 at 256 px; `naive_flops` of the
        same by 6 FLOPs per weight and token, as if every token met every weight.
    """
    config, images, tokens = RELEASES["mmdit-d38"], PAPER_STEPS * PAPER_BATCH, 16 * 16 + 154
    return {
        "printed_flops": PAPER_FLOPS,
        "counted_flops": float(products(config, 32, 32, 154).training_flops * images),
        "naive_flops": float(6 * num_parameters(config) * tokens * images),
    }


def _images_in(subject: Subject, way: Way) -> int:
    return max(1, round(60 * (subject.minutes or 0) * way.images_per_second))


def _network(subject: Subject) -> dict[str, Any]:
    work = subject.workload
    return {
        "kind": work.kind,
        "parameters": work.parameters,
        "num_text_tokens": sum(subject.segments),
        "forward_flops": work.products.forward_flops,
        "training_flops": work.products.training_flops,
        "layer_macs": work.products.layers,
        "kept_bytes": work.kept_bytes,
        "checkpointed_bytes": work.checkpointed_bytes,
    }


def _way(way: Way, cluster: Cluster, flops: int) -> dict[str, Any]:
    rate = way.images_per_second
    return {
        "strategy": way.strategy,
        "num_gpus": way.num_gpus,
        "microbatch": way.microbatch,
        "num_microbatches": way.num_microbatches,
        "is_checkpointed": way.is_checkpointed,
        "memory_bytes": dict(way.memory),
        "fits": way.fits,
        "step_seconds": {**dataclasses.asdict(way.step), "total": way.step.seconds},
        "images_per_second": rate,
        "flops_per_gpu": rate * flops / way.num_gpus,
        "share_of_peak": rate * flops / way.num_gpus / cluster.gpu.peak_flops,
    }


def _storage(subject: Subject) -> Mapping[str, Any]:
    return {
        "sample_bytes": sample_bytes(subject.arrays, subject.num_captions),
        "num_captions": subject.num_captions,
        "paper_table_7": dict(TABLE_7),
        "paper_sample_bytes": paper_bytes(subject.size_px),
    }


def _notes(subject: Subject, way: Way, cluster: Cluster) -> Sequence[str]:
    """What limits this plan's word."""
    notes = []
    if not subject.is_bf16:
        notes.append("the recipe trains in fp32; what is told is of bf16")
    if subject.workload.is_estimate:
        notes.append(
            "activations and the time between products are estimates: counted in float32, times "
            "the share that an MM-DiT keeps under autocast"
        )
    if way.step.seconds < SHORT_STEP_SECONDS and cluster.gpu.name != "cpu":
        notes.append("a step this short is bound by launches of kernels, which are not modelled")
    if cluster.optimizer == "muon" and not subject.workload.muon_weights:
        notes.append("Muon's products are not modelled for this kind; counted as AdamW")
    return notes
