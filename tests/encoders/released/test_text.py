import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rectiflow.encoders.released.models import text_model
from rectiflow.encoders.released.places import Places, TextPart, find_text_parts
from rectiflow.encoders.released.text import MISSING_T5, ReleasedText
from rectiflow.encoders.truncation import TruncationWarning
from tests.encoders.released import tiny

T5_TOKENS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def parts(folder):
    return find_text_parts(Places(beside=[folder]))


def released(parts, without=(), **changes):
    kept = [part for part in parts if part.name not in without]
    widths = {"context_width": tiny.CONTEXT_WIDTH, "pooled_width": tiny.POOLED_WIDTH}
    return ReleasedText(kept, **{**widths, "t5_tokens": T5_TOKENS, **changes})


def diffusers_text(t5_tokens, has_t5=True):
    """Context and pooled text of diffusers' pipeline from the same encoders."""
    clip_l, clip_g, t5 = tiny.models()
    token_l, token_g, token_t5 = tiny.tokenizers()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=1,
        num_attention_heads=1,
        joint_attention_dim=tiny.CONTEXT_WIDTH,
        pooled_projection_dim=tiny.POOLED_WIDTH,
        caption_projection_dim=64,
        pos_embed_max_size=8,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(4,)),
        text_encoder=clip_l,
        tokenizer=token_l,
        text_encoder_2=clip_g,
        tokenizer_2=token_g,
        text_encoder_3=t5 if has_t5 else None,
        tokenizer_3=token_t5 if has_t5 else None,
    )
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(
            tiny.PROMPTS,
            tiny.PROMPTS,
            tiny.PROMPTS,
            do_classifier_free_guidance=False,
            max_sequence_length=t5_tokens,
        )
    return context, pooled


@pytest.mark.parametrize("has_t5", [True, False])
@pytest.mark.parametrize("t5_tokens", [7, T5_TOKENS])
def test_context_and_pooled_text_are_those_of_diffusers(parts, has_t5, t5_tokens):
    text = released(parts, without=() if has_t5 else ["t5"], t5_tokens=t5_tokens)
    cond = text.conditioning(tiny.PROMPTS)
    context, pooled = diffusers_text(t5_tokens, has_t5)
    torch.testing.assert_close(cond.context, context, rtol=0, atol=2e-5)
    torch.testing.assert_close(cond.pooled, pooled, rtol=0, atol=2e-5)
    assert cond.segments == text.segments == (tiny.CLIP_TOKENS, t5_tokens)
    assert bool(cond.context[:, tiny.CLIP_TOKENS :].any()) == has_t5


def test_files_and_folders_of_the_same_encoders_give_the_same_text(parts, folder, tmp_path):
    files = tiny.save_files(tmp_path)
    from_files = find_text_parts(Places(encoders=[files], tokenizers=[folder]))
    expected = released(parts).conditioning(tiny.PROMPTS)
    found = released(from_files).conditioning(tiny.PROMPTS)
    torch.testing.assert_close(found.context, expected.context, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=1e-5)


def test_a_prompt_is_encoded_alike_alone_and_in_company_and_once(parts):
    text = released(parts)
    many = text.conditioning(["a blue star", "", "two red circles", "a blue star"])
    alone = text.conditioning(["a blue star"])
    for row in (0, 3):
        assert torch.equal(many.context[row], alone.context[0])
        assert torch.equal(many.pooled[row], alone.pooled[0])
    assert not torch.equal(many.context[1], alone.context[0])


def test_encoders_are_read_one_after_the_other_and_freed(parts):
    alive, order = [], []

    def watched(part):
        def load(dtype):
            assert not any(model() is not None for model in alive), "the encoder before is alive"
            model = part.load(dtype)
            alive.append(weakref.ref(model))
            order.append((part.name, dtype))
            return model

        return replace(part, load=load)

    text = released([watched(part) for part in parts], t5_dtype=torch.bfloat16)
    assert not order  # nothing is read before it is needed
    cond = text.conditioning(tiny.PROMPTS)
    assert order == [("clip_l", torch.float32), ("clip_g", torch.float32), ("t5", torch.bfloat16)]
    assert not any(model() is not None for model in alive)
    assert cond.context.dtype == torch.float32
    text.conditioning(["a"], without=["clip_l", "t5"])
    assert [name for name, _ in order[3:]] == ["clip_g"]  # what is left out is not read


@pytest.mark.parametrize(
    ("mode", "num"), [("zeros", T5_TOKENS), ("none", 0), ("zeros-77", 77), ("zeros-256", 256)]
)
def test_missing_t5_stands_for_so_many_tokens_of_zeros(parts, mode, num):
    whole = released(parts).conditioning(tiny.PROMPTS)
    absent = released(parts, without=["t5"], missing_t5=mode)
    dropped = released(parts, missing_t5=mode)
    assert absent.segments == (tiny.CLIP_TOKENS, num)
    assert dropped.segments == (tiny.CLIP_TOKENS, T5_TOKENS)
    for cond in (
        absent.conditioning(tiny.PROMPTS),
        absent.conditioning(tiny.PROMPTS, without=["t5"]),
        dropped.conditioning(tiny.PROMPTS, without=["t5"]),
    ):
        assert cond.segments == (tiny.CLIP_TOKENS, num)
        assert torch.equal(
            cond.context[:, : tiny.CLIP_TOKENS], whole.context[:, : tiny.CLIP_TOKENS]
        )
        assert cond.context[:, tiny.CLIP_TOKENS :].shape == (3, num, tiny.CONTEXT_WIDTH)
        assert not cond.context[:, tiny.CLIP_TOKENS :].any()
        assert torch.equal(cond.pooled, whole.pooled)


