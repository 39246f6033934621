"""The released text encoders from bare tensors, as ComfyUI's files and single files hold them.

Such files carry no configuration, so it follows from the shapes. What shapes do not tell is fixed
by the releases: CLIP heads are 64 wide, CLIP-L uses quick_gelu and bigG gelu, T5 is version 1.1
(gated-gelu, no bias, RMS norm).

CLIP-L's pooled vector is used as it leaves the final norm: the projection that CLIP trained for it
is no part of SD3 (the diffusers folders store a unit matrix there, the reference code skips it), so
a file that still has it loses it here. That of bigG is applied.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from rectiflow.encoders.folders import without_progress_bars
from rectiflow.errors import DataError

HEAD_WIDTH = 64
"""Channels of an attention head in CLIP-L and bigG."""

_ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}
_FP8 = {torch.float8_e4m3fn, torch.float8_e5m2}
_SCALE, _INPUT_SCALE, _FP8_MARK = ".scale_weight", ".scale_input", "scaled_fp8"
_TOKENS = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_PROJECTION = "text_projection.weight"
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def text_model(name: str, tensors: Mapping[str, Tensor], origin: str, dtype: torch.dtype) -> Any:
    """The text encoder that these tensors are, in evaluation mode.

    Args:
        name: "clip_l", "clip_g" or "t5".
        tensors: As in the file; `transformer.` before each name is optional, fp8 is expanded.
        origin: Names the file in an error.
        dtype: Of the weights; not float16 for T5, whose activations exceed its range.

    Raises:
        ValueError: If T5 is asked for in float16.
        DataError: If tensors are missing, unknown or of the wrong shape; the message lists them.
    """
    if name == "t5" and dtype == torch.float16:
        raise ValueError("T5 overflows in float16; load it in bfloat16 or float32")
    bare = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    try:
        if name == "t5":
            weights = _t5_weights(without_fp8(bare, dtype))
            return _filled(T5EncoderModel, _t5_config(weights), weights, origin, dtype)
        weights = _clip_weights(name, without_fp8(bare, dtype))
        config = _clip_config(name, weights)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{origin} is no {name} text encoder: it lacks {error}") from error
    return _filled(CLIPTextModelWithProjection, config, weights, origin, dtype)


def without_fp8(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Expand fp8 weights to `dtype`: W = value * scale_weight, or the bare value if it has none.

    ComfyUI's scaled files store a factor beside each fp8 weight, one for the whole matrix or one
    per row, and an empty marker `scaled_fp8`. The factors for inputs only serve fp8 arithmetic.
    """
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name == _FP8_MARK or name.endswith((_SCALE, _INPUT_SCALE)):
            continue
        if value.dtype in _FP8:
            scale = tensors.get(name.removesuffix(".weight") + _SCALE)
            value = value.float()
            if scale is not None:
                rows = (-1, *(1,) * (value.ndim - 1)) if scale.numel() > 1 else ()
                value = value * scale.float().reshape(rows)
            value = value.to(dtype)
        plain[name] = value
    return plain


def _clip_weights(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a CLIP text model; a picture model in the same file is left out."""
    others = ("vision_model.", "visual_projection.", "logit_scale")
    weights = {
        key: value
        for key, value in tensors.items()
        if not key.startswith(others) and not key.endswith("position_ids")
    }
    if name == "clip_l":
        weights[_PROJECTION] = torch.eye(weights[_TOKENS].shape[1])
    return weights


def _clip_config(name: str, weights: Mapping[str, Tensor]) -> CLIPTextConfig:
    vocabulary, width = weights[_TOKENS].shape
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        projection_dim=weights[_PROJECTION].shape[0],
        num_hidden_layers=_count(weights, "text_model.encoder.layers."),
        num_attention_heads=max(width // HEAD_WIDTH, 1),
        max_position_embeddings=weights[_POSITIONS].shape[0],
        hidden_act=_ACTIVATIONS[name],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1 if name == "clip_l" else 0,
    )


def _t5_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of T5's encoder; its decoder is left out, and so is a second copy of the words."""
    words = "encoder.embed_tokens.weight"
    weights = {
        key: value
        for key, value in tensors.items()
        if not key.startswith("decoder.") and key not in (words, "lm_head.weight", "logit_scale")
    }
    if words in tensors:
        weights.setdefault("shared.weight", tensors[words])
    return weights


def _t5_config(weights: Mapping[str, Tensor]) -> T5Config:
    vocabulary, width = weights["shared.weight"].shape
    buckets, heads = weights[_BIAS].shape
    layer = "encoder.block.0.layer."
    return T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=weights[f"{layer}0.SelfAttention.q.weight"].shape[0] // heads,
        d_ff=weights[f"{layer}1.DenseReluDense.wi_0.weight"].shape[0],
        num_layers=_count(weights, "encoder.block."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )


def _count(names: Collection[str], prefix: str) -> int:
    """Number of layers: one more than the highest index after `prefix`."""
    found = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    return max(int(index) for index in found) + 1


def _filled(
    cls: Any, config: Any, weights: Mapping[str, Tensor], origin: str, dtype: torch.dtype
) -> nn.Module:
    """A model of this configuration with exactly these weights."""
    with torch.device("meta"):
        empty = cls(config)
    check_fit(empty, weights, origin)
    with without_progress_bars():
        model = cls.from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype)
    return model.eval()


def check_fit(empty: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Compare names and shapes of weights with those of a model.

    Raises:
        DataError: If one is missing, unknown or of another shape; the first few are listed.
    """
    expected = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    expected.pop("encoder.embed_tokens.weight", None)  # T5 ties it to `shared`
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "unknown": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(
            name for name in expected.keys() & found.keys() if expected[name] != found[name]
        ),
    }
    told = [f"{what}: {_listed(names)}" for what, names in wrong.items() if names]
    if told:
        raise DataError(f"{origin} does not fit {type(empty).__name__}; {'; '.join(told)}")


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
