"""Every kind of network behind one table: its configuration, how to make it, what it costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from torch import nn

from rectiflow.nn.counting import on_meta, parameters_of, products_of
from rectiflow.nn.cross_dit import CrossDiT, CrossDiTConfig
from rectiflow.nn.dit import DiT, DiTConfig
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.pixart import PixArt, PixArtConfig
from rectiflow.nn.products import Products
from rectiflow.nn.settings import (
    CrossDiTSettings,
    DiTSettings,
    MMDiTSettings,
    NetworkSettings,
    PixArtSettings,
    UNetSettings,
    UViTSettings,
)
from rectiflow.nn.single_stream_sizes import (
    cross_dit_products,
    dit_parameters,
    dit_products,
    uvit_parameters,
    uvit_products,
)
from rectiflow.nn.sizes import num_parameters, products
from rectiflow.nn.unet import UNet, UNetConfig
from rectiflow.nn.uvit import UViT, UViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What a network stands between: the latents and the text of given encoders.

    Args:
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text.
        latent_side: Side of the latents it is made for.
    """

    latent_channels: int
    context_width: int
    pooled_width: int
    latent_side: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """One kind of network.

    Args:
        kind: Its name in recipes and folders.
        config: Class of its configuration; a frozen dataclass with `latent_channels`,
            `context_width`, `pooled_width`, `latent_multiple` (of both sides of a latent),
            `base_latent_side`, `max_latent_side` (None: any) and `takes_pooled`.
        build: Configuration to network, called as network(x, t, cond); it has `config` and
            `reset_parameters(generator)`, and starts as the velocity 0.
        num_parameters: Learned numbers of a configuration.
        products: Of a configuration, rows and columns of a latent and the tokens of each group of
            text encoders: what one sample multiplies, hence its FLOPs as
            `torch.utils.flop_counter` counts them, and the papers' GMACs.
        from_settings: Configuration that a recipe's settings mean with given encoders.
    """

    kind: str
    config: type[Any]
    build: Callable[[Any], nn.Module]
    num_parameters: Callable[[Any], int]
    products: Callable[[Any, int, int, tuple[int, ...]], Products]
    from_settings: Callable[[Any, Interface], Any]

    def forward_flops(self, config: Any, height: int, width: int, segments: tuple[int, ...]) -> int:
        """FLOPs of one sample's forward pass; arguments as of `products`."""
        return self.products(config, height, width, segments).forward_flops


def backbone_of(config: Any) -> Backbone:
    """The kind of network that a configuration shapes.

    Raises:
        ValueError: If it is no configuration of a network.
    """
    for backbone in BACKBONES.values():
        if type(config) is backbone.config:
            return backbone
    raise ValueError(f"no network has a configuration of type {type(config).__name__}")


def network_config(settings: NetworkSettings, interface: Interface) -> Any:
    """The configuration that a recipe's `model` section means with these encoders.

    Raises:
        ValueError: If the side does not fit the network, or the settings do not fit each other.
    """
    if interface.latent_side % settings.latent_multiple:
        raise ValueError(
            f"latents must have a side that is a multiple of {settings.latent_multiple} for this "
            f"model, got {interface.latent_side}"
        )
    return BACKBONES[settings.kind].from_settings(settings, interface)


def new_network(config: Any) -> nn.Module:
    """An untrained network of this configuration."""
    return backbone_of(config).build(config)


def _mmdit(settings: MMDiTSettings, interface: Interface) -> MMDiTConfig:
    return MMDiTConfig(
        depth=settings.depth,
        patch_size=settings.patch_size,
        qk_norm=settings.qk_norm,
        num_weight_sets=settings.num_weight_sets,
        **_sides(settings, interface),
        **_widths(interface),
    )


def _dit(settings: DiTSettings, interface: Interface) -> DiTConfig:
    return DiTConfig(**_single_stream(settings, interface))


def _crossdit(settings: CrossDiTSettings, interface: Interface) -> CrossDiTConfig:
    return CrossDiTConfig(**_single_stream(settings, interface))


