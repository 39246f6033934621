"""GenEval's rules, result lines and summary (arXiv 2310.11513), for any detector.

`judge` follows the published evaluator clause by clause: `include` is a conjunction, `exclude` a
disjunction, a clause looks at its `count` most certain objects only, and extra objects are
forgiven unless `exclude` names them. Departures: the detector is the scenes checker, which
reports no object it doubts, so there is no confidence threshold; a clause may name its class
`shape`; `text` asks for a word; and every picture is judged a second time, strictly: nothing may
be there that the prompt did not ask for.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rectiflow.evaluation.checker.found import Object, Parsed

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
POSITION_THRESHOLD = 0.1  # dead zone, in parts of both objects' sizes
CONE = 0.5  # least part of the offset along an axis; a diagonal satisfies two relations

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows its prompt.

    Args:
        correct: By GenEval's rules.
        strict: By GenEval's rules, and nothing else is in the picture.
        reason: What is missing or wrong, one line each; "" if strictly correct.
    """

    correct: bool
    strict: bool
    reason: str


def judge(parsed: Parsed, metadata: Metadata) -> Verdict:
    """Judge one parsed picture by its prompt's metadata."""
    complaints = [*_include_complaints(parsed, metadata), *_exclude_complaints(parsed, metadata)]
    if "text" in metadata and all(w.text != metadata["text"] for w in parsed.words):
        read = " and ".join(w.text for w in parsed.words) or "none"
        complaints.append(f"expected text {metadata['text']}, found {read}")
    extras = list(_extra_complaints(parsed, metadata))
    return Verdict(not complaints, not complaints + extras, "\n".join(complaints + extras))


def relations(
    box: Sequence[float], target: Sequence[float], dead_zone: float = POSITION_THRESHOLD
) -> set[str]:
    """Relations of a box (left, top, right, bottom, y down) to a target box.

    The offset of the centres shrinks on each axis by `dead_zone` times both sizes; what is left
    must make up half of the offset's length.
    """
    offset = [(box[i] + box[i + 2] - target[i] - target[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(box[i + 2] - box[i]) + abs(target[i + 2] - target[i]) for i in (0, 1)]
    left_over = [max(abs(o) - dead_zone * s, 0.0) for o, s in zip(offset, sizes, strict=True)]
    if max(left_over) < 1e-3:
        return set()
    dx, dy = (
        math.copysign(rest, o) / math.hypot(*offset)
        for rest, o in zip(left_over, offset, strict=True)
    )
    holds = {"left of": dx < -CONE, "right of": dx > CONE, "above": dy < -CONE, "below": dy > CONE}
    return {name for name, is_so in holds.items() if is_so}


def _class_of(clause: Metadata) -> str:
    return clause["class"] if "class" in clause else clause["shape"]


def _of_class(parsed: Parsed, name: str) -> list[Object]:
    return sorted((o for o in parsed.objects if o.shape == name), key=lambda o: -o.score)


def _include_complaints(parsed: Parsed, metadata: Metadata) -> Iterator[str]:
    matched: list[list[Object] | None] = []
    for clause in metadata.get("include", ()):
        found = _of_class(parsed, _class_of(clause))[: clause["count"]]
        complaint = _clause_complaint(clause, found, matched)
        matched.append(found if complaint is None else None)
        if complaint is not None:
            yield complaint


def _clause_complaint(
    clause: Metadata, found: list[Object], matched: list[list[Object] | None]
) -> str | None:
    name, count = _class_of(clause), clause["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if "color" in clause:
        colors = Counter(o.color for o in found)
        if colors[clause["color"]] < count:
            seen = ", ".join(f"{colors[c]} {c}" for c in COLORS if colors[c])
            wanted = f"expected {clause['color']} {name}>={count}"
            return f"{wanted}, found {colors[clause['color']]} {clause['color']}; and {seen}"
    if "position" in clause:
        relation, index = clause["position"]
        targets = matched[index]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for thing in found:
            for target in targets:
                held = relations(thing.box, target.box)
                if relation not in held:
                    true = " and ".join(sorted(held))
                    return f"expected {name} {relation} target, found {true} target"
    return None


def _exclude_complaints(parsed: Parsed, metadata: Metadata) -> Iterator[str]:
    for clause in metadata.get("exclude", ()):
        name, num = _class_of(clause), len(_of_class(parsed, _class_of(clause)))
        if num >= clause["count"]:
            yield f"expected {name}<{clause['count']}, found {num}"


def _extra_complaints(parsed: Parsed, metadata: Metadata) -> Iterator[str]:
    wanted = Counter[str]()
    for clause in metadata.get("include", ()):
        wanted[_class_of(clause)] += clause["count"]
    for name, num in Counter(o.shape for o in parsed.objects).items():
        if num > wanted[name]:
            yield f"extra {name}: {num - wanted[name]}"
    num_words = len(parsed.words) - ("text" in metadata)
    if num_words > 0:
        yield f"extra words: {num_words}"
    if parsed.junk:
        yield f"unnamed pieces: {parsed.junk}"


def result_row(
    filename: str, metadata: Metadata, parsed: Parsed, verdict: Verdict, **extra: object
) -> dict[str, Any]:
    """One line of results.jsonl: GenEval's seven keys in its order, then ours.

    `details` lists each class's boxes with scores as GenEval does; `colors` lists their colours
    in the same order, so that a row can be judged again without its picture.
    """
    classes = list(dict.fromkeys(o.shape for o in parsed.objects))
    by_class = {name: _of_class(parsed, name) for name in classes}
    details = {
        name: [[*map(float, o.box), float(o.score)] for o in objects]
        for name, objects in by_class.items()
    }
    return {
        "filename": filename,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": verdict.correct,
        "reason": verdict.reason,
        "metadata": json.dumps(dict(metadata)),
        "details": json.dumps(details),
        "strict": verdict.strict,
        "split": metadata.get("split", "seen"),
        "colors": json.dumps({name: [o.color for o in found] for name, found in by_class.items()}),
        "words": [w.text for w in parsed.words],
        "junk": parsed.junk,
        **extra,
    }


def format_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text that GenEval's summary prints for the same rows."""
    if not rows:
        raise ValueError("a summary needs at least one result, got none")
    correct = [bool(row["correct"]) for row in rows]
    prompts: dict[str, bool] = {}
    tasks: dict[str, list[bool]] = {}
    for row, is_correct in zip(rows, correct, strict=True):
        prompts[row["metadata"]] = prompts.get(row["metadata"], False) or is_correct
        tasks.setdefault(row["tag"], []).append(is_correct)
    means = {tag: sum(hits) / len(hits) for tag, hits in tasks.items()}
    lines = ["Summary", "=======", f"Total images: {len(rows)}", f"Total prompts: {len(prompts)}"]
    lines.append(f"% correct images: {sum(correct) / len(correct):.2%}")
    lines.append(f"% correct prompts: {sum(prompts.values()) / len(prompts):.2%}")
    lines += ["", "Task breakdown", "=============="]
    lines += [
        f"{tag:<16} = {means[tag]:.2%} ({sum(hits)} / {len(hits)})" for tag, hits in tasks.items()
    ]
    overall = sum(means.values()) / len(means)
    return "\n".join([*lines, "", f"Overall score (avg. over tasks): {overall:.5f}"])
