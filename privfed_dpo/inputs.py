"""From a configuration to preference pairs: who holds what, what is held out, what is held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privfed_dpo.audit.held_back import hold_back
from privfed_dpo.config import Config
from privfed_dpo.data.copies import require_stated_copies, require_unseen_held_out
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import Partition, note_left_out, partition_pairs
from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.data.synthetic import SyntheticTask, synthetic_task
from privfed_dpo.errors import DataError
from privfed_dpo.topology import Edge, parse_links

SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Preference pairs before any model: who holds what, and what is held out.

    Attributes:
        partition: clients with their pairs.
        held_out: pairs the coordinator measures on; empty if none were given.
        task: the embedded task, where the data come from it.
        held_back: pairs of each client that the audit keeps out of training.
        enrolled_pairs: where some shards are elsewhere, how many pairs each client holds.
    """

    partition: Partition = field(repr=False)
    held_out: tuple[PreferencePair, ...] = field(repr=False)
    task: SyntheticTask | None = field(repr=False)
    held_back: tuple[tuple[PreferencePair, ...], ...] = field(repr=False, default=())
    enrolled_pairs: tuple[int, ...] | None = None

    @property
    def client_names(self) -> tuple[str, ...]:
        """All clients; a client's number is its place."""
        return tuple(shard.client for shard in self.partition.shards)

    @property
    def client_pairs(self) -> tuple[int, ...]:
        """How many pairs each client trains on, here or elsewhere."""
        return self.enrolled_pairs or tuple(len(s.pairs) for s in self.partition.shards)


def load_links(config: Config, clients: Sequence[str]) -> tuple[Edge, ...]:
    """Read who averages with whom, where a file says so; else nothing.

    Raises:
        DataError: the file cannot be read.
        PlanRefused: it does not name links between these clients.
    """
    if config.gossip.links_file is None:
        return ()
    try:
        text = Path(config.gossip.links_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the links cannot be read: {error}",
            source=config.gossip.links_file,
            advice="Give a text file with two clients on each line in gossip.links_file.",
        ) from error
    return parse_links(text, clients)


def load_inputs(config: Config) -> Inputs:
    """Read and check preference data and spread it over clients.

    Raises:
        DataError: the data cannot be used; nothing was computed.
    """
    data = config.data
    columns = data.columns.model_dump()
    task: SyntheticTask | None = None
    held_out: tuple[PreferencePair, ...] = ()
    if data.train == SYNTHETIC:
        task = synthetic_task(
            clients=data.clients or 1,
            pairs_per_client=data.pairs_per_client,
            eval_pairs=data.eval_pairs,
            seed=config.run.seed,
            heterogeneity=data.heterogeneity,
            **data.synthetic.model_dump(),
        )
        pairs, held_out = task.train, task.evaluation
    else:
        pairs = load_preferences(data.train, split=data.train_split, columns=columns)
    if data.eval is not None:
        held_out = load_preferences(
            data.eval, split=data.eval_split, columns=columns, labels_needed=False
        )
        privacy = config.privacy
        require_unseen_held_out(
            held_out, pairs, private=privacy.mode != "none" or privacy.label_epsilon is not None
        )
    partition = partition_pairs(
        pairs,
        kind=data.partition,
        clients=data.clients,
        min_pairs=data.min_pairs,
        max_pairs=data.max_pairs,
        seed=config.run.seed,
        alpha=data.dirichlet_alpha,
    )
    note_left_out(partition.facts)
    audited = hold_back(partition, config.evaluation.audit_held_back, seed=config.run.seed)
    _check_copies(config, audited.partition)
    return Inputs(
        partition=audited.partition, held_out=held_out, task=task, held_back=audited.pairs
    )


def _check_copies(config: Config, partition: Partition) -> None:
    """Refuse records that stand more often than what is promised about pairs and labels covers."""
    privacy, shards = config.privacy, partition.shards
    if privacy.mode != "none":
        require_stated_copies(shards, mode=privacy.mode, record_copies=privacy.record_copies)
    if privacy.label_epsilon is not None and privacy.mode in ("none", "user"):
        require_stated_copies(shards, mode="labels", record_copies=1)
