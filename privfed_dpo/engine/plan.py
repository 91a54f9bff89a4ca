"""The run plan: one frozen object from which everything private is made.

The sampler, the clipper, the grid, the noise, the secure-aggregation parameters and the accounting
events all come out of a `RunPlan` and nothing else carries their numbers, so they cannot disagree.
A plan that could not keep its promises cannot be built: it is refused before any compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from accounting import (
    Adversary,
    Budget,
    EpsilonPair,
    IntegerNoise,
    Mode,
    ReleaseSchedule,
    encode_schedule,
    shortfall_probability,
)
from privfed_dpo.engine.drift_plan import DriftPlan
from privfed_dpo.engine.gossip_plan import GossipPlan
from privfed_dpo.engine.integer_noise import noise_kind, noise_sampler
from privfed_dpo.engine.public_facts import PublicFacts, digest
from privfed_dpo.engine.sizing import (
    OWN_NOISE_SENSITIVITY_STEPS,
    UPDATE_LIMIT,
    RingSizing,
    UserUpdates,
)
from privfed_dpo.engine.summing import GradientSums
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.mechanism.grid import Grid
from privfed_dpo.mechanism.noise import NoiseSampler
from privfed_dpo.mechanism.sampler import PoissonSampler
from secure_agg import ProtocolParams
from secure_agg.bounds import NeighbourhoodPlan

ENVELOPE_BYTES, PROTOCOL_BYTES, PEER_BYTES = 50, 700, 140


@dataclass(frozen=True)
class RunPlan:
    """What a run does, with its promises proved. Build it with `make_plan`.

    Attributes:
        facts: public facts of data and model.
        schedule: what every record goes through, for the accountant.
        budget: target epsilon and delta; epsilon is infinite without privacy.
        rounds: training rounds T.
        cohort: clients invited to a round.
        participations: most rounds any one client is invited to.
        local_steps: gradient steps at a client in a round.
        max_grad_norm: clip bound C on one pair's gradient; None only without privacy or for users.
        ring: grid, ring and headroom of the secure sum.
        dropout_tolerance: drop-outs of a round that cost no privacy.
        colluders: clients assumed to help the server.
        graph: who masks against whom in the secure sum, with its proved bounds; None if sums are
            taken in clear.
        audit_lanes: dummy coordinates behind the adapter's, for the audit.
        objective: public settings of loss and optimizers, part of the plan's hash.
        sums: how pair gradients are added up; time and memory, not results.
        epsilons: certified cost of the whole run, for each adversary.
        user_updates: how updates are made in user mode; None in the others.
        gossip: who averages with whom; None with a server.
        drift: what holds clients together in their local steps.
    """

    facts: PublicFacts
    schedule: ReleaseSchedule
    budget: Budget | None
    delta: float
    rounds: int
    cohort: int
    participations: int
    local_steps: int
    max_grad_norm: float | None
    ring: RingSizing
    dropout_tolerance: int
    colluders: int
    graph: NeighbourhoodPlan | None
    audit_lanes: int
    objective: Mapping[str, object]
    sums: GradientSums
    epsilons: Mapping[Adversary, EpsilonPair]
    user_updates: UserUpdates | None = None
    gossip: GossipPlan | None = None
    drift: DriftPlan = field(default_factory=DriftPlan)

    @property
    def mode(self) -> Mode:
        """Who adds the noise."""
        return self.schedule.mode

    @property
    def sums_gradients(self) -> bool:
        """True if clients send integer gradient sums, False if they send updates of their own."""
        clipped = self.ring.clipper_steps is not None and not self.ring.carries_updates
        return clipped and self.user_updates is None

    @property
    def sample_rate(self) -> float:
        """Probability with which a pair joins a step; the accountant books it, but for users."""
        return self.user_updates.sample_rate if self.user_updates else self.schedule.sample_rate

    @property
    def secure_aggregation(self) -> bool:
        """Whether the server sees only sums."""
        return self.graph is not None

    @property
    def threshold(self) -> int:
        """Fewest contributions that a sum holds, whatever the server does."""
        tolerated = self.cohort - 1 if self.gossip else self.dropout_tolerance
        return self.graph.threshold if self.graph else self.cohort - tolerated

    @property
    def neighbours(self) -> int:
        """Most clients a client exchanges masks with, or without a server adapters."""
        near = self.graph.neighbourhood if self.graph else self.gossip
        return near.degree if near else self.cohort - 1

    @property
    def noise(self) -> IntegerNoise | None:
        """The integer noise, or None without privacy."""
        noise = self.schedule.noise
        return noise if isinstance(noise, IntegerNoise) else None

    @property
    def expected_batch_pairs(self) -> float:
        """The public divisor of a round's gradient sum: q * S * (mean pairs of a client)."""
        mean_pairs = self.facts.pairs_total / len(self.facts.client_pairs)
        return self.sample_rate * self.cohort * mean_pairs

    @property
    def vector_length(self) -> int:
        """Coordinates of the secure sum: adapter, its control variate, lanes or a drift entry."""
        dimension = self.facts.dimension * (2 if self.drift.scaffold else 1)
        return dimension + (1 if self.ring.carries_updates else self.audit_lanes)

    @property
    def update_limit(self) -> float:
        """Largest magnitude of one coordinate of a client's update in the secure sum."""
        return UPDATE_LIMIT

    @property
    def upload_bytes(self) -> int:
        """About what one client sends in a round: its vector, and the protocol around it."""
        vector = self.vector_length * self.ring.bits // 8
        if self.gossip is not None:
            return self.gossip.upload_bytes(vector)
        if not self.secure_aggregation:
            return vector + ENVELOPE_BYTES
        return vector + 5 * ENVELOPE_BYTES + PROTOCOL_BYTES + PEER_BYTES * self.neighbours

    def expected_client_pairs(self, client: int) -> float:
        """The public divisor of one client's own step: q times the pairs it holds."""
        return self.sample_rate * self.facts.client_pairs[client]

    @property
    def secret_cohorts(self) -> bool:
        """Whether each client joins a round by a secret coin; the cohort is then a mean."""
        return self.schedule.secret_cohort is not None

    def allows_cohort(self, size: int) -> bool:
        """Whether a round may be played by so many clients."""
        if self.secret_cohorts:
            return self.threshold <= size <= len(self.facts.client_names)
        return size == self.cohort

    def cohort_sampler(self) -> PoissonSampler | None:
        """The sampler of secret cohorts, at the rate that the accountant books; None if fixed."""
        claim = self.schedule.secret_cohort
        return PoissonSampler(claim.rate) if claim else None

    def sampler(self) -> PoissonSampler:
        """The sampler whose rate the accountant books."""
        return PoissonSampler(self.sample_rate)

    def clipper(self) -> PairClipper | None:
        """The clipper of pair gradients, None if they are not clipped.

        The noise is scaled to its sensitivity; in user mode, to that of `update_clipper`.
        """
        steps = OWN_NOISE_SENSITIVITY_STEPS if self.user_updates else self.ring.clipper_steps
        if self.max_grad_norm is None or steps is None:
            return None
        return PairClipper(self.max_grad_norm, steps)

    def update_clipper(self) -> PairClipper | None:
        """The clipper of a client's whole update, one row, in user mode; else None."""
        if self.user_updates is None or self.ring.clipper_steps is None:
            return None
        return PairClipper(self.user_updates.max_update_norm, self.ring.clipper_steps)

    def gradient_steps_per_unit(self) -> float:
        """Grid steps in one unit of gradient, for sums of clipped gradients."""
        clipper = self.clipper()
        if clipper is None:
            raise ValueError("this plan clips nothing, so its gradients are on no grid")
        return clipper.sensitivity_steps / clipper.max_grad_norm

    def share_noise(self) -> NoiseSampler | None:
        """What one client adds: its share, or in local mode the whole noise of a step."""
        return noise_sampler(self.noise) if self.noise else None

    def grid(self) -> Grid:
        """The grid of the secure sum."""
        if self.ring.carries_updates:
            return Grid(self.ring.update_steps_per_unit, self.ring.bits)
        updates = self.update_clipper()
        if updates is not None:
            return Grid(updates.sensitivity_steps / updates.max_grad_norm, self.ring.bits)
        return Grid(self.gradient_steps_per_unit(), self.ring.bits)

    def protocol_params(self, round_id: bytes, roster: Mapping[int, bytes]) -> ProtocolParams:
        """Secure-aggregation parameters of one round.

        Args:
            round_id: bytes unique to this run and round.
            roster: the cohort's client numbers and identity keys. More clients than the mean of
                a secret cohort need a higher threshold, so that no two survivor sets can both be
                signed; the noise is made for the plan's.
        """
        return ProtocolParams(
            round_id=round_id,
            roster=roster,
            threshold=max(self.threshold, (len(roster) + self.colluders) // 2 + 1),
            colluders=self.colluders,
            vector_length=self.vector_length,
            modulus_bits=self.ring.bits,
            neighbourhood=self.graph.neighbourhood if self.graph else None,
        )

    @cached_property
    def plan_hash(self) -> str:
        """SHA-256 over everything in the plan, hex; clients refuse a round of another plan."""
        return digest(self.describe())

    def _cohort_shortfall(self) -> float | None:
        claim = self.schedule.secret_cohort
        if claim is None:
            return None
        return shortfall_probability(
            clients=len(self.facts.client_names), rate=claim.rate, threshold=self.threshold
        )

    def describe(self) -> dict[str, object]:
        """The plan as plain facts: what `plan` prints, `plan.json` holds and the hash covers."""
        noise = self.noise
        label = self.schedule.label_cost(float("inf"), self.delta)
        return {
            "mode": self.mode.value,
            "unit": self.schedule.unit.value,
            "adjacency": "zero_out",
            "clients": len(self.facts.client_names),
            "client_names_sha256": digest(list(self.facts.client_names)),
            "pairs_total": self.facts.pairs_total,
            "pairs_min": min(self.facts.client_pairs),
            "pairs_max": max(self.facts.client_pairs),
            "client_pairs_sha256": digest(list(self.facts.client_pairs)),
            "rounds": self.rounds,
            "cohort": self.cohort,
            "participations": self.participations,
            "cohort_sampling": "poisson" if self.secret_cohorts else "fixed",
            "cohort_shortfall": self._cohort_shortfall(),
            "local_steps": self.local_steps,
            "drift_control": self.drift.describe(),
            "sample_rate": self.sample_rate,
            "record_copies": self.schedule.copies.most if self.schedule.copies else 1,
            "expected_batch_pairs": self.expected_batch_pairs,
            "target_epsilon": self.budget.epsilon if self.budget else None,
            "delta": self.delta,
            "epsilon": {
                adversary.value: {"pld": _finite(pair.pld), "rdp": _finite(pair.rdp)}
                for adversary, pair in self.epsilons.items()
            },
            "label_epsilon": label.pure if label else None,
            "accounting": self.schedule.accounting.value if noise else None,
            "noise": noise_kind(noise).value if noise else None,
            "noise_multiplier": noise.noise_multiplier if noise else None,
            "share_noise_multiplier": noise.share_noise_multiplier if noise else None,
            "max_grad_norm": self.max_grad_norm,
            "max_update_norm": self.user_updates.max_update_norm if self.user_updates else None,
            "sensitivity_steps": self.ring.clipper_steps,
            "share_stddev_steps": noise.share_stddev_steps if noise else None,
            "slack_epsilon": noise.slack_epsilon if noise else 0.0,
            "grid_steps_per_unit": self.grid().steps_per_unit,
            "update_limit": UPDATE_LIMIT if self.ring.carries_updates else None,
            "ring_bits": self.ring.bits,
            "secure_aggregation": self.secure_aggregation,
            "neighbours": self.neighbours,
            "gossip": self.gossip.describe() if self.gossip else None,
            "graph": self.graph.describe().splitlines() if self.graph else None,
            "threshold": self.threshold,
            "dropout_tolerance": self.dropout_tolerance,
            "colluders": self.colluders,
            "dimension": self.facts.dimension,
            "vector_bytes": self.vector_length * self.ring.bits // 8,
            "upload_bytes": self.upload_bytes,
            "gradient_sums": self.sums.method,
            "micro_batch_pairs": self.sums.micro_batch_pairs,
            "memory_bytes": self.sums.memory_bytes,
            "gradient_bytes": self.sums.gradient_bytes,
            "model_fingerprint": self.facts.model_fingerprint,
            "model_bytes": self.facts.model_bytes,
            "audit_lanes": self.audit_lanes,
            "objective": dict(self.objective),
            "schedule": encode_schedule(self.schedule),
        }


def _finite(value: float) -> float | None:
    """Infinity has no JSON form: null stands for "no bound"."""
    return value if value < float("inf") else None
