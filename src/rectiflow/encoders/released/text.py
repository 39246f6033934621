"""Prompts to conditioning with the released text encoders, one encoder in memory at a time.

What a graphics card holds at its fullest, in GB (10^9 bytes), for one picture of 1024 px. Each
encoder is read, encodes every prompt and negative, and is freed before the next is read; the
network comes after the last, so the largest of these is what counts, not their sum:

    CLIP-L, float32                123.7 M parameters      0.5
    CLIP bigG, float32             694.7 M                 2.8
    T5-XXL encoder, bf16          4762.3 M                 9.5
    SD3.5-Medium, bf16            2469.7 M with its table  4.9, about 1 more while it computes
    SD3.5-Large, bf16             8146.3 M with its table 16.3, about 1.5 more
    autoencoder, float32            83.8 M                 0.3, about 4.3 more while it decodes

Decoding: three maps of 256 channels at full size, 1.07 each in float32, and 1 for cuDNN's work
space. SD3.5-Medium needs at most 9.9 (T5 with 0.4 of activations), then 9.5 (network, autoencoder,
decoding): a card of 12 GB. SD3.5-Large needs 20.9: a card of 24 GB.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.conditioning import Conditioning
from rectiflow.encoders.released.places import TextPart
from rectiflow.encoders.states import ENCODERS, TextStates, assemble
from rectiflow.encoders.truncation import warn_about_cuts

CLIP_TOKENS = 77
T5_TOKENS = 256
"""Length of the T5 part, as diffusers pads it; the models were trained with 77 to 154."""

MAX_T5_TOKENS = 512

MISSING_T5 = {"zeros": None, "none": 0, "zeros-77": 77, "zeros-256": 256}
"""What stands in the context where T5 is left out: so many tokens of zeros (None: `t5_tokens`).

Zeros are not nothing: the network's bias makes tokens of them that are attended to, so the four
ways give four pictures.

    zeros      diffusers: as many zeros as T5 would have tokens, 256 by default
    none       ComfyUI: no T5 tokens, the context is the 77 CLIP tokens
    zeros-77   OneTrainer, and kohya's trainer where T5 is not loaded at all
    zeros-256  kohya's trainer where T5 is dropped: the trainer's own length, whatever `t5_tokens`

