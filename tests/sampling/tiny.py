"""A whole pipeline with random weights, small enough to draw in milliseconds."""

import dataclasses
import json
from functools import cache

import torch
from safetensors.torch import save_file

from rectiflow.checkpoints import state_text
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel, EncodersModel
from rectiflow.encoders.text import TextEncoders
from rectiflow.flow.formulations import formulation
from rectiflow.nn.mmdit import MMDiT
from rectiflow.sampling.load import network_config
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sealing import seal, sha256

CAPTIONS = ("two red circles", "a blue star left of a green square", 'the word "CAT"')
MODEL = {"depth": 1, "patch_size": 2, "qk_norm": True, "table_factor": 2}
SIDE_PX = 32
RECIPE = {
    "name": "tiny",
    "kind": "flow",
    "data": {"kind": "scenes", "size_px": SIDE_PX},
    "model": MODEL,
    "objective": {"formulation": "rf/lognorm(0.00,1.00)"},
    "sampling": {"num_steps": 2, "guidance_scale": 3.0, "unconditional": "empty", "seed": 1},
}


@cache
def autoencoder():
    model = AutoencoderModel(latent_channels=4, widths=(8, 8, 8, 8), norm_groups=4)
    return Autoencoder.new(model, seed=1)


@cache
def text():
    model = EncodersModel(
        clip_l_width=32,
        clip_g_width=32,
        t5_width=64,
        clip_layers=2,
        t5_layers=1,
        clip_tokens=48,  # unknown words are spelt in bytes
        t5_tokens=48,
    )
    return TextEncoders.new(model, CAPTIONS, seed=2)


def network(seed=3, **changes):
    """An MM-DiT that is not the zero function that it starts as."""
    model = MMDiT(network_config({**MODEL, **changes}, SIDE_PX, autoencoder(), text()))
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def pipeline(model=None, name="rf", **arguments):
    arguments = {"options": SamplingOptions(num_steps=3), "precision": "fp32", **arguments}
    return Pipeline(
        model or network(),
        autoencoder(),
        text(),
        formulation=formulation(name),
        side_px=SIDE_PX,
        **arguments,
    )


def add_checkpoint(run, step, weights):
    folder = run / "checkpoints" / f"step-{step:08d}"
    file = folder / "ema" / "shard-00001-model-00001-of-00001.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    files = {f"ema/{file.name}": sha256(file)}
    text = state_text({"step": step, "groups": ["ema"], "files": files})
    (folder / "state.json").write_text(text)
    return file


def write_run(folder):
    """A run: one network at step 2, another at step 10, which is exported as a bundle."""
    encoders, export = folder.parent / "encoders", folder / "export"
    for place in (encoders, export):
        autoencoder().save(place / "vae")
        text().save(place)
    recipe = {**RECIPE, "encoders": {"source": str(encoders), "autoencoder": None, "text": None}}
    (folder / "config.json").write_text(json.dumps(recipe))
    add_checkpoint(folder, 2, network(seed=8).state_dict())
    trained = network(seed=9)
    add_checkpoint(folder, 10, trained.state_dict())
    (export / "mmdit").mkdir()
    (export / "mmdit" / "config.json").write_text(json.dumps(dataclasses.asdict(trained.config)))
    save_file(trained.state_dict(), export / "mmdit" / "model.safetensors")
    seal(export, {})
    return folder
