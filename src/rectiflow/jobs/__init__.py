"""From a recipe to a trained run: what the verbs `train` and `quickstart` call."""

from rectiflow.jobs.running import run_training

__all__ = ["run_training"]
