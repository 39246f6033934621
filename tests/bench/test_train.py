"""The step that is measured is a step of training, and the figures follow from the stopwatch."""

import json

import pytest
import torch

from rectiflow.bench import BenchSettings, train
from rectiflow.bench.peak import peak_bytes
from rectiflow.bench.train import LEVERS, Loop, Task, our_loops, rival_loops, task_figures
from rectiflow.cli.main import main
from rectiflow.nn.sizes import products

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CPU = torch.device("cpu")
UNCOMPILED = {name: lever for name, lever in LEVERS.items() if lever.compile == "none"}


def task(**changes):
    return Task(**{"depth": 1, "size_px": 64, "batch_size": 2, "device": CPU, **changes})


def weights(loop):
    """Of the network that a loop trains: cells of its two closures hold it."""
    return [p for p in loop.descend.args[1].model.parameters()]


def test_the_step_of_the_bars_is_depth_12_batch_4_with_256_image_and_154_text_tokens():
    of_bars = task(depth=12, size_px=256, batch_size=4)
    assert of_bars.has_bars
    assert not task(depth=12, device=torch.device("cuda")).has_bars
    assert of_bars.flops == 4 * products(of_bars.config, 32, 32, 154).training_flops
    assert of_bars.flops == pytest.approx(890e9, rel=0.02)


def test_levers_share_weights_and_leave_the_gradient_as_it_is():
    loops = our_loops(task(), UNCOMPILED)
    first = weights(loops["eager"])
    before, gradients = [p.detach().clone() for p in first], {}
    for name, loop in loops.items():
        assert all(p is q for p, q in zip(weights(loop), first, strict=True))
        loop.descend()
        gradients[name] = torch.cat([p.grad.flatten() for p in first if p.grad is not None])
        for parameter in first:
            parameter.grad = None
    for gradient in gradients.values():
        assert gradient.equal(gradients["eager"])
        assert gradient.any()
    loops["full checkpointing"].step()
    assert not all(p.equal(q) for p, q in zip(first, before, strict=True))
    assert all(p.grad is None for p in first)


def test_the_rival_is_trained_too_from_the_same_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    trained = []
    monkeypatch.setattr(
        train,
        "diffusers_peer",
        lambda ours, make=train.diffusers_peer: trained.append(make(ours)) or trained[0],
    )
    loops = rival_loops(task())
    ours = weights(our_loops(task(), {"eager": LEVERS["eager"]})["eager"])
    total = sum(p.double().sum() for p in trained[0].parameters())
    assert total.item() == pytest.approx(sum(p.double().sum() for p in ours).item(), rel=1e-6)
    before = [p.detach().clone() for p in trained[0].parameters()]
    for loop in loops.values():
        whole, optimizer = loop.seconds(CPU)
        assert whole > optimizer > 0
        after = [p.detach().clone() for p in trained[0].parameters()]
        assert not all(p.equal(q) for p, q in zip(before, after, strict=True))
        before = after


def test_figures_follow_from_the_stopwatch(monkeypatch):
    """Our best takes 2 seconds, 0.5 of them in the optimizer, and the best rival 3."""
    seconds = {
        "eager": (4.0, 1.0),
        "compiled": (2.0, 0.5),
        "diffusers eager": (5.0, 1.0),
        "diffusers compiled": (3.0, 1.0),
    }
    monkeypatch.setattr(train, "product_rates", lambda *_: [1000.0])
    monkeypatch.setattr(Loop, "seconds", lambda self, device: seconds[self.descend()])
    loops = {name: Loop(lambda name=name: name, lambda: None) for name in seconds}
    of_bars = task(depth=12, size_px=256, batch_size=4)
    figures = task_figures(of_bars, loops, BenchSettings(num_repeats=2))
    assert figures["speed"].value == 1.5
    assert figures["speed"].bar == ">= 1.5"
    assert figures["speed"].note == "compiled against diffusers compiled"
    assert figures["compiled, speed"].value == 2.0
    assert figures["compiled"].repeats == (2.0, 2.0)
    assert figures["compiled, optimizer"].value == 0.25
    assert figures["compiled, images"].value == 2.0
    assert figures["compiled, rate"].value == pytest.approx(of_bars.flops / 2 / 1e12)
    assert figures["compiled, share"].value == pytest.approx(of_bars.flops / 2 / 1e12)
    assert figures["compiled, share"].bar == ">= 0.7"
    assert figures["eager, share"].bar is None
    assert task_figures(task(), loops, BenchSettings(num_repeats=1))["speed"].bar is None


def test_the_most_memory_at_once_is_told():
    def run():
        large = torch.ones(2**20)
        small = torch.ones(2**18)
        del large, small
        torch.ones(2**19)

    assert peak_bytes(run, CPU) == pytest.approx(4 * (2**20 + 2**18), rel=0.01)


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match=r"sizes must be multiples of 16, got \[250\]"):
        BenchSettings(sizes_px=(250,))
    with pytest.raises(ValueError, match="batch size must be >= 1, got 0"):
        BenchSettings(batch_size=0)


def test_the_command_line_chooses_what_is_measured(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(train, "measure_train", lambda settings: given.append(settings) or {})
    sizes = ["--size-px", "256", "--size-px", "512"]
    command = ["bench", "train", "--depth", "2", *sizes, "--batch-size", "8", "--fp8"]
    assert main([*command, "--device", "cpu", "--json"]) == 0
    chosen = {"depths": (2,), "sizes_px": (256, 512), "batch_size": 8, "with_fp8": True}
    assert given == [BenchSettings(**chosen, device="cpu")]
    assert json.loads(capsys.readouterr().out)["figures"] == {}


@pytest.mark.gpu
def test_one_gpu_of_the_kind_of_h200_meets_the_bars():
    settings = BenchSettings(depths=(24,), sizes_px=(256, 512, 1024), with_fp8=True, device="cuda")
    figures = train.measure_train(settings)
    missed = {name: figure for name, figure in figures.items() if figure.is_met is False}
    assert not missed