def test_the_four_ways_are_named_and_differ_in_length():
    lengths = {256 if num is None else num for num in MISSING_T5.values()}
    assert list(MISSING_T5) == ["zeros", "none", "zeros-77", "zeros-256"]
    assert lengths == {0, 77, 256}  # of the two of 256, only one follows t5_tokens


@pytest.mark.parametrize("how", ["absent", "without"])
@pytest.mark.parametrize("gone", [["clip_l"], ["clip_g"], ["clip_l", "clip_g"]])
def test_clip_encoders_that_are_left_out_are_zeros_in_their_channels(parts, gone, how):
    whole = released(parts).conditioning(tiny.PROMPTS)
    if how == "absent":
        cond = released(parts, without=gone).conditioning(tiny.PROMPTS)
    else:
        cond = released(parts).conditioning(tiny.PROMPTS, without=gone)
    context, pooled = whole.context.clone(), whole.pooled.clone()
    for name in gone:
        channels = slice(0, 64) if name == "clip_l" else slice(64, 192)
        context[:, : tiny.CLIP_TOKENS, channels] = 0
        pooled[:, channels] = 0
    # The number of CLIP tokens is known from a tokenizer; without any it is that of the releases.
    tokens = 77 if how == "absent" and len(gone) == 2 else tiny.CLIP_TOKENS
    assert cond.segments == (tokens, T5_TOKENS)
    assert torch.equal(cond.pooled, pooled)
    assert torch.equal(cond.context[:, tokens:], context[:, tiny.CLIP_TOKENS :])
    shared = tiny.CLIP_TOKENS
    assert torch.equal(cond.context[:, :shared], context[:, :shared])
    assert not cond.context[:, shared:tokens].any()


def test_without_any_encoder_the_text_is_zeros_and_nothing_is_read():
    cond = released([], missing_t5="none").conditioning(["a", "b"])
    assert cond.segments == (77, 0)
    assert cond.context.shape == (2, 77, tiny.CONTEXT_WIDTH)
    assert not cond.context.any()
    assert not cond.pooled.any()


def test_the_pooled_vector_is_taken_at_the_end_of_text_of_the_tokenizer(folder, tmp_path):
    # Old configurations say eos_token_id = 2, which transformers reads as "the highest id"; here a
    # word was added after the end of text.
    config = CLIPTextConfig(**{**tiny.clip("clip_l").config.to_dict(), "eos_token_id": 2})
    config.vocab_size += 1
    model = tiny.randomised(CLIPTextModelWithProjection(config), seed=9)
    model.save_pretrained(tmp_path / "text_encoder")
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    part = find_text_parts(Places(encoders=[tmp_path]), without=["clip_g", "t5"])[0]
    part.tokenizer.add_tokens(["zebra"])
    text = released([part])
    ids = part.tokenizer("red zebra", padding="max_length", max_length=text.segments[0]).input_ids
    assert max(ids) == ids[2] == part.tokenizer.eos_token_id + 1
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]))
    at_the_end = model.text_projection(output.last_hidden_state[0, 3])
    pooled = text.conditioning(["red zebra"]).pooled[0, : tiny.WIDTH_L]
    torch.testing.assert_close(pooled, at_the_end, rtol=0, atol=1e-5)
    assert not torch.allclose(pooled, output.text_embeds[0], atol=1e-2)


def test_a_prompt_that_is_cut_is_told(parts):
    with pytest.warns(TruncationWarning, match=r"cut: clip_l 10, clip_g 10, t5 1, of 'two two"):
        released(parts).conditioning(["two " * 20])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t5_tokens": 0}, r"t5_tokens must be in 1\.\.512, got 0"),
        ({"t5_tokens": 513}, "got 513"),
        ({"missing_t5": "nothing"}, "missing_t5 must be one of .*'zeros-77'.* got 'nothing'"),
        ({"t5_dtype": torch.float16}, "bfloat16 or float32"),
    ],
)
def test_settings_out_of_range_are_refused(parts, changes, message):
    with pytest.raises(ValueError, match=message):
        released(parts, **changes)


def test_encoders_of_another_width_than_the_network_takes_are_refused(parts):
    with pytest.raises(ValueError, match=r"widths 256 and 200, the encoders give 256 and 192"):
        released(parts, pooled_width=200).conditioning(["a"])
    with pytest.raises(ValueError, match=r"widths 512 and 192, the encoders give 256 and 192"):
        released(parts, context_width=512).conditioning(["a"])
    with pytest.raises(ValueError, match="at least one prompt"):
        released(parts).conditioning([])
    with pytest.raises(ValueError, match="got t6"):
        released(parts).conditioning(["a"], without=["t6"])


def test_a_tokenizer_of_another_model_is_refused(parts):
    tensors = tiny.state(tiny.clip("clip_l"))
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:9].clone()
    small = replace(
        parts[0], load=lambda dtype: text_model("clip_l", tensors, "small", dtype), origin="small"
    )
    with pytest.raises(ValueError, match=r"tokenizer of clip_l is another .* small knows 9"):
        released([small]).conditioning(["two red circles"])


def test_a_part_says_what_it_is(parts):
    assert [part.name for part in parts] == ["clip_l", "clip_g", "t5"]
    assert all(isinstance(part, TextPart) and "text_encoder" in part.origin for part in parts)
    assert released(parts, without=["t5"]).absent == ("t5",)
