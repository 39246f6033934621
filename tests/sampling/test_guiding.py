"""Solvers and guidance as options of a picture: what they change, cost and refuse."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rectiflow.checkpoints import group_checksum
from rectiflow.conditioning import Conditioning
from rectiflow.flow.formulations import formulation
from rectiflow.flow.predictions import EdmPrediction
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.sampling.bundle import assemble
from rectiflow.sampling.drawing import options_of
from rectiflow.sampling.guides import find_guide, load_guide
from rectiflow.sampling.guiding import Guide, guided_velocity, num_network_calls
from rectiflow.sampling.load import load
from rectiflow.sampling.options import GUIDANCE_METHODS, SamplingOptions
from rectiflow.sampling.solving import Start, carry
from rectiflow.training.settings.sampling import SamplingSettings
from tests.sampling import tiny
from tests.sampling.tiny import pipeline

CONFIG = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8, depth=4)
FORMULATIONS = ["rf", "eps/cos", "v/linear", "edm(-1.20,1.20)"]


class Counter(nn.Module):
    """A network of four blocks that counts for how many texts it is asked."""

    config = CONFIG

    def __init__(self, slope=0.3):
        super().__init__()
        self.slope, self.calls = slope, 0

    def forward(self, x, t, cond, skip_blocks=()):
        self.calls += len(x)
        text = cond.pooled.mean(dim=1).view(-1, 1, 1, 1)
        return self.slope * x + text * (4 - len(skip_blocks))


class Ideal(nn.Module):
    """What minimises a formulation's loss on Gaussian data."""

    config = CONFIG

    def __init__(self, form, mean, std):
        super().__init__()
        self.form, self.mean, self.std = form, mean, std

    def forward(self, x, t, cond):
        if isinstance(self.form.prediction, EdmPrediction):
            sigma = torch.exp(4 * t)  # EDM's c_noise and c_in, undone
            x, t = x * (sigma**2 + 0.25).sqrt().view(-1, 1, 1, 1), sigma / 80
        c = self.form.path.coefficients(t.view(-1, 1, 1, 1))
        whitened = (x - c.alpha * self.mean) / ((c.alpha * self.std) ** 2 + c.sigma**2)
        data, noise = self.mean + c.alpha * self.std**2 * whitened, c.sigma * whitened
        p, q = self.form.prediction.mixture(c)
        return p * data + q * noise


def worst(pictures, others):
    pairs = zip(pictures, others, strict=True)
    return max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs)


def weaker(model=None, name="rf"):
    return Guide(model or tiny.network(seed=8), formulation(name), "0123")


CHOICES = [
    {},
    {"guidance_start": 0.3, "guidance_end": 0.8},
    {"guidance_start": 0.3, "skip_layers": (0,), "skip_end": 0.5},
    {"guidance_method": "cfg_zero", "zero_init_steps": 2, "skip_layers": (0,), "skip_end": 0.5},
    {"guidance_method": "apg", "apg_norm": 1.0},
]


@pytest.mark.parametrize("has_guide", [False, True])
@pytest.mark.parametrize("name", ["rf", "v/cos"])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_network_calls_are_counted_with_solver_guidance_and_skipped_layers(choice, name, has_guide):
    network, guide = Counter(), Counter()
    model = pipeline(network, name)
    model.guide = weaker(guide, name) if has_guide else None
    for solver in SOLVERS:
        if SOLVERS[solver].is_adaptive:
            continue
        for scale in (1.0, 4.0)[has_guide:]:
            options = SamplingOptions(num_steps=7, solver=solver, guidance_scale=scale, **choice)
            network.calls = guide.calls = 0
            model.solve(["a star"], torch.ones(1, 4, 4, 4), options)
            counted = num_network_calls(options, model.formulation)
            assert network.calls + guide.calls == counted
            assert scale != 1 or counted == 7 * len(SOLVERS[solver].stages) + network_skips(options)


def network_skips(options):
    return len(options.skipping_steps) * len(SOLVERS[options.solver].stages)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_scale_1_is_exactly_unguided_whatever_the_method(name):
    model, noise = pipeline(tiny.network(), name), torch.randn(2, 4, 4, 4)
    plain = SamplingOptions(num_steps=3, guidance_scale=1.0)
    latents = [
        model.solve(["a star", "a ring"], noise, replace(plain, guidance_method=method))
        for method in GUIDANCE_METHODS
    ]
    assert all(latent.equal(latents[0]) for latent in latents)
    assert num_network_calls(plain, model.formulation) == 3


