"""Text encoders with the shapes of the releases in small: heads of 64, random weights."""

from functools import cache

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from rectiflow.encoders.tokenizers import clip_tokenizer, t5_tokenizer

WORDS = ["blue", "circles", "green", "red", "star", "two"]
PROMPTS = ["two red circles", "a blue star", ""]
CLIP_TOKENS = 12
WIDTH_L, WIDTH_G, CONTEXT_WIDTH = 64, 128, 256
POOLED_WIDTH = WIDTH_L + WIDTH_G


@cache
def tokenizers():
    found = (clip_tokenizer(WORDS), clip_tokenizer(WORDS, "!"), t5_tokenizer(WORDS))
    for tokenizer in found[:2]:
        tokenizer.model_max_length = CLIP_TOKENS
    return found


def randomised(model, seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@cache
def clip(name):
    """A CLIP text model; for clip_l the projection is a unit matrix, as in the release."""
    tokenizer = tokenizers()[name == "clip_g"]
    width, activation = {"clip_l": (WIDTH_L, "quick_gelu"), "clip_g": (WIDTH_G, "gelu")}[name]
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        max_position_embeddings=CLIP_TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = randomised(CLIPTextModelWithProjection(config), seed=width)
    if name == "clip_l":
        model.text_projection.weight.data = torch.eye(width)
    return model


@cache
def t5():
    config = T5Config(
        vocab_size=len(tokenizers()[2]),
        d_model=CONTEXT_WIDTH,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return randomised(T5EncoderModel(config), seed=5, scale=0.05)


def models():
    return clip("clip_l"), clip("clip_g"), t5()


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def save_folder(root, without=()):
    """The folders of a diffusers pipeline."""
    for number, (model, tokenizer) in enumerate(zip(models(), tokenizers(), strict=True)):
        suffix = f"_{number + 1}" if number else ""
        if f"text_encoder{suffix}" not in without:
            model.save_pretrained(root / f"text_encoder{suffix}")
        if f"tokenizer{suffix}" not in without:
            tokenizer.backend_tokenizer.no_padding()
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.save_pretrained(root / f"tokenizer{suffix}")
    return root


def save_files(root, t5_name="t5xxl_fp16.safetensors"):
    """ComfyUI's files."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("clip_l", "clip_g"):
        save_file(state(clip(name)), root / f"{name}.safetensors")
    tensors = state(t5())
    tensors.pop("encoder.embed_tokens.weight")
    save_file(tensors, root / t5_name)
    return root
