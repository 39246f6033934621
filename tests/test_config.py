"""Settings are strict: every mistake is one line that names the setting."""

from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal

import pytest

from rectiflow import config
from rectiflow.config import FREE, STRICT, by_kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    __pydantic_config__ = STRICT
    kind: Literal["pictures"] = "pictures"
    path: str
    size_px: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    __pydantic_config__ = STRICT
    kind: Literal["made"] = "made"
    num: int = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    __pydantic_config__ = STRICT
    __alternatives__ = (("num_steps", "minutes"),)
    num_steps: int | None = None
    minutes: float | None = None
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    widths: tuple[int, ...] = (1, 2)
    mode: Literal["fast", "slow"] = "fast"
    is_quiet: bool = field(default=False, metadata=FREE)

    def __post_init__(self):
        if not self.rate > 0:
            raise ValueError(f"rate must be > 0, got {self.rate}")
        if self.num_steps is not None and self.minutes is not None:
            raise ValueError("give one of num_steps and minutes, got both")


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A class of another part that says nothing of strictness inherits it."""

    depth: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    __pydantic_config__ = STRICT
    seed: int = 0
    data: Annotated[Pictures | Made, by_kind] = field(default_factory=Made)
    loop: Loop = field(default_factory=Loop)
    plain: Plain = field(default_factory=Plain)


def build(values=None, *assignments):
    return config.from_dict(Root, config.override(Root, values or {}, assignments))


def test_an_assignment_is_typed_and_leaves_the_rest():
    root = build({"loop": {"mode": "slow"}}, "loop.rate=3", "seed=7", "loop.betas=[0, 1]")
    assert root == Root(seed=7, loop=Loop(mode="slow", rate=3.0, betas=(0.0, 1.0)))
    assert isinstance(root.loop.rate, float)


def test_a_value_that_is_no_toml_is_text():
    path = "/my/pictures (1) = all"
    root = build({}, "data.kind=pictures", f"data.path={path}")
    assert root.data == Pictures(path=path)
    assert build({}, 'data={kind="pictures", path="x"}').data == Pictures(path="x")


def test_resolved_settings_read_back_to_the_same_object(tmp_path):
    root = build({"data": {"kind": "pictures", "path": "a\nb"}}, "loop.rate=0.1", "loop.minutes=5")
    (tmp_path / "config.json").write_text(config.to_json(root))
    assert config.load(Root, tmp_path / "config.json") == root
    assert config.from_dict(Root, config.to_dict(root)) == root


def test_toml_is_read_with_assignments_on_top(tmp_path):
    (tmp_path / "a.toml").write_text("seed = 3\n[data]\nkind = 'made'\nnum = 4\n")
    assert config.load(Root, tmp_path / "a.toml", ["data.num=5"]) == Root(seed=3, data=Made(num=5))


def test_an_alternative_given_by_hand_replaces_the_files():
    assert build({"loop": {"num_steps": 3}}, "loop.minutes=5").loop == Loop(minutes=5.0)
    assert build({"loop": {"minutes": 3}}, "loop.num_steps=5").loop == Loop(num_steps=5)
    with pytest.raises(ValueError, match=r"^loop: give one of num_steps and minutes, got both$"):
        build({}, "loop.num_steps=3", "loop.minutes=5")
    with pytest.raises(ValueError, match="got both"):
        build({"loop": {"num_steps": 3, "minutes": 5}})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loop.rat=1", "unknown setting loop.rat; did you mean loop.rate?"),
        ("rate=1", "unknown setting rate; did you mean loop.rate?"),
        ("data.nums=1", "unknown setting data.nums; did you mean data.num?"),
        ("plain.dept=1", "unknown setting plain.dept; did you mean plain.depth?"),
        ("qqq=1", "unknown setting qqq; known: data, loop, plain, seed"),
        ("seed=1.0", "seed: expected an integer, got 1.0"),
        ("seed=true", "seed: expected an integer, got true"),
        ("seed=many", 'seed: expected an integer, got "many"'),
        ("seed=2020-02-03", "seed: expected a number, text or table, got 2020-02-03"),
        ("loop.num_steps=x", 'loop.num_steps: expected an integer, got "x"'),
        ("loop.rate=-1", "loop.rate must be > 0, got -1.0"),
        ("loop.rate='1'", 'loop.rate: expected a number, got "1"'),
        ("loop.rate=inf", "loop.rate: expected a finite number, got inf"),
        ("loop.betas=[0.5, nan]", "loop.betas.1: expected a finite number, got nan"),
        ("loop.betas=[0.5, 'x']", 'loop.betas.1: expected a number, got "x"'),
        ("loop.widths=[1, 2.5]", "loop.widths.1: expected an integer, got 2.5"),
        ("loop.widths=3", "loop.widths: expected a list of an integer each, got 3"),
        ("loop.is_quiet=1", "loop.is_quiet: expected true or false, got 1"),
        ("loop.mode=fat", 'loop.mode: expected "fast" | "slow", got "fat"'),
        ("loop=3", "loop: expected a section, got 3"),
        ("data.kind=maid", 'data.kind: expected "pictures" | "made", got "maid"'),
        ('data.kind=["made"]', 'data.kind: expected "pictures" | "made", got ["made"]'),
        ("data.kind=pictures", "missing setting data.path: expected text"),
        ("seed", "--set expects section.name=VALUE, got 'seed'"),
        ("loop..rate=1", "--set expects section.name=VALUE, got 'loop..rate=1'"),
        ("seed.x=1", "seed is a value, not a section: cannot set seed.x"),
    ],
)
def test_a_mistake_is_one_line_with_the_path(assignment, message):
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        build({"seed": 1, "data": {"kind": "made"}}, assignment)
    assert str(caught.value) == message


def test_the_first_of_several_mistakes_is_told_and_the_rest_counted():
    with pytest.raises(ValueError, match=r"^unknown setting loop.x; .* \(and 1 more\)$"):
        build({"seed": "a", "loop": {"x": 1}})


def test_a_union_without_its_kind_is_refused():
    with pytest.raises(ValueError, match=r'^data.kind: expected "pictures" \| "made", got nothing'):
        build({"data": {"path": "x"}})


def test_files_that_are_no_configuration_are_named(tmp_path):
    for name in ("a.toml", "a.json"):
        (tmp_path / name).write_text("{[")
        with pytest.raises(ValueError, match=rf"{name} is not valid"):
            config.load(Root, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"b\.toml"):
        config.load(Root, tmp_path / "b.toml")


def test_toml_dates_and_nested_values_do_not_pass():
    with pytest.raises(ValueError, match="seed: expected a number, text or table, got 2020-01-02"):
        config.from_dict(Root, {"seed": date(2020, 1, 2)})


def test_names_of_another_kind_choose_it_and_drop_what_the_file_gave():
    values = {"data": {"kind": "made", "num": 3}}
    changed = config.override(Root, values, ["data.path=/my/pictures"])
    assert config.from_dict(Root, changed).data == Pictures(path="/my/pictures")
    both = config.override(Root, values, ["data.kind=pictures", "data.path=a", "data.size_px=8"])
    assert config.from_dict(Root, both).data == Pictures(path="a", size_px=8)


def test_names_of_two_kinds_at_once_are_refused():
    changed = config.override(Root, {"data": {"kind": "made"}}, ["data.path=a", "data.num=3"])
    with pytest.raises(ValueError, match=r"unknown setting data\.path"):
        config.from_dict(Root, changed)


def test_a_misspelt_name_of_the_file_survives_a_change_of_kind_and_is_refused():
    changed = config.override(Root, {"data": {"kind": "made", "nmu": 3}}, ["data.path=a"])
    with pytest.raises(ValueError, match=r"unknown setting data\.nmu"):
        config.from_dict(Root, changed)


@dataclass(frozen=True, kw_only=True)
class Shop:
    __pydantic_config__ = config.STRICT

    data: Annotated[Pictures | Made, config.by_kind, config.default_kind("made")]


def test_a_section_of_a_kind_by_default_may_leave_it_out():
    assert config.from_dict(Shop, {"data": {"num": 3}}).data == Made(num=3)
    assert config.from_dict(Shop, {"data": {"kind": "pictures", "path": "a"}}).data.path == "a"
    with pytest.raises(ValueError, match=r"unknown setting data\.nmu; did you mean data\.num"):
        config.from_dict(Shop, {"data": {"nmu": 3}})
    changed = config.override(Shop, {"data": {"num": 3}}, ["data.path=a"])
    assert config.from_dict(Shop, changed).data == Pictures(path="a")
    union = Shop.__dataclass_fields__["data"].type
    assert config.from_dict(union, {"num": 4}) == Made(num=4)
