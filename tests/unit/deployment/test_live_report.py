"""The report of a run under way: there after the first round, refreshing, and not too often."""

import pytest

from privfed_dpo.deployment import live_report as module
from privfed_dpo.engine.events import MetricsRow, RoundFinished, RoundStarted
from privfed_dpo.observe.recorder import RunRecorder


@pytest.fixture
def times():
    return [0.0]


def test_the_page_follows_the_rounds_at_its_own_pace(tmp_path, times, monkeypatch):
    pages = []
    monkeypatch.setattr(module, "read_run", lambda folder: folder)
    monkeypatch.setattr(module, "render_page", lambda facts: f"<head>page {len(pages)}")
    observe = module.live_report(tmp_path, lambda: times[0])
    path = tmp_path / "report.html"

    observe(RoundStarted(1, 3, 5))
    assert not path.exists()
    for now, number in ((0.0, 1), (30.0, 1), (61.0, 2), (100.0, 2), (121.5, 3)):
        times[0] = now
        before = path.read_text() if path.exists() else ""
        observe(RoundFinished(MetricsRow(round=number, status="released")))
        if path.read_text() != before:
            pages.append(path.read_text())
            assert 'http-equiv="refresh"' in pages[-1]
    assert len(pages) == 3


def test_a_run_of_one_row_has_a_page(tmp_path):
    RunRecorder(tmp_path)(RoundFinished(MetricsRow(round=0, status="start", loss=0.69)))
    observe = module.live_report(tmp_path, lambda: 0.0)
    observe(RoundFinished(MetricsRow(round=0, status="start", loss=0.69)))
    assert 'http-equiv="refresh"' in (tmp_path / "report.html").read_text()
