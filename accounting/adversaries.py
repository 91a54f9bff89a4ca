"""Who sees what: one plan of releases, priced differently for each adversary."""

from dataclasses import dataclass
from enum import StrEnum

from accounting.accountants import (
    NO_SLACK,
    NOTHING_SPENT,
    EpsilonCurve,
    EpsilonPair,
    Slack,
    epsilon_pair,
)
from accounting.errors import InvalidPrivacyParameter
from accounting.events import (
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
    UnprotectedRelease,
)
from accounting.labels import LabelCost, RandomizedLabels, label_cost
from accounting.noise_shares import GridNoise, NoiseShares, require_noise_multiplier
from accounting.record_copies import RecordCopies
from accounting.secret_cohort import SecretCohort
from accounting.units import PrivacyUnit


class Adversary(StrEnum):
    """From whose eyes the data are protected.

    SERVER: runs the rounds, sees every opened sum, knows who took part and who dropped out; no
        client helps it.
    COALITION: the server together with up to K clients that subtract their own noise; fewest
        survivors. This is the headline.
    OUTSIDE: holds the released model only. Priced as the server, unless the plan states that
        cohorts are secret Poisson samples: see `SecretCohort`.
    NO_SECAGG: what a client's own message would be worth if secure aggregation failed.
    """

    SERVER = "server"
    COALITION = "coalition"
    OUTSIDE = "outside"
    NO_SECAGG = "no_secagg"


class Mode(StrEnum):
    """Who adds the noise.

    DISTRIBUTED: every client a share; only the sum is protected.
    LOCAL: every client in full, before anything leaves it.
    USER: every client a share, scaled to the norm of a client's whole update; only the sum of the
        clipped updates is protected, and everything of one client at once.
    GOSSIP: every node in full, before it sends anything to a neighbour. There is no server: what a
        node sends is post-processing of its own noisy steps, so its data cost the same against any
        coalition of the others, and against anybody outside.
    NONE: nobody; epsilon is infinite.
    """

    DISTRIBUTED = "distributed"
    LOCAL = "local"
    USER = "user"
    GOSSIP = "gossip"
    NONE = "none"


Noise = NoiseShares | GridNoise | float
_SHARED = frozenset({Mode.DISTRIBUTED, Mode.USER})
_OWN = frozenset({Mode.LOCAL, Mode.GOSSIP})


