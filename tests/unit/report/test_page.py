"""The page: self-contained, escaped, honest about what is missing, legible in both themes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import privfed_dpo.report.page as page_module
from privfed_dpo.errors import DataError
from privfed_dpo.report.page import write_report
from tests.support.run_folder import make_run_folder

VOID = {"meta", "br"}
CSS = (Path(page_module.__file__).parent / "page.css").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Checks that tags nest and collects ids, attributes and visible text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    html = path.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    return html, " ".join(" ".join(outline.text).split()), outline


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = make_run_folder(tmp_path_factory.mktemp("runs") / "quickstart")
    return read(write_report(folder))


def test_it_says_what_was_promised_reached_and_spent(finished):
    _, text, _ = finished
    for part in (
        "quickstart", "finished", "50.0 % → 88.7 %",
        "one preference pair (prompt, chosen, rejected)", "Epsilon at delta = 1e-05",
        "the server and the tolerated colluders, fewest survivors 7.999 8.731",
        "the server, if secure aggregation failed 61.204", "29 of 30", "1 aborted, 29 released",
        "worst client mean best client spread shared minus this the shared adapter",
        "survivors needed 13", "ring 32 bits", "opacus 1.6.0",
        "privfed-dpo verify quickstart", "last line of the ledger", "adapter (SHA-256)",
        "mode: distributed",
    ):  # fmt: skip
        assert part in text, part


def test_every_chart_is_there_with_its_words(finished):
    html, text, _ = finished
    assert html.count("<svg") == html.count("<figcaption") == 8
    for title in (
        "Held-out accuracy", "Held-out loss", "Margin and distance to the reference",
        "Privacy spent", "Stationarity and heterogeneity", "Survivors of each round",
        "Traffic of each round", "Accuracy by client",
    ):  # fmt: skip
        assert title in text
    assert "Client drift" not in text, "drift was never measured in this run"


def test_nothing_is_loaded_from_anywhere(finished):
    html, _, outline = finished
    assert "default-src 'none'" in html
    assert "<script" not in html
    names = {"src", "href", "xlink:href", "action", "srcset", "data"}
    links = [value for name, value in outline.attributes if name in names]
    assert links
    assert all(value.startswith("#") for value in links)
    assert not re.findall(r"@import|url\((?!#)", html)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_identifiers_are_unique_and_references_resolve(finished):
    html, _, outline = finished
    assert len(outline.ids) == len(set(outline.ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', html)) <= set(outline.ids)


def test_writing_it_again_gives_the_same_page(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert not list(folder.glob(".*"))


def test_text_from_the_folder_is_never_markup(tmp_path):
    folder = make_run_folder(tmp_path / "run & <b>")
    evil = "<script>alert(1)</script>"
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {
        "status": evil,
        "reason": evil,
        "statement": f"{evil}\n  {evil}",
        "per_client": {evil: 0.5},
        "versions": {evil: evil},
        "audit": {
            "verdict": evil,
            "bounds": [{"canaries": evil, "method": evil, "verdict": evil}],
            "membership": [{"about": evil, "members": evil}],
            "notes": [evil],
        },
        "epsilon": {evil: {"pld": 1.0, "rdp": 1.0}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(f"run: '{evil}'")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 31, "status": evil, "dropped": {evil: 1}}) + "\n")
    html, text, _ = read(write_report(folder))
    assert "<script" not in html
    assert "<b>" not in html
    assert text.count(evil) >= 12


def test_a_refuted_claim_is_said_aloud_and_every_bound_is_shown(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    bound = {
        "canaries": "lanes", "method": "gaussian_fit", "assumes": "a model", "adversary": "server",
        "confidence": 0.95, "m": 1000, "r": 1000, "v": None, "epsilon_lower_bound": 9.25,
        "epsilon_certified": 8.0, "verdict": "fail",
    }  # fmt: skip
    membership = {"about": "these against those", "auc": 0.5, "tpr_at_fpr": 0.01, "fpr": 0.01}
    summary["audit"] = {"verdict": "fail", "bounds": [bound], "membership": [membership]}
    (folder / "summary.json").write_text(json.dumps(summary))
    _, text, _ = read(write_report(folder))
    assert "the claim is refuted" in text
    for cell in ("gaussian fit", "95.0 %", "9.250", "8.000", "these against those", "AUC 0.500"):
        assert cell in text
    summary["audit"] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "Empirical audit" not in read(write_report(folder))[1]


def test_an_unfinished_run_shows_what_there_is(tmp_path):
    _, text, _ = read(write_report(make_run_folder(tmp_path / "run", played=7)))
    assert "unfinished" in text
    assert "no statement yet" in text
    assert "(planned)" in text
    assert "7 of 30" in text
    assert "last line of the ledger" not in text


def test_a_plan_alone_is_a_report_without_charts(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    for name in ("metrics.jsonl", "summary.json", "config.yaml", "environment.json"):
        (folder / name).unlink()
    html, text, _ = read(write_report(folder))
    assert "<svg" not in html
    assert "target epsilon 8.000" in text
    assert "0 of 30" in text


def test_metrics_alone_are_a_report_without_a_plan(tmp_path):
    folder = make_run_folder(tmp_path / "run", played=5)
    (folder / "plan.json").unlink()
    _, text, _ = read(write_report(folder))
    assert "The plan" not in text
    assert "5 of –" in text


def test_no_privacy_and_no_secure_aggregation_are_said_aloud(tmp_path, finished):
    assert "NO differential privacy" not in finished[1]
    assert "Secure aggregation was OFF" not in finished[1]
    folder = make_run_folder(tmp_path / "run", private=False, per_client=False)
    plan = json.loads((folder / "plan.json").read_text()) | {"secure_aggregation": False}
    (folder / "plan.json").write_text(json.dumps(plan))
    _, text, _ = read(write_report(folder))
    assert "This run has NO differential privacy" in text
    assert "Secure aggregation was OFF" in text
    assert "no bound" in text
    assert "Privacy spent" not in text
    assert "Accuracy by client" not in text
    assert "at delta" not in text


def test_a_folder_without_a_run_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no run") as caught:
        write_report(tmp_path)
    assert "train" in caught.value.advice
    folder = make_run_folder(tmp_path / "run")
    (folder / "summary.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        write_report(folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "summary.json"])
def test_a_file_that_is_no_text_is_named(tmp_path, name):
    folder = make_run_folder(tmp_path / "run")
    (folder / name).write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match=rf"{re.escape(name)}: .*not UTF-8 text"):
        write_report(folder)


@pytest.mark.parametrize(
    "summary",
    [
        {"final": [1]},
        {"epsilon": "much"},
        {"per_client": 3},
        {"samples": 5},
    ],
)
def test_values_that_no_run_writes_are_refused(tmp_path, summary):
    folder = make_run_folder(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="hold values that no run writes") as caught:
        write_report(folder)
    assert "verify" in caught.value.advice


def test_a_row_of_words_for_numbers_is_refused(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"round": 1, "loss": "low"}\n')
    with pytest.raises(DataError, match="hold values that no run writes"):
        write_report(folder)


def _themes():
    light, dark = CSS.split("prefers-color-scheme: dark")
    variables = re.compile(r"--([\w-]+): (#[0-9a-f]{3,6})")
    bright = dict(variables.findall(light))
    return {"light": bright, "dark": bright | dict(variables.findall(dark.split("@media")[0]))}


def _luminance(colour):
    """Relative luminance, WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out_in_both_themes(theme):
    colours = _themes()[theme]
    for ground in ("paper", "card"):
        for text in ("ink", "muted"):
            assert _contrast(colours[text], colours[ground]) >= 4.5
        for line in ("line-1", "line-2", "line-3"):
            assert _contrast(colours[line], colours[ground]) >= 3.0
    for mark in ("good", "warn"):
        assert _contrast(colours[mark], colours[f"{mark}-paper"]) >= 4.5
