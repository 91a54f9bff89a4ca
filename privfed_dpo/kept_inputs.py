"""What a trainer is given from memory: checked as a whole, then written where a run finds it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from privfed_dpo.config import Config
from privfed_dpo.data.preferences import pairs_of_rows
from privfed_dpo.data.rows import RawRow
from privfed_dpo.errors import DataError, ModelError
from privfed_dpo.model.fingerprint import tokenizer_difference
from privfed_dpo.model.loading import ModelSpec, load_tokenizer
from privfed_dpo.observe.run_folder import LEDGER_FILE

Row = Mapping[str, Any]
Rows = Iterable[Row]


@dataclass(frozen=True, slots=True)
class GivenRows:
    """Rows as somebody passed them.

    Attributes:
        name: the argument they came in.
        rows: all of them.
        lines: the same as JSON, one line each.
    """

    name: str
    rows: tuple[Row, ...]
    lines: tuple[bytes, ...]

    @classmethod
    def of(cls, rows: Rows, name: str) -> GivenRows:
        """Take rows that can be written down.

        Args:
            rows: a `datasets.Dataset`, or any iterable of mappings.
            name: the argument, for messages.

        Raises:
            DataError: no rows, not rows but a mapping or other things, or columns without JSON
                form.
        """
        if isinstance(rows, Mapping):
            names = ", ".join(str(key) for key in list(rows)[:5])
            raise DataError(
                f"{name} is a mapping with the names {names}, not rows",
                advice=f"Give one set of rows, such as {name}=sets['train'] of a DatasetDict; "
                "rows are a datasets.Dataset or a list of dicts.",
            )
        try:
            taken = tuple(rows)
        except TypeError as error:
            raise DataError(
                f"{name} holds no rows: {error}",
                advice="Rows are a datasets.Dataset or a list of dicts.",
            ) from error
        if not taken:
            raise DataError(f"{name} holds no rows", advice="Give at least one pair.")
        for number, row in enumerate(taken, 1):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{name}: row {number} is a {type(row).__name__}, not a mapping of columns",
                    advice="Rows are a datasets.Dataset or a list of dicts.",
                )
        lines = (_line(row, f"{name}: row {number}") for number, row in enumerate(taken, 1))
        return cls(name, taken, tuple(lines))

    def by_user(self, column: str) -> bool:
        """Whether the rows name their users; without a user there is one holder of all rows.

        Args:
            column: the one that names users.

        Raises:
            DataError: some rows do and others do not.
        """
        unnamed = sum(row.get(column) is None for row in self.rows)
        if 0 < unnamed < len(self.rows):
            raise DataError(
                f"{self.name}: {unnamed} of {len(self.rows)} rows name no user in the column "
                f"'{column}', so it is not clear who the clients are",
                advice="Name the user in every row, or leave the column out of all of them.",
            )
        return unnamed == 0

    def check(self, columns: Mapping[str, str]) -> None:
        """See that every row is a preference pair.

        Args:
            columns: names of the columns; see `load_preferences`.

        Raises:
            DataError: rows are bad; names the first few and counts them all.
        """
        numbered = (RawRow(number, row) for number, row in enumerate(self.rows, 1))
        pairs_of_rows(numbered, source=self.name, columns=columns)


def checked_base(model: object, tokenizer: object) -> str | PreTrainedModel:
    """Return the name or folder of a model, or a model in memory that can be written down.

    Args:
        model: what somebody passed.
        tokenizer: what came with it, or None.

    Raises:
        ModelError: an adapter is attached, or the tokenizer is missing or is none.
    """
    if isinstance(model, str | os.PathLike):
        base: str | PreTrainedModel = str(model)
    elif isinstance(model, PeftModel):
        raise ModelError(
            "the model carries an adapter already",
            advice="Merge it first (merge_and_unload), or give the base model.",
        )
    elif isinstance(model, PreTrainedModel):
        base = model
    else:
        raise ModelError(
            f"the model is of type {type(model).__name__}",
            advice="Give a hub id, a folder, or a causal language model of transformers.",
        )
    if tokenizer is None and isinstance(base, PreTrainedModel):
        raise ModelError(
            "a model in memory comes without its tokenizer",
            advice="Give it as processing_class.",
        )
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"processing_class is of type {type(tokenizer).__name__}, not a tokenizer",
            advice="Give the tokenizer alone; only text is trained on.",
        )
    return base


def require_own_tokenizer(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that a model given by name would be loaded with this very tokenizer.

    Raises:
        ModelError: it would not, or the model's own cannot be loaded.
    """
    base = config.model.base
    own = load_tokenizer(ModelSpec(base=base, revision=config.model.revision))
    difference = tokenizer_difference(tokenizer, own)
    if difference:
        raise ModelError(
            f"processing_class differs from the tokenizer of {base!r} in its {difference}, and a "
            "model given by name is loaded with its own",
            advice="Give the model in memory as well (AutoModelForCausalLM.from_pretrained), so "
            "that both are kept together; or leave processing_class out.",
        )


@dataclass(frozen=True, slots=True)
class KeptInputs:
    """Where a run finds what a trainer was given.

    Attributes:
        folder: holds it, readable by its owner alone.
        base: name or folder of the model, or the model.
        train: the private rows.
        held_out: rows that everybody may see, or None.
    """

    folder: Path
    base: str | PreTrainedModel
    train: GivenRows
    held_out: GivenRows | None

    def settings(self) -> dict[str, str]:
        """Return what a configuration says about the inputs, `section.key` to value."""
        in_memory = isinstance(self.base, PreTrainedModel)
        found = {
            "model.base": str(self.folder / "base") if in_memory else str(self.base),
            "data.train": str(self.folder / "train.jsonl"),
        }
        if self.held_out is not None:
            found["data.eval"] = str(self.folder / "eval.jsonl")
        return found

    def check(self, columns: Mapping[str, str]) -> None:
        """See that all rows are pairs; see `GivenRows.check`."""
        self.train.check(columns)
        if self.held_out is not None:
            self.held_out.check(columns)

    def write(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Write everything, or leave nothing behind.

        Args:
            tokenizer: of a model in memory.

        Raises:
            DataError: the folder holds other things already.
        """
        make_private_folder(self.folder)
        try:
            if isinstance(self.base, PreTrainedModel) and tokenizer is not None:
                self.base.save_pretrained(self.folder / "base", safe_serialization=True)
                tokenizer.save_pretrained(self.folder / "base")
            _write_private(self.folder / "train.jsonl", self.train.lines)
            if self.held_out is not None:
                _write_private(self.folder / "eval.jsonl", self.held_out.lines)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner reads.

    Raises:
        DataError: something is there already.
    """
    if folder.exists() and any(folder.iterdir()):
        run = folder.parent / "run"
        started = (run / LEDGER_FILE).is_file()
        raise DataError(
            f"{folder} is not empty",
            source=str(folder),
            advice=f"Choose another folder, or go on with the run: privfed-dpo resume {run}"
            if started
            else "Choose another folder, or remove this one.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _line(row: Row, name: str) -> bytes:
    try:
        return json.dumps(dict(row), ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} cannot be written as JSON: {error}",
            advice="Columns must be text, numbers or message lists.",
        ) from error


def _write_private(path: Path, lines: Sequence[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.writelines(lines)
