"""Which clients are invited to a round, under a bound on how often each takes part."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from privfed_dpo.mechanism.keystream import Keystream
from privfed_dpo.mechanism.sampler import PoissonSampler


def participation_bound(*, rounds: int, clients: int, cohort: int) -> int:
    """Return the most rounds any client can be invited to by `choose_cohort`.

    Inviting those with the fewest invitations first keeps all counts within one of each other,
    so after T rounds nobody has more than ceil(T * S / N).
    """
    return min(rounds, math.ceil(rounds * cohort / clients))


def draw_secret_cohort(
    clients: Sequence[str],
    sampler: PoissonSampler,
    invitations: Mapping[str, int],
    *,
    max_participations: int,
    stream: Keystream,
) -> tuple[str, ...]:
    """Draw a secret Poisson cohort: each client joins by a coin of its own, until its cap.

    Args:
        clients: all enrolled clients.
        sampler: made from the rate that the accountant books.
        invitations: how often each client was invited so far; absent means never.
        max_participations: clients invited so often join no more.
        stream: secret randomness; one word per client, whatever the outcome.

    Returns:
        The cohort, in the order of `clients`; of any size, none included.
    """
    drawn = (clients[place] for place in sampler.draw(len(clients), stream))
    return tuple(name for name in drawn if invitations.get(name, 0) < max_participations)


def choose_cohort(
    clients: Sequence[str],
    size: int,
    invitations: Mapping[str, int],
    *,
    seed: int,
    round_number: int,
) -> tuple[str, ...]:
    """Invite the clients with the fewest invitations so far; ties are broken at random.

    The choice is public: it depends on the public seed and on the ledger only, so that a resumed
    run and an auditor compute the same cohorts. No amplification is claimed for it.

    Args:
        clients: all enrolled clients.
        size: cohort size, 1 <= size <= len(clients).
        invitations: how often each client was invited so far; absent means never.
        seed: the run's public seed.
        round_number: the round the cohort is for.

    Returns:
        The cohort, in the order of `clients`.
    """
    digest = hashlib.sha256(f"cohort/{seed}/{round_number}".encode()).digest()
    order = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).permutation(len(clients))
    ranked = sorted(order, key=lambda i: invitations.get(clients[i], 0))
    return tuple(clients[i] for i in sorted(ranked[:size]))
