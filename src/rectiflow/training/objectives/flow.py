"""The objective of a flow: the loss of a formulation at times and noises keyed to the sample."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.data.draws import Draws
from rectiflow.encoders.states import ENCODERS, assemble
from rectiflow.flow.formulations import Formulation
from rectiflow.training.objectives.base import Batch, Objective, Terms

Assemble = Callable[..., Conditioning]  # (states, keep (batch, 3) bool) -> Conditioning


class FlowObjective(Objective[nn.Module]):
    """Loss of a network on `latent` (batch, c, h, w) and `states` (text states).

    Args:
        model: Network called as model(x, t, cond).
        formulation: Path, prediction, density and weight.
        text_dropout: Probability with which each of the three text encoders is zeroed in a sample,
            independently of the others (arXiv:2403.03206, Appendix B.3).
        assemble: Joins the states of the text encoders; by default as SD3 does.
    """

    def __init__(
        self,
        model: nn.Module,
        formulation: Formulation,
        text_dropout: float,
        assemble: Assemble = assemble,
    ) -> None:
        self.model = model
        self.formulation = formulation
        self.text_dropout = text_dropout
        self._assemble = assemble

    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """Per-sample loss at a drawn time, noise and choice of text encoders."""
        shape = batch["latent"].shape[1:]
        t = self.formulation.density.quantile(draws.uniform("time"))
        return self.loss_at(batch, t, draws.normal("noise", shape), self.keep(draws))

    def loss_at(
        self,
        batch: Batch,
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch channels height width"],
        keep: Bool[Tensor, "batch encoders"],
    ) -> Terms:
        """Per-sample loss at given times and noises, with the text encoders that `keep` marks."""
        data, t, noise = _in_place(batch, t, noise)
        output = self._output(batch, data, noise, t, keep)
        return Terms(loss=self.formulation.loss(output, data, noise, t), t=t)

    def errors_at(
        self,
        batch: Batch,
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch channels height width"],
        keep: Bool[Tensor, "batch encoders"],
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """As `loss_at`, the loss of the own target and the error of rectified flow's velocity."""
        data, t, noise = _in_place(batch, t, noise)
        output = self._output(batch, data, noise, t, keep)
        form = self.formulation
        return form.loss(output, data, noise, t), form.velocity_error(output, data, noise, t)

    def keep(self, draws: Draws) -> Bool[Tensor, "batch encoders"]:
        """Which text encoders each sample keeps."""
        return draws.uniform("text dropout", (len(ENCODERS),)) >= self.text_dropout

    def _output(self, batch: Batch, data: Tensor, noise: Tensor, t: Tensor, keep: Tensor) -> Tensor:
        x = self.formulation.path.interpolate(data, noise, t)
        cond = self._assemble(batch["states"], _beside(data, keep))
        return self.formulation.output(self.model, x, t, cond)


def _in_place(batch: Batch, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents in float32 at least, and times and noises beside them."""
    data = batch["latent"]
    data = data.to(torch.promote_types(data.dtype, torch.float32))
    return data, _beside(data, t), _beside(data, noise).to(data)


def _beside(data: Tensor, drawn: Tensor) -> Tensor:
    """What was drawn on the host, on the device of the data; it is not waited for."""
    return drawn.to(data.device, non_blocking=data.is_cuda)
