"""JSON from somebody else: read, or refused in a sentence, and never deeper than it may go."""

import pytest

from privfed_dpo.errors import DataError
from privfed_dpo.observe.plain_json import DEEPEST, parse_json
from privfed_dpo.observe.run_folder import read_json, read_rows

PERVERSE = {
    "deeper than the parser goes": (b"[" * 100_000, "nested too deeply"),
    "deeper than is read": (b"[" * DEEPEST + b"[]" + b"]" * DEEPEST, "nested too deeply"),
    "bytes that are no text": (b'{"round": "\xff"}', "not UTF-8 text"),
    "half a character": (b'{"round": 1, "a": "\\ud800"}', "lone surrogate"),
    "no number": (b'{"round": 1, "a": NaN}', "not finite"),
    "a number without end": (b'{"round": 1, "a": 1e999}', "not finite"),
    "more digits than are read": (b'{"round": ' + b"1" * 5000 + b"}", "not usable JSON"),
    "cut short": (b'{"round": ', "not JSON"),
}


@pytest.mark.parametrize("case", PERVERSE)
def test_what_cannot_be_read_is_an_error_of_its_file(tmp_path, case):
    text, reason = PERVERSE[case]
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    path = tmp_path / "summary.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=rf"summary\.json: {reason}|summary\.json: .*{reason}"):
        read_json(path)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round": 0}\n' + text + b"\n")
    with pytest.raises(DataError, match=rf"metrics\.jsonl: line 2 is not a .*{reason}"):
        read_rows(path)


@pytest.mark.parametrize("number", ["[1]", '"1"', "true", "1.0", "{}", "null"])
def test_a_row_whose_round_is_no_number_is_no_row(tmp_path, number):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"round": 0}}\n{{"round": {number}}}\n')
    with pytest.raises(DataError, match="line 2 is not a metrics row: no object with the number"):
        read_rows(path)


def test_what_a_run_writes_is_read():
    nested = b"[" * (DEEPEST - 1) + b"1.5" + b"]" * (DEEPEST - 1)
    for text, content in ((b'{"a": [1, null, "\xc3\xa9"]}', {"a": [1, None, "é"]}), (b"2", 2)):
        assert parse_json(text) == content
    parse_json(nested)
