"""The settings of diffusers' `SD3Transformer2DModel`, beside a configuration of ours."""

from collections.abc import Mapping
from typing import Any

from rectiflow.nn.mmdit import MMDiTConfig


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
    given["dual_attention_layers"] = list(given.get("dual_attention_layers") or ())
    return [
        f"{name} {given[name]!r} where the weights have {expected[name]!r}"
        for name in sorted(given)
        if name != "sample_size" and given[name] != expected[name]
    ]
