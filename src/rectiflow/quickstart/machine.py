"""The machine that a report comes from."""

import platform
from datetime import datetime

import torch

from rectiflow import __version__
from rectiflow.machine import num_cores, processor


def machine_facts(device: str) -> dict[str, str]:
    """What decides how fast a run is, by name, for a person to read."""
    facts = {
        "processor": processor(),
        "cores": f"{num_cores()} usable; threads of torch: {torch.get_num_threads()}",
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "rectiflow": __version__,
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    if device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
    return facts
