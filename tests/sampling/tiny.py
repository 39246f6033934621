"""A whole pipeline with random weights, small enough to draw in milliseconds."""

from functools import cache

import torch

from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel, EncodersModel
from rectiflow.encoders.text import TextEncoders
from rectiflow.flow.formulations import formulation
from rectiflow.nn.mmdit import MMDiT
from rectiflow.sampling.load import network_config
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.pipeline import Pipeline

CAPTIONS = ("two red circles", "a blue star left of a green square", 'the word "CAT"')
MODEL = {"depth": 1, "patch_size": 2, "qk_norm": True, "table_factor": 2}
SIDE_PX = 32


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
    )
    return TextEncoders.new(model, CAPTIONS, seed=2)


def network(seed=3):
    """An MM-DiT that is not the zero function that it starts as."""
    model = MMDiT(network_config(MODEL, SIDE_PX, autoencoder(), text()))
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def pipeline(model=None, **arguments):
    arguments = {"options": SamplingOptions(num_steps=3), **arguments}
    return Pipeline(
        model or network(),
        autoencoder(),
        text(),
        formulation=formulation("rf"),
        side_px=SIDE_PX,
        **arguments,
    )
