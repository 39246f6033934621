"""What one picture takes of the networks that diffusers computes, counted once.

Counting builds such a network and loads diffusers, which takes seconds; plain numbers take none. A
test counts some of them again, and all of them where slow tests run.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Counts(NamedTuple):
    """What the forward pass of one sample takes.

    Args:
        forward_flops: Floating-point operations, as `counting.flops_of` counts.
        kept_bytes: Kept for the backward pass in float32, as `counting.saved_bytes_of` counts.
    """

    forward_flops: int
    kept_bytes: int


COUNTED: Mapping[str, Mapping[int, Counts]] = MappingProxyType(
    {
        "SD2": {
            256: Counts(181_090_467_840, 473_467_776),
            512: Counts(804_257_464_320, 1_869_427_200),
            1024: Counts(4_674_990_243_840, 7_453_264_896),
        },
        "SD2-C512": {
            256: Counts(451_564_142_592, 757_243_008),
            512: Counts(1_933_929_086_976, 2_990_457_600),
            1024: Counts(10_068_292_534_272, 11_923_315_968),
        },
        "IF-XL-C512": {
            256: Counts(406_057_967_616, 469_874_032),
            512: Counts(1_804_820_865_024, 1_788_769_648),
            1024: Counts(10_476_016_951_296, 7_064_352_112),
        },
        "IF-XL": {
            256: Counts(753_737_981_952, 640_365_424),
            512: Counts(3_263_012_954_112, 2_453_828_464),
            1024: Counts(17_529_811_525_632, 9_707_680_624),
        },
        "SDXL-C128": {
            256: Counts(71_743_569_920, 363_399_168),
            512: Counts(269_559_529_472, 1_390_989_312),
            1024: Counts(1_272_216_289_280, 5_501_349_888),
        },
        "SDXL-C192": {
            256: Counts(152_050_335_744, 544_850_176),
            512: Counts(582_065_061_888, 2_085_980_416),
            1024: Counts(2_619_213_348_864, 8_250_501_376),
        },
        "SDXL": {
            256: Counts(401_533_829_120, 907_752_192),
            512: Counts(1_562_527_662_080, 3_475_962_624),
            1024: Counts(6_734_985_297_920, 13_748_804_352),
        },
        "SDXL-C384": {
            256: Counts(570_710_556_672, 1_089_203_200),
            512: Counts(2_230_484_729_856, 4_170_953_728),
            1024: Counts(9_503_760_187_392, 16_497_955_840),
        },
        "SDXL-TD2": {
            256: Counts(198_744_473_600, 429_429_504),
            512: Counts(797_423_697_920, 1_676_212_992),
            1024: Counts(3_539_428_966_400, 6_663_346_944),
        },
        "SDXL-TD4": {
            256: Counts(249_441_812_480, 549_010_176),
            512: Counts(988_699_688_960, 2_126_150_400),
            1024: Counts(4_338_318_049_280, 8_434_711_296),
        },
        "SDXL-TD12": {
            256: Counts(452_231_168_000, 1_027_332_864),
            512: Counts(1_753_803_653_120, 3_925_900_032),
            1024: Counts(7_533_874_380_800, 15_520_168_704),
        },
        "SDXL-TD14": {
            256: Counts(502_928_506_880, 1_146_913_536),
            512: Counts(1_945_079_644_160, 4_375_837_440),
            1024: Counts(8_332_763_463_680, 17_291_533_056),
        },
        "SDXL-TD4_4": {
            256: Counts(291_391_406_080, 736_514_816),
            512: Counts(1_170_575_196_160, 2_864_341_760),
            1024: Counts(5_381_887_098_880, 11_375_649_536),
        },
        "SDXL-TD4_8": {
            256: Counts(392_786_083_840, 975_676_160),
            512: Counts(1_553_127_178_240, 3_764_216_576),
            1024: Counts(6_979_665_264_640, 14_918_378_240),
        },
        "SDXL-TD4_12": {
            256: Counts(494_180_761_600, 1_214_837_504),
            512: Counts(1_935_679_160_320, 4_664_091_392),
            1024: Counts(8_577_443_430_400, 18_461_106_944),
        },
        "SDXL-C384-TD4_12": {
            256: Counts(701_818_208_256, 1_457_689_600),
            512: Counts(2_757_991_858_176, 5_596_644_352),
            1024: Counts(12_033_611_268_096, 22_152_463_360),
        },
        "PixArt-h1152-d28": {
            256: Counts(289_232_584_704, 785_671_168),
            512: Counts(1_222_848_479_232, 3_075_767_296),
            1024: Counts(6_479_341_092_864, 12_236_151_808),
        },
        "PixArt-h1536-d28": {
            256: Counts(509_209_214_976, 1_047_411_712),
            512: Counts(2_109_170_515_968, 4_100_740_096),
            1024: Counts(10_538_387_767_296, 16_314_053_632),
        },
        "PixArt-h1024-d28": {
            256: Counts(229_313_609_728, 697_478_144),
            512: Counts(980_274_380_800, 2_733_163_520),
            1024: Counts(5_337_032_163_328, 10_875_905_024),
        },
        "PixArt-h1024-d56": {
            256: Counts(458_586_849_280, 1_391_455_232),
            512: Counts(1_960_432_893_952, 5_453_333_504),
            1024: Counts(10_673_646_469_120, 21_700_846_592),
        },
        "unet-tiny": {
            64: Counts(466_944_000, 5_286_784),
        },
        "pixart-tiny": {
            64: Counts(527_663_104, 6_574_336),
        },
    }
)
"""By name of a row of `tables` and side of the picture in pixels, with the text of that row."""
