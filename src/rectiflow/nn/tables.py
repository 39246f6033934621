"""Tables of the papers' networks: their shapes, their printed sizes and ours as counted.

Plain numbers, so that listing them costs no torch; the tests count every one of them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import Any

SCALABILITY = "arXiv:2404.02883"
SD3 = "arXiv:2403.03206"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One network of a paper, a release or a packaged recipe, with an autoencoder of factor 8.

    Args:
        name: Name in the paper, or of the release.
        kind: Kind of backbone, as in `settings.KINDS`.
        source: Where it comes from.
        shape: Fields of the kind's configuration that are not the same for the whole table.
        num_parameters: Learned numbers, counted.
        layer_macs: Multiply-adds of a forward pass in linear and convolution layers, counted; the
            products inside attention, which have no weights, are left out, as the paper does.
        printed_billions: Parameters as the paper prints them; "" where it does not.
        printed_gmacs: The same for `layer_macs`.
        side_px: Side of the picture that `layer_macs` are for.
        segments: Text tokens, by group of encoders.
    """

    name: str
    kind: str
    source: str
    shape: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    num_parameters: int
    layer_macs: int
    printed_billions: str = ""
    printed_gmacs: str = ""
    side_px: int = 256
    segments: tuple[int, ...] = (77,)


def agreement(count: float, printed: str) -> str:
    """How a count agrees with a printed number: "yes", "rounded twice", "no", or "" if none is.

    "rounded twice" is what 1.23499 printed as 1.24 looks like: rounded to 1.235, then up.
    """
    if not printed:
        return ""
    unit = Decimal(1).scaleb(int(Decimal(printed).as_tuple().exponent))
    exact = Decimal(count)
    if exact.quantize(unit, ROUND_HALF_UP) == Decimal(printed):
        return "yes"
    once = exact.quantize(unit / 10, ROUND_HALF_UP)
    return "rounded twice" if once.quantize(unit, ROUND_HALF_UP) == Decimal(printed) else "no"


def _unet(
    name: str,
    channels: tuple[int, ...],
    depths: tuple[int, ...],
    counted: tuple[int, int],
    printed: tuple[str, str],
    **others: Any,
) -> Row:
    return Row(
        name=name,
        kind="unet",
        source=f"{SCALABILITY}, Table 1",
        shape={"channels": channels, "depths": depths, **others},
        num_parameters=counted[0],
        layer_macs=counted[1],
        printed_billions=printed[0],
        printed_gmacs=printed[1],
    )