A CLIP encoder that is left out is zeros in its channels and its half of the pooled vector in every
way; each of the two is dropped by itself.
"""


class ReleasedText:
    """Text encoders of a release; any of them may be absent.

    `is_transient` tells that encoders are read anew by each call and freed after it, so that all
    prompts belong into one call.

    Args:
        parts: The encoders there are, found but not loaded.
        context_width: Width of the network's text tokens.
        pooled_width: Width of its pooled vector.
        t5_tokens: Length of the T5 part; training used 77 to 154, diffusers pads to 256.
        missing_t5: Name in `MISSING_T5`; what stands for T5 where it is left out.
        t5_dtype: Type of T5's weights, bfloat16 or float32. The CLIP encoders are float32.
        device: Where to encode.

    Raises:
        ValueError: If a setting is out of range or unknown.
    """

    is_transient = True

    def __init__(
        self,
        parts: Sequence[TextPart],
        *,
        context_width: int,
        pooled_width: int,
        t5_tokens: int = T5_TOKENS,
        missing_t5: str = "zeros",
        t5_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= t5_tokens <= MAX_T5_TOKENS:
            raise ValueError(f"t5_tokens must be in 1..{MAX_T5_TOKENS}, got {t5_tokens}")
        if missing_t5 not in MISSING_T5:
            raise ValueError(f"missing_t5 must be one of {list(MISSING_T5)}, got {missing_t5!r}")
        if t5_dtype not in (torch.bfloat16, torch.float32):
            raise ValueError(f"t5_dtype must be bfloat16 or float32 (T5 overflows), got {t5_dtype}")
        self.parts = {part.name: part for part in parts}
        self.context_width, self.pooled_width = context_width, pooled_width
        self.t5_tokens, self.missing_t5, self.t5_dtype = t5_tokens, missing_t5, t5_dtype
        self.device = torch.device(device)

    def to(self, device: torch.device | str) -> "ReleasedText":
        """Encode on another device from now on."""
        self.device = torch.device(device)
        return self

    def eval(self) -> "ReleasedText":
        """Nothing to do: encoders are read in evaluation mode."""
        return self

    @property
    def absent(self) -> tuple[str, ...]:
        """Encoders that were not found or not wanted; always left out."""
        return tuple(name for name in ENCODERS if name not in self.parts)

    @property
    def segments(self) -> tuple[int, int]:
        """Tokens of the CLIP part and of the T5 part of a context with every encoder there is."""
        return self._clip_tokens, self._num_t5_tokens(self.absent)

    def conditioning(
        self, prompts: Sequence[str], *, without: Collection[str] = ()
    ) -> Conditioning:
        """Text of the prompts, float32 on the CPU; an encoder is in memory only while it encodes.

        A prompt is encoded alone, so its states do not depend on its company. Give all prompts of
        a session in one call, negatives too: every call reads the encoders from disk again.

        Args:
            prompts: At least one; equal ones are encoded once.
            without: Encoders to leave out, beside those that are absent.

        Raises:
            ValueError: If there is no prompt, the encoders do not fit the network, or a tokenizer
                does not fit its encoder.
        """
        if not prompts:
            raise ValueError("conditioning needs at least one prompt, got none")
        distinct = list(dict.fromkeys(prompts))
        used = [part for name, part in self.parts.items() if name not in without]
        warn_about_cuts(distinct, {part.name: (part.tokenizer, self._limit(part)) for part in used})
        states = {part.name: self._states(part, distinct) for part in used}
        gone = [name for name in ENCODERS if name not in states]
        cond = assemble(self._complete(states, len(distinct), gone), without=without)
        rows = [distinct.index(prompt) for prompt in prompts]
        return cond.select(rows)

    def _states(self, part: TextPart, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """States and pooled vectors of one encoder, on the CPU; the encoder is freed again."""
        dtype = self.t5_dtype if part.name == "t5" else torch.float32
        model: Any = part.load(dtype).to(self.device)
        if part.name != "t5":
            # Some configurations carry a wrong id of 2, which transformers reads as "the highest
            # id"; with words added after the end of text that would be one of these.
            model.text_model.eos_token_id = part.tokenizer.eos_token_id
        with torch.no_grad():
            encoded = [self._encode(part, model, prompt) for prompt in prompts]
        del model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        states, pooled = zip(*encoded, strict=True)
        return torch.cat(states), None if part.name == "t5" else torch.cat(pooled)

    def _encode(self, part: TextPart, model: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
        ids = part.tokenizer(
            [prompt],
            padding="max_length",
            truncation=True,
            max_length=self._limit(part),
            return_tensors="pt",
        ).input_ids.to(self.device)
        if int(ids.max()) >= model.config.vocab_size:
            raise ValueError(
                f"the tokenizer of {part.name} is another model's: it has token {int(ids.max())}, "
                f"{part.origin} knows {model.config.vocab_size}"
            )
        if part.name == "t5":
            return model(input_ids=ids).last_hidden_state.float().cpu(), None
        output = model(input_ids=ids, output_hidden_states=True)
        return output.hidden_states[-2].float().cpu(), output.text_embeds.float().cpu()

    def _complete(
        self,
        states: Mapping[str, tuple[Tensor, Tensor | None]],
        num: int,
        gone: Collection[str],
    ) -> TextStates:
        """States of all three encoders, zeros for those that are gone."""
        clip_l, pooled_l = states.get("clip_l", (None, None))
        clip_g, pooled_g = states.get("clip_g", (None, None))
        width_g = 0 if pooled_g is None else pooled_g.shape[1]
        width_l = self.pooled_width - width_g if pooled_l is None else pooled_l.shape[1]
        if pooled_g is None:
            width_g = self.pooled_width - width_l
        t5 = states["t5"][0] if "t5" in states else None
        t5_shape = (num, self._num_t5_tokens(gone), self.context_width)
        t5 = torch.zeros(t5_shape) if t5 is None else t5
        if t5.shape[-1] != self.context_width or width_l + width_g != self.pooled_width:
            raise ValueError(
                f"the network takes text of widths {self.context_width} and {self.pooled_width}, "
                f"the encoders give {t5.shape[-1]} and {width_l + width_g}"
            )
        shape = (num, self._clip_tokens)
        return TextStates(
            clip_l=torch.zeros(*shape, width_l) if clip_l is None else clip_l,
            clip_g=torch.zeros(*shape, width_g) if clip_g is None else clip_g,
            t5=t5,
            pooled_l=torch.zeros(num, width_l) if pooled_l is None else pooled_l,
            pooled_g=torch.zeros(num, width_g) if pooled_g is None else pooled_g,
        )

    @property
    def _clip_tokens(self) -> int:
        """Both CLIP encoders see the same number of tokens, 77 in the releases."""
        limits = [p.tokenizer.model_max_length for p in self.parts.values() if p.name != "t5"]
        return min([*limits, CLIP_TOKENS])

    def _limit(self, part: TextPart) -> int:
        return self.t5_tokens if part.name == "t5" else self._clip_tokens

    def _num_t5_tokens(self, gone: Collection[str]) -> int:
        number = self.t5_tokens if "t5" not in gone else MISSING_T5[self.missing_t5]
        return self.t5_tokens if number is None else number
