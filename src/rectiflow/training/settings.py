"""Sections of a recipe. Imports nothing heavy: reading a recipe costs no torch."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.sections import AveragesSettings, GuardSettings

PACE_STEPS = (6, 25)
"""`training.minutes` becomes a number of steps by the rate of these steps, first and last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesData:
    """The built-in procedural data set.

    Args:
        size_px: Side of the pictures.
        num_scenes: Scenes trained on.
        num_validation: Scenes of another seed, held out for the validation loss.
        synthetic_fraction: Share of samples that see the complete caption, the rest the short one.
        seed: Seed of the scenes; not of the run.
    """

    __pydantic_config__ = STRICT

    kind: Literal["scenes"] = "scenes"
    size_px: int = 64
    num_scenes: int = 20_000
    num_validation: int = 64
    synthetic_fraction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_data(self)
        _at_least("num_scenes", self.num_scenes, 1)
        _within("synthetic_fraction", self.synthetic_fraction, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderData:
    """An own folder of pictures with captions.

    Args:
        path: Folder with images and `.txt` sidecars, or `metadata.jsonl` / `.csv`.
        size_px: Side that pictures are scaled and cropped to.
        num_validation: Pictures held out for the validation loss, at most a tenth of all.
    """

    __pydantic_config__ = STRICT

    kind: Literal["folder"] = "folder"
    path: str
    size_px: int = 64
    num_validation: int = 16

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                "path must name a folder of pictures, got nothing; --set data.path=/my/pictures"
            )
        _check_data(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersSettings:
    """Which trained encoders make latents and text states.

    Args:
        source: Bundle by name, a run, or a folder with the parts of a diffusers SD3 pipeline.
        autoencoder: Overrides the autoencoder of `source`; a run or folder.
        text: Overrides the text encoders of `source`; a run or folder.
    """

    __pydantic_config__ = STRICT

    source: str = "scenes-tiny"
    autoencoder: str | None = None
    text: str | None = None


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
        _within("text_dropout", self.text_dropout, 0, 1)


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
        _at_least("kl_weight", self.kl_weight, 0)
        _at_least("edge_weight", self.edge_weight, 0)


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
        _within("hidden_fraction", self.hidden_fraction, 0, 1)
        _at_least("recall_weight", self.recall_weight, 0)
        _at_least("words_weight", self.words_weight, 0)
        _at_least("denoising_weight", self.denoising_weight, 0)


SolverName = Literal[
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "dpmpp_2m",
    "dpmpp_2m_snr",
    "unipc_2",
    "unipc_3",
    "dopri5",
    "sde",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How pictures are drawn from the trained model, during training and by default after it.

    Args:
        num_steps: Steps of the solver.
        solver: Its name.
        tolerance: Of dopri5: error that it may make, relative and absolute.
        shift: Shift of the time grid; 1 is none.
        guidance_scale: Guidance; 1 is off.
        guidance_method: How the guided velocity is made.
        guidance_start: Guidance acts at times t with guidance_start < t <= guidance_end.
        guidance_end: See `guidance_start`.
        zero_init_steps: Of cfg_zero: steps at the beginning that stand still.
        apg_eta: Of apg: factor on what of the guidance is parallel to the predicted data.
        apg_norm: Of apg: bound of the guidance's norm, in predicted data; 0 is none.
        apg_momentum: Of apg: share of the guidance before, in (-1, 1); 0 is none.
        unconditional: `zeros` as trained, or `empty`, the encoding of "".
        num_pictures: Pictures of the grid drawn while training.
        seed: Seed of that grid.
    """

    __pydantic_config__ = STRICT

    num_steps: int = 25
    solver: SolverName = "euler"
    tolerance: float = 1e-5
    shift: float = 1.0
    guidance_scale: float = 4.0
    guidance_method: Literal["cfg", "cfg_zero", "apg"] = "cfg"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    zero_init_steps: int = 1
    apg_eta: float = 0.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    unconditional: Literal["zeros", "empty"] = "zeros"
    num_pictures: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("num_steps", self.num_steps, 1)
        _at_least("num_pictures", self.num_pictures, 1)
        for name in ("guidance_scale", "guidance_start", "zero_init_steps", "apg_norm"):
            _at_least(name, getattr(self, name), 0)
        for name in ("shift", "tolerance"):
            _above(name, getattr(self, name), 0)
        _above("guidance_end", self.guidance_end, self.guidance_start)
        _within("guidance_end", self.guidance_end, 0, 1)
        _within("apg_momentum", self.apg_momentum, -1, 1)


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
        init_from: Run, bundle or safetensors file whose weights (averaged, if a run) are the start.
        log_every_steps: Cadence of the lines in metrics.jsonl.
        validate_every_steps: Cadence of the validation loss; 0 only at the end.
        sample_every_steps: Cadence of sheets of pictures, of a flow or an autoencoder; 0 only at
            the end.
        attention_blocks: Last blocks of a flow's network whose attention is watched at that
            cadence, logits and entropy; 0 is off (the paper's Fig. 5 has 5).
        checkpoint_every_steps: Cadence of checkpoints; 0 is off.
        checkpoint_every_minutes: The same by the clock; 0 is off.
        keep_checkpoints: Newest checkpoints that are kept.
        keep_best: Whether to keep, beside these, the weights and their average of the step at which
            the average had the least validation loss.
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
    init_from: str | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata=FREE)
    log_every_steps: int = field(default=20, metadata=FREE)
    validate_every_steps: int = field(default=500, metadata=FREE)
    sample_every_steps: int = field(default=500, metadata=FREE)
    attention_blocks: int = field(default=0, metadata=FREE)
    checkpoint_every_steps: int = field(default=0, metadata=FREE)
    checkpoint_every_minutes: float = field(default=5.0, metadata=FREE)
    keep_checkpoints: int = field(default=2, metadata=FREE)
    keep_best: bool = field(default=False, metadata=FREE)
    num_workers: int = field(default=0, metadata=FREE)

    def __post_init__(self) -> None:
        self._check_length()
        for name in ("batch_size", "num_microbatches", "log_every_steps", "keep_checkpoints"):
            _at_least(name, getattr(self, name), 1)
        for name in ("validate", "sample", "checkpoint"):
            _at_least(f"{name}_every_steps", getattr(self, f"{name}_every_steps"), 0)
        for name in ("warmup_steps", "num_workers", "clip_norm", "weight_decay"):
            _at_least(name, getattr(self, name), 0)
        _at_least("attention_blocks", self.attention_blocks, 0)
        _at_least("checkpoint_every_minutes", self.checkpoint_every_minutes, 0)
        for name in ("learning_rate", "muon_learning_rate", "eps"):
            _above(name, getattr(self, name), 0)
        for name in ("ema_decay", "muon_momentum"):
            _within(name, getattr(self, name), 0, 1)
        for value in self.betas:
            _within("betas", value, 0, 1)
        _above("decay_fraction", self.decay_fraction, 0)
        _within("decay_fraction", self.decay_fraction, 0, 1)
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
            _at_least("num_steps", self.num_steps, 1)
        if self.minutes is not None:
            _above("minutes", self.minutes, 0)
            # The number of steps is known after the last of PACE_STEPS; before it, the
            # learning rate must not depend on it, and in the warm-up it does not.
            if self.warmup_steps < PACE_STEPS[1]:
                raise ValueError(
                    f"warmup_steps must be >= {PACE_STEPS[1]} when minutes are given, "
                    f"got {self.warmup_steps}"
                )


def _check_data(data: ScenesData | FolderData) -> None:
    _at_least("num_validation", data.num_validation, 1)
    if data.size_px < 8 or data.size_px % 8:
        raise ValueError(f"size_px must be a positive multiple of 8, got {data.size_px}")


def _at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise ValueError(f"{name} must be >= {bound}, got {value}")


def _above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ValueError(f"{name} must be > {bound}, got {value}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
