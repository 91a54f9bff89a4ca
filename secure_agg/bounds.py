r"""How sparse the graph may be, and how few signatures a client may check: computed, not guessed.

Stated bounds go in (clients lost, clients corrupted, failure probability), the numbers of
`Neighbourhood` come out together with the probability each of them was chosen for. The arguments
below are spelled out in docs/SPEC.md, section "Why the sparse graph is safe".

Let k be the degree, t the share threshold, n the clients, K the colluders, Q the quorum. A client's
neighbourhood is a uniform k-subset, so lost and corrupted neighbours are hypergeometric.

* Secrets stay secret, and no choice of drop-outs can split the sum, if no honest client has more
  than t - k/2 - 2 corrupted neighbours: one side of the ring plus all corrupted holders are then
  too few to restore anything, so clients on two sides of any gap must cooperate.
* The round finishes if no client loses more than k - t neighbours.
* Whoever can choose the last keys can try again for a better graph; 2**grinding_bits tries count.

Source for graph and tails: Bell, Bonawitz, Gascón, Lepoint, Raykova (CCS 2020), sections 3 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from secure_agg.errors import InvalidParams
from secure_agg.params import Neighbourhood

SMALLEST_SPARSE_COHORT: Final = 64
# Share of the quorum that may turn out unsigned although every client checked a sample.
_PHANTOM_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class NeighbourhoodPlan:
    """A graph for a cohort, with the bounds it was computed from.

    Attributes:
        neighbourhood: for `ProtocolParams`; None means the complete graph.
        threshold: for `ProtocolParams`: contributions that every sum is sure to hold.
        clients: cohort size n.
        max_dropped: clients that may vanish, in any phases.
        colluders: clients that may work with the server.
        log2_unsafe: log2 of the probability that a server and `colluders` clients, after
            2**grinding_bits tries at the graph, can open some client's masks or split the sum.
        log2_abort: log2 of the probability that `max_dropped` random drop-outs end the round.
        log2_unsigned: log2 of the probability that a survivor set passes with fewer than
            `threshold` signatures, or that two different ones pass.
    """

    neighbourhood: Neighbourhood | None
    threshold: int
    clients: int
    max_dropped: int
    colluders: int
    log2_unsafe: float
    log2_abort: float
    log2_unsigned: float

    def describe(self) -> str:
        """The plan in words, for people."""
        text = (
            f"{self.clients} clients, at most {self.max_dropped} lost and {self.colluders} "
            f"colluding with the server\n"
            f"every sum holds at least {self.threshold} contributions\n"
        )
        near = self.neighbourhood
        if near is None:
            return text + "complete graph: every bound above is certain, none is probabilistic"
        return text + (
            f"{near.degree} neighbours each; {near.share_threshold} of {near.degree + 1} shares "
            f"restore a secret\n"
            f"{near.signature_quorum} signatures shown, {near.signature_checks} of them checked "
            f"by each client\n"
            f"unsafe graph: {_odds(self.log2_unsafe)}\n"
            f"round lost to random drop-outs: {_odds(self.log2_abort)}\n"
            f"too few honest signatures pass: {_odds(self.log2_unsigned)}"
        )


def _odds(log2_probability: float) -> str:
    if log2_probability == -math.inf:
        return "impossible"
    return f"probability below 2^{log2_probability:.1f}"


def plan_neighbourhood(
    *,
    clients: int,
    max_dropped: int,
    colluders: int,
    security_bits: int = 40,
    grinding_bits: int = 40,
    abort_probability: float = 1e-6,
) -> NeighbourhoodPlan:
    """The sparsest graph that meets the stated bounds.

    Args:
        clients: cohort size, at least 2.
        max_dropped: clients that may vanish.
        colluders: clients that may work with the server; who they are is fixed before the round.
        security_bits: a bad event has probability below 2**-security_bits.
        grinding_bits: log2 of how often a liar can redraw the graph before the deadline.
        abort_probability: accepted chance that random drop-outs of `max_dropped` end a round.

    Returns:
        The plan; the complete graph for small cohorts and where no sparse graph is enough.

    Raises:
        InvalidParams: the numbers are out of range, or no graph can serve them.
    """
    quorum = clients - max_dropped
    if min(max_dropped, colluders, security_bits, grinding_bits) < 0 or clients < 2:  # noqa: PLR2004
        raise InvalidParams("counts and bits must not be negative, clients at least 2")
    if not 0 < abort_probability < 1:
        raise InvalidParams(f"abort_probability {abort_probability} is not between 0 and 1")
    if 2 * quorum <= clients + colluders or quorum < colluders + 2:
        raise InvalidParams(
            f"{max_dropped} lost and {colluders} colluders of {clients} are too many: "
            f"2 * (clients - lost) must exceed clients + colluders"
        )
    complete = NeighbourhoodPlan(
        None, quorum, clients, max_dropped, colluders, -math.inf, -math.inf, -math.inf
    )
    if clients < SMALLEST_SPARSE_COHORT:
        return complete
    for degree in range(4, quorum - 1, 2):
        for share_threshold in range(degree // 2 + 2, degree + 1):
            allowed = share_threshold - degree // 2 - 2
            unsafe = grinding_bits + log2_some_client_has_more_than(
                allowed, clients=clients, among=quorum, marked=colluders, degree=degree
            )
            if unsafe > -security_bits:
                continue
            abort = log2_some_client_has_more_than(
                degree - share_threshold,
                clients=clients,
                among=clients,
                marked=max_dropped,
                degree=degree,
            )
            if abort > math.log2(abort_probability):
                break
            checked = _plan_signatures(clients, quorum, colluders, degree, security_bits)
            if checked is None:
                break
            checks, threshold, unsigned = checked
            near = Neighbourhood(degree, share_threshold, quorum, checks)
            return NeighbourhoodPlan(
                near, threshold, clients, max_dropped, colluders, unsafe, abort, unsigned
            )
    return complete


def log2_some_client_has_more_than(
    allowed: int, *, clients: int, among: int, marked: int, degree: int
) -> float:
    """log2 of a bound on P[some client has more than `allowed` marked neighbours].

    Args:
        allowed: marked neighbours that do no harm.
        clients: clients in the union bound.
        among: participants of whom the neighbours are a uniform subset, the client included.
        marked: participants that are marked (lost, or corrupted).
        degree: neighbours per client.
    """
    population = among - 1
    terms = [
        _log_choose(marked, count) + _log_choose(population - marked, degree - count)
        for count in range(allowed + 1, min(marked, degree) + 1)
        if degree - count <= population - marked
    ]
    if not terms:
        return -math.inf
    largest = max(terms)
    tail = largest + math.log(sum(math.exp(term - largest) for term in terms))
    return (tail - _log_choose(population, degree)) / math.log(2) + math.log2(clients)


def log2_unsigned_pass(
    *, clients: int, quorum: int, threshold: int, colluders: int, degree: int, checks: int
) -> float:
    """log2 of a bound on the chance that sampled signature checks let a bad survivor set pass.

    Two things could go wrong. Two different sets pass: one of them has at most
    (clients + colluders) / 2 true signatures among the `quorum` shown, and some client's sample of
    `checks` hits none of the others. Or one set passes with fewer than `threshold` true signatures:
    then a number of clients that covers the whole ring must all have been that unlucky.
    """
    if checks >= quorum:
        return -math.inf
    majority = (clients + colluders) // 2
    two_sets = checks * math.log2(majority / quorum) + math.log2(clients)
    windows = (quorum - 1 - degree) * 2 // (3 * degree) + 1
    revealers = min(windows * (degree // 2 + 2), quorum)
    ways = math.log2(math.comb(clients, revealers))
    too_few = ways + checks * revealers * math.log2((threshold - 1) / quorum)
    larger, smaller = max(two_sets, too_few), min(two_sets, too_few)
    return larger + math.log2(1 + 2 ** max(smaller - larger, -1000.0))


def _plan_signatures(
    clients: int, quorum: int, colluders: int, degree: int, security_bits: int
) -> tuple[int, int, float] | None:
    """Fewest signatures to check, the threshold that leaves, and the failure probability."""
    threshold = quorum - math.floor(_PHANTOM_SHARE * quorum)
    if 2 * threshold <= clients + colluders or degree + 1 >= threshold:
        return None
    for checks in range(1, quorum):
        failure = log2_unsigned_pass(
            clients=clients,
            quorum=quorum,
            threshold=threshold,
            colluders=colluders,
            degree=degree,
            checks=checks,
        )
        if failure <= -security_bits:
            return checks, threshold, failure
    return quorum, quorum, -math.inf


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
