"""The verbs that use a trained model, on a whole model of a few thousand weights."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from rectiflow.cli import console
from rectiflow.cli.main import main
from rectiflow.sampling.load import load
from rectiflow.sampling.released import ReleasedSettings, load_released
from tests.encoders.released import tiny as encoders_tiny
from tests.sampling import tiny, tiny_release


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("models") / "run")


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_sample_writes_pictures_that_say_how_they_were_made(run, tmp_path, capsys):
    out = tmp_path / "pictures"
    arguments = ["sample", "two red circles", "a blue star", "--run", str(run), "--out", str(out)]
    assert main([*arguments, "--num", "2", "--seed", "7", "--sheet", "--json"]) == 0
    names = [f"000{i}_{'two-red-circles' if i < 2 else 'a-blue-star'}.png" for i in range(4)]
    assert json.loads(capsys.readouterr().out) == [str(out / n) for n in [*names, "sheet.png"]]
    expected = load(run).sample(["two red circles", "a blue star"], num_images_per_prompt=2, seed=7)
    for name, image in zip(names, expected, strict=True):
        with Image.open(out / name) as written:
            assert np.array_equal(np.asarray(written), np.asarray(image))
            assert written.text == {key: str(value) for key, value in image.info.items()}


def test_a_released_model_is_drawn_from_its_file_with_text_from_elsewhere(tmp_path, capsys):
    model = tiny_release.write_single(tmp_path / "model", inside=["vae"])
    encoders = encoders_tiny.save_files(tmp_path / "encoders")
    (tmp_path / "model" / "tokenizer").rename(tmp_path / "moved")
    tokenizers = tmp_path / "tokenizers"
    shutil.move(tmp_path / "model" / "tokenizer_2", tokenizers / "tokenizer_2")
    drawing = ["--model", str(model), "--size", "32", "--steps", "2", "--solver", "euler"]
    where = ["--text-encoders", str(encoders), "--tokenizers", str(tokenizers)]
    left_out = ["--without", "t5", "--missing-t5", "zeros-77"]
    assert main(["sample", "two red circles", *drawing]) == 2
    assert "openai/clip-vit-large-patch14" in capsys.readouterr().err
    command = ["sample", "two red circles", *drawing, *where, "--precision", "fp32"]
    assert main([*command, *left_out, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["text_encoders"]["clip_g"] == str(encoders / "clip_g.safetensors")
    assert (plan["t5_tokens"], list(plan["text_encoders"])) == (77, ["clip_l", "clip_g"])
    assert (plan["options"]["grid"], plan["options"]["num_steps"]) == ("sd3", 2)
    for name, more in (("whole", ["--t5-tokens", "9"]), ("left_out", left_out)):
        assert main([*command, *more, "--out", str(tmp_path / name)]) == 0
    whole, other = (
        Image.open(tmp_path / name / "0000_two-red-circles.png") for name in ("whole", "left_out")
    )
    assert (whole.info["t5_tokens"], whole.info["without"]) == ("9", "")
    assert (other.info["t5_tokens"], other.info["missing_t5"]) == ("77", "zeros-77")
    assert whole.info["grid"] == "sd3"
    settings = ReleasedSettings(text_encoders=encoders, tokenizers=tokenizers, t5_tokens=9)
    pipeline = load_released(model, settings, precision="fp32")
    drawn = {"size": (32, 32), "num_steps": 2, "solver": "euler"}
    expected = pipeline.sample("two red circles", **drawn)[0]
    assert np.array_equal(np.asarray(whole), np.asarray(expected))
    assert not np.array_equal(np.asarray(whole), np.asarray(other))


def test_pictures_of_a_run_lie_in_its_samples(run):
    assert main(["sample", "a star", "--run", str(run)]) == 0
    assert (run / "samples" / "0000_a-star.png").is_file()


def test_a_bundle_made_from_the_run_draws_and_a_flipped_byte_stops_it(run, tmp_path, capsys):
    bundle, out = tmp_path / "bundle", tmp_path / "pictures"
    make = ["bundle", "--run", str(run), "--out", str(bundle)]
    assert main([*make, "--dry-run"]) == 0
    assert not bundle.exists()
    assert main([*make, "--precision", "int3", "--dry-run"]) == 2
    assert main(make) == 0
    command = ["sample", "a star", "--bundle", str(bundle), "--out", str(out)]
    assert main(command) == 0
    weights = bundle / "mmdit" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "model.safetensors is damaged" in error
    assert error.count("\n") == 1


def test_an_overlong_prompt_is_cut_with_a_warning_that_counts(run, tmp_path, capsys):
    long = " and ".join(["a red circle"] * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in the program; tests turn warnings into errors
        assert main(["sample", long, "--run", str(run), "--out", str(tmp_path / "a")]) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("warning: ")]
    assert len(told) == 1
    assert "tokens cut: clip_l " in told[0]
    assert any(character.isdigit() for character in told[0])


def test_a_dry_run_reads_no_weights_and_writes_nothing(run, tmp_path, capsys):
    shutil.rmtree(run / "checkpoints")
    given = {
        "--num": "2", "--seed": "7", "--negative": "a ring", "--steps": "9", "--guidance": "1.5",
        "--size": "48x32", "--solver": "heun", "--shift": "3", "--grid": "sd3", "--without": "t5",
        "--skip-layers": "0, 2", "--skip-scale": "2", "--skip-start": "0.1", "--skip-end": "0.5",
        "--device": "cpu", "--precision": "bf16",
    }  # fmt: skip
    options = [word for option in given.items() for word in option]
    assert main(["sample", "a star", "--run", str(run), *options, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["options"] == {
        "num_images_per_prompt": 2,
        "seed": 7,
        "negative": "a ring",
        "num_steps": 9,
        "guidance_scale": 1.5,
        "size": [48, 32],
        "solver": "heun",
        "shift": 3.0,
        "grid": "sd3",
        "skip_layers": [0, 2],
        "skip_scale": 2.0,
        "skip_start": 0.1,
        "skip_end": 0.5,
        "without": ["t5"],
    }
    assert (plan["device"], plan["precision"]) == ("cpu", "bf16")
    assert not (run / "samples").exists()


def test_sample_starts_from_a_picture_and_redraws_where_a_mask_is_white(run, tmp_path, capsys):
    picture, mask = tmp_path / "given.png", tmp_path / "mask.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    white = np.zeros((32, 48), np.uint8)
    white[:, :16] = 255
    Image.fromarray(pixels).save(picture)
    Image.fromarray(white).save(mask)
    files = ["--image", str(picture), "--mask", str(mask)]
    command = ["sample", "a star", "--run", str(run), *files, "--strength", "0.5", "--size", "32"]
    assert main([*command, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["image"], plan["mask"]) == (str(picture), str(mask))
    assert (plan["options"]["strength"], plan["options"]["size"]) == (0.5, [32, 32])
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    expected = load(run).sample("a star", image=pixels, mask=white, strength=0.5, size=(32, 32))[0]
    with Image.open(tmp_path / "out" / "0000_a-star.png") as written:
        assert np.array_equal(np.asarray(written), np.asarray(expected))
        assert written.text == {key: str(value) for key, value in expected.info.items()}
    Image.fromarray(white[:16]).save(mask)
    assert main(command) == 2
    assert "image and mask must be of one size, got 48x32 and 48x16" in capsys.readouterr().err


def test_evaluate_scores_a_run_and_the_pictures_it_kept(run, tmp_path, capsys):
    out = tmp_path / "suite"
    few = ["--prompts-per-task", "1", "--steps", "1", "--guidance", "1"]
    command = ["evaluate", "--run", str(run), "--out", str(out), *few, "--json"]
    assert main(command) == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["overall"] <= 1
    assert {"text", "strict", "heldout", "controls"} <= scores.keys()
    assert set(scores["controls"]) == {"ground_truth", "round_trip", "shuffled"}
    assert json.loads((out / "summary.json").read_text())["overall"] == scores["overall"]
    assert main(["evaluate", "--images", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["tasks"] == scores["tasks"]
    assert main(["evaluate", "--images", str(out)]) == 0
    table = capsys.readouterr().out
    assert "overall" in table
    assert "ground_truth" in table


def test_a_dry_evaluation_tells_what_would_be_scored(run, tmp_path, capsys):
    given = {
        "--images-per-prompt": "4", "--prompts-per-task": "1", "--steps": "3", "--guidance": "2",
        "--seed": "5", "--device": "cpu", "--precision": "fp32", "--out": str(tmp_path / "suite"),
    }  # fmt: skip
    options = [word for option in given.items() for word in option]
    assert main(["evaluate", "--run", str(run), *options, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluated"] == {
        "model": str(run),
        "seed": 5,
        "num_prompts": 12,  # seven tasks, five of them with held-out prompts
        "device": "cpu",
        "precision": "fp32",
        "images_per_prompt": 4,
        "options": {"num_steps": 3, "guidance_scale": 2.0},
    }
    assert not (tmp_path / "suite").exists()


def test_evaluate_takes_prompts_from_a_file(run, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    include = [{"shape": "circle", "count": 1}]
    prompt = {"tag": "single_object", "include": include, "prompt": "a circle", "scene_seed": 1}
    file.write_text(json.dumps(prompt) + "\n")
    command = ["evaluate", "--run", str(run), "--prompts", str(file), "--json", "--steps", "1"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["num_pictures"] == 1
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main([*command, "--out", str(tmp_path / name), "--seed", seed]) == 0
    drawn = [tmp_path / name / "00000" / "samples" / "0000.png" for name in "abc"]
    first, same, other = (np.asarray(Image.open(path)) for path in drawn)
    assert (first == same).all()
    assert (first != other).any()
    assert main(["evaluate", "--run", str(run), "--prompts", str(tmp_path / "none.jsonl")]) == 2
    file.write_text("not json\n")
    assert main(["evaluate", "--run", str(run), "--prompts", str(file)]) == 2


def test_model_info_counts_the_weights(run, capsys):
    assert main(["model", "info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    pipeline = load(run)
    assert facts["parameters"]["mmdit"] == sum(p.numel() for p in pipeline.network.parameters())
    assert facts["num_image_tokens"] == 4
    assert facts["largest_side_px"] == 64
    assert facts["picture_flops"] == 2 * 2 * facts["forward_flops"]
    recipe = json.loads((run / "config.json").read_text())
    recipe["sampling"]["solver"] = "heun"  # asks the network twice in a step
    (run / "config.json").write_text(json.dumps(recipe))
    assert main(["model", "info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picture_flops"] == 2 * facts["picture_flops"]
    assert main(["model", "info", str(run)]) == 0
    assert "forward_flops" in capsys.readouterr().out


def test_progress_of_drawing_is_told(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    assert main(["sample", "a star", "--run", str(run), "--out", str(tmp_path / "b")]) == 0
    assert "drawing 1/1" in capsys.readouterr().err
