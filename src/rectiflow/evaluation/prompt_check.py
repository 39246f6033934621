"""Prompts from outside: whether scenes can show them at all, and the seeds of their pictures."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rectiflow.data.scenes import GLYPHS, PALETTE, RELATIONS, SHAPES
from rectiflow.errors import DataError
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.layout import read_lines

MOST_OBJECTS: Final = 9  # cells of a scene's grid
WORD_LENGTHS: Final = range(3, 6)
SPLITS: Final = ("seen", "heldout")


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """Prompts of a JSONL file in GenEval's schema.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If a line is damaged or the file is empty.
        ValueError: If a prompt asks for what scenes do not have.
    """
    prompts = [checked(prompt, i) for i, prompt in enumerate(read_lines(file))]
    if not prompts:
        raise DataError(f"{file} holds no prompts")
    return prompts


def checked(prompt: Metadata, number: int) -> dict[str, Any]:
    """A prompt's metadata if scenes can show it; a missing `scene_seed` is filled in.

    Args:
        prompt: One line of GenEval's schema; a clause names its shape as `shape` or `class`.
        number: Of the prompt, for messages and for the seed.

    Raises:
        ValueError: If a key is missing or not of its type, or the prompt asks for another shape,
            colour, relation or letter, or for more than fits into a scene.
    """
    where = f"prompt {number} ({prompt.get('prompt')!r})"
    for key in ("tag", "prompt"):
        if key not in prompt:
            raise ValueError(f"{where} lacks the key {key!r}")
        _check_type(where, key, prompt[key], str)
    _check_type(where, "scene_seed", prompt.get("scene_seed", 0), int)
    _check_known(where, "split", prompt.get("split", "seen"), SPLITS)
    include, exclude = (_clauses(where, key, prompt.get(key, ())) for key in ("include", "exclude"))
    if not include and not exclude and "text" not in prompt:
        raise ValueError(f"{where} asks for nothing: it needs include, exclude or text")
    _check_room(where, include)
    if "text" in prompt:
        _check_text(where, prompt["text"], include)
    complete = {**prompt, "include": include, **({"exclude": exclude} if exclude else {})}
    complete.setdefault("scene_seed", _hash(f"{number}/{prompt['prompt']}"))
    return complete


def picture_seed(prompt: Metadata, sample: int) -> int:
    """Seed of a picture, in [0, 2^31); no two prompts share theirs, or errors would correlate."""
    return _hash(f"{prompt['scene_seed']}/{sample}")


def _clauses(where: str, key: str, clauses: object) -> list[dict[str, Any]]:
    if not isinstance(clauses, list | tuple) or not all(isinstance(c, Mapping) for c in clauses):
        raise ValueError(f"{where}: {key} must be a list of objects, got {clauses!r}")
    return [_clause(where, clause) for clause in clauses]


def _clause(where: str, clause: Metadata) -> dict[str, Any]:
    shape = clause.get("shape", clause.get("class"))
    _check_known(where, "shape", shape, SHAPES)
    if "color" in clause:
        _check_known(where, "color", clause["color"], tuple(PALETTE))
    if "position" in clause:
        position = clause["position"]
        if not isinstance(position, list | tuple) or len(position) != 2:
            raise ValueError(f"{where}: position must be [relation, clause], got {position!r}")
        _check_known(where, "relation", position[0], RELATIONS)
    if type(clause.get("count")) is not int or clause["count"] < 1:
        raise ValueError(f"{where}: count must be a number >= 1, got {clause.get('count')!r}")
    return {"shape": shape, **{key: clause[key] for key in clause if key != "class"}}


def _check_type(where: str, key: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        name = {str: "text", int: "a whole number"}[kind]
        raise ValueError(f"{where}: {key} must be {name}, got {value!r}")


def _check_known(where: str, what: str, name: object, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"{where}: {what} must be one of {', '.join(names)}, got {name!r}")


def _check_room(where: str, include: list[dict[str, Any]]) -> None:
    total = sum(clause["count"] for clause in include)
    if total > MOST_OBJECTS:
        raise ValueError(f"{where}: a scene holds at most {MOST_OBJECTS} objects, got {total}")
    joined = {i: clause["position"][1] for i, clause in enumerate(include) if "position" in clause}
    if joined and (joined != {1: 0} or len(include) != 2 or total != 2):
        raise ValueError(f"{where}: a relation must join clause 1 to clause 0, one object each")


def _check_text(where: str, text: object, include: list[dict[str, Any]]) -> None:
    if not isinstance(text, str) or len(text) not in WORD_LENGTHS or set(text) - set(GLYPHS):
        raise ValueError(f"{where}: text must be 3 to 5 capital letters A-Z, got {text!r}")
    if include:
        raise ValueError(f"{where}: a scene shows objects or a word, got include and text")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1
