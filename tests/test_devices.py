import platform
import subprocess
import sys

import pytest
import torch

from rectiflow.devices import keep_freed_memory, resolve_device, resolve_precision


def test_auto_takes_the_fastest_kind_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for has_cuda, kind in ((True, "cuda"), (False, "mps")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        assert resolve_device("auto").type == kind


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda is not available on this machine; use cpu"):
        resolve_device("cuda")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or mps, got 'tpu'"):
        resolve_device("tpu")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or mps, got 'cpu:one'"):
        resolve_device("cpu:one")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_precision_follows_what_the_processor_multiplies(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == precision
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"


def test_an_older_torch_that_cannot_tell_computes_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, got 'fp16'"):
        resolve_precision("fp16", torch.device("cpu"))


def test_freed_memory_is_kept_where_glibc_is_and_nothing_happens_elsewhere(monkeypatch):
    if platform.libc_ver()[0] == "glibc":
        code = (
            "import resource, torch\n"
            "from rectiflow.devices import keep_freed_memory\n"
            "def faults():\n"
            "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "    for _ in range(50): torch.ones(2**20)\n"
            "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
            "first = faults(); assert keep_freed_memory(); faults(); print(first, faults())"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        before, after = map(int, told.stdout.split())
        assert after < 100  # a fraction of one tensor's 1024 pages
        assert after <= before
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
