"""From a configuration and the public facts to a plan, or to the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from accounting import (
    Accounting,
    AccountingError,
    Adversary,
    Budget,
    CalibrationFailed,
    EpsilonPair,
    IntegerNoise,
    Mode,
    RandomizedLabels,
    RecordCopies,
    ReleaseSchedule,
    Repeated,
    SecretCohort,
    calibrate_noise_multiplier,
    default_delta,
    failure_probability,
)
from privfed_dpo.config import Config
from privfed_dpo.engine.cohort import participation_bound
from privfed_dpo.engine.gossip_planning import make_gossip_plan, size_gossip
from privfed_dpo.engine.integer_noise import NoiseKind, fewest_steps, integer_noise
from privfed_dpo.engine.objective import label_response, trained_loss
from privfed_dpo.engine.plan import PublicFacts, RunPlan
from privfed_dpo.engine.sizing import RingSizing, UserUpdates, size_gradient_sums, size_updates
from privfed_dpo.engine.summing import choose_gradient_sums
from privfed_dpo.errors import PlanRefused
from secure_agg import InvalidParams
from secure_agg.bounds import NeighbourhoodPlan, plan_neighbourhood

_NUDGE = 1e-5
"""Relative step by which noise grows where the discrete mechanism's slack tips over the target."""


def make_plan(config: Config, facts: PublicFacts) -> RunPlan:
    """Build the plan of a run.

    Args:
        config: a valid configuration.
        facts: public facts of data and model.

    Returns:
        A plan whose certified epsilon meets the target for every adversary it is promised to.

    Raises:
        PlanRefused: the numbers contradict each other or the target is out of reach.
    """
    return _Planner(config, facts).plan()


