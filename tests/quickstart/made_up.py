"""Findings whose every picture and number differs, so that a mix-up shows."""

import numpy as np

from rectiflow.quickstart.findings import Findings, Learning, ModelFindings

TASKS = ("single_object", "two_object", "text")
PROMPTS = ("a red circle", 'the word "A<b>&"')
SHAPE = (8, 8, 3)


def pictures(num, first):
    """Pictures that differ in one byte each, so no two files are equal."""
    made = []
    for i in range(first, first + num):
        picture = np.full(SHAPE, 128, np.uint8)
        picture[0, 0] = (i // 65536, i // 256 % 256, i % 256)
        made.append(picture)
    return made


def scores(base):
    """Scores in steps of 0.01 from `base`, no two equal."""
    tasks = {task: base + 0.01 * i for i, task in enumerate(TASKS)}
    strict = {task: value - 0.05 for task, value in tasks.items()}
    control = {"ground_truth": 0.99, "round_trip": 0.98, "shuffled": 0.03}
    return {
        "overall": base + 0.11,
        "strict": base + 0.12,
        "heldout": None,
        "text": tasks["text"],
        "overall_interval": [base + 0.06, base + 0.16],
        "tasks": tasks,
        "strict_tasks": strict,
        "heldout_tasks": {},
        "num_pictures": 6,
        "num_prompts": 6,
        "controls": {k: {"overall": v, "strict": v - 0.001} for k, v in control.items()},
    }


def model(name, base, first):
    rows = [
        {
            "tag": task,
            "prompt": f"prompt {i} of {task}",
            "correct": i == 0,
            "reason": "" if i == 0 else "expected circle>=1, found 0\nextra <star>: 1",
        }
        for task in TASKS
        for i in range(2)
    ]
    return ModelFindings(
        name=name,
        facts={"model": f"model of {name}", "steps": 1234, "parameters": 5_000_000},
        pictures=pictures(len(PROMPTS), first),
        summary=scores(base),
        rows=rows,
        scored=pictures(len(rows), first + 100),
    )


def metrics():
    return [
        {
            "step": step,
            "loss": 1 + 1 / step,
            "loss_by_t": [1.0, None, *[2.0] * 8],
            **({"val_loss": 0.9, "val_loss_ema": 0.8} if step % 50 == 0 else {}),
        }
        for step in range(10, 310, 10)
    ]


def findings(**changes):
    made = {
        "headline": "Trained & done.",
        "prompts": PROMPTS,
        "unseen": frozenset({PROMPTS[1]}),
        "fresh": model("this run", 0.31, 0),
        "reference": model("reference", 0.71, 1000),
        "learning": Learning(
            prompts=PROMPTS,
            steps=[100, 200, 300],
            pictures=[pictures(len(PROMPTS), 2000 + 100 * i) for i in range(3)],
        ),
        "metrics": metrics(),
        "settings": [("data.num_scenes", 12000, True), ("model.qk_norm", True, False)],
        "seconds": {"training": 300.0, "drawing": 9.25},
        "machine": {"processor": "a <fast> one"},
        "commands": [("Draw", 'rectiflow sample "a & b"')],
    }
    return Findings(**{**made, **changes})
