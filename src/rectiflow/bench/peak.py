"""What a device can do at most: products of large square matrices, and memory at the fullest."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch

from rectiflow.bench.timing import rates


def product_rates(
    side: int, dtype: torch.dtype, device: torch.device, num_repeats: int
) -> list[float]:
    """GFLOPs per second of a product of two square matrices of random numbers."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def multiply(_: int) -> int:
        torch.mm(a, b)
        wait_for(device)
        return 2 * side**3

    return [rate / 1e9 for rate in rates(multiply, num_repeats)]


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that `run` takes at once beside what was held before, in bytes.

    Torch's own allocations; not the workspaces of the libraries it calls.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    kineto = profile.profiler
    assert kineto is not None
    assert kineto.kineto_results is not None
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    sizes: Any = [event.nbytes() for event in events]  # pyright: ignore[reportAttributeAccessIssue]
    return max(accumulate(sizes, initial=0))
