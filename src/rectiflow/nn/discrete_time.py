"""The border to networks that count time in a thousand steps, as diffusers' do."""

from jaxtyping import Float
from torch import Tensor

NUM_DISCRETE_TIMES = 1000


def discrete_time(t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Time in [0, 1] (0 = data, 1 = noise) as the float32 step in [0, 1000] of diffusers' networks.

    They embed real numbers, so nothing is rounded: t = 0.2505 is step 250.5.
    """
    return NUM_DISCRETE_TIMES * t.float()
