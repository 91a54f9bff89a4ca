"""The HTML report of a run that is still going on: written again after rounds, and refreshing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from privfed_dpo.engine.events import EngineEvent, Observer, RoundFinished
from privfed_dpo.observe.run_folder import REPORT_FILE, write_text_atomic
from privfed_dpo.report.page import read_run, render_page

PAUSE_SECONDS = 60.0
_REFRESH = '<head>\n<meta http-equiv="refresh" content="60">'


def live_report(folder: Path, clock: Callable[[], float]) -> Observer:
    """Return an observer that keeps `report.html` up to date, at most once in a while.

    It must come after the recorder, whose files it reads. The run's end writes the final page,
    which does not refresh.

    Args:
        folder: the run folder.
        clock: seconds, monotonic.
    """
    written: list[float] = []

    def observe(event: EngineEvent) -> None:
        if not isinstance(event, RoundFinished):
            return
        if written and clock() - written[-1] < PAUSE_SECONDS:
            return
        page = render_page(read_run(folder)).replace("<head>", _REFRESH, 1)
        write_text_atomic(folder / REPORT_FILE, page)
        written[:] = [clock()]

    return observe
