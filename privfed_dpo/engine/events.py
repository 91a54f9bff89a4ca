"""What the engine tells the outside world while it runs.

The engine prints nothing and writes no file for people: it yields these frozen facts, and
`observe` and `report` consume them. A number that was not measured is None, never invented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One round, as it stands in `metrics.jsonl`.

    Attributes:
        round: 0 is the evaluation before training; training rounds count from 1.
        status: "start", "released" or "aborted".
        epsilon: certified epsilon spent so far, at the guaranteed noise.
        epsilon_rdp: the same by Rényi accounting, a second opinion.
        epsilon_realised: what the actual survivors gave, by the Rényi filter.
        loss: mean DPO loss on the held-out pairs.
        reward_accuracy: share of held-out pairs with a positive margin; ties count one half.
        reward_margin: mean implicit reward margin on the held-out pairs.
        kl: estimate of KL(policy || reference) on held-out completions, in nats.
        grad_norm_sq: squared norm of the unclipped mean gradient on fixed held-out pairs.
        heterogeneity: mean squared distance of client gradients from their mean, same pairs.
        drift: mean squared distance of local iterates from the round's start (local steps > 1).
        staleness: mean age in rounds of the adapters behind the sum, where clients may be late.
        clip_fraction: share of those held-out pair gradients longer than max_grad_norm.
        consensus_error_before: without a server, mean squared distance of the nodes' adapters from
            their mean, before they average with neighbours.
        consensus_error: the same after they did.
        consensus_predicted: what the nodes' own privacy noise alone makes of
            consensus_error_before, given the links that worked so far.
        spectral_gap: 1 - rho of this round's averaging, over the links that worked.
        client_accuracy_min: lowest accuracy of a node's own adapter on its own held-out pairs.
        client_accuracy_mean: mean of those accuracies.
        cohort: clients invited this round.
        survivors: clients whose update is in the sum; 0 if the round was aborted.
        upload_bytes: bytes all clients sent this round.
        download_bytes: bytes all clients were sent this round.
        seconds: wall-clock time of the round.
        dropped: clients lost, by protocol phase; without a server also links not averaged over.
    """

    round: int
    status: str
    epsilon: float | None = None
    epsilon_rdp: float | None = None
    epsilon_realised: float | None = None
    loss: float | None = None
    reward_accuracy: float | None = None
    reward_margin: float | None = None
    kl: float | None = None
    grad_norm_sq: float | None = None
    heterogeneity: float | None = None
    drift: float | None = None
    staleness: float | None = None
    clip_fraction: float | None = None
    consensus_error_before: float | None = None
    consensus_error: float | None = None
    consensus_predicted: float | None = None
    spectral_gap: float | None = None
    client_accuracy_min: float | None = None
    client_accuracy_mean: float | None = None
    cohort: int | None = None
    survivors: int | None = None
    upload_bytes: int | None = None
    download_bytes: int | None = None
    seconds: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanReady:
    """The plan stands and its promises are proved; nothing has been computed yet."""

    plan: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A round begins; its privacy spend is already in the ledger."""

    round: int
    rounds_planned: int
    cohort: int


@dataclass(frozen=True, slots=True)
class PhaseClosed:
    """One protocol phase of a round is over."""

    round: int
    phase: str
    answered: int
    missing: int


@dataclass(frozen=True, slots=True)
class ReplyRefused:
    """A client answered what the protocol does not allow; it counts as dropped.

    Attributes:
        round: training round.
        phase: the step the reply was for.
        client: client number whose reply it was.
        reason: what was wrong, without any secret.
    """

    round: int
    phase: str
    client: int
    reason: str


@dataclass(frozen=True, slots=True)
class SharesDisputed:
    """Revealed shares contradict what their owner published; it cannot be told who of them lied.

    Attributes:
        round: training round.
        owner: client number whose secret the shares are of.
        holders: client numbers that revealed them; either the owner or some of them lied.
        reason: the same in words, without any secret.
    """

    round: int
    owner: int
    holders: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """A round is over, released or aborted, and its row is complete.

    The last one is told again when training ends early, if its row had not been measured before.
    """

    row: MetricsRow


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over; `summary` is the content of `summary.json`."""

    summary: Mapping[str, object]


EngineEvent = (
    PlanReady
    | RoundStarted
    | PhaseClosed
    | ReplyRefused
    | SharesDisputed
    | RoundFinished
    | RunFinished
)
Observer = Callable[[EngineEvent], None]
