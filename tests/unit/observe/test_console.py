"""What people see: plain lines off a terminal, a moving display on one, honest numbers on both."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import pytest
from rich.console import Console

from privfed_dpo.engine.events import (
    PhaseClosed,
    PlanReady,
    RoundFinished,
    RoundStarted,
    RunFinished,
    SharesDisputed,
)
from privfed_dpo.observe.console import ProgressConsole
from privfed_dpo.observe.plan_table import render_plan
from privfed_dpo.observe.quantities import (
    format_bytes,
    format_epsilon,
    format_number,
    format_seconds,
    format_share,
)
from privfed_dpo.observe.summary import render_summary
from tests.support.run_folder import metrics_rows, plan_facts, summary_facts

ROWS = metrics_rows(4, aborted=(2,))


def shown(events, *, terminal, width=110):
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False
    )  # fmt: skip
    with ProgressConsole(console) as progress:
        for event in events:
            progress(event)
    return console.file.getvalue()


def frames(events):
    """Every state of the moving display, one after the other."""
    console = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)
    seen = []
    with ProgressConsole(console) as progress:
        for event in itertools.chain([None], events):
            if event is not None:
                progress(event)
            with console.capture() as capture:
                console.print(progress.display())
            seen.append(capture.get())
    return "".join(seen)


def story(rows=ROWS, *, plan=None, summary=None):
    yield PlanReady(plan or plan_facts(4))
    for row in rows:
        if row.round:
            yield RoundStarted(row.round, 4, 16)
            yield PhaseClosed(row.round, "MaskedInput", 14, 2)
        yield RoundFinished(row)
    if summary is not None:
        yield RunFinished(summary)


def test_plain_lines_off_a_terminal():
    text = shown(story(), terminal=False)
    lines = text.splitlines()
    assert "\x1b" not in text
    assert lines[0] == ("distributed mode, target epsilon 8.000, 16 clients, 1600 pairs, 4 rounds")
    assert len(lines) == 1 + len(ROWS)
    assert lines[1].startswith(
        "round 0/4  accuracy 50.0 %  loss 0.6931  margin 0.0000  epsilon 0.000 of 8.000"
    )
    assert "epsilon 4.000 of 8.000" in lines[2]
    assert f"survivors {ROWS[1].survivors}/16" in lines[2]
    assert "round 3/4  " in lines[4]
    assert "  aborted  " in lines[3]
    assert "survivors 0/16" in lines[3]


def test_a_terminal_shows_round_phase_survivors_accuracy_epsilon_and_time_to_go():
    rows = [replace(row, seconds=30.0) for row in ROWS[:3]]
    text = frames(story(rows))
    for part in (
        "preparing data", "measuring the untrained model", "round 2/4", "MaskedInput done: 14 answered, 2 missing", "epsilon 4.000 of 8.000",
        f"survivors {ROWS[1].survivors}/16", "1 min 30 s to go", "1 min 00 s to go", "clients compute",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("terminal", [False, True])
def test_shares_in_dispute_leave_a_line_with_all_who_may_have_lied(terminal):
    reason = "the share of client 3 contradicts what client 0 published: one of them lied"
    lines = shown([SharesDisputed(2, 0, (3,), reason)], terminal=terminal).splitlines()
    assert any(line.endswith(f"round 2: {reason}") for line in lines)


def test_an_aborted_round_leaves_a_line_of_its_own():
    lines = shown(story(), terminal=True).splitlines()
    assert any("round 2/4  aborted" in line for line in lines)


def test_the_display_ends_even_if_the_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)

    def failing_run():
        with ProgressConsole(console) as progress:
            progress(PlanReady(plan_facts(4)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_run()
    assert console.file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_without_privacy_never_shows_an_epsilon(terminal):
    plan = plan_facts(4) | {"mode": "none", "target_epsilon": None}
    rows = metrics_rows(4, private=False)
    text = shown(
        story(rows, plan=plan, summary=summary_facts(rows, private=False)), terminal=terminal
    )
    assert "NO differential privacy" in text
    assert "epsilon no bound" in text
    assert "epsilon 0" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_the_summary_says_what_was_promised_and_reached(terminal):
    text = shown(story(summary=summary_facts(ROWS)), terminal=terminal)
    for part in (
        "Run finished", "Guarantee", "one preference pair", "the server and the tolerated colluders", "7.999", "8.731",
        "if secure aggregation failed", "61.204", "delta = 1e-05", "50.0 %", "3 of 4", "KiB",
    ):  # fmt: skip
        assert part in text, part
    table = text[text.index("PLD, certified") :]
    places = [
        table.index(who) for who in ("tolerated colluders", "server alone,", "released adapter")
    ]
    assert places == sorted(places)


def test_the_plan_shows_what_it_promises_and_costs_before_any_compute():
    console = Console(file=io.StringIO(), width=100)
    console.print(render_plan(plan_facts(30)))
    text = " ".join(console.file.getvalue().split())
    for part in (
        "delta = 1e-05", "the server alone, fewest survivors 7.141 7.822", "noise multiplier of the sum 0.8312",
        "survivors needed 13", "ring 32 bits", "grid steps in one unit 40960",
        "upload of a client each round 10.7 KiB", "of it the masked vector 8.0 KiB", "memory of the base weights 468.8 KiB",
        "pairs 1,600 (100 to 100 a client)", "target epsilon 8.000", "secure aggregation on",
    ):  # fmt: skip
        assert part in text, part


def test_a_plan_without_privacy_or_secure_aggregation_says_so():
    console = Console(file=io.StringIO(), width=100)
    plan = {"mode": "none", "secure_aggregation": False, "epsilon": {"server": {"pld": None}}}
    console.print(render_plan(plan))
    text = " ".join(console.file.getvalue().split())
    assert "secure aggregation OFF" in text
    assert "target epsilon none: nobody adds noise" in text
    assert "the server alone, fewest survivors no bound no bound" in text


def test_a_summary_with_nothing_in_it_shows_dashes():
    console = Console(file=io.StringIO(), width=80)
    console.print(render_summary({}))
    text = console.file.getvalue()
    assert "No statement of privacy was made." in text
    assert "– of –" in text
    assert "0.0 %" not in text


def test_a_bracket_in_the_statement_is_text_and_not_markup():
    console = Console(file=io.StringIO(), width=80)
    console.print(
        render_summary({"statement": "in [0, 1] and [red]this[/red]", "reason": "[b]x[/b]"})
    )
    assert "[red]this[/red]" in console.file.getvalue()
    assert "[b]x[/b]" in console.file.getvalue()


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format_epsilon, 1.0000001, "1.001"),  # rounded up, never down
        (format_epsilon, 8.0, "8.000"),
        (format_epsilon, 3e-9, "0.001"),
        (format_epsilon, 0.0, "0.000"),
        (format_epsilon, None, "no bound"),
        (format_epsilon, float("inf"), "no bound"),
        (format_number, 0.12345678, "0.1235"),
        (format_number, 1.5e-6, "1.50e-06"),
        (format_number, 0.0, "0.0000"),
        (format_number, None, "–"),
        (format_share, 0.9049, "90.5 %"),
        (format_share, None, "–"),
        (format_bytes, 0, "0 B"),
        (format_bytes, 1023, "1023 B"),
        (format_bytes, 8192, "8.0 KiB"),
        (format_bytes, 3 * 2**40, "3.0 TiB"),
        (format_bytes, 5000 * 2**40, "5000.0 TiB"),
        (format_bytes, None, "–"),
        (format_seconds, 4.25, "4.2 s"),
        (format_seconds, 59.7, "1 min 00 s"),
        (format_seconds, 3599.9, "1 h 00 min"),
        (format_seconds, 7260, "2 h 01 min"),
        (format_seconds, None, "–"),
    ],
)
def test_quantities(function, value, text):
    assert function(value) == text
