import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from rectiflow.encoders.tokenizers import clip_tokenizer
from rectiflow.encoders.truncation import TruncationWarning
from rectiflow.errors import DataError
from rectiflow.evaluation.hugging_face_clip import HuggingFaceClip, Preprocessing, find_clip

WORDS = ["red", "star", "blue", "ring"]
PROMPTS = ["a red star", "a ring", "a blue ring red"]
PREPROCESSOR = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "size": 30,
    "crop_size": 24,
    "resample": 3,
    "image_mean": [0.48, 0.45, 0.4],
    "image_std": [0.27, 0.26, 0.3],
}


@pytest.fixture
def folder(tmp_path):
    """A tiny CLIP as its publisher would lay it out."""
    tokenizer = clip_tokenizer(WORDS)
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(tmp_path)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **tower,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "num_attention_heads": 2, "image_size": 24, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return tmp_path


def changed(folder, **facts):
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, **facts}))


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def test_pictures_are_prepared_as_transformers_own_preprocessor_does(folder):
    theirs = CLIPImageProcessorPil(**PREPROCESSOR)
    ours = Preprocessing.read(folder)
    for picture in pictures((64, 64), (41, 97), (80, 33), (24, 30), (30, 31)):
        expected = theirs(Image.fromarray(picture), return_tensors="np").pixel_values[0]
        np.testing.assert_allclose(ours(picture), expected, atol=1e-5)


def test_features_are_those_of_the_model_unnormalised(folder):
    clip, model = find_clip(str(folder)), CLIPModel.from_pretrained(folder).eval()
    shown = pictures((64, 64), (41, 97), (80, 33))
    pixels = CLIPImageProcessorPil(**PREPROCESSOR)(shown, return_tensors="pt").pixel_values
    tokenizer = clip_tokenizer(WORDS)
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens, pixel_values=pixels)
    images, texts = clip.image_features(shown), clip.text_features(PROMPTS)
    assert images.shape == texts.shape == (3, clip.width) == (3, 12)
    assert np.linalg.norm(images, axis=1).std() > 1e-3
    for ours, theirs in ((images, expected.image_embeds), (texts, expected.text_embeds)):
        unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, theirs.numpy(), atol=1e-5)
    with torch.no_grad():
        vision = model.vision_model(pixel_values=pixels).pooler_output
    np.testing.assert_allclose(images, model.visual_projection(vision).detach(), atol=1e-5)


def test_the_buffers_of_older_files_are_no_trouble(folder):
    """OpenAI's files hold the positions' numbers beside the weights."""
    before = HuggingFaceClip.load(folder).identity()
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for tower, num in (("text", 8), ("vision", 10)):
        tensors[f"{tower}_model.embeddings.position_ids"] = torch.arange(num)[None]
    save_file(tensors, file, {"format": "pt"})
    assert HuggingFaceClip.load(folder).identity() == before


def test_a_longer_prompt_is_cut_with_a_warning(folder):
    clip = HuggingFaceClip.load(folder)
    with pytest.warns(TruncationWarning, match="clip 4"):
        clip.text_features(["a red star a red star a red star a"])


def test_the_identity_sees_weights_and_preprocessing(folder):
    seen = {HuggingFaceClip.load(folder).identity() for _ in range(2)}
    assert len(seen) == 1
    changed(folder, image_mean=[0.5, 0.5, 0.5])
    seen.add(HuggingFaceClip.load(folder).identity())
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    seen.add(HuggingFaceClip.load(folder).identity())
    assert len(seen) == 3


def test_newer_folders_keep_the_numbers_in_a_file_for_both_parts(folder):
    expected = Preprocessing.read(folder)
    (folder / "preprocessor_config.json").unlink()
    joint = {"image_processor": {**PREPROCESSOR, "size": {"shortest_edge": 30}}}
    (folder / "processor_config.json").write_text(json.dumps(joint))
    assert Preprocessing.read(folder) == expected


def test_what_is_missing_is_named(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors; pickled weights"):
        HuggingFaceClip.load(folder)
    (folder / "pytorch_model.bin").rename(weights)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
        HuggingFaceClip.load(folder)
    with pytest.raises(FileNotFoundError, match="no bundle or run"):
        find_clip(str(folder / "nowhere"))


def test_other_models_and_other_preprocessing_are_refused(folder):
    changed(folder, do_center_crop=False)
    with pytest.raises(DataError, match="leaves out do_center_crop"):
        HuggingFaceClip.load(folder)
    changed(folder, crop_size=20)
    with pytest.raises(DataError, match=r"pictures of \(20, 20\) px, the model takes 24"):
        HuggingFaceClip.load(folder)
    changed(folder, crop_size=40)
    with pytest.raises(DataError, match=r"cuts \(40, 40\) px from 30"):
        HuggingFaceClip.load(folder)
    changed(folder, size={"longest_edge": 30})
    with pytest.raises(DataError, match="does not say how pictures are prepared"):
        HuggingFaceClip.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(ValueError, match="kind 'clip', got 'siglip'"):
        find_clip(str(folder))
