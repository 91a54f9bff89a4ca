from privfed_dpo.observe.quantities import UNKNOWN
from privfed_dpo.report.floor_table import floor_table


def test_what_was_not_measured_shows_as_unknown():
    floor = {
        "reason": None,
        "sources": [{"name": "drift", "predicted": 1.25e-3, "measured": None}],
        "distances": [{"name": "nodes", "predicted": 2.0, "measured": 4.0}],
        "assumptions": ["quadratic"],
    }
    table = floor_table(floor)
    assert table["rows"] == [
        ("drift", "1.25e-03", UNKNOWN),
        ("nodes (squared distance of adapters)", "2.00e+00", "4.00e+00"),
    ]
    assert table["notes"] == ["quadratic"]


def test_a_run_that_no_law_covers_says_why():
    assert floor_table({"reason": "adaptive", "sources": []})["reason"] == "adaptive"
    assert floor_table(None) == {"rows": [], "reason": "", "notes": []}
