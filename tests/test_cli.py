"""The program as its users meet it: help, exit codes, one line per mistake."""

import errno
import json
import os
import shlex
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import typer

import rectiflow
from rectiflow.cli import console
from rectiflow.cli.main import app, is_disk_full, main, mistake
from rectiflow.errors import DataError, DiskFullError, NonFiniteError

VERBS = [
    ("quickstart",),
    ("train",),
    ("sample",),
    ("evaluate",),
    ("data", "preview"),
    ("data", "encode"),
    ("data", "verify"),
    ("model", "info"),
    ("plan",),
    ("runs", "list"),
    ("runs", "show"),
    ("runs", "compare"),
    ("runs", "plot"),
    ("bench",),
    ("bundle",),
    ("convert",),
    ("study", "architectures"),
    ("study", "formulations"),
    ("study", "measure"),
]


def command_of(words):
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return command


@pytest.fixture
def jobs(monkeypatch):
    """`rectiflow.jobs` with a training that does as it is told."""
    module = types.ModuleType("rectiflow.jobs")
    module.calls = []

    def run_training(recipe, overrides, run_folder, dry_run, progress):
        module.calls.append((recipe, overrides, run_folder, dry_run))
        if module.error is not None:
            raise module.error
        progress("training", 1, 2, {"loss": 1.0})
        return module.result

    module.run_training, module.error = run_training, None
    module.result = {"status": "finished", "message": "finished 2 steps", "val_loss": 0.5}
    monkeypatch.setitem(sys.modules, "rectiflow.jobs", module)
    monkeypatch.setattr("rectiflow.jobs", module, raising=False)
    return module


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_one_example_that_parses(verb, capsys):
    assert main([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    _, separator, example = text.partition("Example:\n")
    assert separator
    words = shlex.split(" ".join(example.split()))
    assert tuple(words[: 1 + len(verb)]) == ("rectiflow", *verb)
    command_of(verb).make_context(verb[-1], words[1 + len(verb) :])


def test_long_work_can_be_tried_dry():
    verbs = ("quickstart", "train", "sample", "evaluate", "bench", "bundle", "convert")
    studies = [("study", name) for name in ("architectures", "formulations")]
    for verb in (*((verb,) for verb in verbs), *studies):
        options = [name for option in command_of(verb).params for name in option.opts]
        assert "--dry-run" in options, verb
        assert "--json" in options, verb


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["sampel"], "No such command 'sampel'"),
        (["sample", "--stepz", "3"], "No such option"),
        (["sample", "a star", "--steps", "many"], "'--steps'"),
        (["train"], "Missing argument"),
        (["sample"], "sample needs a prompt"),
        (["sample", "a star", "--steps", "0"], "num_steps must be >= 1, got 0"),
        (["sample", "a star", "--num", "0"], "num_images_per_prompt must be >= 1, got 0"),
        (["sample", "a star", "--size", "big"], "--size must be WIDTHxHEIGHT"),
        (["sample", "a star", "--size", "64x"], "--size must be WIDTHxHEIGHT"),
        (["sample", "a star", "--solver", "rk9"], "solver must be one of"),
        (["sample", "a star", "--grid", "cubic"], "grid must be one of"),
        (["sample", "a star", "--skip-layers", "7-9"], "as 7,8,9, or none, got '7-9'"),
        (["sample", "a star", "--skip-layers", "1", "--skip-scale", "0"], "skip_scale must be > 0"),
        (["sample", "a star", "--skip-layers", "1", "--skip-end", "0"], "0 <= start < end <= 1"),
        (["sample", "a star", "--skip-layers", "1", "--skip-start", "1"], "0 <= start < end <= 1"),
        (["sample", "a star", "--strength", "0.5"], "--strength needs --image"),
        (["sample", "a star", "--image", "no/such.png"], "--image no/such.png: unreadable file"),
        (["sample", "a star", "--mask", __file__], f"--mask {__file__}: damaged picture"),
        (["sample", "a star", "--device", "tpu", "--dry-run"], "got 'tpu'"),
        (["sample", "a star", "--precision", "fp8", "--dry-run"], "got 'fp8'"),
        (["sample", "a star", "--without", "bert"], "bert"),
        (["sample", "--prompts", "no/such.txt"], "no such prompt file: no/such.txt"),
        (["sample", "a star", "--bundle", "no-such"], "no bundle or run 'no-such'"),
        (["sample", "a star", "--run", "no/run"], "no/run"),
        (["sample", "a star", "--run", "a", "--bundle", "b"], "got --run a and --bundle b"),
        (["sample", "a star", "--bundle", "b", "--model", "m"], "got --bundle b and --model m"),
        (["sample", "a star", "--model", "no/such/model"], "no file or folder no/such/model"),
        (["sample", "a star", "--model", "someone/model"], "give --download"),
        (["sample", "a star", "--t5-tokens", "9"], "--t5-tokens is for released models: give --m"),
        (
            ["sample", "a star", "--tokenizers", "x", "--download"],
            "--tokenizers, --download are fo",
        ),
        (["evaluate", "--run", "a", "--images", "b"], "only one of them"),
        (["evaluate", "--images", "b", "--seed", "1"], "--seed cannot go with --images"),
        (["evaluate", "--images-per-prompt", "0"], "'--images-per-prompt'"),
        (["evaluate", "--device", "tpu", "--dry-run"], "device must be auto, cpu, cuda or mps"),
        (["evaluate", "--images", "no/such"], "no folder of pictures at no/such"),
        (["data", "preview", "no/such"], "no such folder of pictures: no/such"),
        (["model", "info", "no-such"], "no bundle or run 'no-such'"),
        (["bundle", "--run", "no/run", "--out", "x"], "no/run"),
        (["study", "architectures", "--match", "time"], "no study at matched 'time'"),
        (["study", "formulations", "--only", "rf/cosmpa"], "did you mean rf/cosmap"),
        (["study", "formulations", "--dry-run"], "--minutes-per-run or --steps-per-run"),
        (["study", "measure", "no/run"], "no/run is not a run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_on_stderr_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_train_hands_everything_to_the_job(jobs, tmp_path, capsys):
    run = tmp_path / "first"
    arguments = ["train", "scenes-tiny", "--run", str(run), "--set", "model.depth=2", "--json"]
    assert main(arguments) == 0
    assert jobs.calls == [("scenes-tiny", ["model.depth=2"], run, False)]
    assert json.loads(capsys.readouterr().out) == jobs.result


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        ("finished", "finished 2 steps", 0),
        ("interrupted", "stopped by Ctrl-C", 130),
        ("interrupted", "stopped by SIGTERM", 143),
        ("out_of_time", "stopped by the clock at 1.5 x 1 minutes", 1),
    ],
)
def test_training_that_stopped_early_says_so_and_does_not_exit_0(
    jobs, status, message, code, capsys
):
    jobs.result = {"status": status, "message": message, "loss": 0.5}
    assert main(["train", "scenes-tiny"]) == code
    assert message in capsys.readouterr().out


