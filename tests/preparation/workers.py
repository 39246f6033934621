"""Workers that encode into one folder at once: `python -m tests.preparation.workers FOLDER`.

Each is a process forked from this one, which has imported everything and has no threads. What came
of a worker is in FOLDER/<scenario>-<worker>.json, the records it loaded in `.log`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rectiflow.preparation.prepare import Batching, Share, encode_share, prepare_store
from tests.preparation.fakes import FakeRecords, fake_encoders

NUM = 96
PER_SHARD = 16


class Logged(FakeRecords):
    """Takes its time, and writes down which records were loaded."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__(NUM, bad=frozenset({5, 40}))
        self.log, self.seconds = log, seconds

    def _load(self, index: int):
        time.sleep(self.seconds)
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        return super()._load(index)


class Crew:
    """The workers of one scenario, on the store ROOT/<scenario>."""

    def __init__(self, root: Path, scenario: str) -> None:
        self.root, self.scenario = root, scenario
        self.pids: dict[str, int] = {}

    def start(
        self,
        name: str,
        share: Share | None = None,
        batch_size: int = 8,
        seconds: float = 0.004,
    ) -> None:
        def work() -> None:
            batching = Batching(batch_size=batch_size, records_per_shard=PER_SHARD, num_threads=2)
            source, folder = Logged(self.log(name), seconds), self.root / self.scenario
            if share is None:
                store = prepare_store(source, fake_encoders(), folder, batching)
            else:
                store = encode_share(source, fake_encoders(), folder, share, batching)
            self._tell(name, {"records": None if store is None else len(store)})

        pid = os.fork()
        if pid == 0:
            self._be(name, work)
        self.pids[name] = pid

    def wait(self, *names: str) -> None:
        for name in names:
            os.waitpid(self.pids[name], 0)

    def kill(self, name: str) -> None:
        os.kill(self.pids[name], signal.SIGKILL)
        self.wait(name)

    def until_loaded(self, name: str, num: int) -> None:
        log, until = self.log(name), time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") >= num):
            if time.monotonic() > until:
                raise TimeoutError(f"{name} of {self.scenario} has not loaded {num} records")
            time.sleep(0.001)

    def log(self, name: str) -> Path:
        return self.root / f"{self.scenario}-{name}.log"

    def _be(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._tell(name, {"error": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(0)

    def _tell(self, name: str, facts: dict) -> None:
        (self.root / f"{self.scenario}-{name}.json").write_text(json.dumps(facts))


def main(root: Path) -> None:
    crew = Crew(root, "together")
    for name in ("a", "b", "c"):
        crew.start(name)
    crew.wait("a", "b", "c")

    crew = Crew(root, "shares")
    crew.start("one", Share(1, 3))
    crew.start("three", Share(3, 3))
    crew.wait("one", "three")
    (root / "shares-absent").write_text(str((root / "shares").exists()))
    crew.start("two", Share(2, 3))
    crew.wait("two")

    crew = Crew(root, "killed")
    crew.start("victim", seconds=0.05)
    crew.until_loaded("victim", 3)
    crew.start("heir")
    crew.until_loaded("heir", PER_SHARD + 3)
    crew.kill("victim")
    crew.wait("heir")

    crew = Crew(root, "other")
    crew.start("first", seconds=0.015)
    crew.until_loaded("first", 3)
    crew.start("second", batch_size=4)
    crew.wait("second", "first")

    crew = Crew(root, "resumed")
    crew.start("victim")
    crew.until_loaded("victim", 2 * PER_SHARD + 3)
    crew.kill("victim")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
