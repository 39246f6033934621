"""Settings: TOML or JSON to frozen dataclasses and back, strict on names, types and ranges.

A configuration class is a frozen, keyword-only stdlib dataclass; alternatives are told apart by
their field `kind`: `data: Annotated[ScenesData | FolderData, by_kind]`. The rules of a JSON
document hold: an int serves for a float, nothing else is converted, inf and nan are refused. This
is the only module that imports pydantic.
"""

import dataclasses
import difflib
import functools
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import pydantic

T = TypeVar("T")

STRICT: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""The `__pydantic_config__` of every configuration class."""

by_kind: Any = pydantic.Field(discriminator="kind")
"""Marks a union of configuration classes whose `kind` tells which one is meant."""

FREE: dict[str, bool] = {"is_free": True}
"""Field metadata: the setting does not enter what is computed, so a run may resume with another."""


@dataclasses.dataclass(frozen=True, slots=True)
class _DefaultKind:
    kind: str


def default_kind(kind: str) -> Any:
    """Marks a union by kind of which a section may leave `kind` out, and says what it is then."""
    return _DefaultKind(kind)


def from_dict(cls: Any, values: Mapping[str, Any]) -> Any:
    """Build the configuration `cls` (a class or a union by kind) from nested mappings.

    Raises:
        ValueError: On an unknown name (the nearest is suggested), a missing one, a wrong type or a
            value out of range; one line with the path of the setting, what is expected and given.
    """
    _refuse_what_json_lacks(values)
    values = _with_default_kinds(cls, values)
    try:
        return _reader(cls).validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        lines = [_explain(cls, values, problem) for problem in error.errors()]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    # Names first: a misspelt name is often the cause of a missing one.
    lines.sort(key=lambda line: not line.startswith("unknown"))
    raise ValueError(lines[0] + more)


@functools.cache
def _reader(cls: Any) -> Any:
    return pydantic.TypeAdapter(cls)


def read_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML; `source` names it in the error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not valid TOML: {error}") from None


def load(cls: Any, path: Path, assignments: Sequence[str] = ()) -> Any:
    """Read a TOML file, or a JSON file that `to_json` wrote, and apply `--set` assignments."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix == ".json" else read_toml(text, str(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    return from_dict(cls, override(cls, values, assignments))


def override(cls: Any, values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `section.name=VALUE` assignments to unvalidated values.

    VALUE is a TOML literal, otherwise a string; the field's type then checks. Of the settings that
    a class lists in `__alternatives__` an assigned one replaces another that only the file gave.
    A section of several kinds takes the kind that has the assigned names, unless the kind itself is
    assigned; what the file gave to the other kind is then dropped.
    """
    result = json.loads(json.dumps(values, default=_unjson))
    assigned = [_assignment(text) for text in assignments]
    for path, value in assigned:
        section = result
        for depth, name in enumerate(path[:-1], start=1):
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                at = ".".join(path[:depth])
                raise ValueError(f"{at} is a value, not a section: cannot set {'.'.join(path)}")
        section[path[-1]] = value
        for rival in _rivals(cls, result, path):
            if (*path[:-1], rival) not in [other for other, _ in assigned]:
                section.pop(rival, None)
    _switch_kinds(cls, result, [path for path, _ in assigned])
    return result


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values, tuples as lists; `from_dict` gives the same object back."""
    return json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))


def to_json(config: Any) -> str:
    """The text of `config.json`."""
    return json.dumps(to_dict(config), indent=2, allow_nan=False) + "\n"


def leaves(config: Any, at: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every setting as (dotted path, JSON value, whether it is free to change on resume)."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{at}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}.")
        else:
            is_free = bool(field.metadata.get("is_free"))
            yield path, json.loads(json.dumps(value, allow_nan=False)), is_free


