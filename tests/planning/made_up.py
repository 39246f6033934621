"""A workload of round numbers."""

from rectiflow.nn.products import Products
from rectiflow.planning.gpus import Gpu
from rectiflow.planning.workload import Workload


def workload(**changes) -> Workload:
    """A thousand weights in ten blocks; forward 2 200, training 6 400 FLOPs a sample."""
    settings = {
        "kind": "made-up",
        "parameters": 1000,
        "products": Products(layers=1000, attention=100, first=100),
        "num_blocks": 10,
        "kept_bytes": 900,
        "checkpointed_bytes": 200,
        "is_estimate": False,
        "copy_bytes": 2000,
        "constant_bytes": 16,
        "muon_weights": 600,
        "width": 8,
    }
    return Workload(**(settings | changes))


def gpu(**changes) -> Gpu:
    """Nodes of 4; a thousand FLOPs and bytes a second."""
    settings = {
        "name": "made-up",
        "peak_flops": 1000.0,
        "matmul_share": 0.5,
        "memory_bytes": 100_000.0,
        "bandwidth": 1000.0,
        "bandwidth_share": 0.5,
        "link": 1e9,
        "nic": 1e8,
        "node_size": 4,
        "watts": 500.0,
        "source": "made up",
    }
    return Gpu(**(settings | changes))
