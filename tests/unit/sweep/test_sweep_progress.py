"""What a sweep shows while it runs."""

import io

from rich.console import Console

from privfed_dpo.sweep.progress import SweepProgress
from privfed_dpo.sweep.worker import RunEnded, RunProgress, RunStarted


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def shown(*, terminal=False, metric="reward_accuracy", workers=2):
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
    progress = SweepProgress(console, metric=metric, total=10, done=2, workers=workers, clock=clock)
    return progress, clock, text


def end(name, value=0.875, status="finished", reason=""):
    return RunEnded(name, status, reason, value, 1.0)


def test_time_to_go_counts_what_is_left_and_under_way():
    progress, clock, _ = shown()
    assert progress.seconds_to_go() is None
    progress(RunStarted("a", resumed=False))
    clock.now = 60.0
    progress(end("a"))
    assert progress.seconds_to_go() == 60.0 * 7 / 2
    progress(RunStarted("b", resumed=False))
    progress(RunProgress("b", 1, 4))
    assert progress.seconds_to_go() == 60.0 * 6.75 / 2


def test_away_from_a_terminal_each_ended_run_is_one_line():
    progress, clock, text = shown()
    with progress:
        progress(RunStarted("a", resumed=False))
        progress(RunProgress("a", 1, 3))
        clock.now = 2.0
        progress(end("a"))
        progress(end("b", None, "failed", "[no] space"))
    assert text.getvalue().splitlines() == [
        "run 3/10  a  finished  reward_accuracy 87.5 %  (7.0 s to go)",
        "run 4/10  b  failed  [no] space  (6.0 s to go)",
    ]


def test_other_metrics_are_plain_numbers():
    progress, _, text = shown(metric="loss")
    progress(end("a", 0.5))
    assert "loss 0.5000" in text.getvalue()


def test_on_a_terminal_there_is_a_bar():
    progress, _, text = shown(terminal=True)
    with progress:
        progress(RunStarted("a", resumed=True))
        progress(RunProgress("a", 2, 5))
    assert "run 2/10" in text.getvalue()
    assert "a  round 2/5" in text.getvalue()
