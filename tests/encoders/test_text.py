import shutil
import warnings

import pytest
import torch
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from rectiflow.encoders.settings import EncodersModel
from rectiflow.encoders.text import (
    FOLDERS,
    TOKENIZER_FOLDERS,
    TextEncoders,
    TruncationWarning,
    assemble,
)
from rectiflow.errors import DataError

CAPTIONS = ["a blue star left of a green square", "two red circles", 'the word "CAT" in black']
PROMPTS = ["two red circles", 'the word "ZOO"', "", "Ünïcödé"]
SIZES = {
    "clip_l_width": 32,
    "clip_g_width": 64,
    "t5_width": 96,
    "clip_layers": 2,
    "t5_layers": 1,
}


def new(seed=1, **changes):
    return TextEncoders.new(EncodersModel(**{**SIZES, **changes}), CAPTIONS, seed=seed)


@pytest.fixture(scope="module")
def text():
    return new()


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    text.encode(PROMPTS)  # what a call leaves in a tokenizer must not be saved
    text.save(folder)
    return folder


def transformers_ids(kind, folder, length):
    tokenizer = kind.from_pretrained(folder, local_files_only=True)
    return tokenizer(
        PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


@pytest.mark.filterwarnings("ignore::rectiflow.encoders.text.TruncationWarning")
@pytest.mark.parametrize(("index", "name"), [(0, "l"), (1, "g")])
def test_clip_states_are_transformers_penultimate_ones_without_norm(text, folder, index, name):
    ids = transformers_ids(CLIPTokenizer, folder / TOKENIZER_FOLDERS[index], text.segments[0])
    model = CLIPTextModelWithProjection.from_pretrained(
        folder / FOLDERS[index], local_files_only=True
    ).eval()
    layers = []
    for layer in model.text_model.encoder.layers:
        layer.register_forward_hook(lambda _module, _args, output: layers.append(output))
    with torch.no_grad():
        output = model(input_ids=ids)
    states = text.encode(PROMPTS)
    before_last = layers[-2] if isinstance(layers[-2], torch.Tensor) else layers[-2][0]
    torch.testing.assert_close(getattr(states, f"clip_{name}"), before_last, rtol=0, atol=1e-5)
    pooled = getattr(states, f"pooled_{name}")
    torch.testing.assert_close(pooled, output.text_embeds, rtol=0, atol=1e-5)
    ends = (ids == model.config.eos_token_id).int().argmax(dim=1)  # the first end of text
    projected = model.text_projection(output.last_hidden_state[torch.arange(len(ids)), ends])
    torch.testing.assert_close(pooled, projected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::rectiflow.encoders.text.TruncationWarning")
def test_t5_states_are_transformers_final_ones_without_a_mask(text, folder):
    ids = transformers_ids(T5Tokenizer, folder / TOKENIZER_FOLDERS[2], text.segments[1])
    model = T5EncoderModel.from_pretrained(folder / FOLDERS[2], local_files_only=True).eval()
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(text.encode(PROMPTS).t5, expected, rtol=0, atol=1e-5)


def test_contexts_are_the_shortest_that_hold_every_caption(text):
    # Begin, eight words, end; T5 has no begin. The quoted word: two words, five pieces, two words.
    assert text.segments == (11, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.encode(CAPTIONS)
    assert new(clip_tokens=16, t5_tokens=14).segments == (16, 14)


def test_widths_and_segments_describe_what_comes_out(text):
    cond = assemble(text.encode(PROMPTS[:2]))
    assert cond.context.shape == (2, sum(text.segments), text.context_width) == (2, 21, 96)
    assert cond.pooled.shape == (2, text.pooled_width) == (2, 96)
    assert cond.segments == text.segments


def test_a_prompt_is_encoded_alike_alone_and_in_company(text):
    alone = assemble(text.encode(["two red circles"]))
    together = assemble(text.encode(["a red star", "two red circles"])).select([1])
    torch.testing.assert_close(alone.context, together.context, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.pooled, together.pooled, rtol=1e-5, atol=1e-5)


def test_a_saved_set_is_the_same_set(text, folder):
    loaded = TextEncoders.load(folder)
    assert loaded.identity() == text.identity()
    assert loaded.segments == text.segments
    for expected, got in zip(text.tokenize(PROMPTS[:3]), loaded.tokenize(PROMPTS[:3]), strict=True):
        assert torch.equal(expected, got)


def test_identity_sees_weights_words_and_lengths(text):
    assert new(seed=1).identity() == text.identity()
    others = [
        new(seed=2),
        new(clip_tokens=12),
        TextEncoders.new(EncodersModel(**SIZES), [*CAPTIONS, "zebra"], seed=1),
    ]
    assert len({text.identity(), *(other.identity() for other in others)}) == 4


def test_half_precision_on_disk_is_read_back_in_float32(text, tmp_path):
    text.save(tmp_path, torch.bfloat16)
    loaded = TextEncoders.load(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    rounded = next(text.t5.parameters()).bfloat16().float()
    assert torch.equal(next(loaded.t5.parameters()), rounded)
    assert next(text.t5.parameters()).dtype == torch.float32  # saving leaves it alone


def test_an_over_long_prompt_says_how_many_tokens_each_encoder_cut(text):
    prompt = "two red circles " * 5  # 15 words; CLIP keeps 9 of them, T5 likewise
    with pytest.warns(TruncationWarning, match=r"cut: clip_l 6, clip_g 6, t5 6, of 'two red"):
        long = text.encode([prompt])
    kept = text.encode(["two red circles " * 3])
    torch.testing.assert_close(long.clip_l, kept.clip_l)  # 9 words fit exactly
    torch.testing.assert_close(long.t5, kept.t5)
    with pytest.warns(TruncationWarning, match=r"\(and 1 more prompts\)"):
        text.encode([prompt, "red", prompt])


def test_conditioning_is_the_assembled_states_whatever_the_number_of_prompts(text):
    prompts = ["two red circles", "", *(f"a blue star {number}" for number in range(70))]
    cond = text.conditioning(prompts, without=["clip_g"])
    for row in (0, 1, 71):
        expected = assemble(text.encode([prompts[row]]), without=["clip_g"])
        torch.testing.assert_close(cond.context[row : row + 1], expected.context)
        torch.testing.assert_close(cond.pooled[row : row + 1], expected.pooled)
    with pytest.raises(ValueError, match="at least one prompt"):
        text.conditioning([])


def test_damaged_and_missing_folders_are_told_apart(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer_2" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer_2"):
        TextEncoders.load(copy)
    shutil.rmtree(copy / "text_encoder_3")
    with pytest.raises(FileNotFoundError, match="text_encoder_3"):
        TextEncoders.load(copy)


def test_no_prompt_is_refused(text):
    with pytest.raises(ValueError, match="at least one prompt"):
        text.encode([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_l_width": 40}, "clip_l_width must be a positive multiple of 32, got 40"),
        ({"t5_width": 64}, r"<= t5_width 64, got 32 \+ 64"),
        ({"clip_layers": 1}, "clip_layers must be >= 2, got 1"),
        ({"t5_layers": 0}, "t5_layers must be >= 1, got 0"),
        ({"clip_tokens": 2}, "clip_tokens must be >= 3, got 2"),
        ({"t5_tokens": 1}, "t5_tokens must be >= 2, got 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        EncodersModel(**{**SIZES, **change})
