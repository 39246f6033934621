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
from rectiflow.encoders.released.eight_bit import is_no_weight, scale_name, widened
from rectiflow.errors import DataError

HEAD_WIDTH = 64
"""Channels of an attention head in CLIP-L and bigG."""

_ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}
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
        DataError: If tensors are missing, unknown, empty, of the wrong shape or no floats; the
            message lists them.
    """
    if name == "t5" and dtype == torch.float16:
        raise ValueError("T5 overflows in float16; load it in bfloat16 or float32")
    return stored_text_model(name, tensors, origin, dtype)


def stored_text_model(
    name: str, tensors: Mapping[str, Tensor], origin: str, dtype: torch.dtype
) -> Any:
    """`text_model` in any type: to be written to disk, not to compute with."""
    bare = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    plain = _plain(bare, origin, dtype)
    weights = _t5_weights(plain) if name == "t5" else _clip_weights(name, plain)
    wrong = [key for key, x in weights.items() if x.numel() == 0 or not x.is_floating_point()]
    if wrong:
        raise DataError(f"{origin}: weights must be floats and not empty: {_listed(sorted(wrong))}")
    cls: Any = T5EncoderModel if name == "t5" else CLIPTextModelWithProjection
    try:
        config = _t5_config(weights) if name == "t5" else _clip_config(name, weights)
        with torch.device("meta"):
            empty = cls(config)
    except (KeyError, IndexError) as error:
        raise DataError(f"{origin} is no {name} text encoder: it lacks {error}") from error
    except Exception as error:  # the library raises nearly everything where shapes fit nothing
        raise DataError(f"{origin} is no {name} text encoder: {error}") from error
    check_fit(empty, weights, origin)
    with without_progress_bars():
        model: Any = cls.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    return model.eval()


def _plain(tensors: Mapping[str, Tensor], origin: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with 8-bit weights widened to `dtype`, and without what belongs to these."""
    return {
        key: widened(
            value,
            tensors.get(scale_name(key)) if key.endswith(".weight") else None,
            dtype,
            name=key,
            origin=origin,
        )
        for key, value in tensors.items()
        if not is_no_weight(key, tensors)
    }


def _clip_weights(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a CLIP text model; a picture model in the same file is left out."""
    others = ("vision_model.", "visual_projection.", "logit_scale")
    weights = {
        key: value
        for key, value in tensors.items()
        if not key.startswith(others) and not key.endswith("position_ids")
    }
    if name == "clip_l" and _TOKENS in weights:
        weights[_PROJECTION] = torch.eye(weights[_TOKENS].shape[-1])
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
    """Number of layers that there are tensors of; gaps show as missing tensors."""
    found = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    return sum(index.isdecimal() for index in found)


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
