"""`rectiflow convert` as its users meet it."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

import rectiflow
from rectiflow.cli.convert import parse_bytes
from rectiflow.cli.main import app, main
from tests.interop.networks import DUAL, network, write_stability


@pytest.fixture
def source(tmp_path):
    return write_stability(tmp_path / "m.safetensors", network(DUAL))


def test_a_dry_run_tells_the_plan_and_writes_nothing(source, tmp_path, capsys):
    command = ["convert", str(source), str(tmp_path / "x"), "--to", "diffusers", "--dry-run"]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == "stability"
    assert facts["network"]["dual_attention"] == [0]
    assert facts["files"] == ["diffusion_pytorch_model.safetensors"]
    assert main(command) == 0
    assert "would become" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_packaged_bundle_is_converted_by_name(tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    command = ["convert", "scenes-tiny", str(target), "--to", "stability", "--dtype", "bf16"]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"]["depth"] == 4
    assert facts["bytes"] == sum(2 * x.numel() for x in load_file(target).values())
    assert {x.dtype for x in load_file(target).values()} == {torch.bfloat16}


def test_the_size_of_shards_is_taken(source, tmp_path, capsys):
    command = ["convert", str(source), str(tmp_path / "x"), "--to", "diffusers", "--json"]
    assert main([*command, "--shard-size", "1MB"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert len(files) > 1
    assert {path.name for path in (tmp_path / "x" / "transformer").glob("*.safetensors")} == set(
        files
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "comfy"], "--to must be one of diffusers, stability, got 'comfy'"),
        (
            ["--to", "diffusers", "--dtype", "fp8"],
            "--dtype must be one of fp32, fp16, bf16 or keep",
        ),
        (["--to", "diffusers", "--shard-size", "many"], "--shard-size must be a size such as 5GB"),
        (["--to", "stability"], "one file ending in .safetensors"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, arguments, told):
    assert main(["convert", str(source), str(tmp_path / "x"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_sizes_are_in_powers_of_ten():
    assert parse_bytes("5GB") == 5 * 10**9
    assert parse_bytes("1.5 mb") == 1_500_000
    assert parse_bytes("300000") == 300_000
    assert parse_bytes("9" * 400 + "GB") > 10**400  # more than a float holds
    for text in ("", "0", "-1GB", "5TB", "GB"):
        with pytest.raises(ValueError, match="--shard-size must be a size"):
            parse_bytes(text)


def test_the_commands_of_the_how_to_page_parse():
    page = (Path(rectiflow.__file__).parents[2] / "docs" / "sd3_files.md").read_text("utf-8")
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("rectiflow ")]
    assert {words[1] for words in commands} == {"convert", "sample"}
    program = typer.main.get_command(app)
    for _, verb, *arguments in commands:
        program.commands[verb].make_context(verb, arguments)
