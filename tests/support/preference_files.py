"""Small preference data in every form that users bring."""

from __future__ import annotations

import gzip
import json

import numpy as np

_ANIMALS = ("cat", "dog", "owl", "fox", "hen")
_FOODS = ("tea", "rice", "soup", "figs", "bread", "plums")


def preference_rows(users=6, per_user=6, *, seed=0):
    """Rows with an explicit prompt, a user and a topic; completions of different lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for number in range(per_user):
            animal = _ANIMALS[rng.integers(len(_ANIMALS))]
            liked, other = rng.permutation(_FOODS)[:2]
            rows.append(
                {
                    "prompt": f"What does the {animal} like on day {number}?",
                    "chosen": f" It likes {liked}.",
                    "rejected": f" Nobody knows, but perhaps some {other} would do.",
                    "user": f"user-{user}",
                    "topic": animal,
                }
            )
    return rows


def without(rows, *columns):
    return [{k: v for k, v in row.items() if k not in columns} for row in rows]


def unseen(rows, training):
    """Rows whose pair does not stand in the training rows, whoever judged it."""
    known = [{**row, "user": ""} for row in training]
    return [row for row in rows if {**row, "user": ""} not in known]


def with_implicit_prompt(rows):
    return [
        {
            **{k: v for k, v in row.items() if k != "prompt"},
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
        }
        for row in rows
    ]


def as_messages(rows):
    return [
        {
            **row,
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"].strip()}],
            "rejected": [{"role": "assistant", "content": row["rejected"].strip()}],
        }
        for row in rows
    ]


def as_whole_conversations(rows):
    """Message lists whose shared beginning is the prompt."""
    return [
        {
            **{k: v for k, v in row.items() if k != "prompt"},
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
        }
        for row in as_messages(rows)
    ]


def texts_of(rows):
    return [row["prompt"] + row[side] for row in rows for side in ("chosen", "rejected")]


def write_jsonl(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_jsonl_gz(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return path


def write_parquet(path, rows):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_folder(path, splits):
    """A local data-set folder: one file per split."""
    path.mkdir()
    for split, rows in splits.items():
        write_jsonl(path / f"{split}.jsonl", rows)
    return path


def write_saved(path, rows):
    """What `save_to_disk` writes: one split from a list of rows, several from a mapping."""
    from datasets import Dataset, DatasetDict

    if isinstance(rows, dict):
        DatasetDict({name: Dataset.from_list(part) for name, part in rows.items()}).save_to_disk(
            path
        )
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return path
