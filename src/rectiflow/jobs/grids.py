"""Pictures that show how a model trains: the same prompts and noises, or pictures, every time."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders, TruncationWarning
from rectiflow.flow.formulations import formulation
from rectiflow.nn.kernels import no_autocast
from rectiflow.preparation.prepared import Prepared
from rectiflow.sampling.drawing import options_of
from rectiflow.sampling.guiding import windows_of
from rectiflow.sampling.images import contact_sheet, save_png, to_bytes
from rectiflow.sampling.options import SamplingOptions, refuse_idle
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.solving import check_solver
from rectiflow.training.recipe import FlowRecipe
from rectiflow.training.settings.data import ScenesData
from rectiflow.training.settings.sampling import SamplingSettings
from rectiflow.training.state import TrainState

SHOWN_PX = 128  # side of a picture on a sheet, at least

SCENES_PROMPTS = (
    "a red circle",
    "a green star",
    "two red circles",
    "three yellow triangles",
    "four blue squares",
    "five white crosses",
    "a blue star left of a green square",
    "a red ring above a black cross",
    "an orange circle and a purple triangle",
    "a pink square right of a brown ring",
    "two red circles and one blue square",
    "a circle and a star",
    'the word "CAT"',
    'the word "HELLO"',
    'the word "SNOW" in white',
    'black letters "RFT"',
)


class PictureGrid:
    """An observer of the loop: draws with the averaged weights into RUN/samples.

    Args:
        network: What is trained; its present weights are replaced by their average while it draws.
        autoencoder: Latents to pictures.
        text: Prompts to text states.
        recipe: Says how to draw.
        prompts: What to draw; `sampling.num_pictures` of them.

    Raises:
        ValueError: If the recipe's `sampling` cannot draw, or says something without effect.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text: TextEncoders,
        recipe: FlowRecipe,
        prompts: Sequence[str],
    ) -> None:
        self._parts = (network, autoencoder, text)
        self._recipe = recipe
        self._prompts = list(prompts)
        self._options = drawing_options(recipe)

    def __call__(self, state: TrainState) -> Mapping[str, float]:
        """Write `step-00001000.png`; logs nothing."""
        network, autoencoder, text = self._parts
        settings = self._recipe.sampling
        pipeline = Pipeline(
            network,
            autoencoder,
            text,
            formulation=formulation(self._recipe.objective.formulation),
            side_px=self._recipe.data.size_px,
            unconditional_text=settings.unconditional,
            device=next(network.parameters()).device,
            precision=self._recipe.training.precision,
        )
        keys = [(settings.seed, i) for i in range(len(self._prompts))]
        # Drawn as `rectiflow sample` draws: the pipeline has its own autocast, around the network.
        with no_autocast(pipeline.device), state.ema.applied(), warnings.catch_warnings():
            # The captions of own pictures are as long as they are; preparation told what was cut.
            warnings.simplefilter("ignore", TruncationWarning)
            drawn = pipeline.draw(self._prompts, keys, self._options)
        sheet = contact_sheet([_enlarged(picture) for picture in drawn], captions=self._prompts)
        _write(sheet, state)
        return {}


def drawing_options(recipe: FlowRecipe) -> SamplingOptions:
    """How the recipe's model is drawn; mistakes are told before it is trained.

    Raises:
        ValueError: If settings do not go together, one that was changed has no effect, or the
            formulation cannot be drawn so.
    """
    settings, default = (dataclasses.asdict(s) for s in (recipe.sampling, SamplingSettings()))
    options = options_of(settings)
    refuse_idle(options, [name for name in settings if settings[name] != default[name]])
    form = formulation(recipe.objective.formulation)
    check_solver(options, form)
    windows_of(options, form, form.times(options.num_steps, options.shift, options.grid))
    return options


class ReconstructionGrid:
    """An observer of the loop: held-out pictures beside their way through the autoencoder.

    Args:
        model: What is trained; its present weights are replaced by their average meanwhile.
        images: Held-out pictures in [-1, 1].
    """

    def __init__(self, model: Autoencoder, images: Float[Tensor, "batch 3 height width"]) -> None:
        self._model, self._images = model, images

    @torch.no_grad()
    def __call__(self, state: TrainState) -> Mapping[str, float]:
        """Write `step-00001000.png`, each picture and its reconstruction in turn; logs nothing."""
        device = next(self._model.parameters()).device
        with no_autocast(device), state.ema.applied():
            decoded = self._model.decode(self._model.encode(self._images.to(device)))
        pairs = zip(to_bytes(self._images), to_bytes(decoded), strict=True)
        pictures = [_enlarged(picture) for pair in pairs for picture in pair]
        _write(contact_sheet(pictures, columns=8), state)
        return {}


def _enlarged(picture: np.ndarray) -> Image.Image:
    side = max(SHOWN_PX, len(picture))
    return Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)


def _write(sheet: Image.Image, state: TrainState) -> None:
    if not state.ranks.is_first:
        return
    state.run.samples.mkdir(exist_ok=True)
    save_png(sheet, state.run.sheet_path(state.step))


def grid_prompts(recipe: FlowRecipe, prepared: Prepared) -> list[str]:
    """What to draw: a fixed list for scenes, captions of held-out pictures for anything else."""
    num = recipe.sampling.num_pictures
    if isinstance(recipe.data, ScenesData):
        return [SCENES_PROMPTS[i % len(SCENES_PROMPTS)] for i in range(num)]
    rows = prepared.validation_rows[:num]
    store = prepared.validation  # of two captions the last one is the complete one
    return store.captions(rows, store.manifest.captions[-1])
