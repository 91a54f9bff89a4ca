"""What it costs to keep the best of many private runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import dp_accounting
from dp_accounting import dp_event
from dp_accounting import rdp as dp_rdp

from accounting.accountants import NO_SLACK, Accounting, EpsilonPair, Slack, epsilon_pair
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.errors import InvalidPrivacyParameter, UnsupportedMechanism
from accounting.events import GaussianRelease, PoissonGaussianRelease, Repeated
from accounting.modes import Mode
from accounting.rdp import RDP_ORDERS, without_convergence_warnings
from accounting.units import require_delta


@dataclass(frozen=True, slots=True)
class RunSpend:
    """What one run has spent, of several that were made on the same records.

    Attributes:
        schedule: what each round releases; with noise.
        participations: rounds booked for the busiest client, >= 1.
        rounds: rounds booked in all, at least as many; they count for copies of a record.

    Raises:
        InvalidPrivacyParameter: a run without noise, or a number out of range.
    """

    schedule: ReleaseSchedule
    participations: int
    rounds: int

    def __post_init__(self) -> None:
        """Refuse runs that have no bound."""
        if self.schedule.mode is Mode.NONE:
            raise InvalidPrivacyParameter(
                "schedule",
                self.schedule,
                "a run without noise has no bound; leave it out, and say so",
            )
        if not 1 <= self.participations <= self.rounds:
            raise InvalidPrivacyParameter(
                "participations", self.participations, "give 1 or more, and no more than rounds"
            )

    def events(self, adversary: Adversary) -> Repeated:
        """Return everything it released on a record, for this adversary; no hidden cohorts."""
        seen = Adversary.SERVER if adversary is Adversary.OUTSIDE else adversary
        one = self.schedule.round_events(seen)
        count = self.schedule.record_rounds(self.participations, self.rounds)
        return Repeated(one.event, one.count * count)


def all_runs_epsilon(runs: Sequence[RunSpend], adversary: Adversary, delta: float) -> EpsilonPair:
    """Return what all runs cost together: the price of publishing any function of them.

    If one of them is held to the Renyi bound of its integer noise, so are all of them together.

    That function may be all of them, or the best one alone, however it was chosen.

    Guarantee: the caller ensures that number, settings and noise of the runs were fixed before any
    of them had a result. Where results decided what was run next, or when to stop, the figure is
    not proved: adding up what happened to be run takes parameters fixed in advance, or a privacy
    filter whose budget is (Rogers, Roth, Ullman and Vadhan 2016, section 1; Whitehouse, Ramdas,
    Rogers and Wu 2023, section 1).

    Args:
        runs: every run that was made on the records, failed and abandoned ones too. All protect
            the same unit.
        adversary: whose view.
        delta: failure probability of all of them together, in (0, 1).

    Raises:
        InvalidPrivacyParameter: runs that protect different units, or `delta` out of range.
    """
    units = {run.schedule.unit for run in runs}
    if len(units) > 1:
        raise InvalidPrivacyParameter(
            "runs", sorted(units), "runs that protect different units have no common bound"
        )
    slack = composed_slack([run.schedule.slack for run in runs])
    by_rdp = any(run.schedule.accounting is Accounting.RDP for run in runs)
    return epsilon_pair(
        [run.events(adversary) for run in runs],
        delta,
        slack=slack,
        accounting=Accounting.RDP if by_rdp else Accounting.REDUCTION,
    )


def best_run_epsilon(runs: Sequence[RunSpend], delta: float) -> float:
    """Return what publishing the best run would cost, had their number been drawn in secret.

    The mechanism: draw a number of tries from a geometric distribution with this many as its mean,
    keep it secret; draw each try's settings uniformly from those of `runs`, train, score on
    public pairs; publish the best and nothing else. A sweep of fixed size is NOT that mechanism;
    the figure says what the other way would have cost. It holds against whoever sees the
    published model, never against the server, who sees every run.

    Args:
        runs: see `all_runs_epsilon`; the worst of each number is taken for every try.
        delta: failure probability, in (0, 1).

    Raises:
        InvalidPrivacyParameter: see `all_runs_epsilon`.
        UnsupportedMechanism: see `selection_epsilon`.
    """
    if not runs:
        return 0.0
    all_events = [run.events(Adversary.OUTSIDE) for run in runs]
    units = {run.schedule.unit for run in runs}
    if len(units) > 1:
        raise InvalidPrivacyParameter(
            "runs", sorted(units), "runs that protect different units have no common bound"
        )
    worst = max((run.schedule.slack for run in runs), key=lambda slack: slack.certain_log_ratio)
    return selection_epsilon([_dominating(all_events)], delta, float(len(runs)), slack=worst)


def composed_slack(slacks: Sequence[Slack]) -> Slack:
    """Return the distance of several discrete mechanisms, run one after another, from their models.

    Log ratios add. A failure of one is weighed with the ratios of all others, e^(sum of them).
    """
    log_ratio = math.fsum(slack.log_ratio for slack in slacks)
    return Slack(
        log_ratio,
        math.fsum(slack.failure for slack in slacks) * math.exp(log_ratio),
        math.fsum(slack.certain_log_ratio for slack in slacks),
    )


def selection_epsilon(
    spends: Sequence[Repeated], delta: float, mean_runs: float, *, slack: Slack = NO_SLACK
) -> float:
    """Return epsilon of running a mechanism a random number of times and releasing the best run.

    The number of runs is drawn in secret from a geometric distribution, so that the score of the
    winner tells little about how often it was tried. A fixed number of runs, of which all but one
    are thrown away, costs more: price it as the composition of all of them.

    Args:
        spends: what ONE run releases on one record.
        delta: failure probability, in (0, 1).
        mean_runs: expected number of runs, >= 1.
        slack: distance of one real run from `spends`; its certain ratio is booked as one more
            Gaussian release, which costs more at every Renyi order.

    Returns:
        An upper bound by RDP; there is no PLD bound for selection.

    Raises:
        InvalidPrivacyParameter: a number out of range.
        UnsupportedMechanism: an event other than plain or Poisson-sampled Gaussians.
    Reference: Papernot and Steinke (2022), Theorem 2, with shape 1.
    """
    require_delta(delta)
    if not mean_runs >= 1:
        raise InvalidPrivacyParameter("mean_runs", mean_runs, "expect at least one run")
    if not spends:
        return 0.0
    one_run = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(_library_event(s), s.count)
            for s in (*spends, *_as_gaussian(slack))
        ]
    )
    accountant = dp_rdp.RdpAccountant(
        list(RDP_ORDERS), dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    with without_convergence_warnings():
        accountant.compose(dp_event.RepeatAndSelectDpEvent(one_run, mean_runs, 1))
    return float(accountant.get_epsilon(delta))


def _as_gaussian(slack: Slack) -> tuple[Repeated, ...]:
    """A Gaussian release whose Renyi divergence, at every order, is at least what slack adds.

    With R <= e^eta M for both neighbours and both directions, D_a(R) <= D_a(M) + eta (2a - 1) /
    (a - 1); a Gaussian of multiplier s has a / (2 s^2).
    """
    if slack.certain_log_ratio == 0:
        return ()
    most = max((2 * a - 1) / (a * (a - 1)) for a in RDP_ORDERS)
    return (Repeated(GaussianRelease(1 / math.sqrt(2 * slack.certain_log_ratio * most)), 1),)


def _dominating(spends: Sequence[Repeated]) -> Repeated:
    """A release whose Renyi divergence is at least that of each of `spends`, at every order."""
    rate, noise_multiplier = 0.0, math.inf
    for spend in spends:
        match spend.event:
            case GaussianRelease(own_noise):
                own_rate = 1.0
            case PoissonGaussianRelease(own_rate, own_noise):
                pass
            case _:
                raise UnsupportedMechanism(
                    spend.event, "selection is priced for Gaussian releases only"
                )
        rate, noise_multiplier = max(rate, own_rate), min(noise_multiplier, own_noise)
    event = (
        GaussianRelease(noise_multiplier)
        if rate == 1
        else PoissonGaussianRelease(rate, noise_multiplier)
    )
    return Repeated(event, max(spend.count for spend in spends))


def _library_event(spend: Repeated) -> dp_accounting.DpEvent:
    match spend.event:
        case GaussianRelease(noise_multiplier):
            return dp_accounting.GaussianDpEvent(noise_multiplier)
        case PoissonGaussianRelease(sample_rate, noise_multiplier):
            return dp_accounting.PoissonSampledDpEvent(
                sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
            )
    raise UnsupportedMechanism(spend.event, "selection is priced for Gaussian releases only")
