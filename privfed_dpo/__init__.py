"""Differentially private, securely aggregated, distributed Direct Preference Optimization.

From Python::

    from privfed_dpo import plan, train

    print(plan("configs/quickstart.yaml").describe()["epsilon"])
    run = train("configs/quickstart.yaml", "privacy.target_epsilon=3")
    print(run.statement)

Names are loaded when they are asked for: importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfed_dpo.config import Config, load_config
    from privfed_dpo.library import Run, plan, resume, train
    from privfed_dpo.trainer import PreferenceTrainer

__version__ = "0.1.0"

__all__ = ["Config", "PreferenceTrainer", "Run", "load_config", "plan", "resume", "train"]

_HOMES = {
    "Config": "privfed_dpo.config",
    "PreferenceTrainer": "privfed_dpo.trainer",
    "Run": "privfed_dpo.library",
    "load_config": "privfed_dpo.config",
    "plan": "privfed_dpo.library",
    "resume": "privfed_dpo.library",
    "train": "privfed_dpo.library",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - nothing is loaded before it is asked for

    return getattr(importlib.import_module(home), name)
