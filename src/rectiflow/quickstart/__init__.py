"""The whole loop in a few minutes: train a small model, draw with it, score it, report."""

from rectiflow.quickstart.run import run_quickstart

__all__ = ["run_quickstart"]