class _Planner:
    """Works out one plan; holds the intermediate numbers."""

    def __init__(self, config: Config, facts: PublicFacts) -> None:
        self.config = config
        self.facts = facts
        self.clients = len(facts.client_names)
        self.cohort = config.federation.cohort or self.clients
        self.mode = Mode(config.privacy.mode)
        self.noise_kind = NoiseKind(config.privacy.noise)
        self.accounting = Accounting(config.privacy.accounting)
        self._check_cohort()
        self.graph = self._graph() if config.secure_agg.enabled else None
        self.secret = config.federation.cohort_sampling == "poisson"
        self.participations = self._participations()
        self.local_steps = config.federation.local_steps
        self.copies = self._record_copies()
        self.gossip = make_gossip_plan(config, nodes=self.clients, links=facts.links)
        records = self.clients if self.mode is Mode.USER else facts.pairs_total
        self.delta = config.privacy.delta or default_delta(max(2, records))
        self.sends_updates = self.mode is Mode.LOCAL or (
            self.mode is Mode.NONE
            and (self.local_steps > 1 or config.privacy.max_grad_norm is None)
        )

    def _participations(self) -> int:
        """Most rounds of one client, which the scheduler keeps to."""
        federation = self.config.federation
        cap = federation.max_participations
        if self.secret:
            return min(federation.rounds, cap or federation.rounds)
        needed = participation_bound(
            rounds=federation.rounds, clients=self.clients, cohort=self.cohort
        )
        if cap is not None and cap < needed:
            most = cap * self.clients // self.cohort
            raise PlanRefused(
                f"{federation.rounds} rounds of {self.cohort} of {self.clients} clients need a "
                f"client {needed} times, and federation.max_participations={cap} allows no more",
                advice=f"Plan at most {most} rounds, or raise the cap.",
            )
        return needed

    def _secret_cohort(self) -> SecretCohort | None:
        if not self.secret:
            return None
        rate, rounds = self.cohort / self.clients, self.config.federation.rounds
        failure = failure_probability(
            clients=self.clients,
            rate=rate,
            threshold=self.cohort - self._missing_shares(),
            rounds=rounds,
            max_participations=self.participations,
        )
        return SecretCohort(rate, rounds, failure)

    def plan(self) -> RunPlan:
        config = self.config
        try:
            schedule, ring, budget = self._schedule()
            epsilons = {a: schedule.epsilon(a, self.delta) for a in Adversary}
        except CalibrationFailed as error:
            if error.epsilons[0] <= error.target:
                raise PlanRefused(
                    f"even the least noise, {error.bracket[0]:g}, spends only epsilon "
                    f"{error.epsilons[0]:.3g} of the target {config.privacy.target_epsilon:g}",
                    advice="Lower privacy.target_epsilon, or set privacy.noise_multiplier.",
                ) from error
            raise PlanRefused(
                f"no noise meets epsilon {config.privacy.target_epsilon} at delta {self.delta:g} "
                f"with {self._records()} and {self.participations} rounds per client: {error}",
                advice="Raise privacy.target_epsilon, or lower privacy.sample_rate or "
                "federation.rounds.",
            ) from error
        except AccountingError as error:
            raise PlanRefused(str(error)) from error
        self._check_secret_budget(epsilons, budget)
        return RunPlan(
            facts=self.facts,
            schedule=schedule,
            budget=budget,
            delta=self.delta,
            rounds=config.federation.rounds,
            cohort=self.cohort,
            participations=self.participations,
            local_steps=self.local_steps,
            max_grad_norm=config.privacy.max_grad_norm,
            ring=ring,
            dropout_tolerance=config.privacy.dropout_tolerance,
            colluders=config.privacy.colluders,
            graph=self.graph,
            audit_lanes=config.evaluation.audit_lanes,
            objective=self._objective(),
            sums=choose_gradient_sums(
                dimension=self.facts.dimension,
                micro_batch_pairs=config.dpo.micro_batch_pairs,
                memory_bytes=config.dpo.memory_bytes,
                wanted=config.dpo.gradient_sums,
            ),
            epsilons=epsilons,
            user_updates=self._user_updates(),
            gossip=self.gossip,
        )

    def _check_secret_budget(
        self, epsilons: Mapping[Adversary, EpsilonPair], budget: Budget | None
    ) -> None:
        """A run that ended when one client's budget is spent would tell who took part."""
        if not self.secret or budget is None:
            return
        if epsilons[Adversary.COALITION].certified > budget.epsilon:
            raise PlanRefused(
                f"{self.participations} rounds of one client cost more than epsilon "
                f"{budget.epsilon:g}, and secret cohorts may not end a run early",
                advice="Lower federation.max_participations, or raise privacy.noise_multiplier.",
            )

    def _user_updates(self) -> UserUpdates | None:
        privacy = self.config.privacy
        if self.mode is not Mode.USER or privacy.max_update_norm is None:
            return None
        return UserUpdates(privacy.max_update_norm, privacy.sample_rate)

    def _records(self) -> str:
        if self.mode is Mode.USER:
            return f"{self.clients} users"
        rate = self.config.privacy.sample_rate
        return f"{self.facts.pairs_total} pairs, sample_rate {rate:g}"

    def _check_cohort(self) -> None:
        tolerance, colluders = self.config.privacy.dropout_tolerance, self.config.privacy.colluders
        if self.cohort > self.clients:
            raise PlanRefused(
                f"federation.cohort={self.cohort} is more than the {self.clients} clients that "
                "hold enough pairs",
                advice="Lower federation.cohort or data.min_pairs.",
            )
        if 2 * (self.cohort - tolerance) <= self.cohort + colluders:
            raise PlanRefused(
                f"with {self.cohort} clients in a round, {tolerance} tolerated drop-outs and "
                f"{colluders} colluders two different survivor sets could both be signed",
                advice="Keep 2 * (cohort - dropout_tolerance) above cohort + colluders.",
            )
        smallest = 3
        if self.config.secure_agg.enabled and self.cohort < smallest:
            raise PlanRefused(
                f"a secure sum over {self.cohort} clients hides nobody",
                advice=f"Invite at least {smallest} clients, or set secure_agg.enabled=false.",
            )

    def _graph(self) -> NeighbourhoodPlan:
        privacy = self.config.privacy
        if self.config.federation.cohort_sampling == "poisson":
            lost, helpers = privacy.dropout_tolerance, privacy.colluders
            certain = (-math.inf, -math.inf, -math.inf)
            return NeighbourhoodPlan(None, self.cohort - lost, self.cohort, lost, helpers, *certain)
        try:
            return plan_neighbourhood(
                clients=self.cohort,
                max_dropped=privacy.dropout_tolerance,
                colluders=privacy.colluders,
            )
        except InvalidParams as error:
            raise PlanRefused(f"no secure sum over {self.cohort} clients: {error}") from error

    def _missing_shares(self) -> int:
        """Noise shares that may be missing from an opened sum.

        On a sparse graph clients check a sample of the survivors' signatures only, so that a
        lying server could pass off a few more clients as survivors than really are.
        """
        if self.graph is None:
            return self.config.privacy.dropout_tolerance
        return self.cohort - self.graph.threshold

    def _schedule(self) -> tuple[ReleaseSchedule, RingSizing, Budget | None]:
        privacy = self.config.privacy
        if self.mode is Mode.NONE:
            ring = self._ring(noise_multiplier=0.0)
            return self._release(None), ring, None
        if privacy.noise_multiplier is not None:
            schedule, ring = self._with_noise(privacy.noise_multiplier)
            spent = schedule.epsilon(schedule.headline, self.delta).certified
            target = privacy.target_epsilon or spent
            return schedule, ring, Budget(target, self.delta)
        budget = Budget(privacy.target_epsilon or math.inf, self.delta)
        slack = self._with_noise(1.0)[0].slack
        if slack.epsilon >= budget.epsilon:
            raise PlanRefused(
                f"no noise meets epsilon {budget.epsilon:g}: computing in whole numbers alone "
                f"costs {slack.epsilon:.3g}",
                advice="Raise privacy.target_epsilon.",
            )
        model_budget = Budget(budget.epsilon - slack.epsilon, self.delta / slack.delta_factor)
        noise = calibrate_noise_multiplier(
            self._events_at(), model_budget, accounting=self.accounting
        ).noise_multiplier
        schedule, ring = self._with_noise(noise)
        while schedule.epsilon(schedule.headline, self.delta).certified > budget.epsilon:
            noise *= 1.0 + _NUDGE
            schedule, ring = self._with_noise(noise)
        return schedule, ring, budget

    def _events_at(self) -> Callable[[float], tuple[Repeated, ...]]:
        """Everything released on one record to the headline adversary, by noise multiplier."""

        def events(noise_multiplier: float) -> tuple[Repeated, ...]:
            schedule, _ = self._with_noise(noise_multiplier)
            return schedule.view(schedule.headline)

        return events

    def _with_noise(self, noise_multiplier: float) -> tuple[ReleaseSchedule, RingSizing]:
        ring = self._ring(noise_multiplier)
        shared = self.mode in {Mode.DISTRIBUTED, Mode.USER}
        noise = integer_noise(
            self.noise_kind,
            noise_multiplier=noise_multiplier,
            sensitivity_steps=float(ring.clipper_steps or 0),
            cohort=self.cohort if shared else 1,
            dropout_tolerance=self._missing_shares() if shared else 0,
            colluders=self.config.privacy.colluders if shared else 0,
            dimension=self.facts.dimension + self.config.evaluation.audit_lanes,
            releases=self._releases(),
        )
        return self._release(noise), ring

    def _record_copies(self) -> RecordCopies | None:
        most = self.config.privacy.record_copies
        if most == 1 or self.mode is Mode.NONE:
            return None
        return RecordCopies(most, self.config.federation.rounds)

    def _releases(self) -> int:
        """Noisy sums or steps that one record and all its copies are in."""
        if self.mode in {Mode.LOCAL, Mode.GOSSIP}:
            return self.participations * self.local_steps * self.config.privacy.record_copies
        if self.secret:
            return self.config.federation.rounds
        if self.copies is None:
            return self.participations
        return self.copies.rounds_of(self.participations, self.copies.rounds)

    def _release(self, noise: IntegerNoise | None) -> ReleaseSchedule:
        return ReleaseSchedule(
            mode=self.mode,
            sample_rate=1.0 if self.mode is Mode.USER else self.config.privacy.sample_rate,
            noise=noise,
            participations=self.participations,
            local_steps=self.local_steps,
            secret_cohort=self._secret_cohort(),
            copies=self.copies,
            labels=self._labels(),
            accounting=Accounting.REDUCTION if noise is None else self.accounting,
        )

    def _labels(self) -> RandomizedLabels | None:
        response = label_response(self.config)
        return None if response is None else RandomizedLabels(response.flip_probability)

    def _ring(self, noise_multiplier: float) -> RingSizing:
        bits = self.config.secure_agg.modulus_bits
        if self.gossip is not None:
            return size_gossip(self.config)
        if self.sends_updates:
            clipped = self.config.privacy.max_grad_norm is not None
            return size_updates(cohort=self.cohort, clipped=clipped, bits=bits)
        honest = self.cohort - self._missing_shares() - self.config.privacy.colluders
        members = self.clients if self.secret else self.cohort
        largest = sorted(self.facts.client_pairs, reverse=True)[: self.cohort]
        return size_gradient_sums(
            largest_cohort_pairs=members if self.mode is Mode.USER else sum(largest),
            cohort=members,
            total_noise_multiplier=noise_multiplier * math.sqrt(members / max(1, honest)),
            dimension=self.facts.dimension,
            bits=bits,
            fewest_steps=fewest_steps(self.noise_kind, noise_multiplier, max(1, honest)),
        )

    def _objective(self) -> Mapping[str, object]:
        federation, loss = self.config.federation, trained_loss(self.config)
        return {
            "loss": loss.kind,
            "beta": loss.beta,
            "label_smoothing": loss.label_smoothing,
            "target_margin": loss.target_margin,
            "reference_free": loss.reference_free,
            "server_optimizer": federation.server_optimizer,
            "learning_rate": federation.learning_rate,
            "local_learning_rate": federation.local_learning_rate,
            "momentum": federation.momentum,
            "seed": self.config.run.seed,
        }
