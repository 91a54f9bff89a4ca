"""Worker processes: started, listened to, replaced when they vanish, stopped by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from privfed_dpo.errors import PrivFedError
from privfed_dpo.sweep.execution import Runner
from privfed_dpo.sweep.store import Address, SweepStore
from privfed_dpo.sweep.worker import WorkerEvent, work

_STOP_SECONDS = 60.0
_MOST_STILLBORN = 3
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(slots=True)
class _Hand:
    """One worker process and the pipe it tells its events through."""

    process: SpawnProcess
    events: Connection
    silent: bool = False
    told: bool = False


class WorkersLost(PrivFedError):
    """Worker processes end before they begin a run."""


def employ(
    address: Address,
    runner: Runner,
    workers: int,
    tell: Callable[[WorkerEvent], None],
    *,
    work_left: Callable[[], bool],
) -> None:
    """Let worker processes carry out a sweep; returns when there is nothing left to take.

    A worker that vanishes (killed, out of memory) is replaced while there is work left; the run it
    had is taken up by the next.

    Args:
        address: the sweep.
        runner: carries out one run; importable in a fresh interpreter.
        workers: number of processes, each with one CPU thread unless the environment or the
            configs say otherwise.
        tell: told everything the workers tell.
        work_left: whether a replacement would find something to do.

    Raises:
        KeyboardInterrupt: after every worker has given its run back.
        WorkersLost: several in a row vanished before they told anything.
    """
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    hands = [_start(address, runner) for _ in range(workers)]
    stillborn = 0
    try:
        while hands:
            hands = _listen(hands, tell)
            vanished = [hand for hand in hands if hand.silent and hand.process.exitcode != 0]
            hands = [hand for hand in hands if not hand.silent]
            for hand in vanished:
                stillborn = 0 if hand.told else stillborn + 1
            if stillborn >= _MOST_STILLBORN:
                raise WorkersLost(
                    f"{stillborn} worker processes in a row ended before they began a run",
                    advice="Their messages stand above; then type the same command again.",
                )
            if vanished and work_left():
                hands += [_start(address, runner) for _ in vanished]
    finally:
        _stop(hands)


def _start(address: Address, runner: Runner) -> _Hand:
    context = multiprocessing.get_context("spawn")
    listening, telling = context.Pipe(duplex=False)
    process = context.Process(target=_work_in_process, args=(address, runner, telling))
    process.start()
    telling.close()
    return _Hand(process, listening)


def _listen(hands: list[_Hand], tell: Callable[[WorkerEvent], None]) -> list[_Hand]:
    """Pass on what has come; a pipe that ends marks its worker as silent."""
    ready = wait([hand.events for hand in hands])
    for hand in hands:
        if hand.events in ready:
            try:
                event = hand.events.recv()
                hand.told = True
                tell(event)
            except (EOFError, OSError):
                hand.silent = True
                hand.process.join()
    return hands


def _stop(hands: list[_Hand]) -> None:
    """Interrupt workers as Ctrl-C would, once; they give their runs back and end."""
    for hand in hands:
        if hand.process.pid is not None and hand.process.is_alive():
            os.kill(hand.process.pid, signal.SIGINT)
    for hand in hands:
        hand.process.join(_STOP_SECONDS)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join()


def _work_in_process(address: Address, runner: Runner, telling: Connection) -> None:
    # A group of its own: Ctrl-C reaches the parent alone, which interrupts each worker once.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, args=(_STOP_SECONDS,), daemon=True).start()
    try:
        work(SweepStore(address), runner, _sender(telling))
    except KeyboardInterrupt:
        return


def _sender(telling: Connection) -> Callable[[WorkerEvent], None]:
    def send(event: WorkerEvent) -> None:
        try:
            telling.send(event)
        except OSError:
            os.kill(os.getpid(), signal.SIGINT)  # nobody listens any more

    return send


def _end_with_parent(grace_seconds: float) -> None:
    """End this worker when the process that started it is gone, kill -9 included.

    It is interrupted first, to give its run back. Code of a library may swallow the interruption;
    then it ends all the same, and whoever goes on with the sweep finds the run's lock free.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(grace_seconds)
        os._exit(1)
