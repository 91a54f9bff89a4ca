"""For people who come from TRL: the same data, objective and LoRA arguments, trained privately."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from privfed_dpo.config import Config, as_sections, flat_settings, parse_config, plain_settings
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ConfigError, DataError
from privfed_dpo.kept_inputs import (
    GivenRows,
    KeptInputs,
    Rows,
    checked_base,
    make_private_folder,
    require_own_tokenizer,
)
from privfed_dpo.library import Run, plan, train
from privfed_dpo.trl_arguments import settings_of_adapter, settings_of_arguments

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

    Rows, and a model in memory, are written to `output_dir/inputs`, readable by their owner alone,
    so that the run can be resumed and verified like every other. Everything is checked before.

    Args:
        model: hub id or folder, or a model in memory (then `processing_class` is needed).
        args: `trl.DPOConfig`, or any object with some of its attributes; None takes defaults.
            What means the same here is carried over, and what is not is named in a warning; see
            `settings_of_arguments`.
        train_dataset: the private pairs: a `datasets.Dataset` or any iterable of rows.
        eval_dataset: pairs that everybody may see: they are measured in clear.
        processing_class: tokenizer of a model in memory, which is kept with it; beside a model
            given by name, the tokenizer that is found there.
        peft_config: shape of the adapter.
        target_epsilon: epsilon that the run may spend; None trains WITHOUT privacy, a baseline.
        settings: `section.key` to value, or sections of them, over everything else;
            configs/reference.yaml lists all.
        output_dir: folder for inputs and run; None takes that of `args`.

    Raises:
        ConfigError: an argument that has no private form (see `settings_of_arguments` and
            `settings_of_adapter`), or a setting that is wrong or given twice.
        DataError: no rows, rows that are no pairs, users named in some rows only, or an input
            folder that holds other things already.
        ModelError: an adapter is attached, or the tokenizer is missing or not the model's.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
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
        inputs = KeptInputs(
            self._folder / "inputs",
            checked_base(model, processing_class),
            GivenRows.of(train_dataset, "train_dataset"),
            None if eval_dataset is None else GivenRows.of(eval_dataset, "eval_dataset"),
        )
        _refuse_contradictions(inputs, given, args)
        by_user = inputs.train.by_user(str(given.get("data.columns.user", "user")))
        shape = _MANY_HOLDERS if by_user else _ONE_HOLDER
        privacy: dict[str, Any] = {"privacy.target_epsilon": target_epsilon}
        if target_epsilon is None:
            privacy = {"privacy.mode": "none"}
        chosen = {**shape, **privacy, **translated, **inputs.settings(), **given}
        self.config: Config = _parsed(chosen, self._folder / "run")
        inputs.check(self.config.data.columns.model_dump())
        if processing_class is not None and isinstance(inputs.base, str):
            require_own_tokenizer(self.config, processing_class)
        inputs.write(processing_class)
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
        make_private_folder(target)
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


def _refuse_contradictions(inputs: KeptInputs, given: Mapping[str, Any], args: Any) -> None:
    twice = [key for key in inputs.settings() if key in given]
    if twice:
        raise ConfigError(
            tuple(f"settings give {key}, and so do the trainer's arguments" for key in twice),
            advice="Leave it out of settings.",
        )
    if not isinstance(inputs.base, str) and getattr(args, "model_init_kwargs", None):
        raise ConfigError(
            ("model_init_kwargs say how to load a model from its name; this one is in memory",),
            advice="Leave them out, or give the model's name.",
        )


def _parsed(settings: Mapping[str, Any], run_dir: Path) -> Config:
    sections = as_sections({"run.dir": str(run_dir), **settings})
    return parse_config(json.dumps(plain_settings(sections)), source="the trainer's arguments")
