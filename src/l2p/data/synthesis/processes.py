"""Owns workers that are processes of this machine, one a device: started afresh, ended with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm.std import tqdm

from l2p.data.journal import DrawnBatch
from l2p.data.synthesis.crew import Died, SharedWork
from l2p.data.synthesis.planning import Batch
from l2p.data.synthesis.worker import BatchWorker, Job
from l2p.errors import L2PError
from l2p.quiet import quiet_third_parties

_LOG_CHARACTERS = 2000
_GRACE_S = 5.0  # for a worker to end by itself


class ProcessCrew(SharedWork):
    """Spawned processes; each has a pipe and a log."""

    def __init__(self, job: Job, num_workers: int) -> None:
        super().__init__(num_workers)
        self._job = job
        self._logs = tempfile.TemporaryDirectory(prefix="l2p-synthesize-")
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._asked: set[int] = set()

    def start(self, count: int) -> None:
        """Spawn them; a GPU each, in turn."""
        context = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = context.Pipe()
            device = f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
            process = context.Process(
                target=_serve, args=(theirs, self._log(number), self._job, device, number), name=f"worker {number}"
            )
            process.start()
            theirs.close()  # so that its end is the end of the pipe
            self._processes.append(process)
            self._pipes.append(ours)

    def send(self, worker: int, batch: Batch | None) -> None:
        """Ask; a worker that is dead already is found so by `wait`."""
        self._asked.add(worker)
        with contextlib.suppress(OSError):
            self._pipes[worker].send(batch)

    def wait(self) -> tuple[int, list[DrawnBatch] | Died]:
        """The first answer, or the first pipe that ended."""
        ready = wait([self._pipes[worker] for worker in sorted(self._asked)])
        worker = next(worker for worker in sorted(self._asked) if self._pipes[worker] in ready)
        self._asked.discard(worker)
        try:
            answer = self._pipes[worker].recv()
        except (EOFError, OSError):
            return worker, self._describe_death(worker)
        if isinstance(answer, Exception):
            raise answer
        return worker, answer

    def close(self) -> None:
        """Let them end, then make them."""
        for pipe in self._pipes:
            pipe.close()
        until = time.monotonic() + _GRACE_S
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._logs.cleanup()

    def pids(self) -> list[int]:
        """Numbers of their processes."""
        return [process.pid or 0 for process in self._processes]

    def _describe_death(self, worker: int) -> Died:
        process = self._processes[worker]
        process.join(_GRACE_S)
        code = process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        path = self._log(worker)
        log = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return Died(f"worker {worker} ({how})", log[-_LOG_CHARACTERS:] or "(its log is empty)")

    def _log(self, worker: int) -> Path:
        return Path(self._logs.name) / f"{worker}.log"


def _serve(pipe: Connection, log: Path, job: Job, device: str, number: int) -> None:
    """Answer requests until the pipe ends. What a worker prints goes to its log."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_third_parties()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process would leave behind
    try:
        worker = BatchWorker(job, device, str(number))
        while True:
            batch = pipe.recv()
            pipe.send(worker.flush() if batch is None else worker.step(batch))
    except EOFError:
        pass
    except (L2PError, OSError) as error:  # of the project or the disk: another worker would fail as well
        pipe.send(error)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