def _single_stream(
    settings: DiTSettings | CrossDiTSettings, interface: Interface
) -> dict[str, Any]:
    return {
        "depth": settings.depth,
        "num_heads": settings.num_heads or settings.depth,
        "patch_size": settings.patch_size,
        "qk_norm": settings.qk_norm,
        **_sides(settings, interface),
        **_widths(interface),
    }


def _uvit(settings: UViTSettings, interface: Interface) -> UViTConfig:
    return UViTConfig(
        channels=settings.channels,
        num_resnets=settings.num_resnets,
        depth=settings.depth,
        num_heads=settings.num_heads or settings.depth,
        qk_norm=settings.qk_norm,
        norm_groups=settings.norm_groups,
        **_sides(settings, interface),
        **_widths(interface),
    )


def _unet(settings: UNetSettings, interface: Interface) -> UNetConfig:
    return UNetConfig(
        family=settings.family,
        channels=settings.channels,
        depths=settings.depths,
        num_resnets=settings.num_resnets,
        head_width=settings.head_width,
        norm_groups=settings.norm_groups,
        base_latent_side=interface.latent_side,
        **_widths(interface),
    )


def _pixart(settings: PixArtSettings, interface: Interface) -> PixArtConfig:
    return PixArtConfig(
        depth=settings.depth,
        num_heads=settings.num_heads,
        head_width=settings.head_width,
        patch_size=settings.patch_size,
        base_latent_side=interface.latent_side,
        **_widths(interface),
    )


def _sides(settings: Any, interface: Interface) -> dict[str, Any]:
    side = interface.latent_side // settings.latent_multiple
    return {"base_side": side, "table_side": side * settings.table_factor}


def _widths(interface: Interface) -> dict[str, Any]:
    return {
        "latent_channels": interface.latent_channels,
        "context_width": interface.context_width,
        "pooled_width": interface.pooled_width,
    }


def _of_tokens(
    count: Callable[[Any, int, int, int], Products],
) -> Callable[[Any, int, int, tuple[int, ...]], Products]:
    """For networks whose cost depends on the number of text tokens alone."""
    return lambda config, height, width, segments: count(config, height, width, sum(segments))


@cache
def _counted_parameters(build: Callable[[Any], nn.Module], config: Any) -> int:
    return parameters_of(on_meta(partial(build, config)))


@cache
def _counted_products(
    build: Callable[[Any], nn.Module],
    config: Any,
    height: int,
    width: int,
    segments: tuple[int, ...],
) -> Products:
    return products_of(on_meta(partial(build, config)), height, width, segments)


def _counted(kind: str, config: type[Any], build: Callable[[Any], nn.Module]) -> Backbone:
    """A kind whose costs are counted by running it without numbers."""
    return Backbone(
        kind=kind,
        config=config,
        build=build,
        num_parameters=partial(_counted_parameters, build),
        products=partial(_counted_products, build),
        from_settings={"unet": _unet, "pixart": _pixart}[kind],
    )


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        backbone.kind: backbone
        for backbone in (
            Backbone(
                kind="mmdit",
                config=MMDiTConfig,
                build=MMDiT,
                num_parameters=num_parameters,
                products=_of_tokens(products),
                from_settings=_mmdit,
            ),
            Backbone(
                kind="dit",
                config=DiTConfig,
                build=DiT,
                num_parameters=partial(dit_parameters, has_cross=False),
                products=_of_tokens(dit_products),
                from_settings=_dit,
            ),
            Backbone(
                kind="crossdit",
                config=CrossDiTConfig,
                build=CrossDiT,
                num_parameters=partial(dit_parameters, has_cross=True),
                products=_of_tokens(cross_dit_products),
                from_settings=_crossdit,
            ),
            Backbone(
                kind="uvit",
                config=UViTConfig,
                build=UViT,
                num_parameters=uvit_parameters,
                products=_of_tokens(uvit_products),
                from_settings=_uvit,
            ),
            _counted("unet", UNetConfig, UNet),
            _counted("pixart", PixArtConfig, PixArt),
        )
    }
)
"""All kinds, by name; the names are those of `settings.KINDS`."""
