"""Configurations as JSON: ours, and the settings of diffusers' `SD3Transformer2DModel`."""

from collections.abc import Mapping
from typing import Any

from rectiflow.config import from_dict
from rectiflow.errors import DataError
from rectiflow.nn.mmdit import MMDiTConfig

DIFFUSERS_CLASS = "SD3Transformer2DModel"
DIFFUSERS_NAME = "diffusion_pytorch_model"
"""Begins the names of the files that hold a model's weights in diffusers."""


def read_config(values: Any) -> MMDiTConfig:
    """A configuration of ours from what JSON keeps of it.

    Raises:
        DataError: If it is none.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"is no MM-DiT's configuration: expected an object, found {values!r}")
    unknown = sorted(values.keys() - MMDiTConfig.__dataclass_fields__.keys())
    if unknown:
        raise DataError(f"is no MM-DiT's configuration: unknown {', '.join(unknown)}")
    try:
        return from_dict(MMDiTConfig, values)
    except ValueError as error:
        raise DataError(f"is no MM-DiT's configuration: {error}") from error


def diffusers_settings(config: MMDiTConfig) -> dict[str, Any]:
    """What diffusers' `config.json` says of a network of ours."""
    return {
        "sample_size": config.base_side * config.patch_size,
        "patch_size": config.patch_size,
        "in_channels": config.latent_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.head_width,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_width,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.pooled_width,
        "out_channels": config.latent_channels,
        "pos_embed_max_size": config.table_side,
        "dual_attention_layers": list(config.dual_attention),
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


def diffusers_mistakes(config: MMDiTConfig, settings: Mapping[str, Any]) -> list[str]:
    """What a diffusers `config.json` says that the weights contradict; left out is no mistake."""
    expected = diffusers_settings(config)
    given = {name: settings[name] for name in expected.keys() & settings.keys()}
    if given.get("out_channels", 1) is None:  # diffusers' way to say: as many as come in
        given["out_channels"] = config.latent_channels
    # Older versions wrote no such setting, and None reads as none.
    given["dual_attention_layers"] = given.get("dual_attention_layers") or []
    return [
        f"{name} {given[name]!r} where the weights have {expected[name]!r}"
        for name in sorted(given)
        if name != "sample_size" and given[name] != expected[name]
    ]
