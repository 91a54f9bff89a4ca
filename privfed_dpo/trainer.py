"""For people who come from TRL: the same data, objective and LoRA arguments, trained privately."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from privfed_dpo.config import Config, as_sections, flat_settings, parse_config, plain_settings
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import DataError, ModelError
from privfed_dpo.library import Run, plan, train
from privfed_dpo.trl_arguments import settings_of_adapter, settings_of_arguments

Row = Mapping[str, Any]
Rows = Iterable[Row]

_ONE_HOLDER = {
    "privacy.mode": "local",
    "secure_agg.enabled": False,
    "federation.server_optimizer": "sgd",
    "federation.learning_rate": 1.0,
    "federation.rounds": 25,
    "federation.local_learning_rate": 0.5,
    "data.partition": "iid",
    "data.clients": 1,
}
"""One holder of all pairs, who adds all the noise: DP-SGD as on one machine."""

_MANY_HOLDERS = {"privacy.mode": "distributed", "data.partition": "natural"}


class PreferenceTrainer:
    """Differentially private DPO behind the face of `trl.DPOTrainer`.

    Rows hold `prompt`, `chosen` and `rejected`, as text or as message lists. With a `user` column
    every user is a client of a simulated federation, and the noise is shared among them. Without
    one, a single holder owns all pairs and adds all the noise (central DP-SGD).

    Rows and model are written to `output_dir/inputs`, readable by their owner alone, so that the
    run can be resumed and verified like every other.

    Args:
        model: hub id or path, or a model in memory (then `processing_class` is needed).
        args: `trl.DPOConfig`, or any object with some of its attributes; None takes defaults.
            What means the same here is carried over; see `settings_of_arguments`.
        train_dataset: the private pairs: a `datasets.Dataset` or any iterable of rows.
        eval_dataset: pairs that everybody may see: they are measured in clear.
        processing_class: tokenizer of a model in memory.
        peft_config: shape of the adapter.
        target_epsilon: epsilon that the run may spend; None trains WITHOUT privacy, a baseline.
        settings: `section.key` to value, or sections of them, over everything else;
            configs/reference.yaml lists all.
        output_dir: folder for inputs and run; None takes that of `args`.

    Raises:
        ConfigError: an argument that has no private form; see `settings_of_adapter`.
        DataError: no rows, or an input folder that holds other things already.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: Any = None,
        *,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: LoraConfig | None = None,
        target_epsilon: float | None = 8.0,
        settings: Mapping[str, Any] | None = None,
        output_dir: Path | str | None = None,
    ) -> None:
        given = flat_settings(settings or {})
        wanted = output_dir or getattr(args, "output_dir", None) or "privfed-dpo-output"
        self._folder = Path(wanted)
        translated = settings_of_arguments(args) if args is not None else {}
        if peft_config is not None:
            translated |= settings_of_adapter(peft_config)
        rows = list(train_dataset)
        if not rows:
            raise DataError("train_dataset holds no rows", advice="Give at least one pair.")
        inputs = self._folder / "inputs"
        _make_private_folder(inputs)
        found = {
            "model.base": _kept_model(model, processing_class, inputs / "base"),
            "data.train": _kept_rows(rows, inputs / "train.jsonl"),
        }
        if eval_dataset is not None:
            found["data.eval"] = _kept_rows(list(eval_dataset), inputs / "eval.jsonl")
        column = str(given.get("data.columns.user", "user"))
        shape = _MANY_HOLDERS if rows[0].get(column) is not None else _ONE_HOLDER
        privacy: dict[str, Any] = {"privacy.target_epsilon": target_epsilon}
        if target_epsilon is None:
            privacy = {"privacy.mode": "none"}
        chosen = {**shape, **privacy, **translated, **found, **given}
        self.config: Config = _parsed(chosen, self._folder / "run")
        self.run: Run | None = None

    def plan(self) -> RunPlan:
        """What training would promise and cost; see `privfed_dpo.plan`."""
        return plan(self.config)

    def train(self, observers: Sequence[Observer] = ()) -> Run:
        """Train, and leave a run folder with adapter, ledger, metrics and report."""
        self.run = train(self.config, observers=observers)
        return self.run

    def evaluate(self) -> Mapping[str, Any]:
        """The last metrics on `eval_dataset`; what was not measured is None."""
        final: Mapping[str, Any] = self._finished().summary["final"]
        return final

    def save_model(self, output_dir: Path | str) -> None:
        """Copy adapter, card and the record of the run, as `push_to_hub` would publish them."""
        from privfed_dpo.publishing import publish  # noqa: PLC0415 - only when asked for

        target = Path(output_dir)
        _make_private_folder(target)
        publish(self._finished().folder, target)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publish adapter, card and record on the Hugging Face hub."""
        return self._finished().push_to_hub(repo_id, private=private, token=token)

    def load(self, base: PreTrainedModel) -> PeftModel:
        """Put the trained adapter onto a base model."""
        return self._finished().load(base)

    def _finished(self) -> Run:
        if self.run is None:
            raise DataError("nothing is trained yet", advice="Call train() first.")
        return self.run


def _parsed(settings: Mapping[str, Any], run_dir: Path) -> Config:
    sections = as_sections({"run.dir": str(run_dir), **settings})
    return parse_config(json.dumps(plain_settings(sections)), source="the trainer's arguments")


def _make_private_folder(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{folder} is not empty",
            source=str(folder),
            advice="Choose another output_dir; a run that was interrupted goes on with "
            "privfed-dpo resume.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _kept_rows(rows: Sequence[Row], path: Path) -> str:
    """Write rows where only their owner reads them."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        for row in rows:
            try:
                file.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
            except TypeError as error:
                raise DataError(
                    f"a row cannot be written as JSON: {error}",
                    advice="Columns must be text, numbers or message lists.",
                ) from error
    return str(path)


def _kept_model(
    model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, PeftModel):
        raise ModelError(
            "the model carries an adapter already",
            advice="Merge it first (merge_and_unload), or give the base model.",
        )
    if tokenizer is None:
        raise ModelError(
            "a model in memory comes without its tokenizer",
            advice="Give it as processing_class.",
        )
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return str(folder)
