"""The benchmark of Muon counts the matrices of the network and holds the two side by side."""

import math

from rectiflow.bench import muon
from rectiflow.bench.settings import BenchSettings


def test_the_matrices_are_those_of_the_blocks():
    """Per stream h x h for queries, keys, values and output, h x 4h twice.

    Of the last block the text's stream has neither output nor perceptron.
    """
    width, depth = 128, 2
    matrices = muon.matrices_of(depth)
    weights = sum(math.prod(shape) for shape, _ in matrices.values())
    assert weights == (2 * 12 * depth - 9) * width**2
    num = sum(num for _, num in matrices.values())
    assert num == 2 * 6 * depth - 3


def test_both_are_measured_and_their_moves_agree(monkeypatch):
    monkeypatch.setattr(muon, "TINY_DEPTH", 1)
    figures = muon.measure_muon(BenchSettings(depths=(2,), device="cpu", num_repeats=2))
    for depth in (1, 2):
        seconds = [figures[f"d{depth} {name}"] for name in ("ours", "torch.optim.Muon")]
        assert all(len(figure.repeats) == 2 and figure.value > 0 for figure in seconds)
        ratio = figures[f"d{depth} times as fast as torch.optim.Muon"]
        expected = [
            theirs / ours for ours, theirs in zip(*(f.repeats for f in seconds), strict=True)
        ]
        assert list(ratio.repeats) == expected
        assert figures[f"d{depth} difference of the moves"].is_met