def nearest(name: str, known: Sequence[str]) -> str:
    """The phrase that follows an unknown name: the nearest known one, otherwise all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"


def _assignment(text: str) -> tuple[tuple[str, ...], Any]:
    name, separator, literal = text.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not separator or not all(path):
        raise ValueError(f"--set expects section.name=VALUE, got {text!r}")
    try:
        # A newline would let a value smuggle in a second setting.
        parsed = tomllib.loads(f"value = {literal}") if "\n" not in literal else {}
    except tomllib.TOMLDecodeError:
        parsed = {}
    return path, parsed["value"] if parsed.keys() == {"value"} else literal.strip()


def _refuse_what_json_lacks(value: Any, at: str = "") -> None:
    """TOML also has inf, nan, dates and times."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            _refuse_what_json_lacks(child, f"{at}.{name}" if at else str(name))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            _refuse_what_json_lacks(child, f"{at}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{at}: expected a finite number, got {value}")
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(f"{at}: expected a number, text or table, got {value}")


def _with_default_kinds(declared: Any, values: Any) -> Any:
    """The same values, with the kind spelt out in sections that may leave it out."""
    if not isinstance(values, Mapping):
        return values
    for mark in getattr(declared, "__metadata__", ()):
        if isinstance(mark, _DefaultKind):
            values = {"kind": mark.kind, **values}
    section = _section(declared, values)
    if section is None:
        return values
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: _with_default_kinds(hints.get(name), child) for name, child in values.items()}


def _unjson(value: Any) -> str:
    return str(value)  # a TOML date; the field's type refuses the text


def _explain(cls: Any, values: Any, problem: Any) -> str:
    """One line for one of pydantic's errors."""
    path, declared, given, siblings = _locate(cls, values, problem["loc"])
    kind = problem["type"]
    if kind == "value_error":
        return _prefixed(path, declared, given, str(problem["ctx"]["error"]))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown setting {path}; {_suggest(cls, values, path, siblings)}"
    if kind == "missing":
        return f"missing setting {path}: expected {_describe(declared)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [_kind_of(member) for member in _members(declared)]
        got = given.get("kind") if isinstance(given, Mapping) else given
        at = f"{path}.kind" if path else "kind"
        shown = "nothing" if got is None else json.dumps(got)
        return f"{at}: expected {' | '.join(map(json.dumps, tags))}, got {shown}"
    return f"{path}: expected {_describe(declared)}, got {json.dumps(given)}"


def _prefixed(path: str, declared: Any, given: Any, message: str) -> str:
    """A section's own complaint; one that begins with the name of a setting gets its full path."""
    section = _section(declared, given) if isinstance(given, Mapping) else None
    names = [field.name for field in dataclasses.fields(section)] if section else []
    if not path:
        return message
    return f"{path}.{message}" if message.split(" ")[0] in names else f"{path}: {message}"


def _locate(cls: Any, values: Any, location: Sequence[Any]) -> tuple[str, Any, Any, list[str]]:
    """Dotted path, declared type, given value and names beside it, without pydantic's own marks."""
    path, declared, given, siblings = [], cls, values, []
    for mark in location:
        if isinstance(given, Mapping):
            section = _section(declared, given)
            if section is None or (mark not in given and mark == given.get("kind")):
                continue  # the tag of a union, or a place that is no section
            siblings = [field.name for field in dataclasses.fields(section)]
            hints = typing.get_type_hints(section, include_extras=True)
            path.append(str(mark))
            declared, given = hints.get(str(mark)), given.get(mark)
        elif isinstance(given, list) and isinstance(mark, int):
            path.append(str(mark))
            arguments = [each for m in _members(declared) for each in typing.get_args(m)] or [None]
            # (float, ...) declares every element by its first argument, (float, str) one by one.
            declared = arguments[0 if Ellipsis in arguments else min(mark, len(arguments) - 1)]
            given = given[mark] if mark < len(given) else None
    return ".".join(path), declared, given, siblings


