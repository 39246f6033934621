"""GenEval's published rules, clause by clause, on parses written by hand."""

import json

import pytest

from rectiflow.evaluation.checker import Object, Parsed, ReadWord
from rectiflow.evaluation.geneval import format_summary, judge, relations, result_row


def thing(shape, color="red", x=30.0, y=30.0, score=0.9, r=5.0):
    return Object(shape, color, (x - r, y - r, x + r, y + r), (x, y), score)


def seen(*objects, words=(), junk=0):
    read = tuple(ReadWord(text, (0.0, 0.0, 9.0, 9.0), "black", 0.9) for text in words)
    return Parsed(objects, read, junk)


def asking(*include, exclude=(), **extra):
    return {"tag": "t", "include": list(include), "exclude": list(exclude), "prompt": "p", **extra}


def clause(shape, count=1, **extra):
    return {"shape": shape, "count": count, **extra}


def verdict(parsed, metadata):
    found = judge(parsed, metadata)
    return found.correct, found.strict


def test_extra_objects_are_forgiven_leniently_but_not_strictly():
    asked = asking(clause("circle"))
    assert verdict(seen(thing("circle")), asked) == (True, True)
    assert verdict(seen(thing("circle"), thing("circle")), asked) == (True, False)
    assert verdict(seen(thing("circle"), thing("star")), asked) == (True, False)
    assert verdict(seen(thing("circle"), junk=1), asked) == (True, False)
    assert verdict(seen(thing("circle"), words=["CAT"]), asked) == (True, False)
    assert verdict(seen(thing("star")), asked) == (False, False)


def test_exclude_makes_a_count_exact():
    asked = asking(clause("circle", 2), exclude=[clause("circle", 3)])
    circles = [thing("circle", x=10.0 * i) for i in range(4)]
    assert [verdict(seen(*circles[:n]), asked)[0] for n in range(5)] == [
        *(False, False, True, False, False)
    ]
    assert judge(seen(*circles), asked).reason.splitlines()[0] == "expected circle<3, found 4"
    assert judge(seen(), asked).reason == "expected circle>=2, found 0"


def test_color_looks_only_at_the_most_certain_objects():
    asked = asking(clause("circle", color="red"))
    sure_red = thing("circle", "red", score=0.95), thing("circle", "blue", score=0.9)
    sure_blue = thing("circle", "red", score=0.9), thing("circle", "blue", score=0.95)
    assert judge(seen(*sure_red), asked).correct
    found = judge(seen(*sure_blue), asked)
    assert not found.correct
    assert found.reason.splitlines()[0] == "expected red circle>=1, found 0 red; and 1 blue"


def test_a_position_holds_for_every_object_against_every_target():
    asked = asking(clause("star"), clause("circle", position=["left of", 0]))
    assert judge(seen(thing("star", x=50), thing("circle", x=10)), asked).correct
    turned = judge(seen(thing("star", x=10), thing("circle", x=50)), asked)
    assert turned.reason == "expected circle left of target, found right of target"
    no_target = judge(seen(thing("circle")), asked)
    assert no_target.reason.splitlines() == [
        "expected star>=1, found 0",
        "no target for circle to be left of",
    ]
    two = asking(clause("star"), clause("circle", 2, position=["left of", 0]))
    assert not judge(
        seen(thing("star", x=30), thing("circle", x=10), thing("circle", x=50)), two
    ).correct


def test_relations_have_a_dead_zone_a_cone_and_two_names_on_diagonals():
    box = (20.0, 20.0, 30.0, 30.0)

    def held(dx, dy):
        return relations((20.0 + dx, 20.0 + dy, 30.0 + dx, 30.0 + dy), box)

    assert held(-30, 0) == {"left of"}
    assert held(30, 0) == {"right of"}
    assert held(0, -30) == {"above"}
    assert held(0, 30) == {"below"}
    assert held(30, 30) == {"right of", "below"}
    assert held(1.9, 0) == set()  # dead zone: 0.1 * (10 + 10) = 2 px
    assert held(3.9, 0) == set()  # (3.9 - 2) / 3.9 < 0.5
    assert held(4.1, 0) == {"right of"}
    assert held(30, 14) == {"right of"}  # (14 - 2) / 33.1 < 0.5


def test_clauses_may_name_a_class_as_geneval_does():
    asked = {"tag": "t", "prompt": "p", "include": [{"class": "circle", "count": 1}]}
    assert verdict(seen(thing("circle")), asked) == (True, True)


def test_a_word_must_be_read_exactly():
    asked = asking(text="CAT")
    assert verdict(seen(words=["CAT"]), asked) == (True, True)
    assert verdict(seen(words=["CAT", "DOG"]), asked) == (True, False)
    assert judge(seen(words=["CAR"]), asked).reason == "expected text CAT, found CAR"
    assert judge(seen(), asked).reason == "expected text CAT, found none"


def test_a_result_line_has_geneval_keys_first_and_json_inside():
    asked = asking(clause("circle"), split="heldout")
    parsed = seen(thing("circle", "red", score=0.8), thing("circle", "blue", score=0.9))
    row = result_row("00000/samples/0000.png", asked, parsed, judge(parsed, asked), checker="abc")
    first = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert list(row)[:7] == first
    assert json.loads(row["metadata"]) == asked
    boxes = json.loads(row["details"])["circle"]
    assert boxes == [[25, 25, 35, 35, 0.9], [25, 25, 35, 35, 0.8]]
    assert json.loads(row["colors"]) == {"circle": ["blue", "red"]}
    assert (row["split"], row["strict"], row["checker"]) == ("heldout", False, "abc")


def test_the_summary_reads_as_geneval_prints_it():
    rows = [
        {"tag": tag, "metadata": str(prompt), "correct": correct}
        for tag, prompt, correct in [
            ("single_object", 0, True),
            ("single_object", 0, False),
            ("counting", 1, False),
            ("counting", 2, False),
            ("counting", 2, True),
        ]
    ]
    assert format_summary(rows).splitlines() == [
        "Summary",
        "=======",
        "Total images: 5",
        "Total prompts: 3",
        "% correct images: 40.00%",
        "% correct prompts: 66.67%",
        "",
        "Task breakdown",
        "==============",
        "single_object    = 50.00% (1 / 2)",
        "counting         = 33.33% (1 / 3)",
        "",
        "Overall score (avg. over tasks): 0.41667",
    ]


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one result"):
        format_summary([])
