import os
import platform

import pytest

from rectiflow import machine
from rectiflow.machine import num_cores, processor, processor_in

LISTING = "processor\t: 0\nvendor_id\t: Acme\nmodel name\t: Acme 9 CPU @ 2: turbo\nflags : a b\n"


def test_a_processor_is_told_by_the_name_of_its_model():
    assert processor_in(LISTING) == "Acme 9 CPU @ 2: turbo"
    assert processor_in("") is None
    assert processor_in("model name\t: \n") is None


def test_a_system_without_a_listing_tells_what_the_platform_knows(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "acme64")
    assert processor() == "acme64"
    machine.CPUINFO.write_text(LISTING, encoding="utf-8")
    assert processor() == "Acme 9 CPU @ 2: turbo"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_only_the_cores_that_the_process_may_use_count():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert num_cores() == len(before)
