"""What a figure was measured on."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """Processor, cores, versions, and how busy the machine is, ready for JSON."""
    return {
        "cpu": cpu_model(_text(Path("/proc/cpuinfo"))) or platform.processor() or "unknown",
        "cores": num_cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(cpuinfo: str) -> str | None:
    """The processor's name in the text of Linux's /proc/cpuinfo, None if it is not told."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