def _suggest(cls: Any, values: Mapping[str, Any], path: str, siblings: list[str]) -> str:
    """Nearest name beside it, then anywhere: `learning_rate` for `training.learning_rate`."""
    section, _, name = path.rpartition(".")
    prefix = f"{section}." if section else ""
    if difflib.get_close_matches(name, siblings, n=1):
        return nearest(path, [prefix + sibling for sibling in siblings])
    everywhere = {each.rpartition(".")[2]: each for each in _all_paths(cls, values)}
    near = difflib.get_close_matches(name, everywhere, n=1)
    return f"did you mean {everywhere[near[0]]}?" if near else nearest(path, siblings)


def _all_paths(declared: Any, values: Any) -> Iterator[str]:
    section = _section(declared, values if isinstance(values, Mapping) else {})
    if section is None:
        return
    hints = typing.get_type_hints(section, include_extras=True)
    given = values if isinstance(values, Mapping) else {}
    for field in dataclasses.fields(section):
        below = list(_all_paths(hints[field.name], given.get(field.name)))
        yield from (f"{field.name}.{path}" for path in below)
        if not below:
            yield field.name


def _switch_kinds(cls: Any, values: dict[str, Any], assigned: list[tuple[str, ...]]) -> None:
    """Let the assigned names of each section choose its kind, in place."""
    owner = _section(cls, values)
    hints = typing.get_type_hints(owner, include_extras=True) if owner is not None else {}
    for name, declared in hints.items():
        section = values.get(name)
        mine = {path[1] for path in assigned if path[0] == name and len(path) > 1}
        kinds = {_kind_of(m): m for m in _members(declared) if dataclasses.is_dataclass(m)}
        if len(kinds) < 2 or not mine or not isinstance(section, dict):
            continue
        fitting = [kind for kind, m in kinds.items() if mine <= _field_names(m)]
        if "kind" not in mine and section.get("kind") not in fitting and len(fitting) == 1:
            section["kind"] = fitting[0]
        # Compared, not looked up: a wrong kind may be a list.
        chosen = next((m for kind, m in kinds.items() if kind == section.get("kind")), None)
        if chosen is not None and (section["kind"] in fitting or "kind" in mine):
            kept = _field_names(chosen) | mine
            values[name] = {
                k: v for k, v in section.items() if k in kept or not _is_known(k, kinds)
            }


def _is_known(name: str, kinds: Mapping[Any, Any]) -> bool:
    return any(name in _field_names(member) for member in kinds.values())


def _field_names(section: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(section)}


def _rivals(cls: Any, values: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    section, given = cls, values
    for name in path[:-1]:
        owner = _section(section, given)
        if owner is None:
            return []
        section = typing.get_type_hints(owner, include_extras=True).get(name)
        given = given[name]
    owner = _section(section, given)
    groups = getattr(owner, "__alternatives__", ())
    return [name for group in groups if path[-1] in group for name in group if name != path[-1]]


def _section(declared: Any, given: Mapping[str, Any]) -> Any:
    """The dataclass meant by a declared type and the given values, None if it is not a section."""
    members = [member for member in _members(declared) if dataclasses.is_dataclass(member)]
    if len(members) > 1:
        members = [member for member in members if _kind_of(member) == given.get("kind")]
    return members[0] if members else None


def _members(declared: Any) -> list[Any]:
    """The members of a union, with `Annotated` taken off."""
    while typing.get_origin(declared) is typing.Annotated:
        declared = typing.get_args(declared)[0]
    if typing.get_origin(declared) in (Union, types.UnionType):
        return [member for part in typing.get_args(declared) for member in _members(part)]
    return [declared]


def _kind_of(section: Any) -> Any:
    hint = typing.get_type_hints(section).get("kind") if dataclasses.is_dataclass(section) else None
    return typing.get_args(hint)[0] if hint is not None else None


def _describe(declared: Any) -> str:
    """A type as a reader of TOML would say it."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    parts = []
    for member in _members(declared):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if origin is Literal:
            parts += [json.dumps(value) for value in arguments]
        elif origin in (tuple, list):
            parts.append(f"a list of {_describe(arguments[0])} each")
        elif dataclasses.is_dataclass(member):
            parts.append("a section")
        elif member is not types.NoneType:
            parts.append(words.get(member, str(member)))
    return " | ".join(parts)
