"""What the paper's formulation study found (arXiv:2403.03206, Sec. 5.1, Tables 1 and 2)."""

from dataclasses import dataclass
from typing import Final, NamedTuple


class PaperRanks(NamedTuple):
    """A row of Table 1: average ranks among 61 formulations, 1 is best.

    Args:
        all: Over all 24 control settings.
        few_steps: Over those of 5 steps.
        many_steps: Over those of 50 steps; multiples of 1/4, so apparently at one guidance scale.
    """

    all: float
    few_steps: float
    many_steps: float


class PaperScores(NamedTuple):
    """A row of Table 2: 25 steps of Euler, CLIP score and FID on CLIP features, two data sets."""

    imagenet_clip: float
    imagenet_fid: float
    cc12m_clip: float
    cc12m_fid: float


TABLE_1: Final = {
    "rf/lognorm(0.00,1.00)": PaperRanks(1.54, 1.25, 1.50),
    "rf/lognorm(1.00,0.60)": PaperRanks(2.08, 3.50, 2.00),
    "rf/lognorm(0.50,0.60)": PaperRanks(2.71, 8.50, 1.00),
    "rf/mode(1.29)": PaperRanks(2.75, 3.25, 3.00),
    "rf/lognorm(0.50,1.00)": PaperRanks(2.83, 1.50, 2.50),
    "eps/linear": PaperRanks(2.88, 4.25, 2.75),
    "rf/mode(1.75)": PaperRanks(3.33, 2.75, 2.75),
    "rf/cosmap": PaperRanks(4.13, 3.75, 4.00),
    "edm(0.00,0.60)": PaperRanks(5.63, 13.25, 3.25),
    "rf": PaperRanks(5.67, 6.50, 5.75),
    "v/linear": PaperRanks(6.83, 5.75, 7.75),
    "edm(0.60,1.20)": PaperRanks(9.00, 13.00, 9.00),
    "v/cos": PaperRanks(9.17, 12.25, 8.75),
    "edm/cos": PaperRanks(11.04, 14.25, 11.25),
    "edm/rf": PaperRanks(13.04, 15.25, 13.25),
    "edm(-1.20,1.20)": PaperRanks(15.58, 20.25, 15.00),
}
"""In the paper's order; `eps/cos` is not in it."""

TABLE_2: Final = {
    "rf": PaperScores(0.247, 49.70, 0.217, 94.90),
    "edm(-1.20,1.20)": PaperScores(0.236, 63.12, 0.200, 116.60),
    "eps/linear": PaperScores(0.245, 48.42, 0.222, 90.34),
    "v/cos": PaperScores(0.244, 50.74, 0.209, 97.87),
    "v/linear": PaperScores(0.246, 51.68, 0.217, 100.76),
    "rf/lognorm(0.50,0.60)": PaperScores(0.256, 80.41, 0.233, 120.84),
    "rf/mode(1.75)": PaperScores(0.253, 44.39, 0.218, 94.06),
    "rf/lognorm(1.00,0.60)": PaperScores(0.254, 114.26, 0.234, 147.69),
    "rf/lognorm(-0.50,1.00)": PaperScores(0.248, 45.64, 0.219, 89.70),
    "rf/lognorm(0.00,1.00)": PaperScores(0.250, 45.78, 0.224, 89.91),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """An order of two formulations in Table 1.

    Args:
        better: The one with the lower average rank.
        worse: The other one.
        column: Field of `PaperRanks` in which it shows.
        says: What it shows, in words.
    """

    better: str
    worse: str
    column: str
    says: str

    @property
    def paper_difference(self) -> float:
        """By how much the worse one's rank is higher in Table 1."""
        worse, better = (TABLE_1[name] for name in (self.worse, self.better))
        return getattr(worse, self.column) - getattr(better, self.column)


_BEST: Final = "rf/lognorm(0.00,1.00)"

CLAIMS: Final = (
    Claim(_BEST, "rf", "all", "logit-normal times lift rf"),
    Claim(_BEST, "eps/linear", "all", "with logit-normal times, rf beats eps/linear"),
    Claim("rf/mode(1.29)", "eps/linear", "all", "with mode sampling, rf beats eps/linear"),
    Claim("eps/linear", "rf", "all", "with uniform times, rf loses to eps/linear"),
    Claim("eps/linear", "v/linear", "all", "on LDM's path, noise beats v as the prediction"),
    Claim("rf", "v/cos", "all", "with uniform times, rf beats v on the cosine path"),
    Claim("rf", "edm(-1.20,1.20)", "all", "with uniform times, rf beats EDM with its own"),
    Claim("edm(0.00,0.60)", "edm(-1.20,1.20)", "all", "EDM gains by another law of times"),
    Claim(_BEST, "eps/linear", "few_steps", "at 5 steps, rf with logit-normal times leads too"),
    Claim(
        "rf", "edm(0.00,0.60)", "few_steps", "at 5 steps, uniform rf beats the EDM best over all"
    ),
    Claim("edm(0.00,0.60)", "rf", "many_steps", "at 50 steps, uniform rf loses to that EDM"),
)
"""Orders in Table 1 that the conclusions of Sec. 5.1 rest on, or that stand out beside them."""
