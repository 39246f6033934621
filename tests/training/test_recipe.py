"""Recipes: packaged ones load, and every setting of the loop is checked."""

import pytest

from rectiflow import config
from rectiflow.nn.settings import CrossDiTSettings, MMDiTSettings, UNetSettings
from rectiflow.training.recipe import (
    AutoencoderRecipe,
    EncodersRecipe,
    FlowRecipe,
    load_recipe,
    packaged_recipes,
    recipe_from_dict,
)

FLOW = """
kind = "flow"
[data]
kind = "scenes"
[training]
num_steps = 10
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "my-flow.toml"
    file.write_text(FLOW)
    return str(file)


def test_a_file_is_named_after_itself_and_reads_back(path):
    recipe = load_recipe(path, ["training.batch_size=8", "data.num_scenes=7"])
    assert isinstance(recipe, FlowRecipe)
    assert (recipe.name, recipe.training.batch_size, recipe.data.num_scenes) == ("my-flow", 8, 7)
    assert recipe_from_dict(config.to_dict(recipe)) == recipe


def test_the_kind_decides_the_sections(path):
    assert isinstance(load_recipe(path, ["kind=autoencoder"]), AutoencoderRecipe)
    assert isinstance(load_recipe(path, ["kind=encoders"]), EncodersRecipe)
    with pytest.raises(ValueError, match=r"unknown setting sampling; known: data, kind, model"):
        load_recipe(path, ["kind=autoencoder", "sampling.num_steps=3"])
    for kind in ("autoencoder", "encoders"):
        with pytest.raises(ValueError, match=r"training.speed makes the blocks .* got SpeedSet"):
            load_recipe(path, [f"kind={kind}", "training.speed.compile=blocks"])


def test_a_model_is_an_mmdit_unless_it_says_otherwise(path):
    assert load_recipe(path).model == MMDiTSettings()
    three = load_recipe(path, ["model.num_weight_sets=3", "model.depth=2"])
    assert three.model == MMDiTSettings(depth=2, num_weight_sets=3)
    crossdit = load_recipe(path, ["model.kind=crossdit", "model.num_heads=2"])
    assert crossdit.model == CrossDiTSettings(num_heads=2)
    unet = load_recipe(path, ["model.family=if", "model.channels=[64, 128]", "model.depths=[1, 0]"])
    assert unet.model == UNetSettings(family="if", channels=(64, 128), depths=(1, 0))
    assert recipe_from_dict(config.to_dict(unet)) == unet
    with pytest.raises(ValueError, match=r'^model.kind: expected "mmdit" \| "dit" .*, got "vit"'):
        load_recipe(path, ["model.kind=vit"])


def test_a_config_from_before_models_had_kinds_reads_as_an_mmdit(path):
    values = config.to_dict(load_recipe(path, ["model.depth=3"]))
    for later in ("kind", "num_weight_sets"):
        del values["model"][later]
    assert recipe_from_dict(values) == load_recipe(path, ["model.depth=3"])


@pytest.mark.parametrize(
    ("kind", "multiple"),
    [("dit", 16), ("crossdit", 16), ("uvit", 16), ("unet", 64), ("pixart", 16)],
)
def test_the_side_must_fit_the_network(path, kind, multiple):
    assert load_recipe(path, [f"model.kind={kind}", f"data.size_px={multiple}"])
    with pytest.raises(ValueError, match=rf"size_px must be a multiple of {multiple}, .* got 72"):
        load_recipe(path, [f"model.kind={kind}", "data.size_px=72"])


@pytest.mark.parametrize(
    ("kind", "assignment", "message"),
    [
        ("dit", "num_heads=0", "num_heads must be >= 1, got 0"),
        ("crossdit", "patch_size=0", "patch_size must be >= 1, got 0"),
        ("uvit", "norm_groups=0", "norm_groups must be >= 1, got 0"),
        ("uvit", "channels=[]", r"channels must name a width >= 1 for each level, got \[\]"),
        ("unet", "channels=[0]", r"channels must name a width >= 1 for each level, got \[0\]"),
        ("unet", "head_width=0", "head_width must be >= 1, got 0"),
        ("unet", "family=sdxl", r'family: expected "sd" \| "if", got "sdxl"'),
        ("pixart", "depth=0", "depth must be >= 1, got 0"),
        ("mmdit", "num_weight_sets=4", "num_weight_sets: expected 2 | 3, got 4"),
    ],
)
def test_a_model_out_of_range_is_refused_by_its_path(path, kind, assignment, message):
    with pytest.raises(ValueError, match=rf"^model\.{message}"):
        load_recipe(path, [f"model.kind={kind}", f"model.{assignment}"])


def test_packaged_recipes_are_valid_and_carry_their_name():
    for name in packaged_recipes():
        required = ["data.path=/pictures"] if name == "folder" else []
        assert load_recipe(name, required).name == name


def test_own_pictures_need_a_path():
    with pytest.raises(ValueError, match=r"^data\.path must name a folder of pictures, got"):
        load_recipe("folder")


def test_an_unknown_recipe_names_the_nearest(monkeypatch):
    monkeypatch.setattr("rectiflow.training.recipe.packaged_recipes", lambda: ["scenes-tiny"])
    with pytest.raises(ValueError, match=r"'scenes-tin'; did you mean scenes-tiny\?"):
        load_recipe("scenes-tin")
    with pytest.raises(ValueError, match=r"no recipe file missing\.toml"):
        load_recipe("missing.toml")


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    for content in (b"\xff\xfe", b"kind = "):
        (tmp_path / "a.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.toml is not"):
            load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.num_steps=0", "training.num_steps must be >= 1, got 0"),
        ("training.minutes=0", "training.minutes must be > 0, got 0.0"),
        ("training.batch_size=0", "training.batch_size must be >= 1, got 0"),
        ("training.num_microbatches=65", "training.num_microbatches must be <= batch_size 64, got"),
        ("training.decay_fraction=1.5", r"training.decay_fraction must be in \[0, 1\], got 1.5"),
        ("training.ema_decay=1.5", r"training.ema_decay must be in \[0, 1\], got 1.5"),
        ("training.attention_blocks=-1", "training.attention_blocks must be >= 0, got -1"),
        ("training.guard.spike_factor=0.5", "training.guard.spike_factor must be 0 or > 1, got"),
        ("training.averages.decays=[2]", r"training.averages.decays must be in \[0, 1\), got 2.0"),
        ("training.betas=[0.9, 2]", r"training.betas must be in \[0, 1\], got 2.0"),
        ("training.learning_rate=0", "training.learning_rate must be > 0, got 0.0"),
        ("training.retain.newest=0", "training.retain.newest must be >= 1, got 0"),
        ("training.clip_norm=-1", "training.clip_norm must be >= 0, got -1.0"),
        ("objective.text_dropout=2", r"objective.text_dropout must be in \[0, 1\], got 2.0"),
        ("data.size_px=60", "data.size_px must be a positive multiple of 8, got 60"),
        ("data.size_px=72", "data.size_px must be a multiple of 16, .* for the model, got 72"),
        ("data.synthetic_fraction=-1", r"data.synthetic_fraction must be in \[0, 1\], got -1.0"),
        ("model.depth=0", "model.depth must be >= 1, got 0"),
        ("sampling.num_steps=0", "sampling.num_steps must be >= 1, got 0"),
        ("name=a/b", "name must be letters, digits"),
        ("seed=-1", r"seed must be in \[0, 4294967295\], got -1"),
        (f"seed={2**32}", r"seed must be in \[0, 4294967295\], got 4294967296"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_path(path, assignment, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_recipe(path, [assignment])


def test_minutes_need_a_warm_up_that_hides_the_number_of_steps(path):
    with pytest.raises(ValueError, match=r"warmup_steps must be >= 25 when minutes are given"):
        load_recipe(path, ["training.minutes=5", "training.warmup_steps=24"])
    recipe = load_recipe(path, ["training.minutes=5"])
    assert (recipe.training.num_steps, recipe.training.minutes) == (None, 5.0)
    with pytest.raises(ValueError, match="give num_steps or minutes, exactly one"):
        load_recipe(path, ["training.minutes=5", "training.num_steps=5"])
