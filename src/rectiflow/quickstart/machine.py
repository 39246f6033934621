"""The machine that a report comes from."""

import os
import platform
from datetime import datetime
from pathlib import Path

import torch

from rectiflow import __version__


def machine_facts(device: str) -> dict[str, str]:
    """What decides how fast a run is, by name, for a person to read."""
    facts = {
        "processor": processor(),
        "cores": f"{num_cores()} usable; threads of torch: {torch.get_num_threads()}",
        "device": device,
        "system": platform.platform(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "rectiflow": __version__,
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    if device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
    return facts


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name of the processor."""
    # Linux tells `platform` only the architecture.
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
