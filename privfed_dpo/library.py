"""PrivFed-DPO from Python: plan a run, train it, read what it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from privfed_dpo import lifecycle
from privfed_dpo.config import Config, load_config, parse_config, plain_settings
from privfed_dpo.engine.events import Observer
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.errors import ConfigError, DataError
from privfed_dpo.observe.run_folder import (
    ADAPTER_FOLDER,
    METRICS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    new_run_folder,
    read_json,
    read_rows,
)
from privfed_dpo.publishing import push_to_hub
from privfed_dpo.verification import RunVerdict, verify_run

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Settings = Config | Path | str | Mapping[str, Any]
"""A configuration, the path of a YAML file, or the sections of one as a mapping."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, read on demand.

    Attributes:
        folder: where the run lives; everything else is read from there.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Take the folder's name as text, too."""
        object.__setattr__(self, "folder", Path(self.folder))

    @property
    def summary(self) -> Mapping[str, Any]:
        """The content of `summary.json`.

        Raises:
            DataError: the run has not ended.
        """
        summary = read_json(self.folder / SUMMARY_FILE)
        if not summary:
            raise DataError(
                f"{self.folder} holds no run that has ended",
                source=str(self.folder),
                advice=f"Go on with it: privfed-dpo resume {self.folder}",
            )
        return summary

    @property
    def statement(self) -> str:
        """The guarantee in words: unit, adjacency, adversaries, assumptions, exclusions."""
        return str(self.summary["statement"])

    @property
    def epsilon(self) -> float | None:
        """The headline: certified epsilon against server and colluders; None without privacy."""
        certified = "rdp" if self.summary.get("accounting") == "rdp" else "pld"
        bounds = self.summary["epsilon"].get("coalition") or {}
        value = bounds.get(certified)
        return None if value is None else float(value)

    @property
    def rows(self) -> tuple[Mapping[str, Any], ...]:
        """The rows of `metrics.jsonl`, one per round."""
        return read_rows(self.folder / METRICS_FILE)

    @property
    def adapter_folder(self) -> Path:
        """The trained adapter in peft's format."""
        return self.folder / ADAPTER_FOLDER

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT_FILE

    def load(self, base: PreTrainedModel) -> PeftModel:
        """Put the adapter onto a base model, which is changed."""
        from peft import PeftModel  # noqa: PLC0415 - only for those who load

        model: PeftModel = PeftModel.from_pretrained(base, str(self.adapter_folder))
        return model

    def verify(self, known_head: str | None = None) -> RunVerdict:
        """Recompute epsilon from the ledger alone; see `verify_run`."""
        return verify_run(self.folder, known_head=known_head)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        not_private: bool = False,
    ) -> str:
        """Publish adapter, card and record; see `publishing.push_to_hub`."""
        return push_to_hub(
            self.folder, repo_id, private=private, token=token, not_private=not_private
        )


def plan(settings: Settings, *overrides: str) -> RunPlan:
    """Return what a run would promise and cost; nothing is computed on any pair.

    Args:
        settings: a configuration, the path of a YAML file, or its sections as a mapping.
        overrides: `section.key=value`, applied over it.

    Raises:
        ConfigError, DataError, ModelError, PlanRefused: why there is no such plan.
    """
    return lifecycle.plan(_config(settings, overrides))


def train(
    settings: Settings,
    *overrides: str,
    run_dir: Path | str | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Train privately, from the beginning to the report.

    Args:
        settings: a configuration, the path of a YAML file, or its sections as a mapping.
        overrides: `section.key=value`, applied over it.
        run_dir: folder to create; None leaves it to `run.dir`, or makes one under `runs/`.
        observers: told everything that happens, for progress or dashboards.

    Returns:
        The run. What it promises stands in `Run.statement`.

    Raises:
        PrivFedError: see its subclasses; `resume` goes on with what was interrupted.
    """
    config = _config(settings, overrides)
    if run_dir is not None:
        run = config.run.model_copy(update={"dir": str(run_dir)})
        config = config.model_copy(update={"run": run})
    folder = new_run_folder(config)
    return Run(lifecycle.train(config, folder=folder, observers=observers))


def resume(run_dir: Path | str, *, observers: Sequence[Observer] = ()) -> Run:
    """Go on with an interrupted run; see `lifecycle.resume`.

    Args:
        run_dir: its folder.
        observers: told everything that happens.

    Raises:
        ResumeMismatch: no run there, or data, model or config are not those of the run.
    """
    return Run(lifecycle.resume(Path(run_dir), observers=observers))


def _config(settings: object, overrides: Sequence[object]) -> Config:
    texts = [override for override in overrides if isinstance(override, str)]
    wrong = [
        f"{override!r} is no override of the form 'section.key=value'"
        for override in overrides
        if not isinstance(override, str)
    ]
    if not isinstance(settings, Config | Mapping | Path | str):
        wrong.append(
            f"a {type(settings).__name__} is no configuration, path of a YAML file or mapping"
        )
    elif not wrong:
        if isinstance(settings, Config):
            if not overrides:
                return settings
            settings = settings.model_dump(mode="json")
        if isinstance(settings, Mapping):
            shape = yaml.safe_dump(plain_settings(settings))
            return parse_config(shape, texts, source="the settings")
        return load_config(Path(settings), texts)
    raise ConfigError(
        tuple(wrong),
        advice="For example: plan('configs/quickstart.yaml', 'federation.rounds=2'), or "
        "plan({'federation': {'rounds': 2}}).",
    )
