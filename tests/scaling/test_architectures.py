import json

import pytest

from rectiflow.cli.main import main
from rectiflow.config import leaves
from rectiflow.evaluation.geneval import TASKS
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.subset import evenly
from rectiflow.nn.backbones import BACKBONES
from rectiflow.scaling.architectures import architecture_study
from rectiflow.scaling.costs import Cost, cost_of, matched_steps
from rectiflow.training.recipe import load_recipe

KINDS = {"mmdit2", "mmdit3", "dit", "crossdit", "uvit", "unet"}


def costs_of(study):
    return {v.name: cost_of(study.recipe, v.settings) for v in study.variants}


def test_training_flops_agree_within_a_hundredth_and_shapes_nearly():
    costs = costs_of(architecture_study("flops"))
    assert costs.keys() == KINDS
    reference = costs["mmdit2"]
    for name, cost in costs.items():
        assert cost.training_flops == pytest.approx(reference.training_flops, rel=0.01), name
        assert cost.forward_flops == pytest.approx(reference.forward_flops, rel=0.15), name


def test_at_matched_parameters_pictures_agree_and_parameters_as_far_as_dials_go():
    costs = costs_of(architecture_study("parameters"))
    reference = costs["mmdit2"]
    for name, cost in costs.items():
        assert cost.images_seen == reference.images_seen
        slack = 0.35 if name == "mmdit3" else 0.11
        assert cost.parameters == pytest.approx(reference.parameters, rel=slack), name


def test_matched_steps_buy_the_same_flops():
    def cost(forward, steps):
        return Cost(parameters=1, forward_flops=forward, num_steps=steps, images_seen=0)

    costs = {"a": cost(100, 60), "b": cost(50, 1), "c": cost(400, 9), "d": cost(10**6, 1)}
    assert matched_steps(costs, "a") == {"a": 60, "b": 120, "c": 15, "d": 1}


def test_a_cost_is_that_of_the_networks_own_counter():
    """MM-DiT of depth 2 on 64 image and 25 text tokens, counted elsewhere."""
    backbone = BACKBONES["mmdit"]
    shape = backbone.config(
        depth=2,
        patch_size=1,
        latent_channels=16,
        context_width=192,
        pooled_width=160,
        base_side=8,
        table_side=16,
    )
    cost = cost_of("scenes-study")
    assert cost.forward_flops == backbone.forward_flops(shape, 8, 8, (13, 12))
    assert cost.parameters == backbone.num_parameters(shape)
    assert cost.training_flops == 3 * cost.forward_flops * 700 * 32


def test_variants_differ_from_the_recipe_in_network_and_steps_alone():
    """One optimizer, one order of data, one noise: what else a pair of runs shares."""
    own = {path: value for path, value, _ in leaves(load_recipe("scenes-study"))}
    for match in ("flops", "parameters"):
        for cell in architecture_study(match, 2).cells():
            recipe = {p: v for p, v, _ in leaves(load_recipe(cell.recipe, cell.settings))}
            changed = {
                path for path in own.keys() | recipe.keys() if own.get(path) != recipe.get(path)
            }
            outside = {path for path in changed if not path.startswith("model.")}
            assert outside <= {"training.num_steps", "seed"}
            assert recipe["seed"] == cell.seed
    assert own["training.optimizer"] == "adamw"


def test_a_run_is_scored_on_enough_pictures():
    study = architecture_study()
    prompts = evenly(load_prompts(), study.prompts_per_task)
    counted = [p for p in prompts if p["tag"] in TASKS and p.get("split", "seen") == "seen"]
    assert len(counted) >= 128


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("autoencoder-tiny", (), "a study compares flows, got a recipe of kind autoencoder"),
        ("scenes-study", ("training.minutes=1",), r"needs training\.num_steps"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(recipe, settings, message):
    with pytest.raises(ValueError, match=message):
        cost_of(recipe, settings)


def test_the_verb_tells_its_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "architectures", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["cells"]) == 18
    assert {row["variant"] for row in plan["cells"]} == KINDS
    assert plan["about_minutes"] > 5
    chosen = ["--only", "unet", "--only", "dit", "--seeds", "2", "--match", "parameters"]
    assert main(["study", "architectures", "--dry-run", *chosen]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == [
        "dit-0",
        "unet-0",
        "dit-1",
        "unet-1",
    ]
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_the_page_from_what_is_there(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs"), "--report", "--json"]
    assert main(["study", "architectures", *arguments]) == 0
    page = tmp_path / "architectures.md"
    assert json.loads(capsys.readouterr().out) == {"place": str(page), "finished": 0, "runs": 18}
    assert "**Partial: 0 of 18 runs are there.**" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--match", "flop"], "no study at matched 'flop'; did you mean flops?"),
        (["--only", "mmdit"], "no variant 'mmdit'; did you mean mmdit"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_unknown_names_are_refused(arguments, message, capsys):
    assert main(["study", "architectures", *arguments]) == 2
    assert message in capsys.readouterr().err
