import pytest
import torch

from rectiflow.encoders.released.eight_bit import is_no_weight, widened
from rectiflow.errors import DataError

EIGHT = torch.tensor([[0.5, -3.0], [1.0, 448.0]]).to(torch.float8_e4m3fn)
NAMED = {"name": "a.weight", "origin": "file"}


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (None, [[0.5, -3.0], [1.0, 448.0]]),
        (torch.tensor(0.5), [[0.25, -1.5], [0.5, 224.0]]),
        (torch.tensor([2.0, 4.0]), [[1.0, -6.0], [4.0, 1792.0]]),
        (torch.tensor([[2.0], [4.0]]), [[1.0, -6.0], [4.0, 1792.0]]),
    ],
)
def test_a_weight_is_its_value_times_its_scale_row_by_row(scale, expected):
    found = widened(EIGHT, scale, torch.float32, **NAMED)
    assert found.dtype == torch.float32
    assert found.tolist() == expected


def test_other_weights_keep_their_type():
    plain = torch.ones(2, dtype=torch.float16)
    assert widened(plain, None, torch.float32, **NAMED) is plain


def test_a_scale_that_fits_nothing_is_refused():
    for scale in (torch.ones(3), torch.ones(0), torch.ones(2, 2)):
        with pytest.raises(DataError, match=r"file: a.weight .* needs one scale or one per row"):
            widened(EIGHT, scale, torch.float32, **NAMED)
    with pytest.raises(DataError, match=r"file: a.weight has a scale, but is torch.float16"):
        widened(EIGHT.half(), torch.ones(1), torch.float32, **NAMED)


def test_scales_belong_to_weights_that_are_there():
    names = {"a.weight", "a.scale_weight", "a.scale_input", "b.scale_weight", "x.scaled_fp8"}
    no_weights = {name for name in names if is_no_weight(name, names)}
    assert no_weights == {"a.scale_weight", "a.scale_input", "x.scaled_fp8"}
