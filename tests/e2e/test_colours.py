"""Colours on a terminal, and nowhere else."""

import os
import re

import pytest

from tests.support.command_line import start_process

PRICE = ("epsilon", "--noise-multiplier", "1", "--steps", "1")
MISTAKE = ("plan", "nowhere.yaml")
_COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m")


def piped(*words, **environment):
    process = start_process(None, *words, env=environment)
    return "".join(process.communicate())


def on_a_terminal(*words, **environment):
    """What a terminal gets, standard error included."""
    ours, theirs = os.openpty()
    settings = {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    process = start_process(None, *words, env=settings, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not part:
            break
        said += part
    process.wait()
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize("words", [PRICE, MISTAKE], ids=["result", "mistake"])
def test_no_escape_codes_in_a_pipe(words):
    said = piped(*words, TERM="xterm-256color")
    assert said
    assert "\x1b" not in said


def test_colours_on_a_terminal_and_where_they_are_asked_for():
    assert _COLOUR.search(on_a_terminal(*MISTAKE))
    assert "\x1b[" in piped(*MISTAKE, FORCE_COLOR="1")


def test_no_colour_means_no_colour():
    said = on_a_terminal(*MISTAKE, NO_COLOR="1")
    assert "nowhere.yaml" in said
    assert not _COLOUR.search(said)


def test_a_terminal_that_can_nothing_gets_nothing():
    assert "\x1b" not in on_a_terminal(*PRICE, TERM="dumb")
