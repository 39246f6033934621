"""The `training` section: the loop. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.settings.bounds import above, at_least, within
from rectiflow.training.settings.sections import AveragesSettings, GuardSettings, RetainSettings
from rectiflow.training.settings.speed import SpeedSettings

PACE_STEPS = (6, 25)
"""`training.minutes` becomes a number of steps by the rate of these steps, first and last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """The loop. Everything but the settings marked free is part of what the weights are.

    Args:
        num_steps: Optimizer steps; give this or `minutes`.
        minutes: Turned once into a number of steps by the rate of steps 6-25; from then on the
            clock is only a guard: at 1.5x it stops with a checkpoint.
        batch_size: Samples per optimizer step.
        num_microbatches: Parts a batch is split into to save memory (gradient accumulation).
        optimizer: `muon` for the matrices of the blocks (not their modulations) and AdamW for the
            rest, or `adamw` for all.
        learning_rate: Peak rate of AdamW.
        muon_learning_rate: Peak rate of Muon, whose update has the RMS of AdamW's times
            this (`match_rms_adamw`).
        weight_decay: Decoupled, on matrices and kernels only.
        betas: AdamW's averages.
        eps: AdamW's.
        muon_momentum: Muon's average.
        warmup_steps: Steps of linear warm-up.
        decay: Form of the decay to zero after the plateau.
        decay_fraction: Share of all steps that the decay takes; 1 leaves no plateau.
        clip_norm: Largest norm of the gradient; 0 is off.
        precision: Type of the matrix work; auto is bf16 where the device is faster at it,
            else fp32 (see `devices`).
        device: Where to train; auto is cuda, then mps, then cpu.
        ema_decay: Of the averaged weights, after its warm-up (see `training.ema`).
        averages: Further averages of the weights.
        guard: What happens when numbers go wrong.
        speed: How the same steps are taken faster, or in less memory.
        retain: What of the past the run's folder keeps.
        init_from: Run, bundle or safetensors file whose weights (averaged, if a run) are the start.
        log_every_steps: Cadence of the lines in metrics.jsonl.
        trackers: Who else is told of these lines, and of the sheets of pictures.
        validate_every_steps: Cadence of the validation loss; 0 only at the end.
        sample_every_steps: Cadence of sheets of pictures, of a flow or an autoencoder; 0 only at
            the end.
        attention_blocks: Last blocks of a flow's network whose attention is watched at that
            cadence, logits and entropy; 0 is off (the paper's Fig. 5 has 5).
        checkpoint_every_steps: Cadence of checkpoints; 0 is off.
        checkpoint_every_minutes: The same by the clock; 0 is off.
        async_checkpoints: Whether checkpoints are written while training goes on, from a copy in
            host memory; else it waits for the disk.
        num_workers: Threads that prepare batches ahead; 0 prepares them in the loop.
    """

    __pydantic_config__ = STRICT
    __alternatives__ = (("num_steps", "minutes"),)

    num_steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    num_microbatches: int = 1
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 3e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    muon_momentum: float = 0.95
    warmup_steps: int = 50
    decay: Literal["linear", "cosine", "constant"] = "linear"
    decay_fraction: float = 1.0
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema_decay: float = 0.999
    averages: AveragesSettings = field(default_factory=AveragesSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    retain: RetainSettings = field(default_factory=RetainSettings)
    init_from: str | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata=FREE)
    log_every_steps: int = field(default=20, metadata=FREE)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = field(
        default=("tensorboard",), metadata=FREE
    )
    validate_every_steps: int = field(default=500, metadata=FREE)
    sample_every_steps: int = field(default=500, metadata=FREE)
    attention_blocks: int = field(default=0, metadata=FREE)
    checkpoint_every_steps: int = field(default=0, metadata=FREE)
    checkpoint_every_minutes: float = field(default=5.0, metadata=FREE)
    async_checkpoints: bool = field(default=True, metadata=FREE)
    num_workers: int = field(default=0, metadata=FREE)

    def __post_init__(self) -> None:
        self._check_length()
        for name in ("batch_size", "num_microbatches", "log_every_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("validate", "sample", "checkpoint"):
            at_least(f"{name}_every_steps", getattr(self, f"{name}_every_steps"), 0)
        for name in ("warmup_steps", "num_workers", "clip_norm", "weight_decay"):
            at_least(name, getattr(self, name), 0)
        at_least("attention_blocks", self.attention_blocks, 0)
        at_least("checkpoint_every_minutes", self.checkpoint_every_minutes, 0)
        for name in ("learning_rate", "muon_learning_rate", "eps"):
            above(name, getattr(self, name), 0)
        for name in ("ema_decay", "muon_momentum"):
            within(name, getattr(self, name), 0, 1)
        for value in self.betas:
            within("betas", value, 0, 1)
        above("decay_fraction", self.decay_fraction, 0)
        within("decay_fraction", self.decay_fraction, 0, 1)
        if self.num_microbatches > self.batch_size:
            raise ValueError(
                f"num_microbatches must be <= batch_size {self.batch_size}, "
                f"got {self.num_microbatches}"
            )

    def _check_length(self) -> None:
        if (self.num_steps is None) == (self.minutes is None):
            raise ValueError(
                "give num_steps or minutes, exactly one of them, "
                f"got num_steps {self.num_steps} and minutes {self.minutes}"
            )
        if self.num_steps is not None:
            at_least("num_steps", self.num_steps, 1)
        if self.minutes is not None:
            above("minutes", self.minutes, 0)
            # The number of steps is known after the last of PACE_STEPS; before it, the
            # learning rate must not depend on it, and in the warm-up it does not.
            if self.warmup_steps < PACE_STEPS[1]:
                raise ValueError(
                    f"warmup_steps must be >= {PACE_STEPS[1]} when minutes are given, "
                    f"got {self.warmup_steps}"
                )
