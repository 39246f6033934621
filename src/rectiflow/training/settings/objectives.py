"""The `objective` section, one class per kind of recipe. Imports nothing heavy."""

from dataclasses import dataclass

from rectiflow.config import STRICT
from rectiflow.training.settings.bounds import at_least, within


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSettings:
    """The objective of a flow.

    Args:
        formulation: Name as in Table 1 of the SD3 paper; all are in
            `rectiflow.flow.formulations.STUDY`.
        text_dropout: Probability with which each text encoder is zeroed, independently. 0.464 drops
            all three in 0.464^3 = 10 % of samples (arXiv:2403.03206, Appendix B.3; Section 5.3.3
            says 46.3 %).
    """

    __pydantic_config__ = STRICT

    formulation: str = "rf/lognorm(0.00,1.00)"
    text_dropout: float = 0.464

    def __post_init__(self) -> None:
        within("text_dropout", self.text_dropout, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderLoss:
    """Weights of the terms beside the reconstruction, whose weight is 1.

    Unstated in the paper: SD3 does not say how its autoencoder was trained. The usual perceptual
    and adversarial terms need a downloaded network or a second player; what they buy, sharp edges,
    the edge term asks for directly.

    Args:
        kl_weight: Weight of the KL divergence to N(0, 1), a mean over the latent's entries.
        edge_weight: Weight of the squared error of the picture's first differences.
    """

    __pydantic_config__ = STRICT

    kl_weight: float = 1e-4
    edge_weight: float = 2.0

    def __post_init__(self) -> None:
        at_least("kl_weight", self.kl_weight, 0)
        at_least("edge_weight", self.edge_weight, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersLoss:
    """The terms of the encoders' loss; the two contrastive ones have weight 1.

    Args:
        hidden_fraction: Share of a caption's tokens that are hidden from T5 (15 % as in
            arXiv:1910.10683, Section 3.1.4).
        denoising_weight: Weight of T5's term.
        recall_weight: Weight of the CLIP states' telling the tokens before them.
        words_weight: Weight of the pooled vectors' telling the words of their caption.
    """

    __pydantic_config__ = STRICT

    hidden_fraction: float = 0.15
    denoising_weight: float = 1.0
    recall_weight: float = 1.0
    words_weight: float = 1.0

    def __post_init__(self) -> None:
        within("hidden_fraction", self.hidden_fraction, 0, 1)
        at_least("recall_weight", self.recall_weight, 0)
        at_least("words_weight", self.words_weight, 0)
        at_least("denoising_weight", self.denoising_weight, 0)
