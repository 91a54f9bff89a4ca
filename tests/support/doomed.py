"""The program in a process of its own that kills itself, SIGKILL and no farewell, at a planned place.

`python -m tests.support.doomed LIFE ARGUMENTS...` runs `privfed-dpo ARGUMENTS...`. LIFE is a JSON
object: `die`, a place or null; `secrets`, a file that gets every secret draw, so that a test can see
whether two lives drew the same. Places:

    ["rename", NAME, N]        before the N-th renaming of a file called NAME
    ["open", NAME, MODE, N]    before the N-th opening of such a file in this mode, "" for any
    ["before", WHERE, N]       before the N-th call of a function, as module:Class.method
    ["after", WHERE, N]        after it
    ["before", WHERE, [I, V]]  before the first call whose I-th argument is V; "after" likewise
    ["torn", KIND]             with half of a ledger's line of this kind on the disk
    ["full", NAME, N, ROOM]    does not die: from the N-th opening of NAME on, no file may grow, but
                               for ROOM more bytes of this one
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import secrets
import signal
import sys
from pathlib import Path


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Calls `act` when it was called for the N-th time."""

    def __init__(self, number, act):
        self.left, self.act = number, act

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            self.act()


def at_file_event(event, matches, number, act):
    countdown = Countdown(number, act)

    def hook(name, arguments):
        if name == event and matches(arguments):
            countdown()

    sys.addaudithook(hook)


def at_call(where, number, *, after):
    module, _, names = where.partition(":")
    owner_name, _, name = names.rpartition(".")
    owner = importlib.import_module(module)
    if owner_name:
        owner = getattr(owner, owner_name)
    static = isinstance(vars(owner)[name], classmethod)
    place, wanted = number if isinstance(number, list) else (None, None)
    original = getattr(owner, name)
    countdown = Countdown(1 if isinstance(number, list) else number, kill_myself)

    @functools.wraps(original)
    def dying(*args, **kwargs):
        meant = place is None or args[place] == wanted
        if meant and not after:
            countdown()
        result = original(*args, **kwargs)
        if meant and after:
            countdown()
        return result

    setattr(owner, name, staticmethod(dying) if static else dying)


def tear(kind):
    from accounting import ledger

    whole = ledger.append_synced

    def half(path, row, **facts):
        if f'"{kind}"'.encode() in row:
            whole(path, row[: len(row) // 2], **facts)
            kill_myself()
        whole(path, row, **facts)

    ledger.append_synced = half


def called(name):
    """Whether a file event's first argument is a path that ends in this name."""
    return lambda arguments: os.fsdecode(str(arguments[0])).rpartition("/")[2] == name


def fill_up(name, number, room_bytes):
    """From then on the kernel refuses: a part of a line is written, then EFBIG."""

    def limit():
        found = list(Path.cwd().rglob(name))
        size = max((path.stat().st_size for path in found), default=0)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room_bytes, hard))

    def writing(arguments):
        return called(name)(arguments) and arguments[1] not in {"r", "rb"}

    at_file_event("open", writing, number, limit)


def doom(place):
    kind, *details = place
    if kind == "rename":
        name, number = details
        at_file_event("os.rename", called(name), number, kill_myself)
    elif kind == "open":
        name, mode, number = details
        at_file_event(
            "open",
            lambda arguments: called(name)(arguments) and mode in ("", arguments[1]),
            number,
            kill_myself,
        )
    elif kind in {"before", "after"}:
        where, number = details
        at_call(where, number, after=kind == "after")
    elif kind == "torn":
        tear(*details)
    else:
        fill_up(*details)


def record_secrets(path):
    """Everything secret comes from here; library defaults are bound when they are imported."""
    draw = secrets.token_bytes

    def recorded(size=None):
        drawn = draw(size)
        line = json.dumps({"process": os.getpid(), "drawn": drawn.hex()}) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return drawn

    secrets.token_bytes = recorded


def main():
    life, *arguments = sys.argv[1:]
    life = json.loads(life)
    if life.get("secrets"):
        record_secrets(life["secrets"])
    if life.get("die"):
        doom(life["die"])
    from privfed_dpo import cli

    sys.argv = ["privfed-dpo", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
