"""Which device computes, and in which precision. Imports torch and nothing of ours."""

import ctypes
import platform

import torch

PRECISIONS = ("auto", "fp32", "bf16")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" takes the fastest kind that this machine has.

    Raises:
        ValueError: If the name is unknown or this machine has no such device.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in present.items() if is_there)
    kind = name.partition(":")[0]
    if kind not in present:
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {name!r}")
    if not present[kind]:
        raise ValueError(f"device {name} is not available on this machine; use cpu")
    try:
        return torch.device(name)
    except RuntimeError:  # such as cuda:first
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {name!r}") from None


def resolve_precision(name: str, device: torch.device) -> str:
    """`fp32` or `bf16`; "auto" is bf16 where the device multiplies bf16 faster than fp32.

    That is: CUDA devices that have it, and CPUs with AVX-512 BF16 or AMX.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return name
    is_fast = torch.cuda.is_bf16_supported if device.type == "cuda" else _cpu_multiplies_bf16
    return "bf16" if device.type in ("cuda", "cpu") and is_fast() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    # Releases of torch without this function say nothing of the processor; fp32 is then safe.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones of this process.

    By default it hands every large block back to the system at once, and each training step on a
    CPU then pays a page fault per 4 KiB for the same blocks as the step before
    (docs/benchmarks.md).

    Returns:
        Whether the C library is glibc and took the two settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # The first is the largest that glibc takes; to set either ends their adapting by themselves.
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
