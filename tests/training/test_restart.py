"""N steps are k steps, a killed process, and N - k steps: bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem

from rectiflow import checkpoints, tensor_folder
from rectiflow.errors import DataError, DiskFullError
from rectiflow.runs import Run, without_clock
from rectiflow.training import checkpoint
from rectiflow.training.objectives.base import Terms
from tests.training.tiny import TinySource, shard_of, tiny_objective, tiny_settings, tiny_train

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the processes started here: sums of floats may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(folder, *assignments):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.tiny", str(folder), *assignments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def finish(folder, *assignments):
    process = start(folder, *assignments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


class Killed(BaseException):
    """What a kill is to a run inside this process: nothing is tidied up by the loop."""


def killing_at(last_step):
    def on_progress(step, num_steps, metrics):
        if step == last_step:
            raise Killed

    return on_progress


@pytest.fixture
def uninterrupted(tmp_path):
    folder = tmp_path / "uninterrupted"
    assert tiny_train(folder).status == "finished"
    return Run(folder)


def assert_same_run(run, reference):
    ours, theirs = (checkpoint.load(checkpoints.newest(r)) for r in (run, reference))
    assert ours.step == theirs.step == 12
    assert ours.tensors.keys() == {"model", "ema", "optimizer"}
    for group, tensors in theirs.tensors.items():
        assert ours.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[group][name], tensor), f"{group} {name}"
    metrics, expected = ([without_clock(row) for row in r.metrics()] for r in (run, reference))
    assert metrics == expected
    assert [row["step"] for row in metrics] == [2, 4, 5, 6, 8, 10, 12]


def test_a_run_killed_in_the_middle_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    run = Run(tmp_path / "run")
    code, output = finish(run.folder, "kill_at=9", "async_checkpoints=false")
    assert code == -signal.SIGKILL
    assert output.split() == [str(step) for step in range(1, 10)]
    # Killed four steps after its last checkpoint, with lines of metrics that it will write again.
    assert checkpoints.newest(run).name == "step-00000005"
    assert run.metrics()[-1]["step"] == 8
    assert run.result() is None
    code, output = finish(run.folder)
    assert code == 0
    assert output.split()[:2] == ["6", "7"]
    assert_same_run(run, uninterrupted)
    assert run.result()["status"] == "finished"


def test_sigterm_stops_with_a_checkpoint_and_says_so(uninterrupted, tmp_path):
    run = Run(tmp_path / "run")
    process = start(run.folder, "pause=0.2")
    while process.stdout.readline().strip() != "7":
        pass
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "interrupted stopped by SIGTERM: checkpoint of step" in output
    assert "the same command resumes" in output
    step = checkpoint.load(checkpoints.newest(run)).step
    assert 7 <= step < 12  # off the cadence of checkpoints, and of lines too if 7, 9 or 11
    assert tiny_train(run.folder).status == "finished"
    assert_same_run(run, uninterrupted)


def test_ctrl_c_stops_after_the_step_at_hand(uninterrupted, tmp_path):
    def interrupt(step, num_steps, metrics):
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    run, before = Run(tmp_path / "run"), signal.getsignal(signal.SIGINT)
    result = tiny_train(run.folder, on_progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert (result.status, result.step) == ("interrupted", 7)
    assert result.message.startswith("stopped by Ctrl-C: checkpoint of step 7 written")
    assert run.result() is None
    tiny_train(run.folder)
    assert_same_run(run, uninterrupted)


def test_a_run_killed_before_its_first_checkpoint_starts_again(uninterrupted, tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(Killed):
        tiny_train(run.folder, on_progress=killing_at(3))
    assert run.metrics()[-1]["step"] == 2
    tiny_train(run.folder)
    assert_same_run(run, uninterrupted)


def test_a_run_killed_before_its_result_has_the_metrics_of_the_whole_run(uninterrupted):
    expected = uninterrupted.result()
    uninterrupted.result_path.unlink()
    tiny_train(uninterrupted.folder)
    result = uninterrupted.result()
    assert without_clock(result["metrics"]) == without_clock(expected["metrics"])
    assert result["metrics"]["val_loss_ema"] > 0


def test_cadence_and_workers_do_not_enter_the_weights(uninterrupted, tmp_path):
    run = Run(tmp_path / "run")
    settings = tiny_settings(checkpoint_every_steps=2, num_workers=2)
    with pytest.raises(Killed):
        tiny_train(run.folder, settings, on_progress=killing_at(5))
    settings = tiny_settings(
        checkpoint_every_steps=1,
        log_every_steps=3,
        validate_every_steps=0,
        async_checkpoints=False,
    )
    tiny_train(run.folder, settings)
    ours, theirs = (checkpoint.load(checkpoints.newest(r)) for r in (run, uninterrupted))
    for group, tensors in theirs.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[group][name], tensor), f"{group} {name}"
    assert len(checkpoints.list_checkpoints(run)) == 2  # training.retain.newest


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    files = [uninterrupted.metrics_path, uninterrupted.result_path]
    before = [file.read_bytes() for file in files]
    result = tiny_train(uninterrupted.folder)
    assert (result.status, result.step) == ("finished", 12)
    assert [file.read_bytes() for file in files] == before


def test_a_damaged_checkpoint_is_named(tmp_path):
    tiny_train(tmp_path, tiny_settings(num_steps=10))
    newest = checkpoints.newest(Run(tmp_path))
    shards = [f"{group}/{shard_of(newest, group).name}" for group in ("model", "optimizer")]
    for name in (*shards, "state.json"):
        content = (newest / name).read_bytes()
        for position in (len(content) // 2, len(content) - 20):
            damaged = bytearray(content)
            damaged[position] ^= 1
            (newest / name).write_bytes(damaged)
            with pytest.raises(DataError, match=f"checkpoint is damaged: .*{name}"):
                checkpoint.load(newest)
        (newest / name).unlink()
        with pytest.raises(DataError, match=name):
            checkpoint.load(newest)
        (newest / name).write_bytes(content)
    assert checkpoint.load(newest).step == 10
    assert [path.name[-2:] for path in checkpoints.list_checkpoints(Run(tmp_path))] == ["05", "10"]


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint(tmp_path):
    run = Run(tmp_path)
    tiny_train(tmp_path, tiny_settings(num_steps=5))
    (run.checkpoints / ".partial-step-00000009").mkdir()
    (run.checkpoints / ".old-step-00000001").mkdir()
    (tmp_path / ".result.json.17.partial").touch()
    (tmp_path / ".export.17.partial").mkdir()
    (run.samples).mkdir()
    (run.samples / ".step-00000005.png.17.partial").touch()
    assert checkpoints.newest(run).name == "step-00000005"
    checkpoint.tidy(run, tiny_settings())
    assert not [path for path in tmp_path.rglob(".*")]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000005"]


def test_a_full_disk_leaves_the_earlier_checkpoints_and_one_line(tmp_path, monkeypatch):
    def write_a_part(folder, *rest):
        if "step-00000005" not in str(folder):
            folder.mkdir()
            (folder / "part").write_bytes(b"part")
            raise OSError(28, "No space left on device")
        original(folder, *rest)

    original = tensor_folder.write
    monkeypatch.setattr(tensor_folder, "write", write_a_part)
    with pytest.raises(DiskFullError, match=r"is full; .*step-00000005, is intact") as caught:
        tiny_train(tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in Run(tmp_path).checkpoints.iterdir()] == ["step-00000005"]
    monkeypatch.setattr(tensor_folder, "write", original)
    assert tiny_train(tmp_path).status == "finished"


@pytest.mark.parametrize("is_async", [True, False])
def test_a_full_disk_inside_the_tensor_library_is_recognised(tmp_path, monkeypatch, is_async):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystem, "create_stream", fail)
    settings = tiny_settings(async_checkpoints=is_async)
    with pytest.raises(DiskFullError, match="none was written before"):
        tiny_train(tmp_path, settings)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_loss_that_is_not_finite_stops_with_step_times_and_ids(tmp_path):
    objective = tiny_objective()
    original = objective.loss

    def loss(batch, draws):
        terms = original(batch, draws)
        broken = torch.tensor([name == "sample 3" for name in batch["ids"]])
        return Terms(torch.where(broken, torch.nan, terms.loss), terms.t)

    objective.loss = loss
    source = TinySource()
    position = [int(source.order.indices(torch.arange(24).numpy())[p]) for p in range(24)].index(3)
    with pytest.raises(RuntimeError, match="not finite") as caught:
        tiny_train(tmp_path, tiny_settings(num_microbatches=1), objective)
    message = str(caught.value)
    assert f"the loss is not finite at step {position // 8 + 1};" in message
    assert message.endswith("1 samples: sample 3")
    bins = message.partition("per tenth of t: ")[2].partition(";")[0].split()
    assert len(bins) == 10
    assert bins.count("nan") == 1


def test_a_run_goes_on_in_the_precision_it_began_in(tmp_path, monkeypatch):
    """What "auto" comes to depends on the processor."""
    settings = tiny_settings(precision="auto")
    monkeypatch.setattr("rectiflow.training.stepping.resolve_precision", lambda *_: "bf16")
    with pytest.raises(Killed):
        tiny_train(tmp_path, settings, on_progress=killing_at(7))
    monkeypatch.setattr("rectiflow.training.stepping.resolve_precision", lambda *_: "fp32")
    with pytest.raises(ValueError, match="began in bf16 and this machine would go on in fp32"):
        tiny_train(tmp_path, settings)
    monkeypatch.setattr("rectiflow.training.stepping.resolve_precision", lambda *_: "bf16")
    assert tiny_train(tmp_path, settings).status == "finished"
