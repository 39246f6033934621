"""Work on a small disk of its own, which can be full or read-only.

As a program, on a disk that is mounted nowhere else:  python -m tests.faults.disks NAME DISK
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rectiflow import checkpoints
from rectiflow.errors import DiskFullError
from rectiflow.runs import Run
from tests.faults import trainings
from tests.faults.comparing import assert_nothing_half, assert_same_contents, assert_stores_whole
from tests.faults.killing import ROOT

MOUNT = 'mount -t tmpfs -o size=64m none "$0" && exec "$@"'
SHARES = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97)
"""Room that is left, of what an undisturbed run takes."""


def on_a_small_disk(name, folder):
    """Do a function of this module on a disk at `folder` that no other process sees."""
    folder.mkdir()
    begin = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*begin, "true"], check=False).returncode:
        pytest.skip("this system lets us mount no disk")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*begin, sys.executable, "-m", "tests.faults.disks", name, str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def train_while_it_fills_up(disk):
    """Each time the error says so in a line, nothing half is there, and room is all it needs."""

    def do():
        trainings.train(disk / "run")

    def check():
        assert_nothing_half(disk / "run")

    _fill_up(disk, do, check)


def encode_while_it_fills_up(disk):
    """The same of a preparation."""
    _fill_up(disk, lambda: trainings.encode(disk / "store"), lambda: assert_stores_whole(disk))


def train_where_it_is_read_only(disk):
    """The error says so in a line and where the last checkpoint is; writable, it goes on."""
    undisturbed, run = Path(f"{disk}-undisturbed"), Run(disk / "run")
    trainings.train(undisturbed)
    with pytest.raises(trainings.Killed):
        trainings.train(run.folder, kill_at=7)
    newest = checkpoints.newest(run)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(PermissionError, match="cannot be written to: Read-only") as caught:
        trainings.train(run.folder)
    assert f"the last one, {newest}, is intact" in str(caught.value)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    trainings.train(run.folder)
    assert_same_contents(run.folder, undisturbed)


def _fill_up(disk, do, check):
    do()
    used = _room(disk, of="f_blocks") - _room(disk)
    undisturbed = Path(f"{disk}-undisturbed")
    shutil.copytree(disk, undisturbed)
    for share in SHARES:
        for entry in disk.iterdir():
            shutil.rmtree(entry)
        with (disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, _room(disk) - int(share * used) // 4096 * 4096)
        with pytest.raises(DiskFullError) as caught:
            do()
        assert "\n" not in str(caught.value)
        check()
        (disk / "ballast").unlink()
        do()
        assert_same_contents(disk, undisturbed)


def _room(disk, of="f_bavail"):
    facts = os.statvfs(disk)
    return getattr(facts, of) * facts.f_frsize


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
