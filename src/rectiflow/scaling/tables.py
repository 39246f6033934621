"""Tables of a study in Markdown: costs, scores with intervals, differences in pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from rectiflow.scaling.intervals import Estimate, estimate, paired_difference, shown
from rectiflow.scaling.markdown import markdown
from rectiflow.scaling.results import METRICS, Metric, Result
from rectiflow.scaling.study import Study

Groups = Mapping[str, Sequence[Result]]


def by_variant(results: Iterable[Result]) -> Groups:
    """Results of each variant, in the order given, which keeps a variant's together."""
    return {name: list(of) for name, of in groupby(results, key=lambda result: result.variant)}


def differences(groups: Groups, reference: str, metric: str) -> dict[str, Estimate]:
    """Paired differences of each variant to the reference, where there are seeds in common."""
    values = {name: _values(of, metric) for name, of in groups.items()}
    found = {
        name: paired_difference(each, values.get(reference, {}))
        for name, each in values.items()
        if name != reference
    }
    return {name: each for name, each in found.items() if each is not None}


def cost_table(groups: Groups, study: Study) -> str:
    """Parameters, FLOPs, steps and pictures of every variant."""
    head = (
        "network",
        "parameters",
        "forward, MFLOP per picture",
        "steps",
        "pictures seen",
        "training, TFLOP",
        "minutes",
    )
    rows = []
    for name, of in groups.items():
        cost, minutes = of[0].cost, sum(result.seconds for result in of) / len(of) / 60
        rows.append(
            (
                study.labels[name],
                f"{cost.parameters:,}",
                f"{cost.forward_flops / 1e6:.1f}",
                f"{cost.num_steps}",
                f"{cost.images_seen:,}",
                f"{cost.training_flops / 1e12:.2f}",
                f"{minutes:.1f}",
            )
        )
    return markdown(head, rows)


def score_table(groups: Groups, study: Study) -> str:
    """Mean and interval of every metric."""
    head = ("network", "seeds", *(metric.label for metric in METRICS))
    rows = []
    for name, of in groups.items():
        cells = (_or_dash(list(_values(of, m.name).values()), m) for m in METRICS)
        rows.append((study.labels[name], str(len(of)), *cells))
    return markdown(head, rows)


def difference_table(groups: Groups, study: Study) -> str:
    """Difference of every variant to the reference, paired by seed; bold where 0 is excluded."""
    head = ("network", *(metric.label for metric in METRICS))
    found = {metric.name: differences(groups, study.reference, metric.name) for metric in METRICS}
    rows = []
    for name in groups:
        if any(name in of for of in found.values()):
            cells = (_difference(found[m.name].get(name), m) for m in METRICS)
            rows.append((study.labels[name], *cells))
    return markdown(head, rows)


def reading(groups: Groups, study: Study) -> list[str]:
    """What the differences say, metric by metric, in words and no further than they go."""
    lines = []
    for metric in METRICS:
        found = differences(groups, study.reference, metric.name)
        known = {name: each for name, each in found.items() if each.half_width is not None}
        if not known:
            lines.append(f"{_capital(metric.label)}: no interval yet, too few seeds in common.")
            continue

        def named(test: Callable[[Estimate], bool], of: Mapping[str, Estimate] = known) -> str:
            return ", ".join(study.labels[name] for name, each in of.items() if test(each))

        sign = -1 if metric.is_lower_better else 1
        parts = [
            (named(lambda e, s=sign: e.excludes_zero and s * e.mean > 0), "better than"),
            (named(lambda e, s=sign: e.excludes_zero and s * e.mean < 0), "worse than"),
            (named(lambda e: not e.excludes_zero), "not told apart from"),
        ]
        said = "; ".join(f"{names}: {verdict} the reference" for names, verdict in parts if names)
        lines.append(f"{_capital(metric.label)}: {said}.")
    return lines


def _values(results: Iterable[Result], metric: str) -> dict[int, float]:
    return {r.seed: r.values[metric] for r in results if metric in r.values}


def _or_dash(values: Sequence[float], metric: Metric) -> str:
    return shown(estimate(values), metric.digits) if values else "-"


def _difference(value: Estimate | None, metric: Metric) -> str:
    if value is None:
        return "-"
    text = shown(value, metric.digits, signed=True)
    return f"**{text}**" if value.excludes_zero else text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