@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_draws_on_every_formulation(solver, name):
    """The ideal network of data Normal(0.5, 0.3^2) leads every noise to its own quantile."""
    model, std = pipeline(Ideal(formulation(name), 0.5, 0.3), name), 0.3
    noise = model.noise(0, 0)[None]
    path = model.formulation.path
    c = path.coefficients(torch.tensor(path.max_time))
    spread = ((c.alpha * std) ** 2 + c.sigma**2).sqrt()
    expected = 0.5 + std * (path.beginning(noise) - 0.5 * c.alpha) / spread
    steps = {} if SOLVERS[solver].is_adaptive else {"num_steps": 40}
    latent = model.solve(["a"], noise, SamplingOptions(solver=solver, guidance_scale=1.0, **steps))
    if solver == "sde":
        assert latent.mean().item() == pytest.approx(0.5, abs=0.1)
        assert latent.std().item() == pytest.approx(std, abs=0.07)
    else:
        # One step to t = 0 of first order returns the mean of the data there, which lacks spread.
        error = 0.02 if solver in ("midpoint", "heun", "rk4", "dopri5") else 0.1
        torch.testing.assert_close(latent, expected, atol=error, rtol=0)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_tolerance_is_one_for_the_data_on_every_path(name, tolerance):
    """Not for the noise that it begins with: of EDM's, 80, it would be 0.8 at the first."""
    model, std = pipeline(Ideal(formulation(name), 0.0, 0.3), name), 0.3
    path, noise = model.formulation.path, model.noise(0, 0)[None]
    c = path.coefficients(torch.tensor(path.max_time))
    expected = std * path.beginning(noise) / ((c.alpha * std) ** 2 + c.sigma**2).sqrt()
    options = SamplingOptions(solver="dopri5", guidance_scale=1.0, tolerance=tolerance)
    error = (model.solve(["a"], noise, options) - expected).abs().max().item()
    assert error < 60 * tolerance


@pytest.mark.parametrize(
    ("first", "change"),
    [
        ({"guidance_method": "cfg_zero", "zero_init_steps": 0}, {"guidance_method": "cfg"}),
        ({"guidance_method": "cfg_zero"}, {"zero_init_steps": 2}),
        ({"guidance_method": "apg"}, {"apg_eta": 0.7}),
        ({"guidance_method": "apg"}, {"apg_norm": 0.5}),
        ({"guidance_method": "apg"}, {"apg_momentum": -0.7}),
        ({"guidance_start": 0.1}, {"guidance_start": 0.5}),
        ({"guidance_end": 0.9}, {"guidance_end": 0.5}),
        ({"solver": "sde"}, {"seed": 4}),
    ],
    ids=lambda change: "-".join(change),
)
def test_every_option_of_guidance_changes_the_latent_and_the_metadata(first, change):
    model, noise = pipeline(), torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    options = SamplingOptions(num_steps=5, guidance_scale=5.0, **first)
    changed = replace(options, **change)
    latents = [model.solve(["a blue star"], noise, o) for o in (options, changed)]
    assert (latents[0] - latents[1]).abs().max() > 1e-3
    assert options.facts() != changed.facts()


def test_the_tolerance_of_the_adaptive_solver_matters_and_is_told():
    model, noise = pipeline(), torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    drawn = [
        model.solve(
            ["a star"],
            noise,
            SamplingOptions(solver="dopri5", tolerance=tolerance, guidance_scale=1.0),
        )
        for tolerance in (1e-1, 1e-2, 1e-4)
    ]
    assert 0 < (drawn[1] - drawn[2]).abs().max() < (drawn[0] - drawn[2]).abs().max()
    image = model.sample("a star", solver="dopri5", tolerance=1e-3, guidance_scale=1.0)[0]
    assert image.info["tolerance"] == 1e-3
    assert "tolerance" not in model.sample("a star")[0].info
    assert num_network_calls(SamplingOptions(solver="dopri5"), model.formulation) is None


@pytest.mark.parametrize("solver", ["sde", "dopri5"])
def test_a_picture_is_a_function_of_seed_and_index_whatever_the_batch(solver):
    model, prompts = pipeline(), ["a star", "two red circles", "a ring"]
    keys = [(3, 0), (3, 1), (3, 2)]
    options = SamplingOptions(solver=solver, num_steps=4, guidance_scale=1.0, tolerance=1e-3)
    together = model.draw(prompts, keys, options)
    apart = [model.draw([p], [k], options)[0] for p, k in zip(prompts, keys, strict=True)]
    assert worst(together, apart) <= 1
    assert worst(together[:1], model.draw(prompts[:1], [(4, 0)], options)) > 1


def test_the_noise_on_the_way_is_not_the_noise_of_the_beginning():
    model = pipeline(Counter(slope=0.0))
    options = SamplingOptions(num_steps=2, solver="sde", guidance_scale=1.0, seed=5)
    found = model.solve(["a star"], torch.zeros(1, 4, 4, 4), options).flatten()
    beginning = model.noise(5, 0).flatten()
    assert abs(torch.corrcoef(torch.stack([found, beginning]))[0, 1]) < 0.5


