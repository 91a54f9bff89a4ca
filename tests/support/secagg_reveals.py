"""The last phase on its own: honest shares of every owner, ready to be falsified pair by pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from secure_agg import ClientId
from secure_agg.codec import encode_body
from secure_agg.keys import AgreementKey
from secure_agg.messages import Advertisement
from secure_agg.server_states import CollectingReveals, SignedKeys
from secure_agg.shamir import split
from secure_agg.views import advertisement_digest, commit_self_mask, roster_view
from tests.support.secagg_rounds import entropy_from, make_cohort

Reveals = dict[ClientId, dict[ClientId, bytes]]


@dataclass(frozen=True)
class LastPhase:
    """A complete graph whose `survivors` have revealed.

    Attributes:
        state: the server's, before it closes the phase.
        true: holder -> owner -> the share an honest owner dealt.
        secrets: owner -> the 32 bytes that are shared.
    """

    state: CollectingReveals
    true: Reveals
    secrets: Mapping[ClientId, bytes]

    def with_false(self, pairs: Iterable[tuple[int, int]]) -> Reveals:
        """The reveals with the share of each (owner, holder) replaced by one of nothing."""
        told = {holder: dict(shares) for holder, shares in self.true.items()}
        for owner, holder in pairs:
            noise = entropy_from(f"false/{owner}/{holder}")(32)
            told[ClientId(holder)][ClientId(owner)] = b"\0" + noise
        return told


def last_phase(clients: int, *, threshold: int, lost: Iterable[int] = ()) -> LastPhase:
    """Keys, shares and reveals of a cohort; `lost` shared keys and then sent no input."""
    params = make_cohort(clients, threshold=threshold).params
    survivors = tuple(client for client in params.client_ids if client not in set(lost))
    keys, digests, secrets, dealt = {}, {}, {}, {}
    for owner in params.client_ids:
        entropy = entropy_from(f"last phase/{owner}")
        mask, seal = AgreementKey.generate(entropy), AgreementKey.generate(entropy)
        self_mask = entropy(32)
        message = Advertisement(
            mask.public, seal.public, commit_self_mask(params, owner, self_mask)
        )
        keys[owner] = SignedKeys(message, bytes(64))
        digests[owner] = advertisement_digest(params, owner, encode_body(message))
        secrets[owner] = self_mask if owner in survivors else mask.private_bytes()
        dealt[owner] = split(secrets[owner], holders=clients, threshold=threshold, entropy=entropy)
    state = CollectingReveals(
        params,
        roster_view(params, digests),
        keys,
        params.client_ids,
        survivors,
        survivors,
        np.zeros(params.vector_length, dtype=params.dtype),
    )
    true = {
        holder: {owner: dealt[owner][params.index[holder]] for owner in params.client_ids}
        for holder in survivors
    }
    return LastPhase(state, true, secrets)
