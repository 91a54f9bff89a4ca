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
    IntegerNoise,
    InvalidPrivacyParameter,
    Mode,
    RandomizedLabels,
    RecordCopies,
    ReleaseSchedule,
    Repeated,
    calibrate_noise_multiplier,
    default_delta,
    rdp_epsilon,
    record_releases,
)
from privfed_dpo.config import Config
from privfed_dpo.engine.cohort_planning import plan_cohorts
from privfed_dpo.engine.drift_plan import DriftPlan
from privfed_dpo.engine.gossip_planning import make_gossip_plan, size_gossip
from privfed_dpo.engine.integer_noise import NoiseKind, fewest_steps, integer_noise
from privfed_dpo.engine.objective import label_response, trained_loss
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.plan_checks import (
    require_one_round,
    require_small_delta,
    require_whole_run,
    where_it_comes_from,
)
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.engine.reach import largest_noise_multiplier, out_of_reach
from privfed_dpo.engine.sizing import RingSizing, UserUpdates, size_gradient_sums, size_updates
from privfed_dpo.engine.summing import choose_gradient_sums
from privfed_dpo.errors import PlanRefused
from secure_agg.params import MAX_VECTOR_LENGTH

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


def price_of(config: Config, facts: PublicFacts, noise_multiplier: float) -> float:
    """Return the certified epsilon of a plan with this noise; infinite if there is none."""
    try:
        planner = _Planner(config, facts)
        schedule, _ = planner.with_noise(noise_multiplier)
        return schedule.epsilon(schedule.headline, planner.delta).certified
    except (PlanRefused, AccountingError):
        return math.inf


class _Planner:
    """Works out one plan; holds the intermediate numbers."""

    def __init__(self, config: Config, facts: PublicFacts) -> None:
        self.config = config
        self.facts = facts
        self.clients = len(facts.client_names)
        self.mode = Mode(config.privacy.mode)
        self.noise_kind = NoiseKind(config.privacy.noise)
        self.accounting = Accounting(config.privacy.accounting)
        self.cohorts = plan_cohorts(config, self.clients)
        self.cohort, self.participations = self.cohorts.size, self.cohorts.participations
        self.local_steps = config.federation.local_steps
        self.copies = self._record_copies()
        self.gossip = make_gossip_plan(config, nodes=self.clients, links=facts.links)
        records = self.clients if self.mode is Mode.USER else facts.pairs_total
        self.delta = config.privacy.delta or default_delta(max(2, records))
        if self.mode is not Mode.NONE:
            require_small_delta(self.delta, records, "users" if self.mode is Mode.USER else "pairs")
        if facts.dimension + config.evaluation.audit_lanes > MAX_VECTOR_LENGTH:
            raise PlanRefused(
                f"{facts.dimension} trained parameters and {config.evaluation.audit_lanes} audit "
                f"lanes are more than the {MAX_VECTOR_LENGTH} words of a message",
                advice="Lower evaluation.audit_lanes, or train fewer parameters.",
            )
        self.sends_updates = self.mode is Mode.LOCAL or (
            self.mode is Mode.NONE
            and (
                self.local_steps > 1
                or config.privacy.max_grad_norm is None
                or config.federation.drift_control == "scaffold"
            )
        )

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
        except InvalidPrivacyParameter as error:
            raise PlanRefused(str(error), advice=where_it_comes_from(error)) from error
        except AccountingError as error:
            raise PlanRefused(str(error)) from error
        if self.cohorts.secret is not None and budget is not None:
            require_whole_run(schedule, epsilons, budget)
        plan = RunPlan(
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
            graph=self.cohorts.graph,
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
            drift=DriftPlan.of(config),
        )
        try:
            plan.clipper(), plan.update_clipper()
        except ValueError as error:
            raise PlanRefused(
                str(error), advice="Raise privacy.max_grad_norm or privacy.max_update_norm."
            ) from error
        return plan

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

    def _schedule(self) -> tuple[ReleaseSchedule, RingSizing, Budget | None]:
        privacy = self.config.privacy
        if self.mode is Mode.NONE:
            ring = self._ring(noise_multiplier=0.0)
            return self._release(None), ring, None
        if privacy.noise_multiplier is not None:
            schedule, ring = self.with_noise(privacy.noise_multiplier)
            spent = schedule.epsilon(schedule.headline, self.delta).certified
            target = privacy.target_epsilon or spent
            if spent > target and self.cohorts.secret is None:
                require_one_round(schedule, spent, Budget(target, self.delta))
            return schedule, ring, Budget(target, self.delta)
        budget = Budget(privacy.target_epsilon or math.inf, self.delta)
        slack = self.with_noise(1.0)[0].slack
        if slack.epsilon >= budget.epsilon:
            raise PlanRefused(
                f"no noise meets epsilon {budget.epsilon:g}: computing in whole numbers alone "
                f"costs {slack.epsilon:.3g}",
                advice="Raise privacy.target_epsilon.",
            )
        self._require_reach()
        model_budget = Budget(budget.epsilon - slack.epsilon, self.delta / slack.delta_factor)
        noise = calibrate_noise_multiplier(
            self._events_at(), model_budget, accounting=self.accounting
        ).noise_multiplier
        schedule, ring = self.with_noise(noise)
        while schedule.epsilon(schedule.headline, self.delta).certified > budget.epsilon:
            noise *= 1.0 + _NUDGE
            schedule, ring = self.with_noise(noise)
        return schedule, ring, budget

    def _require_reach(self) -> None:
        """Refuse a target that takes more noise than makes sense; RDP settles most cases."""
        schedule, _ = self.with_noise(largest_noise_multiplier(self.config, self.facts))
        quick = rdp_epsilon(schedule.view(schedule.headline), self.delta)
        if 2 * quick <= (self.config.privacy.target_epsilon or math.inf):
            return
        refusal = out_of_reach(self.config, self.facts, price_of)
        if refusal is not None:
            reason, advice = refusal
            raise PlanRefused(reason, advice=advice)

    def _events_at(self) -> Callable[[float], tuple[Repeated, ...]]:
        """Everything released on one record to the headline adversary, by noise multiplier."""

        def events(noise_multiplier: float) -> tuple[Repeated, ...]:
            schedule, _ = self.with_noise(noise_multiplier)
            return schedule.view(schedule.headline)

        return events

    def with_noise(self, noise_multiplier: float) -> tuple[ReleaseSchedule, RingSizing]:
        """What is released, and on which integers, where noise is given."""
        ring = self._ring(noise_multiplier)
        shared = self.mode in {Mode.DISTRIBUTED, Mode.USER}
        noise = integer_noise(
            self.noise_kind,
            noise_multiplier=noise_multiplier,
            sensitivity_steps=float(ring.clipper_steps or 0),
            cohort=self.cohort if shared else 1,
            dropout_tolerance=self.cohorts.missing_shares if shared else 0,
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
        if self.cohorts.secret:
            return self.config.federation.rounds
        return record_releases(
            self.mode,
            participations=self.participations,
            local_steps=self.local_steps,
            copies=self.copies,
        )

    def _release(self, noise: IntegerNoise | None) -> ReleaseSchedule:
        return ReleaseSchedule(
            mode=self.mode,
            sample_rate=1.0 if self.mode is Mode.USER else self.config.privacy.sample_rate,
            noise=noise,
            participations=self.participations,
            local_steps=self.local_steps,
            secret_cohort=self.cohorts.secret,
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
        honest = self.cohort - self.cohorts.missing_shares - self.config.privacy.colluders
        members = self.clients if self.cohorts.secret else self.cohort
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
