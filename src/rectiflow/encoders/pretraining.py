"""Text encoders, vision tower and the heads that only their training needs, as one module."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.encoders.tokenizers import SENTINEL

OFFSETS = tuple(range(-5, 6))
"""Places, relative to its own, whose tokens each T5 state must tell: as far as from the last letter
of a word to the quotation mark before it, or from either noun to the relation between them."""

RECALLED = (-4, -3, -2, -1, 0)
"""The same for a CLIP state, which sees nothing behind it."""

FIRST_LOGIT_SCALE, MAX_LOGIT_SCALE = 1 / 0.07, 100.0
"""Of cosine similarities, at the start and at most (arXiv 2103.00020, 2.4-2.5)."""


@dataclass(frozen=True)
class Towers:
    """What a batch of pictures and captions becomes: unit vectors, and the text as networks see it.

    Attributes:
        text_l: Of the first text encoder.
        text_g: Of the second.
        image_l: Of the pictures, in the space of the first.
        image_g: Of the pictures, in the space of the second.
        pooled_l: Pooled vectors of the first text encoder, not of unit length.
        pooled_g: Of the second.
        states_l: Penultimate states of the first text encoder.
        states_g: Of the second.
    """

    text_l: Float[Tensor, "batch width_l"]
    text_g: Float[Tensor, "batch width_g"]
    image_l: Float[Tensor, "batch width_l"]
    image_g: Float[Tensor, "batch width_g"]
    pooled_l: Float[Tensor, "batch width_l"]
    pooled_g: Float[Tensor, "batch width_g"]
    states_l: Float[Tensor, "batch tokens width_l"]
    states_g: Float[Tensor, "batch tokens width_g"]


class EncodersInTraining(nn.Module):
    """What the recipe kind `encoders` trains; `text` and `image` are what it keeps.

    Args:
        text: The three text encoders.
        image: The one vision tower. It embeds into the space of the second text encoder; a matrix
            thrown away after training maps that into the space of the first.
    """

    def __init__(self, text: TextEncoders, image: ImageEncoder, seed: int = 0) -> None:
        super().__init__()
        self.text, self.image = text, image
        width_l, width_g = (model.config.projection_dim for model in text.models[:2])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bridge = nn.Linear(width_g, width_l, bias=False)
            self.head = nn.Linear(text.context_width, len(OFFSETS) * self.vocabulary)
            self.words_l = nn.Linear(width_l, self.vocabulary)
            self.words_g = nn.Linear(width_g, self.vocabulary)
            self.recall_l = nn.Linear(width_l, len(RECALLED) * self.clip_vocabulary)
            self.recall_g = nn.Linear(width_g, len(RECALLED) * self.clip_vocabulary)
        self.log_scale = nn.Parameter(torch.full((2,), FIRST_LOGIT_SCALE).log())

    @property
    def vocabulary(self) -> int:
        """Tokens of T5."""
        return self.text.models[2].config.vocab_size

    @property
    def clip_vocabulary(self) -> int:
        """Tokens of both CLIP encoders."""
        return self.text.models[0].config.vocab_size

    @property
    def scale(self) -> Float[Tensor, " two"]:
        """Factors of the cosine similarities of the two text encoders."""
        return self.log_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)

    def embed(
        self,
        image: Float[Tensor, "batch 3 height width"],
        ids_l: Int[Tensor, "batch tokens"],
        ids_g: Int[Tensor, "batch tokens"],
    ) -> Towers:
        """Unit vectors in float32; pooled vectors and states as the text encoders give them."""
        vision = self.image(image)
        clip_l = self.text.clip_l(input_ids=ids_l, output_hidden_states=True)
        clip_g = self.text.clip_g(input_ids=ids_g, output_hidden_states=True)
        vectors = (clip_l.text_embeds, clip_g.text_embeds, self.bridge(vision), vision)
        units = [functional.normalize(vector.float(), dim=-1) for vector in vectors]
        return Towers(
            *units,
            pooled_l=clip_l.text_embeds,
            pooled_g=clip_g.text_embeds,
            states_l=clip_l.hidden_states[-2],
            states_g=clip_g.hidden_states[-2],
        )

    def words(self, towers: Towers) -> Float[Tensor, "two batch vocabulary"]:
        """Logits of the T5 tokens of a caption, from either pooled vector alone."""
        return torch.stack([self.words_l(towers.pooled_l), self.words_g(towers.pooled_g)]).float()

    def recall(self, towers: Towers) -> Float[Tensor, "two batch tokens offsets vocabulary"]:
        """Logits of the CLIP tokens at and before each place, from either encoder's states."""
        logits = torch.stack([self.recall_l(towers.states_l), self.recall_g(towers.states_g)])
        return logits.unflatten(-1, (len(RECALLED), self.clip_vocabulary)).float()

    def restore(
        self, ids: Int[Tensor, "batch tokens"], hidden: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens offsets vocabulary"]:
        """Logits of the tokens around each place, from captions with `hidden` tokens masked."""
        tokenizer: Any = self.text.tokenizers[2]
        sentinel = tokenizer.convert_tokens_to_ids(SENTINEL)
        states = self.text.t5(input_ids=ids.masked_fill(hidden, sentinel)).last_hidden_state
        return self.head(states).unflatten(-1, (len(OFFSETS), self.vocabulary)).float()
