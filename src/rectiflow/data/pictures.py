"""Picture files to arrays: bounded before decoding, upright, opaque, 8-bit RGB."""

import threading
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from rectiflow.data.records import BadRecord, Loaded

MAX_PIXELS: Final = 89_478_485
"""Largest picture that is decoded: a quarter of a gibibyte in RGB, Pillow's own limit too."""

SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
# Only these decoders are offered the bytes; among the others are some that start a program (EPS).
_FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_PAPER: Final = (255, 255, 255, 255)  # what shows through transparent pixels
_OVERSAMPLING: Final = 2  # a JPEG may be decoded at 1/2, 1/4 or 1/8, but not below this many sizes

_opening = threading.Lock()  # the filter of warnings is shared by all threads


def load_square(file: Path, id: str, size_px: int, max_pixels: int = MAX_PIXELS) -> Loaded:
    """Decode a picture, turn it upright, cut the centre square, scale it to `size_px` (Lanczos).

    See `load_picture` for the rest.
    """
    upright = load_picture(file, id, max_pixels, enough_px=size_px)
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, top, left + side, top + side))
    scaled = square.resize((size_px, size_px), Image.Resampling.LANCZOS)
    return Loaded(np.asarray(scaled), is_enlarged=side < size_px)


def load_picture(
    file: Path, id: str, max_pixels: int = MAX_PIXELS, enough_px: int | None = None
) -> Image.Image:
    """Decode a picture to 8-bit RGB and turn it upright.

    Transparent pixels are laid on white. 16-bit grey is scaled to 8 bits; of an animation the first
    picture is taken. Colour profiles are not applied: numbers are read as sRGB.

    Args:
        file: Where it lies.
        id: What errors call it.
        max_pixels: A larger one is refused before it is decoded.
        enough_px: A JPEG may be decoded smaller, down to twice this side; None is its own size.

    Raises:
        BadRecord: If the file cannot be read, is too large or is damaged.
    """
    try:
        with file.open("rb") as source, _open_bounded(source, id, max_pixels) as image:
            if enough_px is not None:
                image.draft(None, (_OVERSAMPLING * enough_px, _OVERSAMPLING * enough_px))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, id)
    except (BadRecord, MemoryError):
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BadRecord(id, "unreadable file", str(error)) from error
    except Exception as error:  # decoders of damaged bytes raise nearly everything
        raise BadRecord(id, "damaged picture", f"{type(error).__name__}: {error}") from error


def _open_bounded(source, id: str, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse more than `max_pixels`."""
    try:
        with _opening, warnings.catch_warnings():
            # Below its hard limit Pillow only warns; the bound here is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise BadRecord(id, "too many pixels", str(error)) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}, at most {max_pixels} pixels are decoded"
        raise BadRecord(id, "too many pixels", size)
    return image


def _to_rgb(image: Image.Image, id: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 / 257 = 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadRecord(id, "unsupported pixel type", f"{image.mode}: where is its white?")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, _PAPER)
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")