def test_the_default_run_folder_is_named_after_the_recipe(jobs):
    assert main(["train", "recipes/mine.toml", "--dry-run"]) == 0
    assert str(jobs.calls[0][2]) == os.path.join("runs", "mine")
    assert jobs.calls[0][3] is True


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("unknown setting a;\n  did you mean b?"), 2, "a; did you mean b?"),
        (DataError("model.safetensors is damaged"), 2, "model.safetensors is damaged"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.toml"), 2, "No such file: x.toml"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "Permission denied: runs"),
        (OSError(errno.EROFS, "Read-only file system", "runs"), 2, "Read-only file system: runs"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "the disk is full"),
        (DiskFullError("the disk of runs/a is full"), 2, "the disk of runs/a is full"),
        (NonFiniteError("loss is nan at step 7"), 1, "loss is nan at step 7"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_work_become_a_line_and_a_code(jobs, error, code, line, capsys):
    jobs.error = error
    assert main(["train", "scenes-tiny"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("rectiflow: ")
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_failures_of_the_program_keep_their_traceback(jobs):
    jobs.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "scenes-tiny"])


def test_debug_shows_the_traceback_of_a_mistake_too(jobs):
    jobs.error = ValueError("a mistake")
    with pytest.raises(ValueError, match="a mistake"):
        main(["--debug", "train", "scenes-tiny"])


def test_ctrl_c_exits_130_without_a_traceback(jobs, capsys):
    jobs.error = KeyboardInterrupt()
    assert main(["train", "scenes-tiny"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_is_known_from_text_and_cause_too():
    wrapped = RuntimeError("I/O error: No space left on device (os error 28)")
    assert is_disk_full(wrapped)
    outer = RuntimeError("cannot save")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full" in mistake(outer)
    assert mistake(RuntimeError("something else")) is None
    assert mistake(OSError(errno.EIO, "Input/output error", "a/b")) is None  # the disk's failure


def test_a_closed_pipe_ends_the_program_quietly():
    program = f"set -o pipefail; {shlex.quote(sys.executable)} -m rectiflow --help | true"
    environment = {**os.environ, "PYTHONPATH": str(Path(rectiflow.__file__).parent.parent)}
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == ""
    assert done.returncode in {0, 1}


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Progress() as progress:
        for done in range(5):
            progress("training", done, 4, {"loss": 0.25, "note": "text is left out"})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training 0/4")
    assert lines[-1].startswith("training 4/4")
    assert 2 < len(lines) < 5  # one per ten seconds, and the last
    assert all("loss 0.25" in line and "text" not in line for line in lines)
    assert "s left" in lines[1]


def test_progress_may_not_know_its_end(capsys):
    with console.Progress() as progress:
        progress("training", 3, None)
    assert capsys.readouterr().err.startswith("training 3/?")


def test_warnings_are_one_line_without_source_code(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        console.show_warnings_as_notes()
        warnings.warn("prompt too long:\n 9 tokens were cut", stacklevel=1)
        warnings.warn("an API will change", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: prompt too long: 9 tokens were cut\n"


def test_preview_writes_a_sheet_and_tells_the_captions(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "preview", "scenes", "--num", "5", "--out", str(sheet), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sheet.is_file()
    assert len(facts["records"]) == 5
    assert set(facts["records"][0]["captions"]) == {"alt", "synthetic"}


def test_prompts_come_from_a_file_one_per_line(tmp_path):
    from rectiflow.cli.sample import read_prompts

    file = tmp_path / "prompts.txt"
    file.write_text("\ufefftwo red circles\n\n  a star \n", encoding="utf-8")
    assert read_prompts(file) == ["two red circles", "a star"]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_prompts(file)
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="must hold at least one prompt"):
        read_prompts(file)
