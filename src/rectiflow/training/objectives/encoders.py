"""The objective of the text encoders: CLIP's contrast with pictures, T5's denoising of captions."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from rectiflow.data.draws import Draws
from rectiflow.encoders.pretraining import OFFSETS, RECALLED, EncodersInTraining, Towers
from rectiflow.training.objectives.base import Batch, Objective, Terms
from rectiflow.training.settings.objectives import EncodersLoss


class EncodersObjective(Objective):
    """Loss of the encoders on a batch with `image` and `captions`.

    Both CLIP text encoders are contrasted with one vision tower. T5 has to tell, from each state,
    the tokens at and around its place in a caption some of whose tokens are hidden.

    Departure: T5 itself learns to write out the hidden spans with a decoder. A decoder as large as
    the encoder would be thrown away, and what matters here is that a state binds a word to
    its neighbours ("red" to its "circle"), which the tokens around it ask for directly.

    The pooled vectors are also asked which words their caption holds. The contrast alone keeps what
    tells the captions of one batch apart, a few of a small batch, and drops the rest; a network
    reads the pooled vector in every block, and learned faster the more words it held. Softmax over
    the vocabulary with equal shares of the caption's words: SuperClass (arXiv 2411.03313) without
    its weights of rare words.

    Nothing in the contrast asks for the order of words either: of captions alone, bags of words are
    as easily told apart (arXiv 2210.01936), and a network could not bind a colour to its shape by
    the CLIP states. So each of them has to tell the tokens before it, as CoCa's text decoder does
    beside its contrast (arXiv 2205.01917).

    Args:
        model: The encoders and the heads of their training.
        settings: Weights and rates.
        synthetic_fraction: Chance of the `synthetic` caption where a sample has both kinds.
    """

    model: EncodersInTraining

    def __init__(
        self, model: EncodersInTraining, settings: EncodersLoss, synthetic_fraction: float
    ) -> None:
        self.model = model
        self.settings = settings
        self.synthetic_fraction = synthetic_fraction

    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """Per-sample loss; the other samples of the batch are the wrong captions of each."""
        captions = chosen_captions(batch["captions"], draws, self.synthetic_fraction)
        image = batch["image"]
        ids_l, ids_g, ids_t5 = (ids.to(image.device) for ids in self.model.text.tokenize(captions))
        towers = self.model.embed(image, ids_l, ids_g)
        same = same_rows(ids_l)
        scale_l, scale_g = self.model.scale
        hidden = self._hidden(ids_t5, draws)
        extra = {
            "clip_l": contrastive_loss(scale_l * towers.image_l @ towers.text_l.T, same),
            "clip_g": contrastive_loss(scale_g * towers.image_g @ towers.text_g.T, same),
            "denoising": denoising_loss(
                self.model.restore(ids_t5, hidden), ids_t5, self._padding_id
            ),
            "recall": self._recall(towers, ids_l, ids_g),
            "words": words_loss(self.model.words(towers), ids_t5, self._padding_id),
        }
        total = extra["clip_l"] + extra["clip_g"] + self.settings.words_weight * extra["words"]
        total = total + self.settings.denoising_weight * extra["denoising"]
        total = total + self.settings.recall_weight * extra["recall"]
        return Terms(total, None, {name: term.detach() for name, term in extra.items()})

    def _recall(self, towers: Towers, *ids: Int[Tensor, "batch tokens"]) -> Tensor:
        """Mean over the two CLIP encoders."""
        models = self.model.text.models[:2]
        losses = [
            denoising_loss(logits, each, model.config.pad_token_id, RECALLED)
            for logits, each, model in zip(self.model.recall(towers), ids, models, strict=True)
        ]
        return (losses[0] + losses[1]) / 2

    @property
    def _padding_id(self) -> int:
        return self.model.text.models[2].config.pad_token_id

    def _hidden(self, ids: Int[Tensor, "batch tokens"], draws: Draws) -> Tensor:
        drawn = draws.uniform("hidden tokens", (ids.shape[1],))  # float64, which MPS lacks
        return (drawn < self.settings.hidden_fraction).to(ids.device) & (ids != self._padding_id)


def chosen_captions(
    captions: Sequence[Mapping[str, str]], draws: Draws, synthetic_fraction: float
) -> list[str]:
    """One caption per sample: the only one, or one of the pair."""
    is_synthetic = (draws.uniform("caption") < synthetic_fraction).tolist()
    return [
        texts["caption"] if "caption" in texts else texts["synthetic" if synthetic else "alt"]
        for texts, synthetic in zip(captions, is_synthetic, strict=True)
    ]


def same_rows(ids: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch batch"]:
    """Which captions of a batch are the same to the encoder."""
    return (ids[:, None] == ids[None, :]).all(dim=-1)


def contrastive_loss(
    logits: Float[Tensor, "batch batch"], same: Bool[Tensor, "batch batch"]
) -> Float[Tensor, " batch"]:
    """Symmetric InfoNCE: which caption belongs to picture i, and which picture to caption i.

    The caption of another picture that is word for word the same is no wrong answer; it is left out
    of the choice, so the loss of a perfect pair is 0 however often its caption occurs.

    Args:
        logits: Scaled similarity of picture i (rows) and caption j (columns).
        same: Which captions are equal; its diagonal is true.
    """
    choice = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool).to(same), -torch.inf)
    right = torch.arange(len(logits), device=logits.device)
    of_images = functional.cross_entropy(choice, right, reduction="none")
    of_texts = functional.cross_entropy(choice.T, right, reduction="none")
    return (of_images + of_texts) / 2


def denoising_loss(
    logits: Float[Tensor, "batch tokens offsets vocabulary"],
    ids: Int[Tensor, "batch tokens"],
    padding_id: int,
    offsets: Sequence[int] = OFFSETS,
) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of the tokens at `offsets` of every place within the caption."""
    ignored = -100
    places = torch.arange(ids.shape[1], device=ids.device)[:, None]
    around = places + torch.tensor(tuple(offsets), device=ids.device)  # (tokens, offsets)
    inside = (around >= 0) & (around < ids.shape[1])
    targets = ids[:, around.clamp(0, ids.shape[1] - 1)]
    is_text = ids != padding_id
    counted = inside & (targets != padding_id) & is_text[:, :, None]
    targets = targets.masked_fill(~counted, ignored)
    losses = functional.cross_entropy(
        logits.flatten(0, 2), targets.flatten(), reduction="none", ignore_index=ignored
    ).view_as(targets)
    return losses.sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)


def words_loss(
    logits: Float[Tensor, "two batch vocabulary"],
    ids: Int[Tensor, "batch tokens"],
    padding_id: int,
) -> Float[Tensor, " batch"]:
    """KL divergence from a prediction to the equal shares of a caption's distinct tokens.

    Unlike the cross-entropy it is 0 for a perfect prediction, whatever the number of tokens.

    Args:
        logits: Of two predictions, whose losses are averaged.
        ids: Captions; how often a token occurs does not count.
        padding_id: No part of a caption.
    """
    holds = torch.zeros_like(logits[0]).scatter_(1, ids, 1.0)
    holds[:, padding_id] = 0
    shares = holds / holds.sum(dim=1, keepdim=True)
    log_shares = shares.log().masked_fill(shares == 0, 0)
    divergence = (shares * (log_shares - logits.log_softmax(dim=-1))).sum(dim=-1)
    return divergence.mean(dim=0)