@dataclass(frozen=True, slots=True)
class ReleaseSchedule:
    """Everything that one client's records go through in a run, at the guaranteed noise.

    Attributes:
        mode: who adds the noise.
        sample_rate: probability with which a record joins one noisy sum or one local step; 1 in
            mode user, where a client's whole update is the record.
        noise: `NoiseShares` or `GridNoise` in distributed and user mode; in local and gossip mode
            the client's own multiplier, or a `GridNoise` of cohort 1; None without noise.
        participations: most rounds that any one client takes part in. Guarantee: the scheduler
            enforces it, and the ledger refuses more.
        local_steps: steps of a client per round, each noisy in local and gossip mode; 1 in
            distributed mode, whose shares only protect a sum of gradients taken at the same
            weights; free in mode user, which releases one update per round, however it was made.
        secret_cohort: in mode user, that cohorts are secret Poisson samples; None claims nothing.
        copies: that a record may stand several times in the data; None says once. Not in mode user,
            where everything of a client is one record.
        labels: flips of labels, before all else: a promise about another unit, `accounting.labels`.

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

    def __post_init__(self) -> None:
        """Refuse schedules whose accounting would not describe the mechanism."""
        if not 0 < self.sample_rate <= 1:
            raise InvalidPrivacyParameter(
                "sample_rate", self.sample_rate, "give a probability in (0, 1]"
            )
        for name in ("participations", "local_steps"):
            if getattr(self, name) < 1:
                raise InvalidPrivacyParameter(name, getattr(self, name), "give at least 1")
        if self.secret_cohort is not None and self.mode is not Mode.USER:
            raise InvalidPrivacyParameter(
                "secret_cohort", self.secret_cohort, "only mode user prices secret cohorts"
            )
        if self.copies is not None and self.mode not in {Mode.DISTRIBUTED, *_OWN}:
            raise InvalidPrivacyParameter(
                "record_copies", self.copies, f"mode {self.mode} does not price copies of a pair"
            )
        if self.mode in _SHARED:
            self._require_shares()
        elif self.mode in _OWN:
            self._require_own_noise()
        elif self.noise is not None:
            raise InvalidPrivacyParameter("noise", self.noise, "mode none adds no noise: give None")

    def _require_shares(self) -> None:
        if not isinstance(self.noise, NoiseShares | GridNoise):
            raise InvalidPrivacyParameter(
                "noise", self.noise, f"{self.mode} mode needs NoiseShares or GridNoise"
            )
        if self.mode is Mode.USER:
            if self.sample_rate != 1:
                raise InvalidPrivacyParameter(
                    "sample_rate",
                    self.sample_rate,
                    "mode user protects a client's whole update, and sampling inside the client "
                    "does not amplify it: give 1",
                )
        elif self.local_steps != 1:
            raise InvalidPrivacyParameter(
                "local_steps",
                self.local_steps,
                "a share of noise protects one summed gradient, not a second local step; use 1, or "
                "mode local",
            )

    def _require_own_noise(self) -> None:
        if isinstance(self.noise, GridNoise):
            if self.noise.cohort != 1:
                raise InvalidPrivacyParameter(
                    "noise",
                    self.noise,
                    f"in {self.mode} mode each client adds full noise: cohort 1",
                )
        elif isinstance(self.noise, NoiseShares) or self.noise is None:
            raise InvalidPrivacyParameter(
                "noise", self.noise, f"{self.mode} mode needs the client's own noise multiplier"
            )
        else:
            require_noise_multiplier(self.noise)

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
        return self.noise.slack if isinstance(self.noise, NoiseShares | GridNoise) else NO_SLACK

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
    def _shares(self) -> NoiseShares | GridNoise | None:
        if self.mode in _SHARED and isinstance(self.noise, NoiseShares | GridNoise):
            return self.noise
        return None

    def noise_multiplier(self, adversary: Adversary) -> float | None:
        """Return the guaranteed multiplier that this adversary faces; None without noise."""
        if self.noise is None:
            return None
        shares = self._shares
        if shares is None:
            own = self.noise
            return own if isinstance(own, int | float) else own.noise_multiplier
        if adversary is Adversary.COALITION:
            return shares.effective_noise_multiplier(shares.threshold, shares.colluders)
        if adversary is Adversary.NO_SECAGG:
            return shares.share_noise_multiplier
        return shares.effective_noise_multiplier(shares.threshold, 0)

    def round_events(self, adversary: Adversary) -> Repeated:
        """Return what one round releases on a record of a client that takes part in it."""
        return self._round(self.noise_multiplier(adversary))

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
        seen = shares.effective_noise_multiplier(min(survivors, shares.cohort), shares.colluders)
        return self._round(seen)

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

        Whoever holds the model sees no more than the server, so the smaller of the two bounds
        holds for it.

        Args:
            adversary: whose view.
            delta: failure probability, in (0, 1).
            participations: rounds of the busiest client; 0 costs nothing.
            rounds: rounds of the run so far; they count for secret cohorts and for copies.
        """
        if participations == 0:
            return NOTHING_SPENT
        if adversary is not Adversary.OUTSIDE or self.secret_cohort is None:
            return self._priced(self._seen(adversary, participations, rounds), delta)
        known = self._priced(self._seen(Adversary.SERVER, participations, rounds), delta)
        hidden_delta = delta - self.secret_cohort.failure
        if hidden_delta <= 0:
            return known
        seen = self._priced(self._seen(adversary, participations, rounds), hidden_delta)
        return EpsilonPair(min(seen.pld, known.pld), min(seen.rdp, known.rdp))

    def curve(self, adversary: Adversary, delta: float) -> EpsilonCurve:
        """Return epsilon by number of known participations, for this adversary."""
        return EpsilonCurve(self.round_events(adversary), delta, self.slack)

    def _priced(self, spends: tuple[Repeated, ...], delta: float) -> EpsilonPair:
        return epsilon_pair(spends, delta, slack=self.slack)

    def _seen(self, adversary: Adversary, participations: int, rounds: int) -> tuple[Repeated, ...]:
        noise_multiplier = self.noise_multiplier(adversary)
        if adversary is Adversary.OUTSIDE and self.secret_cohort and noise_multiplier is not None:
            hidden = PoissonGaussianRelease(self.secret_cohort.rate, noise_multiplier)
            return (Repeated(hidden, rounds),)
        one = self._round(noise_multiplier)
        count = one.count * self.record_rounds(participations, rounds)
        return (Repeated(one.event, count),)

    def _round(self, noise_multiplier: float | None) -> Repeated:
        event: Event
        if noise_multiplier is None:
            event = UnprotectedRelease()
        elif self.mode is Mode.USER:
            return Repeated(GaussianRelease(noise_multiplier), 1)
        elif self.copies is not None and self.copies_share_sums:
            event = GroupPoissonGaussianRelease(
                self.copies.most, self.sample_rate, noise_multiplier
            )
        else:
            event = PoissonGaussianRelease(self.sample_rate, noise_multiplier)
        separate = self.copies.most if self.copies and not self.copies_share_sums else 1
        return Repeated(event, self.local_steps * separate)
