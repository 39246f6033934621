"""The machine that computes: its processor and its cores. Standard library only."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Name of the processor; its architecture where the system tells no more."""
    # Linux tells `platform` only the architecture.
    told = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    return processor_in(told) or platform.processor() or platform.machine() or "unknown"


def processor_in(cpuinfo: str) -> str | None:
    """The processor's name in the text of Linux's /proc/cpuinfo, None if it is not told."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return None


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
