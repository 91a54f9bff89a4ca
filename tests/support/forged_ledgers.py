"""What a forger of run folders needs: ledger lines as data, and honest-looking chains over them."""

from __future__ import annotations

import json

from accounting.canonical import canonical_bytes
from accounting.ledger_format import genesis, line_hash


def lines_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]


def write_lines(folder, lines):
    content = b"".join(canonical_bytes(line) + b"\n" for line in lines)
    (folder / "ledger.jsonl").write_bytes(content)


def rechained(lines):
    """Numbers, links and hashes made anew, as an honest writer of these bodies would have."""
    header = lines[0]["body"]
    prev = genesis(header["plan_hash"], header["config_hash"])
    chained = []
    for index, line in enumerate(lines):
        digest = line_hash(index, prev, line["kind"], line["body"])
        chained.append({**line, "index": index, "prev": prev, "hash": digest})
        prev = digest
    return chained
