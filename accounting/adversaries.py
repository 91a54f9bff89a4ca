"""Who sees what: one plan of releases, priced differently for each adversary."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from accounting.accountants import (
    NO_SLACK,
    NOTHING_SPENT,
    Accounting,
    EpsilonCurve,
    EpsilonPair,
    Slack,
    epsilon_pair,
)
from accounting.events import (
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
    UnprotectedRelease,
)
from accounting.labels import LabelCost, RandomizedLabels, label_cost
from accounting.modes import Mode
from accounting.noise_shares import GridNoise, NoiseShares
from accounting.record_copies import RecordCopies
from accounting.schedule_checks import SHARED_NOISE, IntegerNoise, require_fitting_fields
from accounting.secret_cohort import SecretCohort
from accounting.units import PrivacyUnit


class Adversary(StrEnum):
    """From whose eyes the data are protected.

    SERVER: runs the rounds, sees every opened sum, knows who took part and who dropped out; no
        client helps it.
    COALITION: the server together with up to K clients that subtract their own noise; fewest
        survivors. This is the headline.
    OUTSIDE: holds the released model only. Priced as the server, also where cohorts are secret:
        see `SecretCohort` for why.
    NO_SECAGG: what a client's own message would be worth if secure aggregation failed.
    """

    SERVER = "server"
    COALITION = "coalition"
    OUTSIDE = "outside"
    NO_SECAGG = "no_secagg"


Noise: TypeAlias = NoiseShares | IntegerNoise | float


@dataclass(frozen=True, slots=True)
class ReleaseSchedule:
    """Everything that one client's records go through in a run, at the guaranteed noise.

    Attributes:
        mode: who adds the noise.
        sample_rate: probability with which a record joins one noisy sum or one local step; 1 in
            mode user, where a client's whole update is the record.
        noise: `NoiseShares`, `GridNoise` or `SkellamNoise` in distributed and user mode; in local
            and gossip mode the client's own multiplier, or integer noise of cohort 1; None without
            noise.
        participations: most rounds that any one client takes part in. Guarantee: the scheduler
            enforces it, and the ledger refuses more.
        local_steps: steps of a client per round, each noisy in local and gossip mode; 1 in
            distributed mode, whose shares only protect a sum of gradients taken at the same
            weights; free in mode user, which releases one update per round, however it was made.
        secret_cohort: in mode user, that cohorts are Poisson samples of any size; None says that
            they have the size of the noise's cohort. It lowers nobody's epsilon.
        copies: that a record may stand several times in the data; None says once. Not in mode user,
            where everything of a client is one record.
        labels: flips of labels, before all else: a promise about another unit, `accounting.labels`.
        accounting: what certifies. `Accounting.RDP` needs integer noise and no copies that share
            sums; `SkellamNoise` needs `Accounting.RDP`.

    Raises:
        InvalidPrivacyParameter: the fields do not fit each other.
    """

    mode: Mode
    sample_rate: float
    noise: Noise | None
    participations: int
    local_steps: int = 1
    secret_cohort: SecretCohort | None = None
    copies: RecordCopies | None = None
    labels: RandomizedLabels | None = None
    accounting: Accounting = Accounting.REDUCTION

    def __post_init__(self) -> None:
        """Refuse schedules whose accounting would not describe the mechanism."""
        require_fitting_fields(self)

    @property
    def headline(self) -> Adversary:
        """The adversary whose epsilon the budget is held against."""
        return Adversary.COALITION

    @property
    def unit(self) -> PrivacyUnit:
        """What the noise is scaled to: everything of one client in mode user, else one pair."""
        return PrivacyUnit.USER if self.mode is Mode.USER else PrivacyUnit.PAIR

    def label_cost(self, unit_epsilon: float, delta: float) -> LabelCost | None:
        """Return what a run reveals about one judgement, copies included; None without flips.

        `unit_epsilon` is what the run costs one unit at `delta`, infinite without noise.
        """
        most = 1 if self.copies is None else self.copies.most
        flips = self.labels
        return None if flips is None else label_cost(flips, unit_epsilon, delta, copies=most)

    @property
    def slack(self) -> Slack:
        """Distance of the discrete mechanism from its model; none for continuous noise."""
        if self.noise is None or isinstance(self.noise, int | float):
            return NO_SLACK
        if self.accounting is Accounting.RDP and isinstance(self.noise, IntegerNoise):
            return self.noise.sampler_slack
        return self.noise.slack

    @property
    def cohort(self) -> int | None:
        """Clients asked per round, where it is fixed because the noise depends on it; else None.

        A secret Poisson cohort has no fixed size: the threshold alone guards the noise.
        """
        return self._shares.cohort if self._shares and self.secret_cohort is None else None

    @property
    def threshold(self) -> int | None:
        """Fewest survivors of an opened sum, where the noise depends on it; else None."""
        return self._shares.threshold if self._shares else None

    @property
    def _shares(self) -> NoiseShares | IntegerNoise | None:
        if self.mode in SHARED_NOISE and not isinstance(self.noise, int | float):
            return self.noise
        return None

    def honest_shares(self, adversary: Adversary) -> int:
        """Return how many shares of the noise this adversary certainly cannot subtract."""
        shares = self._shares
        if shares is None or adversary is Adversary.NO_SECAGG:
            return 1
        return shares.threshold - (shares.colluders if adversary is Adversary.COALITION else 0)

    def noise_multiplier(self, adversary: Adversary) -> float | None:
        """Return the guaranteed multiplier that this adversary faces; None without noise."""
        return self._multiplier(self.honest_shares(adversary))

    def round_events(self, adversary: Adversary) -> Repeated:
        """Return what one round releases on a record of a client that takes part in it."""
        return self._round(self.honest_shares(adversary))

    def view(self, adversary: Adversary) -> tuple[Repeated, ...]:
        """Return what the whole run releases on one record, for this adversary."""
        return self._seen(adversary, self.participations, self._rounds)

    def realised_round(self, survivors: int | None) -> Repeated:
        """Return one round as it happened, for the coalition.

        Args:
            survivors: clients in the opened sum; None (unknown, or aborted) and any number below
                the threshold are booked at the guaranteed noise.
        """
        shares = self._shares
        if shares is None or survivors is None or survivors < shares.threshold:
            return self.round_events(Adversary.COALITION)
        return self._round(min(survivors, shares.cohort) - shares.colluders)

    def epsilon(self, adversary: Adversary, delta: float) -> EpsilonPair:
        """Return the certified cost of the whole run for this adversary."""
        return self.spent(adversary, delta, self.participations, self._rounds)

    @property
    def _rounds(self) -> int:
        claim = self.secret_cohort or self.copies
        return claim.rounds if claim else self.participations

    @property
    def copies_share_sums(self) -> bool:
        """Whether copies of a record at several clients may meet in one noisy sum."""
        return self.copies is not None and self.mode is Mode.DISTRIBUTED

    def record_rounds(self, participations: int, rounds: int) -> int:
        """Return how many rounds are priced for one record.

        Args:
            participations: rounds of the busiest client; the record's own, if it stands once.
            rounds: rounds of the run so far; they count where copies share sums.
        """
        if self.copies is None or not self.copies_share_sums:
            return participations
        return self.copies.rounds_of(participations, rounds)

    def spent(
        self, adversary: Adversary, delta: float, participations: int, rounds: int
    ) -> EpsilonPair:
        """Return the certified cost of a part of the run for this adversary.

        Whoever holds the model sees no more than the server, and is priced like it.

        Args:
            adversary: whose view.
            delta: failure probability, in (0, 1).
            participations: rounds of the busiest client; 0 costs nothing.
            rounds: rounds of the run so far; they count for copies.
        """
        if participations == 0:
            return NOTHING_SPENT
        seen = self._priced(self._seen(adversary, participations, rounds), delta)
        if self.accounting is Accounting.RDP and isinstance(self.noise, GridNoise):
            reduced = replace(self, accounting=Accounting.REDUCTION)
            return replace(seen, pld=reduced.spent(adversary, delta, participations, rounds).pld)
        return seen

    def curve(self, adversary: Adversary, delta: float) -> EpsilonCurve:
        """Return epsilon by number of known participations, for this adversary."""
        return EpsilonCurve(self.round_events(adversary), delta, self.slack, self.accounting)

    def _priced(self, spends: tuple[Repeated, ...], delta: float) -> EpsilonPair:
        return epsilon_pair(spends, delta, slack=self.slack, accounting=self.accounting)

    def _seen(self, adversary: Adversary, participations: int, rounds: int) -> tuple[Repeated, ...]:
        one = self._round(self.honest_shares(adversary))
        count = one.count * self.record_rounds(participations, rounds)
        return (Repeated(one.event, count),)

    def _round(self, honest: int) -> Repeated:
        if self.mode is Mode.USER:
            return Repeated(self._release(1.0, honest), 1)
        separate = self.copies.most if self.copies and not self.copies_share_sums else 1
        return Repeated(self._release(self.sample_rate, honest), self.local_steps * separate)

    def _release(self, sample_rate: float, honest: int) -> Event:
        """Return one noisy sum with this many shares that the adversary does not know."""
        multiplier = self._multiplier(honest)
        if multiplier is None:
            return UnprotectedRelease()
        if self.accounting is Accounting.RDP and isinstance(self.noise, IntegerNoise):
            return self.noise.release(honest, sample_rate)
        if self.mode is Mode.USER and sample_rate == 1:
            return GaussianRelease(multiplier)
        if self.copies is not None and self.copies_share_sums:
            return GroupPoissonGaussianRelease(self.copies.most, sample_rate, multiplier)
        return PoissonGaussianRelease(sample_rate, multiplier)

    def _multiplier(self, honest: int) -> float | None:
        if self.noise is None or isinstance(self.noise, int | float):
            return self.noise
        return self.noise.effective_noise_multiplier(honest, 0)
