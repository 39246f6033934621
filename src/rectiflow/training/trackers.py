"""Trackers: where the numbers of a run go beside metrics.jsonl. The one module that knows any.

TensorBoard's files lie in RUN/tensorboard. Weights & Biases and Trackio are services (the extra
`track` installs both); their own environment variables say whom they report to, and as whom. A
service is told what the run's folder already holds, so it may fail: training goes on without it.
"""

import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rectiflow.runs import Run, is_clock_field

PROJECT = "rectiflow"


class TensorBoard:
    """Scalars in RUN/tensorboard; its sheets stay in RUN/samples, where a browser shows them.

    Args:
        run: Where.
        step: Finished steps; what an earlier attempt wrote of later ones is hidden.
    """

    def __init__(self, run: Run, step: int) -> None:
        # Imported here: it costs a second that sampling need not pay.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step, named as `curves` names them."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, sheet: Path) -> None:
        pass

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Service:
    """A run at Weights & Biases, or at Trackio, whose functions have the same names.

    Args:
        name: Of its module, `wandb` or `trackio`.
        run: Whose recipe is told too. The same folder is always the same run of the service.
    """

    def __init__(self, name: str, run: Run) -> None:
        self._module = importlib.import_module(name)
        label = run_label(run)
        told: dict[str, Any] = {"config": run.config()} if run.config_path.is_file() else {}
        if name == "wandb":
            settings = self._module.Settings(silent=True)  # the status line has the terminal
            told |= {"id": label, "dir": str(run.folder), "settings": settings}
        with redirect_stdout(sys.stderr):  # results alone go to stdout
            self._run = self._module.init(project=PROJECT, name=label, resume="allow", **told)
        # W&B drops steps that it has seen: of a run that went back, all up to where it had been.
        self._axis = "step" if name == "wandb" else None
        if self._axis is not None:
            self._run.define_metric("*", step_metric=self._axis)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if self._axis is not None:
            self._run.log({self._axis: step, **values})
        else:
            self._run.log(dict(values), step=step)

    def show(self, step: int, sheet: Path) -> None:
        self.log(step, {"samples": self._module.Image(str(sheet))})

    def sync(self) -> None:
        pass

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._module.finish()  # its own, or it finishes once more at exit, on stdout


Tracker = TensorBoard | Service


class Trackers:
    """All trackers of a run; a service that fails is left out from then on, with one warning.

    Args:
        names: As `training.trackers` has them.
        run: Its folder.
        step: Finished steps.
    """

    def __init__(self, names: Sequence[str], run: Run, step: int) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            tracker = self._try(name, lambda name=name: _opened(name, run, step))
            if tracker is not None:
                self._open[name] = tracker

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Tell the numbers of a line of metrics.jsonl."""
        numbers = curves(values)
        self._each(lambda tracker: tracker.log(step, numbers))

    def show(self, step: int, sheet: Path) -> None:
        """Tell of a sheet of pictures."""
        self._each(lambda tracker: tracker.show(step, sheet))

    def sync(self) -> None:
        """Put on the disk what is still in memory."""
        self._each(lambda tracker: tracker.sync())

    def close(self) -> None:
        """Finish them all."""
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: act(tracker))

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # whatever a service's client raises
            if name == "tensorboard":  # on the run's own disk, which checkpoints need as well
                raise
            self._leave_out(name, error)
        return None

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        warnings.warn(
            f"{name} fails ({type(error).__name__}: {error}); training goes on without it, "
            "metrics.jsonl has everything",
            stacklevel=2,
        )


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before any long work.

    Raises:
        ValueError: With the command that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"training.trackers: {', '.join(missing)} is not installed; "
            "pip install 'rectiflow[track]'"
        )


def curves(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by the names of their curves; lists become one curve an entry."""
    found: dict[str, float] = {}
    for name, value in values.items():
        group = "clock/" if is_clock_field(name) else ""
        entries = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, entry in entries:
            if isinstance(entry, int | float):
                found[group + (name if index is None else f"{name}/{index}")] = entry
    return found


def run_label(run: Run) -> str:
    """The folder's name and a hash of where it lies: the run's name at a service."""
    place = run.folder.resolve()
    digest = hashlib.blake2b(str(place).encode(), digest_size=4).hexdigest()
    return f"{place.name}-{digest}"


def _opened(name: str, run: Run, step: int) -> Tracker:
    return TensorBoard(run, step) if name == "tensorboard" else Service(name, run)
