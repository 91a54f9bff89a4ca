"""The model card beside an adapter: what it is, what was promised, how to check it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from privfed_dpo.model.tiny import TINY_LLAMA
from privfed_dpo.observe.plan_facts import bound_titles, epsilon_bounds
from privfed_dpo.observe.quantities import UNKNOWN, format_epsilon, format_number, format_share
from privfed_dpo.observe.run_folder import ADAPTER_FOLDER, read_json, write_text_atomic
from privfed_dpo.report.page import RunFacts, read_run
from privfed_dpo.report.templates import fill_markdown

CARD_FILE = "README.md"
_UNITS = {"pair": "preference pair", "user": "user with all their pairs", "label": "label"}


def write_model_card(run_dir: Path) -> Path:
    """Write the card of a finished run beside its adapter.

    Args:
        run_dir: the folder of a run that has ended.

    Returns:
        Path of the card.

    Raises:
        DataError: there is no run in this folder, or one of its files is damaged.
    """
    card = run_dir / ADAPTER_FOLDER / CARD_FILE
    write_text_atomic(card, render_model_card(read_run(run_dir), adapter_facts(run_dir)))
    return card


def render_model_card(run: RunFacts, adapter: dict[str, object], *, published: bool = False) -> str:
    """Lay out a card in Markdown, with the head that hubs read.

    Args:
        run: the content of the run folder; the run has ended.
        adapter: the content of `adapter_config.json`.
        published: whether the record stands in a folder `run` beside the card, as `push_to_hub`
            puts it, and not above it.

    Returns:
        The card. It repeats what the folder says and adds nothing.
    """
    plan, summary = run.plan, run.summary
    final = summary.get("final") or {}
    base = str(adapter.get("base_model_name_or_path") or "")
    targets = adapter.get("target_modules") or ()
    certified = "rdp" if plan.get("accounting") == "rdp" else "pld"
    headline = ((summary.get("epsilon") or {}).get("coalition") or {}).get(certified)
    return fill_markdown(
        "model_card.md",
        private=plan.get("mode") != "none",
        base=_base_in_words(run, base),
        base_id=base if _is_hub_id(base) else "",
        base_literal=json.dumps(base),
        mode=plan.get("mode"),
        unit=_UNITS.get(str(plan.get("unit")), str(plan.get("unit"))),
        clients=plan.get("clients"),
        pairs=plan.get("pairs_total"),
        rounds=f"{summary.get('rounds_done')} of {plan.get('rounds')}",
        accuracy=format_share(final.get("reward_accuracy")),
        margin=format_number(final.get("reward_margin")),
        kl=format_number(final.get("kl"), 2),
        rank=adapter.get("r"),
        targets=", ".join(f"`{name}`" for name in sorted(map(str, _each(targets)))),
        headline=format_epsilon(headline),
        delta=f"{plan.get('delta'):g}",
        bounds=epsilon_bounds(summary.get("epsilon"), on_a_graph=bool(plan.get("gossip"))),
        bound_titles=bound_titles(plan),
        statement=summary.get("statement") or "",
        ledger_head=summary.get("ledger_head"),
        published=published,
        version=(summary.get("versions") or {}).get("privfed-dpo") or UNKNOWN,
    )


def adapter_facts(run_dir: Path) -> dict[str, object]:
    """Read what peft says of the adapter in a run folder."""
    return read_json(run_dir / ADAPTER_FOLDER / "adapter_config.json")


def _each(targets: object) -> list[object]:
    return list(targets) if isinstance(targets, list | tuple) else [targets]


def _base_in_words(run: RunFacts, base: str) -> str:
    config = yaml.safe_load(run.config) or {}
    if (config.get("model") or {}).get("base") == TINY_LLAMA:
        return "the embedded task's own small model, kept in the run folder under `base`"
    return f"`{base}`"


def _is_hub_id(base: str) -> bool:
    """Whether a name can stand in the head of a card: hubs refuse paths there."""
    return base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists()
