import pytest
import torch

from rectiflow.bench import flow
from rectiflow.bench.flow import PATHS, frechet_seconds, step_shares, training_share
from rectiflow.bench.settings import BenchSettings
from rectiflow.flow.formulations import STUDY, formulation
from rectiflow.flow.solvers import SOLVERS

QUICK = BenchSettings(is_quick=True)
NOISE = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_every_solver_is_held_against_its_share_of_the_evaluations(monkeypatch):
    monkeypatch.setattr(flow, "SOLVERS", {name: SOLVERS[name] for name in ("euler", "sde")})
    slow, fast = (step_shares(NOISE, seconds, 1) for seconds in (100.0, 1e-9))
    assert set(slow) == {"step of euler", "step of sde"}
    assert all(figure.is_met for figure in slow.values())
    assert not any(figure.is_met for figure in fast.values())
    assert all(0 < figure.value < 0.03 for figure in slow.values())


def test_the_dearest_formulation_is_held_against_its_share_of_a_step():
    slow, fast = (training_share(NOISE, seconds, QUICK) for seconds in (100.0, 1e-9))
    assert (slow.is_met, fast.is_met) == (True, False)
    assert any(slow.note.endswith(name) for name in PATHS)


def test_all_paths_of_the_study_are_measured():
    assert {formulation(n).path for n in PATHS} == {formulation(n).path for n in STUDY}


@pytest.mark.filterwarnings("ignore::rectiflow.evaluation.frechet.FewPicturesWarning")
def test_a_quick_distance_says_that_it_is_smaller():
    assert "1000 x 768" in frechet_seconds(QUICK).note
