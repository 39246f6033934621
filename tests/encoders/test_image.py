import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.settings import EncodersModel

MODEL = EncodersModel(
    clip_l_width=32, clip_g_width=64, t5_width=96, vision_width=32, vision_layers=2
)
IMAGE = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embeddings_are_transformers_own_at_unit_length(tmp_path):
    image_encoder = ImageEncoder.new(MODEL, size_px=16, seed=4)
    image_encoder.save(tmp_path)
    oracle = CLIPVisionModelWithProjection.from_pretrained(
        tmp_path / "image_encoder", local_files_only=True
    ).eval()
    with torch.no_grad():
        raw = oracle(pixel_values=IMAGE).image_embeds
    assert raw.shape == (3, 64)  # the width of the second text encoder
    embedded = image_encoder.embed(IMAGE)
    torch.testing.assert_close(embedded, raw / raw.norm(dim=1, keepdim=True))
    assert ImageEncoder.load(tmp_path).identity() == image_encoder.identity()
    assert ImageEncoder.load(tmp_path).size_px == 16


def test_patches_must_tile_the_picture():
    with pytest.raises(ValueError, match="vision_patch_px must divide the picture's 20 px, got 8"):
        ImageEncoder.new(MODEL, size_px=20)
