import json

import pytest
import torch

from rectiflow.bench import BenchSettings, contestants, model
from rectiflow.bench.contestants import bytes_of_both, inputs, shape_of_depth
from rectiflow.bench.model import FORWARDS, Case, kept_bytes, measure_model, require_memory
from rectiflow.cli.main import main
from rectiflow.nn.memory import activation_bytes
from rectiflow.nn.sizes import forward_flops, num_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CPU = torch.device("cpu")


def case(**changes) -> Case:
    usual = {"depth": 12, "precision": "bf16", "device": CPU, "is_compiled": False}
    return Case(**usual | changes)


@pytest.fixture(scope="module")
def rivals():
    return contestants.contestants(shape_of_depth(1), CPU, is_compiled=False)


def test_the_step_measured_is_the_one_that_the_bar_is_about():
    """901 GFLOP: depth 12, batch 4, 256 image and 154 text tokens, the last text queries unused."""
    flops = 4 * 3 * forward_flops(shape_of_depth(12), 32, 32, 154)
    assert flops == pytest.approx(901e9, rel=0.02)


def test_both_have_the_same_weights_and_see_the_same_batch(rivals):
    counts = [sum(p.numel() for p in rival.network.parameters()) for rival in rivals]
    assert counts == [num_parameters(shape_of_depth(1))] * 2
    x, t, cond = inputs(CPU)
    with torch.no_grad():
        ours, theirs = (rival.velocity(x, t, cond) for rival in rivals)
        other = rivals[1].velocity(x, 1 - t, cond)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    assert (other - theirs).norm() / theirs.norm() > 1e-3
    pointers = [{p.data_ptr() for p in rival.network.parameters()} for rival in rivals]
    assert not pointers[0] & pointers[1]


def test_every_phase_does_its_work_and_leaves_the_weights_as_they_are(rivals):
    ours = rivals[0]
    before = [p.clone() for p in ours.network.parameters()]
    did = {}
    for phase in FORWARDS:
        ours.network.zero_grad(set_to_none=True)
        assert model._stopwatch(phase, case(precision="fp32"), ours)() > 0
        did[phase] = [p.grad is not None for p in ours.network.parameters()]
    assert [any(did[phase]) for phase in FORWARDS] == [False, True, True, False]
    assert all(did["training step"])
    assert len(ours.optimizer.state) == len(before)
    for old, new in zip(before, ours.network.parameters(), strict=True):
        assert old.equal(new)


def test_what_is_kept_for_the_backward_pass_is_what_the_shape_tells(rivals):
    told = 4 * activation_bytes(shape_of_depth(1), 32, 32, 154, product_bytes=4)
    assert kept_bytes(case(precision="fp32"), rivals[0]) == pytest.approx(told, rel=0.15)


def test_figures_follow_from_the_stopwatch(monkeypatch):
    """With a clock that gives ours one second and diffusers two, whatever the phase."""
    seconds = {0: 1.0, 1: 2.0}
    made = contestants.contestants(shape_of_depth(1), CPU, is_compiled=False)
    monkeypatch.setattr(model, "contestants", lambda *_, **__: made)
    monkeypatch.setattr(
        model, "_stopwatch", lambda phase, case, rival: lambda: seconds[made.index(rival)]
    )
    monkeypatch.setattr(model, "product_rates", lambda *_: [100.0])
    settings = BenchSettings(depths=(1,), precisions=("fp32",), device="cpu", num_repeats=2)
    figures = measure_model(settings)
    flops = 4 * forward_flops(shape_of_depth(1), 32, 32, 154)
    for phase, num_forwards in FORWARDS.items():
        assert figures[f"d1 fp32 {phase} speed"].repeats == (2.0, 2.0)
        assert figures[f"d1 fp32 {phase} ours"].value == 1.0
        share = figures[f"d1 fp32 {phase} diffusers, share"].value
        assert share == pytest.approx(num_forwards * flops / 100e9 / 2)
    assert figures["d1 fp32 difference"].is_met
    kept = [figures[f"d1 fp32 kept for the backward pass {w}"].value for w in ("ours", "diffusers")]
    assert 10 < kept[0] < 1.1 * kept[1]


def test_promises_are_about_a_training_step_on_a_cpu_in_eager_mode():
    assert case().min_speed == 1.3
    assert case(precision="fp32").min_speed == 1.05
    for change in ({"depth": 6}, {"is_compiled": True}, {"device": torch.device("cuda")}):
        assert case(**change).min_speed is None
    assert case(is_compiled=True).name == "d12 bf16 compiled"


def test_networks_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(model, "_memory_of", lambda device: 24 * 2**30)
    require_memory(BenchSettings(device="cpu", depths=(12,)))
    with pytest.raises(ValueError, match=r"depth 24 take about 6\d GiB to train, cpu has 24"):
        require_memory(BenchSettings(device="cpu", depths=(6, 24)))
    assert bytes_of_both(shape_of_depth(6)) > 2 * 4 * 4 * num_parameters(shape_of_depth(6))
    assert model._memory_of(CPU) > 2**28


def test_wrong_choices_are_refused(capsys):
    with pytest.raises(ValueError, match=r"depths must be >= 1, got \[0\]"):
        BenchSettings(depths=(0,))
    with pytest.raises(ValueError, match=r"precisions must be fp32 or bf16, got \['fp16'\]"):
        BenchSettings(precisions=("fp16",))
    assert main(["bench", "model", "--device", "tpu"]) == 2
    assert "device must be auto, cpu, cuda or mps, got 'tpu'" in capsys.readouterr().err


def test_the_command_line_chooses_what_is_measured(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(model, "measure_model", lambda settings: given.append(settings) or {})
    monkeypatch.setattr(model, "require_memory", lambda settings: None)
    command = ["bench", "model", "--depth", "6", "--depth", "24", "--precision", "fp32"]
    assert main([*command, "--compile", "--device", "cpu", "--json"]) == 0
    assert given == [
        BenchSettings(depths=(6, 24), precisions=("fp32",), is_compiled=True, device="cpu")
    ]
    assert json.loads(capsys.readouterr().out)["figures"] == {}
