"""What a figure was measured on."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rectiflow.machine import num_cores, processor


def machine_facts() -> dict[str, Any]:
    """Processor, cores, versions, and how busy the machine is, ready for JSON."""
    return {
        "cpu": processor(),
        "cores": num_cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.now(UTC).date().isoformat(),
    }
