"""What a study is: variants of one recipe, each trained with several seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rectiflow.config import nearest

_PLAIN = str.maketrans({"/": "-", "(": "_", ",": "_", ")": None})


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One of the things that are compared.

    Args:
        name: Short name, part of the names of its runs.
        label: What tables and figures call it.
        settings: Changes of the study's recipe, each "section.field=value".
    """

    name: str
    label: str
    settings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of a study: a variant with a seed.

    Args:
        variant: Name of the variant.
        seed: Seed of the run; the order of data, times and noise follow from it alone.
        recipe: A packaged recipe by name, or a path.
        settings: All changes of it, the seed among them.
    """

    variant: str
    seed: int
    recipe: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its folder: rf/mode(1.29) with seed 0 lies in rf-mode_1.29-0."""
        return f"{self.variant.translate(_PLAIN)}-{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Variants to compare.

    Args:
        name: Name of its page and of the folder of its runs.
        part: Name of its section of the page: one page may hold several comparisons.
        title: Heading of that section.
        recipe: What all runs start from.
        variants: What is compared, in the order of the tables.
        reference: Name of the variant that the others are compared with.
        num_seeds: Runs of every variant, with the seeds 0, 1, ...
        prompts_per_task: Prompts of every task and split that each run is scored on.
        notes: Paragraphs about how it was matched, in Markdown.

    Raises:
        ValueError: If there are no seeds, names repeat, or the reference is no variant.
    """

    name: str
    part: str
    title: str
    recipe: str
    variants: tuple[Variant, ...]
    reference: str
    num_seeds: int = 3
    prompts_per_task: int = 24
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ValueError(f"seeds must be >= 1, got {self.num_seeds}")
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variants must have different names, got {', '.join(names)}")
        if self.reference not in names:
            raise ValueError(f"no variant {self.reference!r}; {nearest(self.reference, names)}")

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the variants by name, in order."""
        return {variant.name: variant.label for variant in self.variants}

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """Its runs, one seed after the other, so that what is finished can be compared in pairs.

        Args:
            only: Names of variants; all if empty.

        Raises:
            ValueError: If a name is unknown; the nearest is suggested.
        """
        for name in only:
            if name not in self.labels:
                raise ValueError(f"no variant {name!r}; {nearest(name, list(self.labels))}")
        return [
            Cell(
                variant=variant.name,
                seed=seed,
                recipe=self.recipe,
                settings=(*variant.settings, f"seed={seed}"),
            )
            for seed in range(self.num_seeds)
            for variant in self.variants
            if not only or variant.name in only
        ]
