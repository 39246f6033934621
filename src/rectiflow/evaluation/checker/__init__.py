"""What is in a picture of a scene: an exact checker without any trained part."""

from rectiflow.evaluation.checker.found import Object, Parsed, ReadWord
from rectiflow.evaluation.checker.parse import parse
from rectiflow.evaluation.checker.thresholds import DEFAULT, Thresholds

__all__ = ["DEFAULT", "Object", "Parsed", "ReadWord", "Thresholds", "parse"]
