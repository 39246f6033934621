"""The three text encoders: transformers' CLIP text model twice, and its T5 encoder.

As in SD3: CLIP states are penultimate and not normalised, pooled vectors are the projected end of
text, and no attention mask hides the padding, here or in training. The first CLIP tokenizer pads
with the end of text, the second and T5 with id 0.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from rectiflow.conditioning import Conditioning, cat
from rectiflow.encoders.folders import (
    content_hash,
    load_pretrained,
    load_tokenizer,
    model_facts,
    save_pretrained,
    tokenizer_facts,
)
from rectiflow.encoders.settings import HEAD_WIDTH, EncodersModel
from rectiflow.encoders.states import ENCODERS, TextStates, assemble
from rectiflow.encoders.tokenizers import caption_words, clip_tokenizer, lengths, t5_tokenizer
from rectiflow.encoders.truncation import TruncationWarning, warn_about_cuts

__all__ = [
    "ENCODERS",
    "TextEncoders",
    "TextStates",
    "TruncationWarning",
    "assemble",
]

FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZER_FOLDERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""Names in a diffusers SD3 pipeline, in the order of `ENCODERS`."""


CHUNK = 64
"""Prompts encoded at once by `TextEncoders.conditioning`."""


class TextEncoders(nn.Module):
    """Prompts to text states.

    Attributes:
        clip_l: First CLIP text model.
        clip_g: Second, wider CLIP text model.
        t5: T5 encoder.
        tokenizers: Theirs, in the order of `ENCODERS`; `model_max_length` is the context length.
        is_transient: Encoders stay in memory between calls.
    """

    is_transient = False

    def __init__(
        self,
        clip_l: CLIPTextModelWithProjection,
        clip_g: CLIPTextModelWithProjection,
        t5: T5EncoderModel,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer, T5Tokenizer],
    ) -> None:
        super().__init__()
        self.clip_l, self.clip_g, self.t5 = clip_l, clip_g, t5
        self.tokenizers = tokenizers

    @classmethod
    def new(cls, model: EncodersModel, captions: Iterable[str], seed: int = 0) -> "TextEncoders":
        """Untrained encoders whose vocabulary and context lengths come from `captions`.

        The weights are a function of `seed`; the global random state is left alone.
        """
        captions = sorted(set(captions))
        words = caption_words(captions)
        tokenizers = (clip_tokenizer(words), clip_tokenizer(words, "!"), t5_tokenizer(words))
        clip_tokens = model.clip_tokens or max(lengths(tokenizers[0], captions))
        for tokenizer in tokenizers[:2]:
            tokenizer.model_max_length = clip_tokens
        tokenizers[2].model_max_length = model.t5_tokens or max(lengths(tokenizers[2], captions))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            clip_l = _clip(tokenizers[0], model.clip_l_width, model.clip_layers, "quick_gelu")
            clip_g = _clip(tokenizers[1], model.clip_g_width, model.clip_layers, "gelu")
            t5 = _t5(tokenizers[2], model.t5_width, model.t5_layers)
        return cls(clip_l, clip_g, t5, tokenizers)

    @classmethod
    def load(cls, folder: Path | str) -> "TextEncoders":
        """Read the six folders of a diffusers SD3 pipeline, in float32.

        Raises:
            FileNotFoundError: If one of them is missing.
            DataError: If a file is damaged.
        """
        root = Path(folder)
        classes = (CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel)
        clip_l, clip_g, t5 = (
            load_pretrained(kind, root / name).float()
            for kind, name in zip(classes, FOLDERS, strict=True)
        )
        kinds = (CLIPTokenizer, CLIPTokenizer, T5Tokenizer)
        tokenizers: Any = tuple(
            load_tokenizer(kind, root / name)
            for kind, name in zip(kinds, TOKENIZER_FOLDERS, strict=True)
        )
        return cls(clip_l, clip_g, t5, tokenizers)

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write the six folders; transformers' classes load them unchanged."""
        root = Path(folder)
        for model, name in zip(self.models, FOLDERS, strict=True):
            save_pretrained(model, root / name, dtype)
        for tokenizer, name in zip(self.tokenizers, TOKENIZER_FOLDERS, strict=True):
            tokenizer.backend_tokenizer.no_padding()  # state of the last call, no part of it
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.save_pretrained(str(root / name))

    @property
    def models(self) -> tuple[Any, Any, Any]:
        """The networks in the order of `ENCODERS`."""
        return self.clip_l, self.clip_g, self.t5

    @property
    def segments(self) -> tuple[int, int]:
        """Tokens of the CLIP part and of the T5 part of a context."""
        return self.tokenizers[0].model_max_length, self.tokenizers[2].model_max_length

    @property
    def context_width(self) -> int:
        return self.t5.config.d_model

    @property
    def pooled_width(self) -> int:
        clip_l, clip_g, _ = self.models
        return clip_l.config.projection_dim + clip_g.config.projection_dim

    @property
    def device(self) -> torch.device:
        return self.t5.device

    def identity(self) -> str:
        """SHA-256 over configurations, weights (as float32) and tokenizers."""
        settings = {
            name: {
                "model": model_facts(model.config.to_dict()),
                "tokenizer": tokenizer_facts(tokenizer),
            }
            for name, model, tokenizer in zip(ENCODERS, self.models, self.tokenizers, strict=True)
        }
        return content_hash(settings, self.state_dict())

    def tokenize(self, prompts: Sequence[str]) -> tuple[Int[Tensor, "batch tokens"], ...]:
        """Ids for each encoder, padded and cut to its context length; warns about what was cut."""
        limits = [(tokenizer, tokenizer.model_max_length) for tokenizer in self.tokenizers]
        warn_about_cuts(prompts, dict(zip(ENCODERS, limits, strict=True)))
        return tuple(
            tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids.to(self.device)
            for tokenizer in self.tokenizers
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextStates:
        """States of the prompts, float32.

        Raises:
            ValueError: If there is no prompt.
        """
        if not prompts:
            raise ValueError("encode needs at least one prompt, got none")
        return self(*self.tokenize(prompts))

    def conditioning(
        self, prompts: Sequence[str], *, without: Collection[str] = ()
    ) -> Conditioning:
        """Text of the prompts as the network takes it, float32; those left out are zeros in place.

        Raises:
            ValueError: If there is no prompt, or `without` names no encoder.
        """
        chunks = [prompts[i : i + CHUNK] for i in range(0, max(len(prompts), 1), CHUNK)]
        return cat(*(assemble(self.encode(chunk), without=without) for chunk in chunks))

    def forward(
        self,
        ids_l: Int[Tensor, "batch clip_tokens"],
        ids_g: Int[Tensor, "batch clip_tokens"],
        ids_t5: Int[Tensor, "batch t5_tokens"],
    ) -> TextStates:
        """States of token ids."""
        clip_l = self.clip_l(input_ids=ids_l, output_hidden_states=True)
        clip_g = self.clip_g(input_ids=ids_g, output_hidden_states=True)
        return TextStates(
            clip_l=clip_l.hidden_states[-2],
            clip_g=clip_g.hidden_states[-2],
            t5=self.t5(input_ids=ids_t5).last_hidden_state,
            pooled_l=clip_l.text_embeds,
            pooled_g=clip_g.text_embeds,
        )


def _clip(
    tokenizer: Any, width: int, num_layers: int, activation: str
) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


def _t5(tokenizer: Any, width: int, num_layers: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=HEAD_WIDTH,
        d_ff=2 * width,
        num_layers=num_layers,
        num_heads=width // HEAD_WIDTH,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",  # as T5 v1.1
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config).eval()
