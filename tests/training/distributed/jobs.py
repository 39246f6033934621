"""Jobs of several processes on this machine, as `torchrun` would start them, over gloo.

Processes fork from a server that has imported torch and the package once.
"""

import multiprocessing
import os
import socket
import traceback

import torch

from rectiflow.training.parallel import joined
from rectiflow.training.settings.parallel import ParallelSettings
from tests.training.tiny import tiny_train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.distributed.jobs", "torch._dynamo"])
LIMIT_SECONDS = 240


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """Processes that all do `work(ranks, *args)`; what it gives is told by rank."""

    def __init__(self, num, settings, work, *args):
        port, self.processes, self.pipes = free_port(), [], []
        for rank in range(num):
            mine, theirs = CONTEXT.Pipe(duplex=False)
            target_args = (rank, num, port, theirs, settings, work, args)
            process = CONTEXT.Process(target=_process, args=target_args, daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(mine)

    def next(self, rank):
        """What a process says next: ("said", value), ("gave", value) or ("raised", class, text)."""
        if not self.pipes[rank].poll(LIMIT_SECONDS):
            raise TimeoutError(f"rank {rank} says nothing")
        return self.pipes[rank].recv()

    def last(self, rank):
        """What it says last; ("gone",) if it was killed."""
        try:
            while (told := self.next(rank))[0] == "said":
                pass
            return told
        except EOFError:
            return ("gone",)

    def results(self):
        """What `work` gave in every process, by rank."""
        told = [self.last(rank) for rank in range(len(self.processes))]
        self.end()
        assert all(each[0] == "gave" for each in told), told
        return [each[1] for each in told]

    def end(self):
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def run_job(num, kind, work, *args, **settings):
    return Job(num, ParallelSettings(kind=kind, **settings), work, *args).results()


def _process(rank, num, port, pipe, settings, work, args):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with joined(settings, torch.device("cpu")) as ranks:
            given = work(ranks, pipe, *args)
        pipe.send(("gave", given))
    except Exception as error:
        pipe.send(("raised", type(error).__name__, str(error), traceback.format_exc()))


def training(ranks, pipe, folder, settings, source=None, objective=None):
    """Train the tiny flow; gives losses by step, status and what validation found."""
    losses = {}

    def on_progress(step, num_steps, metrics):
        losses[step] = metrics["loss"]
        if pipe is not None:
            pipe.send(("said", step))

    result = tiny_train(folder, settings, objective, on_progress, source=source, ranks=ranks)
    return {"losses": losses, "status": result.status, "metrics": dict(result.metrics)}
