"""What it costs to keep the best of many private runs."""

from collections.abc import Sequence

import dp_accounting
from dp_accounting import dp_event
from dp_accounting import rdp as dp_rdp

from accounting.errors import InvalidPrivacyParameter, UnsupportedMechanism
from accounting.events import GaussianRelease, PoissonGaussianRelease, Repeated
from accounting.rdp import RDP_ORDERS, without_convergence_warnings
from accounting.units import require_delta


def selection_epsilon(spends: Sequence[Repeated], delta: float, mean_runs: float) -> float:
    """Return epsilon of running a mechanism a random number of times and releasing the best run.

    The number of runs is drawn in secret from a geometric distribution, so that the score of the
    winner tells little about how often it was tried. A fixed number of runs, of which all but one
    are thrown away, costs more: price it as the composition of all of them.

    Args:
        spends: what ONE run releases on one record.
        delta: failure probability, in (0, 1).
        mean_runs: expected number of runs, >= 1.

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
        [dp_accounting.SelfComposedDpEvent(_library_event(s), s.count) for s in spends]
    )
    accountant = dp_rdp.RdpAccountant(
        list(RDP_ORDERS), dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    with without_convergence_warnings():
        accountant.compose(dp_event.RepeatAndSelectDpEvent(one_run, mean_runs, 1))
    return float(accountant.get_epsilon(delta))


def _library_event(spend: Repeated) -> dp_accounting.DpEvent:
    match spend.event:
        case GaussianRelease(noise_multiplier):
            return dp_accounting.GaussianDpEvent(noise_multiplier)
        case PoissonGaussianRelease(sample_rate, noise_multiplier):
            return dp_accounting.PoissonSampledDpEvent(
                sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
            )
    raise UnsupportedMechanism(spend.event, "selection is priced for Gaussian releases only")
