"""What a network multiplies for one sample: three numbers from which all FLOPs follow."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Products:
    """Matrix products and convolutions of one sample's forward pass; zeros of a margin count too.

    Args:
        layers: Multiply-adds with weights: linear layers and convolutions. What arXiv:2404.02883
            prints as GMACs.
        attention: Multiply-adds inside attention, of two activations: logits, then their average.
        first: Of `layers`, those whose input needs no gradient: latent, text, features of time.
    """

    layers: int
    attention: int
    first: int

    @property
    def forward_flops(self) -> int:
        """Of the forward pass, a multiply-add being two, as `torch.utils.flop_counter` counts."""
        return 2 * (self.layers + self.attention)

    @property
    def training_flops(self) -> int:
        """Of forward and backward pass: each product has two in the backward pass, `first` one.

        What is computed anew, by attention that keeps no matrix of weights or by checkpointing, is
        not counted: it is the price of memory, not of the gradient.
        """
        return 3 * self.forward_flops - 2 * self.first
