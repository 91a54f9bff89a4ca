"""What a forger of run folders needs: lines as data, honest-looking chains, edited files."""

from __future__ import annotations

import json

from accounting import guarantee, read_ledger, receipt_message, verify_ledger
from accounting.canonical import canonical_bytes
from accounting.ledger_format import genesis, line_hash, signed_message
from privfed_dpo.observe.evidence import file_sha256, summary_sha256


def lines_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]


def write_lines(folder, lines):
    content = b"".join(canonical_bytes(line) + b"\n" for line in lines)
    (folder / "ledger.jsonl").write_bytes(content)


def rechained(lines, keys=None):
    """Numbers, links and hashes made anew, as an honest writer of these bodies would have.

    With the coordinator's key, which its owner has, the signatures are made anew too.
    """
    header = lines[0]["body"]
    prev = genesis(header["plan_hash"], header["config_hash"])
    chained = []
    for index, line in enumerate(lines):
        digest = line_hash(index, prev, line["kind"], line["body"])
        fresh = {**line, "index": index, "prev": prev, "hash": digest}
        if keys is not None:
            fresh["signature"] = keys.coordinator.sign(signed_message(digest)).hex()
        chained.append(fresh)
        prev = digest
    return chained


def under_other_keys(lines, keys):
    """The same run, signed throughout by a coordinator and clients that never were."""
    header = lines[0]["body"]
    names = sorted(header["extra"]["roster"])
    header["extra"].update(keys.public_facts(names))
    identities = dict(zip(names, keys.identities, strict=True))
    for line in lines:
        for name, receipt in line["body"].get("receipts", {}).items():
            message = receipt_message(
                run_id=header["run_id"],
                plan_hash=header["plan_hash"],
                round_=line["body"]["round"],
                survivors=line["body"]["survivors"],
                participation=receipt["participation"],
            )
            receipt["signature"] = identities[name].sign(message).hex()
    return rechained(lines, keys)


def close_over(folder, lines, summary, keys):
    """Makes the close line vouch for the folder as it is now, and the summary name its head."""
    facts = lines[-1]["body"]["facts"]
    facts["metrics_sha256"] = file_sha256(folder / "metrics.jsonl")
    facts["summary_sha256"] = summary_sha256(summary)
    lines = rechained(lines, keys)
    write_lines(folder, lines)
    (folder / "summary.json").write_text(json.dumps({**summary, "ledger_head": lines[-1]["hash"]}))


def leave_out_the_last_round(folder, keys):
    """A shorter and cheaper run in every file; the adapter stays the one of the whole run."""
    lines = lines_of(folder)
    lines = [*lines[:-3], lines[-1]]
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1]
    (folder / "metrics.jsonl").write_text("".join(rows))
    write_lines(folder, rechained(lines, keys))
    record = read_ledger(folder / "ledger.jsonl")
    cheaper = verify_ledger(record)
    summary = json.loads((folder / "summary.json").read_text())
    summary["epsilon"] = {
        adversary.value: {"pld": pair.pld, "rdp": pair.rdp}
        for adversary, pair in cheaper.epsilon.items()
    }
    summary["statement"] = guarantee(
        record.header,
        cheaper.epsilon,
        participations=cheaper.participations,
        realised=cheaper.realised,
    )
    summary["rounds_done"] -= 1
    summary["final"] = json.loads(rows[-1])
    close_over(folder, lines, summary, keys)


def edit_lines(change, *, chain):
    """Changes lines; with `chain` as the coordinator itself would, chain and signatures included."""

    def edit(folder, keys):
        lines = lines_of(folder)
        lines = change(lines) or lines
        write_lines(folder, rechained(lines, keys) if chain else lines)

    return edit


def edit_json(name, change):
    def edit(folder, keys):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def edit_text(name, old, new):
    def edit(folder, keys):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def edit_bytes(name, change):
    def edit(folder, keys):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return edit


def remove(name):
    def edit(folder, keys):
        (folder / name).unlink()

    return edit


# Changes to the lines of a run of three rounds: 0 header, spend and outcome of each round, close


def drop_survivors(lines, *, left=3):
    outcome = lines[2]["body"]
    outcome["survivors"] = outcome["survivors"][:left]
    outcome["receipts"] = {
        name: receipt
        for name, receipt in outcome["receipts"].items()
        if name in outcome["survivors"]
    }


def drop_one_survivor(lines):
    drop_survivors(lines, left=5)


def drop_receipts(lines):
    lines[2]["body"]["receipts"] = {}


def repeat_receipts(lines):
    lines[4]["body"]["receipts"] = lines[2]["body"]["receipts"]


def raise_booked_noise(lines):
    for line in lines[1:6:2]:
        line["body"]["release"]["event"]["noise_multiplier"] *= 2


def raise_noise_everywhere(lines):
    raise_booked_noise(lines)
    lines[0]["body"]["schedule"]["noise"]["noise_multiplier"] *= 2


def set_header(**changes):
    return lambda lines: lines[0]["body"].update(changes)


def set_facts(**changes):
    return lambda lines: lines[-1]["body"]["facts"].update(changes)


def without_round_2(lines):
    return lines[:3] + lines[5:]


def rounds_swapped(lines):
    return [*lines[:1], *lines[3:5], *lines[1:3], *lines[5:]]


def without_signatures(lines):
    return [{k: v for k, v in line.items() if k != "signature"} for line in lines]


def hashed_anew(lines):
    drop_survivors(lines)
    line = lines[2]
    line["hash"] = line_hash(line["index"], line["prev"], line["kind"], line["body"])
