"""What reaches the terminal beside results: notes about the input, and nothing of libraries."""

from __future__ import annotations

import os
import warnings
from typing import Any

from rich.console import Console

from privfed_dpo.errors import InputNotice

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What keeps libraries from writing into the progress display; whoever sets one has the say."""


def standard_error() -> Console:
    """Return where mistakes and notes are written; paths in them are not broken into lines."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def escaped(text: str) -> str:
    """Return text whose brackets are no markup."""
    return text.replace("[", "\\[")


def quieten() -> None:
    """Keep libraries quiet and show each note once, in a line; within `warnings.catch_warnings`."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings(
        "ignore", message=r".*is_gradient_checkpointing", category=FutureWarning
    )
    warnings.simplefilter("always", InputNotice)
    otherwise = warnings.showwarning
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, InputNotice):
            text = str(message)
            if text not in told:
                told.add(text)
                standard_error().print(f"[yellow]note:[/] {escaped(text)}")
        else:
            otherwise(message, category, *where, **more)

    warnings.showwarning = show
