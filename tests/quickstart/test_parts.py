import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from rectiflow.cli.main import app
from rectiflow.data.scenes import HELDOUT
from rectiflow.data.scenes.captions import NUMBERS
from rectiflow.quickstart import stages as stages_module
from rectiflow.quickstart.models import scored_prompts
from rectiflow.quickstart.prompts import PROMPTS, SEEN, UNSEEN
from rectiflow.quickstart.recipe import RECIPE, SETTINGS, commands_for, settings_of
from rectiflow.quickstart.stages import Stages
from rectiflow.training.recipe import load_recipe


def holds_something_held_out(prompt):
    if word := re.search(r'"([A-Z]+)"', prompt):
        return HELDOUT.has_word(word[1])
    words = [re.sub(r"(?<=s)es$|s$", "", w) if w != "cross" else w for w in prompt.split()]
    if relation := re.search("left of|right of|above|below", prompt):
        before, after = prompt.split(relation[0])
        triple = (before.split()[-1], relation[0], after.split()[-1])
        if triple in HELDOUT.relations:
            return True
    pairs = list(pairwise(words))
    counts = [
        (group[-1], NUMBERS.index(group[0]))
        for part in prompt.split(" and ")
        if (group := [w.removesuffix("s") for w in part.split()]) and group[0] in NUMBERS
    ]
    is_color = any((shape, color) in HELDOUT.shape_color for color, shape in pairs)
    return is_color or any(count in HELDOUT.shape_count for count in counts)


def test_the_prompts_marked_unseen_are_the_held_out_ones():
    assert len(set(PROMPTS)) == len(PROMPTS) == 16
    assert [p for p in SEEN if holds_something_held_out(p)] == []
    assert [p for p in UNSEEN if not holds_something_held_out(p)] == []


def test_scored_prompts_are_seen_and_as_many_of_every_task():
    prompts = scored_prompts(20)
    tags = [prompt["tag"] for prompt in prompts]
    assert {tag: tags.count(tag) for tag in tags} == dict.fromkeys(tags, 20)
    assert len(set(tags)) == 7
    assert {prompt["split"] for prompt in prompts} == {"seen"}


def test_settings_that_differ_from_the_recipe_are_marked_and_no_others():
    recipe = load_recipe(RECIPE, [*SETTINGS, "training.minutes=3"])
    changed = {name for name, _, is_changed in settings_of(recipe) if is_changed}
    given = {setting.partition("=")[0] for setting in SETTINGS}
    assert changed <= given | {"training.minutes"}
    assert {"data.num_scenes", "training.minutes"} <= changed


def test_every_command_that_the_report_proposes_is_understood():
    group = typer.main.get_command(app)
    for purpose, line in commands_for(Path("runs/my quickstart")):
        program, *arguments = shlex.split(line)
        assert purpose
        if program == "tensorboard":
            continue
        assert program == "rectiflow"
        name, verb, rest = group.resolve_command(group.context_class(group), arguments)
        verb.make_context(name, rest)  # raises on an unknown option


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stages_module.time, "monotonic", lambda: now[0])
    return now


def test_time_is_booked_on_the_stage_that_was_under_way(clock, tmp_path):
    told = []
    stages = Stages(lambda *report: told.append(report), tmp_path / "t.json")
    stages.begin("loading")
    clock[0] = 2
    stages("training", 1, 9, {"loss": 1.0})
    clock[0] = 5
    stages("training", 2, 9, {"loss": 0.5})
    clock[0] = 9
    stages.save()
    clock[0] = 100
    assert stages.seconds == {"loading": 2, "training": 7}
    assert told == [("training", 1, 9, {"loss": 1.0}), ("training", 2, 9, {"loss": 0.5})]


def test_time_of_training_adds_up_over_calls_and_that_of_drawing_does_not(clock, tmp_path):
    for length in (3.0, 4.0):
        stages = Stages(lambda *_: None, tmp_path / "t.json")
        for stage in ("training", "drawing"):
            stages.begin(stage)
            clock[0] += length
        stages.save()
    assert stages.seconds == {"training": 7, "drawing": 4}