def test_a_weaker_model_replaces_the_unconditional_text():
    """weaker + scale (network - weaker), both with the prompt: here two slopes and no text."""
    network, guide = Counter(slope=-1.0), Counter(slope=-0.5)
    model = pipeline(network)
    model.guide = weaker(guide)
    options = SamplingOptions(num_steps=1, guidance_scale=3.0)
    noise = torch.ones(1, 4, 4, 4)
    text = model.text.conditioning(["a star"]).pooled.mean() * 4
    velocity = -0.5 + 3 * (-1.0 + 0.5) + text
    torch.testing.assert_close(model.solve(["a star"], noise, options), noise - velocity)
    assert (network.calls, guide.calls) == (1, 1)


def test_a_guide_is_read_from_a_run_a_bundle_a_checkpoint_or_a_file(tmp_path):
    run = tiny.write_run(tmp_path / "run")
    model = load(run)
    earlier = run / "checkpoints" / "step-00000002"
    save_file(tiny.network(seed=8).state_dict(), tmp_path / "weaker.safetensors")
    bundle = assemble(run, tmp_path / "bundle", "fp32")
    places = [run, bundle, earlier, tmp_path / "weaker.safetensors"]
    guides = [load_guide(find_guide(str(place)), model) for place in places]
    firsts = [next(iter(guide.network.parameters())) for guide in guides]
    strong, weak = (next(iter(tiny.network(seed=seed).parameters())) for seed in (9, 8))
    for parameter, expected in zip(firsts, (strong, strong, weak, weak), strict=True):
        assert parameter.equal(expected)
    original = model.autoencoder
    model.autoencoder = copy.deepcopy(original)
    with torch.no_grad():
        next(iter(model.autoencoder.parameters())).add_(0.1)
    for place in places[:2]:
        with pytest.raises(ValueError, match="must have the same encoders, and those of"):
            load_guide(find_guide(str(place)), model)
    model.autoencoder = original
    model.guide = guides[2]
    drawn = model.sample("a star", guidance_scale=3.0)[0]
    assert drawn.info["guide_sha256"] == guides[2].sha256 == group_checksum(earlier, "ema")
    model.guide = None
    plain = model.sample("a star", guidance_scale=3.0)[0]
    assert worst([drawn], [plain]) > 0
    assert "guide_sha256" not in plain.info


