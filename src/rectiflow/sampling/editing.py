"""Pictures that drawing starts from: image-to-image and inpainting."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

STRENGTH = 0.6
"""Share of the steps that are run from a picture without a mask, where nothing else is said."""

Picture = Image.Image | np.ndarray
WHITE = 128  # the darkest grey of a mask that counts as white


@dataclass(frozen=True)
class Original:
    """A picture to start from.

    Attributes:
        picture: Its bytes.
        redrawn: Where it is drawn anew; None is everywhere.
    """

    picture: UInt8[np.ndarray, "height width 3"]
    redrawn: Bool[np.ndarray, "height width"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.picture.shape[1], self.picture.shape[0]

    def image(self) -> Float[Tensor, "1 3 height width"]:
        """The picture in [-1, 1], a batch of one."""
        return torch.from_numpy(self.picture.copy()).permute(2, 0, 1)[None] / 127.5 - 1

    def redrawn_latents(self, factor: int) -> Bool[Tensor, "1 1 rows columns"] | None:
        """Where the latent is drawn anew: each position with a white pixel among its own.

        Args:
            factor: Pixels per latent position along a side; divides both sides of the picture.
        """
        if self.redrawn is None:
            return None
        height, width = self.redrawn.shape
        cells = self.redrawn.reshape(height // factor, factor, width // factor, factor)
        return torch.from_numpy(cells.any(axis=(1, 3)))[None, None]

    def strength(self, asked: float | None) -> float:
        """Share of the steps to run: as asked, else 1 with a mask and `STRENGTH` without."""
        if asked is not None:
            return asked
        return STRENGTH if self.redrawn is None else 1.0

    def facts(self) -> dict[str, str]:
        """What pins it down in a drawn picture's metadata: SHA-256 of its pixels and its mask."""
        parts = {"image": self.picture, "mask": self.redrawn}
        return {
            f"{name}_sha256": hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
            for name, part in parts.items()
            if part is not None
        }


def original_picture(
    image: Picture | None, mask: Picture | None = None, size: tuple[int, int] | None = None
) -> Original | None:
    """The picture to start from, of the size to draw.

    Args:
        image: 8-bit RGB, as a Pillow picture or an array (height, width, 3); None is none.
        mask: White where the picture is drawn anew, black where it stays, of the size of `image`;
            a Pillow picture, or an array (height, width) of bytes or of truth values. Grey from
            128 on counts as white.
        size: (width, height) to draw. Picture and mask are scaled until they cover it (Lanczos) and
            their centre is cut; None is the picture's own size, untouched.

    Raises:
        ValueError: If shapes do not fit, the mask has no white in it or nothing to lie on.
    """
    if image is None:
        if mask is not None:
            raise ValueError("a mask needs the image that it lies on")
        return None
    picture = _picture(image)
    whites = None if mask is None else _mask(mask)
    if whites is not None and whites.size != picture.size:
        raise ValueError(
            f"image and mask must be of one size, got {picture.width}x{picture.height} and "
            f"{whites.width}x{whites.height}"
        )
    if size is not None:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        whites = whites and ImageOps.fit(whites, size, Image.Resampling.LANCZOS)
    redrawn = None if whites is None else np.asarray(whites) >= WHITE
    if redrawn is not None and not redrawn.any():
        raise ValueError("the mask is black everywhere: nothing would be drawn; white is drawn")
    return Original(np.asarray(picture), redrawn)


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image must be bytes of shape (height, width, 3), got {image.dtype} {image.shape}"
        )
    return Image.fromarray(image)


def _mask(mask: Picture) -> Image.Image:
    if isinstance(mask, Image.Image):
        return mask.convert("L")
    if mask.dtype not in (np.bool_, np.uint8) or mask.ndim != 2:
        raise ValueError(
            f"mask must be bytes or truth values of shape (height, width), "
            f"got {mask.dtype} {mask.shape}"
        )
    return Image.fromarray(mask.astype(np.uint8) * (255 if mask.dtype == np.bool_ else 1))
