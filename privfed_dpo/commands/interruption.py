"""Ctrl-C: the first one lets a run end tidily, a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_EXIT_CODE = 1
_STDERR = 2


@contextlib.contextmanager
def second_ctrl_c_ends_at_once(last_words: Callable[[], str]) -> Iterator[None]:
    """Take the interrupt over, unless somebody else has or nobody may (as under nohup).

    Every round is on the disk when it ends, so there is nothing to save when Ctrl-C comes: the
    first one raises KeyboardInterrupt as ever. If ending takes too long, a second one ends the
    process where it stands, which a run folder survives as well.

    Args:
        last_words: what to tell the user then.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return

    def at_once(_number: int, _frame: FrameType | None) -> None:
        cursor = "\x1b[?25h" if os.isatty(_STDERR) else ""
        os.write(_STDERR, f"{cursor}\nstopped at once\n{last_words()}\n".encode())
        os._exit(_EXIT_CODE)

    def tidily(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, at_once)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, tidily)
    try:
        yield
    finally:
        # After Ctrl-C the handler stays, until the process that it ends is gone.
        if signal.getsignal(signal.SIGINT) is tidily:
            signal.signal(signal.SIGINT, signal.default_int_handler)
