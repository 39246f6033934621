"""Everything that must survive a restart, as one object."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from rectiflow.checkpoints import read_state
from rectiflow.runs import Run
from rectiflow.training.checkpoint import Checkpoint, load_into
from rectiflow.training.divergence import SPIKE_WINDOW
from rectiflow.training.ema import Ema, named_tensors
from rectiflow.training.metrics import Meter
from rectiflow.training.optim import Optimizers
from rectiflow.training.ranks import ALONE, Ranks


@dataclass(slots=True)
class TrainState:
    """What the loop carries from step to step, and what observers see.

    Args:
        run: The run's folder.
        model: The weights.
        ema: Their average.
        optimizers: The running averages of the optimizers.
        precision: Of the matrix work, resolved: what "auto" came to where the run began.
        meter: Sums since the last line of metrics.
        step: Finished steps.
        elapsed_seconds: Time spent training in all processes so far.
        averages: The further averages of the weights, by the name of their group in a checkpoint.
        owes_line: Whether the line of metrics of `step`, if one is due, is still to be written.
        gradient_norms: Of the last steps, as far as `training.guard` looks for spikes.
        ranks: The processes of the job: an observer is called in all, rank 0 alone writes.
    """

    run: Run
    model: nn.Module
    ema: Ema
    optimizers: Optimizers
    precision: str = "fp32"
    meter: Meter = field(default_factory=Meter)
    step: int = 0
    elapsed_seconds: float = 0.0
    averages: Mapping[str, Ema] = field(default_factory=dict)
    owes_line: bool = False
    gradient_norms: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    ranks: Ranks = ALONE

    def update_averages(self) -> None:
        """Move all averages towards the weights after the step that was finished last."""
        for average in (self.ema, *self.averages.values()):
            average.update(self.step)

    def checkpoint(self) -> Checkpoint:
        """The state as tensors and JSON values; tensors are shared, not copied."""
        state = {
            "meter": self.meter.state(),
            "elapsed_seconds": self.elapsed_seconds,
            "precision": self.precision,
        }
        if self.gradient_norms:
            state["gradient_norms"] = list(self.gradient_norms)
        if self.owes_line:
            state["owes_line"] = True
        return Checkpoint(self.step, self._tensors(), state)

    def restore(self, folder: Path, ranks: Ranks = ALONE) -> None:
        """Continue from a checkpoint that is whole, in place; all processes call it.

        Raises:
            ValueError: If the run began in another precision, as it may on another processor, or
                the checkpoint is of another model.
        """
        content = read_state(folder)
        before = content["precision"]
        if before != self.precision:
            raise ValueError(
                f"{self.run.folder} began in {before} and this machine would go on in "
                f"{self.precision}: resume it where training.precision comes to {before}"
            )
        load_into(folder, self._tensors(), ranks)
        self.meter.load(content["meter"])
        self.elapsed_seconds = content["elapsed_seconds"]
        self.owes_line = content.get("owes_line", False)
        self.gradient_norms = deque(content.get("gradient_norms", ()), maxlen=SPIKE_WINDOW)
        self.step = content["step"]

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {
            "model": named_tensors(self.model),
            "ema": self.ema.tensors,
            "optimizer": self.optimizers.state(),
            **{name: average.tensors for name, average in self.averages.items()},
        }