def _pixart(width: int, depth: int, counted: tuple[int, int], printed: tuple[str, str]) -> Row:
    return Row(
        name=f"PixArt-h{width}-d{depth}",
        kind="pixart",
        source=f"{SCALABILITY}, Table 2",
        shape={"depth": depth, "head_width": width // 16},
        num_parameters=counted[0],
        layer_macs=counted[1],
        printed_billions=printed[0],
        printed_gmacs=printed[1],
    )


def _mmdit(name: str, source: str, num_parameters: int, layer_macs: int, printed: str = "") -> Row:
    return Row(
        name=name,
        kind="mmdit",
        source=source,
        num_parameters=num_parameters,
        layer_macs=layer_macs,
        printed_billions=printed,
        segments=(77, 77),
    )


_SD2 = (1, 1, 1, 0)
_IF: dict[str, Any] = {"family": "if", "num_resnets": 3}
_C320 = (320, 640, 1280)

UNETS: tuple[Row, ...] = (
    _unet("SD2", (*_C320, 1280), _SD2, (865_910_724, 86_272_573_440), ("0.87", "86")),
    _unet(
        "SD2-C512",
        (512, 1024, 2048, 2048),
        _SD2,
        (2_191_746_564, 218_945_814_528),
        ("2.19", "219"),
    ),
    _unet(
        "IF-XL-C512",
        (512, 1024, 1536, 2048),
        _SD2,
        (2_040_998_916, 193_525_186_560),
        ("2.04", "194"),
        **_IF,
    ),
    _unet(
        "IF-XL",
        (704, 1408, 2112, 2816),
        _SD2,
        (3_829_612_932, 363_801_329_664),
        ("3.83", "364"),
        **_IF,
    ),
    _unet(
        "SDXL-C128",
        (128, 256, 512),
        (0, 2, 10),
        (423_971_332, 34_880_880_640),
        ("0.42", "35"),
    ),
    _unet(
        "SDXL-C192",
        (192, 384, 768),
        (0, 2, 10),
        (902_336_260, 74_538_811_392),
        ("0.90", "75"),
    ),
    _unet("SDXL", _C320, (0, 2, 10), (2_391_824_644, 198_289_653_760), ("2.39", "198")),
    _unet(
        "SDXL-C384",
        (384, 768, 1536),
        (0, 2, 10),
        (3_402_948_100, 282_382_565_376),
        ("3.40", "282"),
    ),
    _unet("SDXL-TD2", _C320, (0, 2, 2), (849_373_444, 98_003_845_120), ("0.85", "98")),
    _unet("SDXL-TD4", _C320, (0, 2, 4), (1_234_986_244, 123_075_297_280), ("1.24", "123")),
    _unet("SDXL-TD12", _C320, (0, 2, 12), (2_777_437_444, 223_361_105_920), ("2.78", "223")),
    _unet("SDXL-TD14", _C320, (0, 2, 14), (3_163_050_244, 248_432_558_080), ("3.16", "248")),
    _unet("SDXL-TD4_4", _C320, (0, 4, 4), (1_321_930_244, 142_958_919_680), ("1.32", "143")),
    _unet("SDXL-TD4_8", _C320, (0, 4, 8), (2_093_155_844, 193_101_824_000), ("2.09", "193")),
    _unet("SDXL-TD4_12", _C320, (0, 4, 12), (2_864_381_444, 243_244_728_320), ("2.86", "243")),
    _unet(
        "SDXL-C384-TD4_12",
        (384, 768, 1536),
        (0, 4, 12),
        (4_072_645_636, 346_294_321_152),
        ("4.07", "346"),
    ),
)
"""Table 1 of arXiv:2404.02883: 77 text tokens of width 1024, latents of 4 channels. "SDXL" is the
paper's: text of width 1024 and no added conditioning, hence 2.39 and not 2.57 billion."""

PIXARTS: tuple[Row, ...] = (
    _pixart(1152, 28, (607_317_152, 139_116_773_376), ("0.61", "139")),
    _pixart(1536, 28, (1_078_715_936, 247_271_915_520), ("1.08", "247")),
    _pixart(1024, 28, (477_969_440, 109_768_343_552), ("0.48", "110")),
    _pixart(1024, 56, (948_276_256, 219_516_502_016), ("0.95", "220")),
)
"""Table 2 of arXiv:2404.02883, the paper's own four: texts and latents as in Table 1."""

MMDITS: tuple[Row, ...] = (
    _mmdit("mmdit-d15", SD3, 496_066_624, 67_399_925_760),
    _mmdit("mmdit-d18", SD3, 856_159_552, 116_538_310_656),
    _mmdit("mmdit-d21", SD3, 1_358_950_720, 185_198_985_216),
    _mmdit("mmdit-d24", SD3, 2_028_328_000, 276_654_587_904, "2"),
    _mmdit("mmdit-d30", SD3, 3_962_392_384, 541_041_131_520),
    _mmdit("mmdit-d38", SD3, 8_056_617_792, 1_101_006_012_416, "8"),
    _mmdit("sd3-medium", "stabilityai/stable-diffusion-3-medium", 2_028_328_000, 276_654_587_904),
    _mmdit(
        "sd3.5-medium", "stabilityai/stable-diffusion-3.5-medium", 2_243_171_520, 308_153_548_800
    ),
    _mmdit(
        "sd3.5-large", "stabilityai/stable-diffusion-3.5-large", 8_056_627_520, 1_101_006_012_416
    ),
    _mmdit(
        "sd3.5-large-turbo",
        "stabilityai/stable-diffusion-3.5-large-turbo",
        8_056_627_520,
        1_101_006_012_416,
    ),
)
"""The depths of arXiv:2403.03206, whose sizes the paper rounds, and the releases; 77 CLIP and 77 T5
tokens, latents of 16 channels. The shapes are in `releases`."""

_BASELINE = f"{SD3}, Fig. 4 (sizes unstated); recipe"


def _recipe(
    name: str, kind: str, source: str, counted: tuple[int, int], shape: Mapping[str, Any]
) -> Row:
    """A packaged recipe on scenes, with the encoders of the bundle scenes-tiny."""
    widths = {"latent_channels": 16, "context_width": 192, "pooled_width": 160}
    return Row(
        name=name,
        kind=kind,
        source=source,
        shape={**shape, **widths},
        num_parameters=counted[0],
        layer_macs=counted[1],
        side_px=64,
        segments=(13, 12),
    )


_TOKENS = {"depth": 4, "patch_size": 1, "base_side": 8, "table_side": 16}

RECIPES: tuple[Row, ...] = (
    _recipe("dit-tiny", "dit", _BASELINE, (5_162_512, 283_664_384), {**_TOKENS, "num_heads": 4}),
    _recipe(
        "crossdit-tiny",
        "crossdit",
        _BASELINE,
        (6_215_696, 251_682_816),
        {**_TOKENS, "num_heads": 4},
    ),
    _recipe(
        "uvit-tiny",
        "uvit",
        _BASELINE,
        (7_457_040, 256_794_624),
        {
            "channels": (128,),
            "depth": 4,
            "num_heads": 4,
            "norm_groups": 16,
            "base_side": 4,
            "table_side": 8,
        },
    ),
    _recipe(
        "mmdit3-tiny",
        "mmdit",
        _BASELINE,
        (12_922_384, 269_901_824),
        {**_TOKENS, "num_weight_sets": 3},
    ),
    _recipe(
        "unet-tiny",
        "unet",
        "recipe",
        (9_637_072, 229_183_488),
        {
            "channels": (96, 192),
            "depths": (1, 1),
            "num_resnets": 1,
            "head_width": 32,
            "norm_groups": 16,
            "base_latent_side": 8,
        },
    ),
    _recipe(
        "pixart-tiny",
        "pixart",
        "recipe",
        (4_868_384, 252_166_144),
        {"depth": 4, "num_heads": 4, "head_width": 64, "patch_size": 1, "base_latent_side": 8},
    ),
)
"""One small network of each kind, as the packaged recipes train it."""

TABLES: Mapping[str, tuple[Row, ...]] = MappingProxyType(
    {"unet": UNETS, "pixart": PIXARTS, "mmdit": MMDITS}
)


def every_row() -> list[Row]:
    """All networks with a name: those of the tables, then those of the recipes."""
    return [*(row for rows in TABLES.values() for row in rows), *RECIPES]


def row_of(name: str) -> Row | None:
    """The network of that name, None if there is none."""
    return next((row for row in every_row() if row.name == name), None)
