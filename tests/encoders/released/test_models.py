import pytest
import torch

from rectiflow.encoders.released.models import text_model
from rectiflow.errors import DataError
from tests.encoders.released import tiny

FIRST_FC = "text_model.encoder.layers.0.mlp.fc1.weight"
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
FIRST_WO = "encoder.block.0.layer.1.DenseReluDense.wo.weight"


def ids_of(name):
    number = {"clip_l": 0, "clip_g": 1, "t5": 2}[name]
    options = {"padding": "max_length", "max_length": tiny.CLIP_TOKENS, "return_tensors": "pt"}
    return tiny.tokenizers()[number](tiny.PROMPTS, **options).input_ids


def outputs(model, name):
    with torch.no_grad():
        found = model(input_ids=ids_of(name), output_hidden_states=True)
    return found.last_hidden_state if name == "t5" else (found.hidden_states[-2], found.text_embeds)


@pytest.mark.parametrize("name", ["clip_l", "clip_g", "t5"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_model_from_bare_tensors_computes_what_its_configured_twin_does(name, prefix):
    twin = tiny.t5() if name == "t5" else tiny.clip(name)
    tensors = {prefix + key: value for key, value in tiny.state(twin).items()}
    model = text_model(name, tensors, "file", torch.float32)
    assert not model.training
    torch.testing.assert_close(outputs(model, name), outputs(twin, name), rtol=0, atol=1e-6)


def test_the_two_clip_models_differ_in_their_activation():
    tensors = tiny.state(tiny.clip("clip_g"))
    tensors["text_projection.weight"] = torch.eye(tiny.WIDTH_G)
    as_g, as_l = (text_model(name, tensors, "file", torch.float32) for name in ("clip_g", "clip_l"))
    assert not torch.allclose(outputs(as_g, "clip_g")[0], outputs(as_l, "clip_g")[0], atol=1e-3)


def test_the_projection_of_clip_l_is_left_out_and_that_of_big_g_is_applied():
    for name, factor in (("clip_l", 1.0), ("clip_g", 2.0)):
        tensors = tiny.state(tiny.clip(name))
        tensors["text_projection.weight"] *= 2
        pooled = outputs(text_model(name, tensors, "file", torch.float32), name)[1]
        torch.testing.assert_close(pooled, factor * outputs(tiny.clip(name), name)[1])
    tensors = tiny.state(tiny.clip("clip_l"))
    del tensors["text_projection.weight"]  # as in ComfyUI's file
    pooled = outputs(text_model("clip_l", tensors, "file", torch.float32), "clip_l")[1]
    torch.testing.assert_close(pooled, outputs(tiny.clip("clip_l"), "clip_l")[1])


def test_what_a_text_encoder_does_not_use_may_lie_in_the_file():
    clip = tiny.state(tiny.clip("clip_l"))
    clip |= {"logit_scale": torch.ones(()), "vision_model.post_layernorm.weight": torch.ones(3)}
    clip["text_model.embeddings.position_ids"] = torch.arange(tiny.CLIP_TOKENS)[None]
    text_model("clip_l", clip, "file", torch.float32)
    t5 = tiny.state(tiny.t5())
    t5 |= {"decoder.final_layer_norm.weight": torch.ones(3), "lm_head.weight": torch.ones(3, 3)}
    t5["logit_scale"] = torch.ones(())  # ComfyUI writes one for each encoder
    expected = outputs(tiny.t5(), "t5")
    torch.testing.assert_close(
        outputs(text_model("t5", t5, "file", torch.float32), "t5"), expected, rtol=0, atol=1e-6
    )
    del t5["shared.weight"]  # the words are stored once, under either name
    torch.testing.assert_close(
        outputs(text_model("t5", t5, "file", torch.float32), "t5"), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("per_row", [False, True])
def test_scaled_fp8_weights_are_value_times_factor(per_row):
    plain = tiny.state(tiny.t5())
    weight = plain[FIRST_WO]
    largest = weight.abs().amax(1) if per_row else weight.abs().max()
    scale = largest / 448
    packed = (weight / (scale[:, None] if per_row else scale)).to(torch.float8_e4m3fn)
    stem = FIRST_WO.removesuffix(".weight")
    file = {**plain, FIRST_WO: packed, f"{stem}.scale_weight": scale}
    file |= {f"{stem}.scale_input": torch.ones(()), "scaled_fp8": torch.empty(0).to(packed.dtype)}
    model = text_model("t5", file, "file", torch.float32)
    expected = packed.float() * (scale[:, None] if per_row else scale)
    assert torch.equal(model.state_dict()[FIRST_WO], expected)
    torch.testing.assert_close(expected, weight, rtol=0.07, atol=float(scale.max()) * 2**-9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({FIRST_WO: torch.ones(256, 96, dtype=torch.int8)}, f"floats and not empty: {FIRST_WO}"),
        ({BIAS: torch.ones(32, 0)}, f"floats and not empty: {BIAS}"),
        ({BIAS: torch.ones(32, 3)}, "file (is no t5|does not fit)"),
        ({"encoder.block.99999999.x": torch.ones(1)}, "unknown: encoder.block.99999999.x"),
        ({"encoder.block.first.x": torch.ones(1)}, "unknown: encoder.block.first.x"),
    ],
)
def test_tensors_that_would_mean_another_model_are_refused(changes, told):
    with pytest.raises(DataError, match=told):
        text_model("t5", {**tiny.state(tiny.t5()), **changes}, "file", torch.float32)


def test_clip_of_an_impossible_width_is_refused_with_the_file():
    tensors = tiny.state(tiny.clip("clip_g"))
    tensors["text_model.embeddings.token_embedding.weight"] = torch.ones(520, 200)
    with pytest.raises(DataError, match="file is no clip_g text encoder"):
        text_model("clip_g", tensors, "file", torch.float32)


def test_t5_is_loaded_in_the_type_asked_for_but_never_in_float16():
    model = text_model("t5", tiny.state(tiny.t5()), "file", torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="overflows in float16"):
        text_model("t5", tiny.state(tiny.t5()), "file", torch.float16)


@pytest.mark.parametrize("name", ["clip_l", "t5"])
def test_tensors_that_do_not_fit_are_listed(name):
    tensors = tiny.state(tiny.t5() if name == "t5" else tiny.clip(name))
    victim = FIRST_WO if name == "t5" else "text_model.encoder.layers.1.mlp.fc2.bias"
    with pytest.raises(DataError, match=r"file .*unknown: extra\.weight"):
        text_model(name, {**tensors, "extra.weight": torch.ones(1)}, "file", torch.float32)
    rest = {key: value for key, value in tensors.items() if key != victim}
    with pytest.raises(DataError, match=f"missing: {victim}"):
        text_model(name, rest, "file", torch.float32)
    with pytest.raises(DataError, match=f"of another shape: {victim}"):
        text_model(name, {**tensors, victim: torch.ones(3)}, "file", torch.float32)
    with pytest.raises(DataError, match=f"file is no {name} text encoder"):
        text_model(name, {"something.weight": torch.ones(1)}, "file", torch.float32)
