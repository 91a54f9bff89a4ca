"""How often one record stands in the data, at how many clients, and whether it is held out too.

A record is one person's judgment: (user, prompt, chosen, rejected) where the data name users, so
that two people who judge alike are two records, else (prompt, chosen, rejected). Copies of a record
are protected together or not at all, so a promise has to know how many there may be.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privfed_dpo.data.pairs import PreferencePair, Text
from privfed_dpo.data.partition import ClientShard
from privfed_dpo.errors import DataError, InputNotice

_Record = tuple[str | None, Text, Text, Text]


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What the data show. Exact, hence not private: for whoever may see all of it.

    Attributes:
        most: copies of the record that stands most often, over all clients; 1 if none repeats.
        most_at_one_client: copies of the record that stands most often at a single client.
        repeated: records that stand more than once.
        users_at_several_clients: users whose pairs are spread over more than one client.
    """

    most: int
    most_at_one_client: int
    repeated: int
    users_at_several_clients: int


def count_copies(shards: Sequence[ClientShard]) -> CopyFacts:
    """Count copies of records over all clients."""
    everywhere: Counter[_Record] = Counter()
    most_at_one_client = 1
    clients_of: dict[str, set[str]] = {}
    for shard in shards:
        here = Counter(map(_record, shard.pairs))
        most_at_one_client = max([most_at_one_client, *here.values()])
        everywhere.update(here)
        for user, *_ in here:
            if user is not None:
                clients_of.setdefault(user, set()).add(shard.client)
    return CopyFacts(
        most=max(everywhere.values(), default=1),
        most_at_one_client=most_at_one_client,
        repeated=sum(count > 1 for count in everywhere.values()),
        users_at_several_clients=sum(len(clients) > 1 for clients in clients_of.values()),
    )


def require_stated_copies(shards: Sequence[ClientShard], *, mode: str, record_copies: int) -> None:
    """Refuse data that hold a record more often than the promise allows for.

    Args:
        shards: what the clients train on.
        mode: a private mode, or "labels" for what is promised about flipped labels alone.
        record_copies: the public bound m; 1 says that no record stands twice.

    Raises:
        DataError: in user mode, a user's pairs sit at several clients; else a record stands more
            than m times; or, in local mode, twice at one client. Nothing was computed.
    """
    facts = count_copies(shards)
    if mode == "user":
        if facts.users_at_several_clients:
            raise DataError(
                f"{facts.users_at_several_clients} users have pairs at more than one client, and "
                "privacy.mode=user protects what one client holds",
                advice="Use data.partition=natural, one client per user.",
            )
        return
    if facts.most > record_copies:
        raise DataError(
            f"records stand more than once in the training data: {facts.repeated} in all, one of "
            f"them {facts.most} times; the promise is for at most "
            f"privacy.record_copies={record_copies}",
            advice="Remove repeated rows, name the column of users if different people judged, or "
            f"pay for the copies with privacy.record_copies={facts.most}.",
        )
    if mode in ("local", "gossip") and facts.most_at_one_client > 1:
        raise DataError(
            f"a client holds one record {facts.most_at_one_client} times; privacy.mode={mode} "
            "prices copies at different clients only",
            advice="Remove repeated rows; each client can do so by itself.",
        )


def require_unseen_held_out(
    held_out: Sequence[PreferencePair], training: Iterable[PreferencePair], *, private: bool
) -> None:
    """Refuse held-out pairs that stand in the training data, since they are measured in clear.

    Whose judgment it is makes no difference here. Only exact copies are found.

    Args:
        held_out: the pairs of `data.eval`.
        training: every pair of `data.train`, trained on or not.
        private: whether anything is promised about them; if not, copies are only worth a note.

    Raises:
        DataError: with their number; nothing was computed.
    """
    known = {_judgment(pair) for pair in training}
    copies = sum(_judgment(pair) in known for pair in held_out)
    if not copies:
        return
    what = (
        f"{copies} of {len(held_out)} held-out pairs stand in data.train too, with the same "
        "prompt, chosen and rejected"
    )
    if private:
        raise DataError(
            f"{what}; data.eval is measured in clear, so nothing would protect them",
            advice="Take them out of data.eval, or out of data.train if everybody may see them.",
        )
    warnings.warn(
        f"{what}: what is measured on them is also what was learned by heart. Private modes refuse "
        "this.",
        InputNotice,
        stacklevel=2,
    )


def _judgment(pair: PreferencePair) -> tuple[Text, Text, Text]:
    return pair.prompt, pair.chosen, pair.rejected


def _record(pair: PreferencePair) -> _Record:
    return pair.user, pair.prompt, pair.chosen, pair.rejected
