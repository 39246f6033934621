"""Benchmarks: what the package promises about speed, memory and its own controls, measured."""

from rectiflow.bench.registry import BENCHMARKS, run_benchmarks
from rectiflow.bench.settings import BenchSettings

__all__ = ["BENCHMARKS", "BenchSettings", "run_benchmarks"]
