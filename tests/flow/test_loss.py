import pytest
import torch

from rectiflow.flow.loss import squared_error


def test_squared_error_is_the_mean_over_one_sample_alone():
    output, target = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    loss = squared_error(output, target)
    for i in range(5):
        assert loss[i].item() == pytest.approx(((output[i] - target[i]) ** 2).mean().item())
    output[2] += 100  # one sample's fault is its own
    assert squared_error(output, target)[[0, 1, 3, 4]].equal(loss[[0, 1, 3, 4]])


def test_squared_error_of_bf16_output_is_taken_in_float32():
    """256 + 1 is no bf16 number: a difference taken in bf16 would be 0 or 2."""
    loss = squared_error(torch.full((1, 4), 256.0, dtype=torch.bfloat16), torch.full((1, 4), 257.0))
    assert loss.dtype == torch.float32
    assert loss.item() == 1