def test_guides_that_cannot_lead_are_refused():
    model = pipeline(name="edm/rf")
    model.guide = weaker()
    with pytest.raises(ValueError, match="of the same path, got edm/rf guided by rf"):
        model.sample("a star")
    model = pipeline()
    model.guide = weaker(Counter())
    with pytest.raises(ValueError, match="must have the same context_width, got None for"):
        model.sample("a star")
    model.guide = weaker()
    with pytest.raises(ValueError, match="a guide would have no effect: guidance_scale 1 is off"):
        model.sample("a star", guidance_scale=1.0)
    with pytest.raises(ValueError, match="negative 'rain' would have no effect beside a guide"):
        model.sample("a star", negative="rain")
    with pytest.raises(FileNotFoundError, match="no bundle or run 'nowhere'"):
        find_guide("nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"guidance_method": "pag"},
            r"guidance_method must be one of \['apg', 'cfg', 'cfg_zero'\]",
        ),
        ({"guidance_start": 0.6, "guidance_end": 0.5}, "0 <= start < end <= 1, got 0.6 and 0.5"),
        ({"guidance_end": 1.5}, "0 <= start < end <= 1, got 0.0 and 1.5"),
        ({"guidance_end": 0.2, "num_steps": 3}, "no step begins at a time there; of 3 the last"),
        ({"guidance_method": "apg", "apg_norm": -1.0}, "apg_norm must be >= 0, got -1"),
        ({"guidance_method": "apg", "apg_eta": float("inf")}, "apg_eta must be finite, got inf"),
        ({"guidance_method": "apg", "apg_momentum": 1.0}, r"apg_momentum must be in \(-1, 1\)"),
        (
            {"guidance_method": "apg", "apg_momentum": -0.5, "solver": "heun"},
            "must ask once in each, as euler, dpmpp_2m.*; got heun",
        ),
        ({"guidance_method": "cfg_zero", "zero_init_steps": -1}, "zero_init_steps must be >= 0"),
        (
            {"guidance_method": "cfg_zero", "zero_init_steps": 3},
            "zero_init_steps must be < the steps that are run, 3, got 3",
        ),
        (
            {"zero_init_steps": 2},
            "zero_init_steps would have no effect without guidance_method cfg_",
        ),
        ({"apg_eta": 0.5}, "apg_eta would have no effect without guidance_method apg"),
        (
            {"guidance_scale": 1.0, "guidance_start": 0.2},
            "guidance_start would have no effect at g",
        ),
        ({"guidance_scale": 1.0, "guidance_method": "apg"}, "no effect at guidance_scale 1"),
        ({"tolerance": 1e-3}, "tolerance would have no effect without an adaptive solver"),
        ({"solver": "dopri5", "tolerance": 0.0}, "tolerance must be > 0, got 0"),
        ({"solver": "dopri5", "num_steps": 9}, "num_steps would have no effect with solver dopri5"),
        (
            {"solver": "dopri5", "batch_size": 9},
            "batch_size would have no effect with solver dopri5",
        ),
        ({"solver": "dopri5", "skip_layers": (0,), "skip_end": 1.0}, "count steps of the grid"),
        ({"solver": "dopri5", "guidance_method": "cfg_zero"}, "zero_init_steps 1 count steps of"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline().sample("a star", **changes)


def test_standing_still_is_refused_where_noise_shrinks_along_the_path():
    model = pipeline(name="edm/rf")
    chosen = {"guidance_method": "cfg_zero", "num_steps": 4}
    with pytest.raises(ValueError, match="edm/rf begins at sigma 80: give zero_init_steps 0"):
        model.sample("a star", **chosen)
    assert model.sample("a star", **chosen, zero_init_steps=0)


@pytest.mark.parametrize("name", ["rf", "eps/cos"])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "dopri5"])
def test_the_first_steps_of_cfg_zero_stand_still_whatever_the_solver(solver, name):
    """As if drawing began at the third time: no step before it moves, asks or is remembered."""
    form, noise = formulation(name), torch.ones(1, 4, 4, 4)
    texts = [Conditioning(torch.zeros(1, 1, 1), torch.full((1, 1), v), (1,)) for v in (0.2, 0.1)]
    options = SamplingOptions(
        num_steps=6, solver=solver, guidance_method="cfg_zero", zero_init_steps=2
    )
    found = carry(Counter(), form, noise, *texts, options, draw=torch.ones_like)
    times, moving = form.times(6), replace(options, zero_init_steps=0)
    velocity = guided_velocity(Counter(), form, tuple(texts), times[2:], moving)
    expected = integrate(
        velocity, noise, times[2:], SOLVERS[solver], path=form.path, draw=torch.ones_like
    )
    torch.testing.assert_close(found, expected)


def test_what_is_known_of_a_picture_does_not_stand_still_with_the_rest():
    form, noise, seen = formulation("rf"), torch.randn(1, 4, 2, 2), []

    class Watched(Counter):
        def forward(self, x, t, cond):
            seen.append((x[:1], t[0].item()))
            return super().forward(x, t, cond)

    text = Conditioning(torch.zeros(1, 1, 1), torch.ones(1, 1), (1,))
    options = SamplingOptions(num_steps=4, guidance_method="cfg_zero", zero_init_steps=1)
    redrawn = torch.tensor([[True, False], [True, False]]).view(1, 1, 2, 2)
    carry(Watched(), form, noise, text, text, options, Start(0 * noise + 3, redrawn, 1.0))
    x, t = seen[0]
    assert t == 0.75
    torch.testing.assert_close(x[..., 0], noise[..., 0])
    torch.testing.assert_close(x[..., 1], 0.25 * 3 + 0.75 * noise[..., 1])


def test_dopri5_without_its_library_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("rectiflow.flow.adaptive.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rectiflow\[ode\]'"):
        SamplingOptions(solver="dopri5")


def test_a_recipe_says_all_of_it():
    given = {
        "num_steps": 9, "solver": "unipc_3", "shift": 2.0, "guidance_scale": 3.0,
        "guidance_method": "apg", "guidance_start": 0.1, "guidance_end": 0.9,
        "apg_eta": 0.2, "apg_norm": 4.0, "apg_momentum": -0.4,
        "zero_init_steps": 2, "tolerance": 1e-3,
    }  # fmt: skip
    settings = SamplingSettings(**given)
    defaults = SamplingOptions()
    told = {name: getattr(options_of(given), name) for name in given}
    assert told == given == {name: getattr(settings, name) for name in given}
    assert all(getattr(defaults, name) != value for name, value in given.items())
    shared = {name for name in given if name not in ("num_steps", "guidance_scale")}
    assert all(getattr(SamplingSettings(), name) == getattr(defaults, name) for name in shared)
    with pytest.raises(ValueError, match="must ask once in each"):
        options_of({**given, "solver": "rk4"})
