"""Which device computes, and in which precision."""

import torch


def check_device(device: str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: If the name is unknown or there is no such device.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    name = device.partition(":")[0]
    if name not in there:
        raise ValueError(f"device must be cpu, cuda or mps, got {device!r}")
    if not there[name]:
        raise ValueError(f"device {device} is not available on this machine; use cpu")
    return torch.device(device)


def best_device() -> str:
    """The fastest kind of device that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into "bf16" on CUDA and "fp32" elsewhere.

    Raises:
        ValueError: If the name is unknown.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, got {precision!r}")
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision
