"""The built-in data set and its checker on one core, and the encoding of scenes."""

import dataclasses
import tempfile
from pathlib import Path

from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.processes import call_on_one_core
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.timing import rates

SIZE_PX = 64
MIN_SCENES_PER_SECOND = 3000
MIN_CHECKED_PER_SECOND = 100


def measure_scenes(settings: BenchSettings) -> dict[str, Figure]:
    """Scenes per second on one core: rendered, and made with captions and rendered."""
    measured = call_on_one_core(
        "scene_rates",
        num_scenes=settings.amount(3000, 200),
        num_repeats=settings.repeats(5),
        size_px=SIZE_PX,
    )
    return {
        "rendered": median_figure(measured["rendered"], "1/s", at_least=MIN_SCENES_PER_SECOND),
        "made, captioned, rendered": median_figure(measured["made"], "1/s"),
    }


def measure_checker(settings: BenchSettings) -> dict[str, Figure]:
    """Pictures judged per second on one core."""
    measured = call_on_one_core(
        "checker_rates",
        num_pictures=settings.amount(480, 24),
        num_repeats=settings.repeats(5),
        size_px=SIZE_PX,
    )
    return {"pictures": median_figure(measured, "1/s", at_least=MIN_CHECKED_PER_SECOND)}


def measure_encode(settings: BenchSettings) -> dict[str, Figure]:
    """Scenes drawn, encoded and written into a store per second, by the recipe scenes-tiny."""
    from rectiflow.bench.recipe import scenes_tiny
    from rectiflow.data.scene_records import SceneRecords
    from rectiflow.devices import resolve_device
    from rectiflow.preparation.encode import Encoders
    from rectiflow.preparation.prepare import prepare_store
    from rectiflow.sampling.load import load_encoders

    recipe = scenes_tiny(settings)
    autoencoder, text = load_encoders(dataclasses.asdict(recipe.encoders))
    device = resolve_device(recipe.training.device)
    encoders = Encoders(autoencoder.to(device), text.to(device), device)
    num = settings.amount(2048, 64)
    with tempfile.TemporaryDirectory() as folder:

        def encode(repeat: int) -> int:
            records = SceneRecords(repeat, num, recipe.data.size_px)
            prepare_store(records, encoders, Path(folder) / str(repeat))
            return num

        measured = rates(encode, settings.repeats(3))
    return {"scenes": median_figure(measured, "1/s")}
