"""The vision tower that the CLIP text encoders are trained against, kept for CLIP scores."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from rectiflow.encoders.folders import content_hash, load_pretrained, model_facts, save_pretrained
from rectiflow.encoders.settings import HEAD_WIDTH, EncodersModel

FOLDER = "image_encoder"


class ImageEncoder(nn.Module):
    """Pictures in [-1, 1] to vectors that the second CLIP text encoder's can be compared with.

    Attributes:
        network: transformers' vision model; its pictures have mean and std 0.5 per channel, which
            is the range [-1, 1].
    """

    def __init__(self, network: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def new(cls, model: EncodersModel, size_px: int, seed: int = 0) -> "ImageEncoder":
        """An untrained tower for pictures of one size; its weights are a function of `seed`.

        Raises:
            ValueError: If the patches do not tile the picture.
        """
        if size_px % model.vision_patch_px:
            raise ValueError(
                f"vision_patch_px must divide the picture's {size_px} px, "
                f"got {model.vision_patch_px}"
            )
        config = CLIPVisionConfig(
            hidden_size=model.vision_width,
            intermediate_size=4 * model.vision_width,
            projection_dim=model.clip_g_width,
            num_hidden_layers=model.vision_layers,
            num_attention_heads=model.vision_width // HEAD_WIDTH,
            image_size=size_px,
            patch_size=model.vision_patch_px,
            hidden_act="gelu",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(CLIPVisionModelWithProjection(config).eval())

    @classmethod
    def load(cls, folder: Path | str) -> "ImageEncoder":
        """Read the folder `image_encoder` of a bundle, in float32.

        Raises:
            FileNotFoundError: If it is missing.
            DataError: If a file in it is damaged.
        """
        return cls(load_pretrained(CLIPVisionModelWithProjection, Path(folder) / FOLDER).float())

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder `image_encoder`, with the settings of transformers' preprocessor."""
        target = Path(folder) / FOLDER
        save_pretrained(self.network, target, dtype)
        facts = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "size": {"shortest_edge": self.size_px},
            "crop_size": {"height": self.size_px, "width": self.size_px},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (target / "preprocessor_config.json").write_text(json.dumps(facts, indent=2) + "\n")

    @property
    def size_px(self) -> int:
        """Side of the pictures it takes."""
        config: Any = self.network.config
        return config.image_size

    def identity(self) -> str:
        """SHA-256 over configuration and weights (as float32)."""
        return content_hash(model_facts(self.network.config.to_dict()), self.network.state_dict())

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels"]:
        """Projected vectors, not normalised."""
        return self.network(pixel_values=image).image_embeds

    @torch.no_grad()
    def embed(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels"]:
        """Vectors of length 1; their products with unit text vectors are cosine similarities."""
        return functional.normalize(self(image), dim=-1)
