"""Events in, epsilon out: one door to both accountants.

By default the PLD figure certifies. The RDP figure stands beside it as an independent check: for
the same releases it is never smaller than the truth either, and usually 5 to 20 % above PLD. Under
`Accounting.RDP` integer noise is priced as it is, by its Renyi divergences alone, and that figure
certifies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from accounting.events import Event, Repeated
from accounting.pld import CERTIFIED_INTERVAL, pld_epsilon, quick_interval
from accounting.rdp import rdp_epsilon
from accounting.units import require_delta


class Accounting(StrEnum):
    """Which figure certifies a run on integers.

    REDUCTION: PLD of the continuous Gaussian that discrete Gaussian shares reduce to
        (docs/proofs/discrete-gaussian.md); tighter, by an argument of our own.
    RDP: Renyi divergences of the integer noise itself, all published; no reduction.
    """

    REDUCTION = "reduction"
    RDP = "rdp"


@dataclass(frozen=True, slots=True)
class EpsilonPair:
    """The same spend, priced in two ways at the same delta.

    Attributes:
        pld: upper bound from privacy-loss distributions of the continuous model; infinite where
            there is no such model.
        rdp: upper bound from Renyi divergences: of the continuous model, or of the integer noise
            itself under `Accounting.RDP`.
        accounting: which of the two certifies.
    """

    pld: float
    rdp: float
    accounting: Accounting = Accounting.REDUCTION

    @property
    def certified(self) -> float:
        """The figure that a budget is held against."""
        return self.rdp if self.accounting is Accounting.RDP else self.pld


@dataclass(frozen=True, slots=True)
class Slack:
    r"""What a discrete mechanism may cost beyond the continuous one it is accounted as.

    Real output R and model M satisfy R(S) <= e^eta M(S) + failure and the same with R and M
    swapped, for both neighbours. If the model is (epsilon, delta)-DP, the real mechanism then is
    (epsilon + 2 eta, e^eta delta + failure (1 + e^{epsilon + eta}))-DP.

    Attributes:
        log_ratio: eta >= 0, for the whole run.
        failure: probability outside of which the ratio holds; 0 if it always does.
        certain_log_ratio: a (larger) ratio that always holds, for epsilons so large that
            failure * e^epsilon would no longer be small.
    """

    log_ratio: float = 0.0
    failure: float = 0.0
    certain_log_ratio: float = 0.0

    @property
    def epsilon(self) -> float:
        """What is added to epsilon: 2 eta."""
        return 2 * self.log_ratio

    @property
    def delta_factor(self) -> float:
        """What the model's delta is multiplied by, with a millionth set aside for `failure`."""
        return math.exp(self.log_ratio) / (1 - (_RESERVE if self.failure else 0.0))

    def price(self, model: Callable[[float], float], delta: float) -> float:
        """Return epsilon of the real mechanism at `delta`.

        Args:
            model: delta -> epsilon of the model.
            delta: failure probability of the real mechanism, in (0, 1).
        """
        epsilon = model(delta / self.delta_factor)
        if self.failure == 0 or math.isinf(epsilon):
            return epsilon + self.epsilon
        log_lost = math.log(self.failure) + math.log(2) + epsilon + self.log_ratio
        if log_lost <= math.log(_RESERVE * delta):
            return epsilon + self.epsilon
        return model(delta / math.exp(self.certain_log_ratio)) + 2 * self.certain_log_ratio


_RESERVE = 1e-6
NO_SLACK = Slack()
NOTHING_SPENT = EpsilonPair(0.0, 0.0)
UNBOUNDED = EpsilonPair(math.inf, math.inf)


def epsilon_pair(
    spends: Sequence[Repeated],
    delta: float,
    *,
    slack: Slack = NO_SLACK,
    interval: float = CERTIFIED_INTERVAL,
    accounting: Accounting = Accounting.REDUCTION,
) -> EpsilonPair:
    """Price `spends` by PLD and by RDP, zero-out adjacency.

    Under `Accounting.RDP` by RDP alone: the PLD figure is infinite.

    Args:
        spends: what was released on one record.
        delta: failure probability of the real mechanism, in (0, 1).
        slack: distance of the real mechanism from the events that model it.
        interval: smallest grid step of the PLD.
        accounting: which figure certifies.

    Raises:
        InvalidPrivacyParameter: `delta` is not in (0, 1).
        UnsupportedMechanism: integer releases under `Accounting.REDUCTION`.
    """
    require_delta(delta)
    if not spends:
        return NOTHING_SPENT
    rdp = slack.price(lambda model: rdp_epsilon(spends, model), delta)
    if accounting is Accounting.RDP:
        return EpsilonPair(math.inf, rdp, accounting)
    pld = slack.price(lambda model: pld_epsilon(spends, model, interval=interval), delta)
    return EpsilonPair(pld, rdp)


class EpsilonCurve:
    """Epsilon of 1, 2, 3, ... rounds of the same mechanism, computed when asked and kept.

    For progress, and for deciding round by round: on a grid up to eight times coarser than that of
    the certified figure, and above 512 rounds with the count rounded up by at most 1/256, so that
    a long run prices few distinct counts. Both only raise the figure, by well under one percent.

    Args:
        event: the mechanism; or a `Repeated` one, if a round consists of several releases.
        delta: failure probability, in (0, 1).
        slack: distance of the real mechanism from the event that models it.
        accounting: which figure certifies.
    """

    def __init__(
        self,
        event: Event | Repeated,
        delta: float,
        slack: Slack = NO_SLACK,
        accounting: Accounting = Accounting.REDUCTION,
    ) -> None:
        self._round = event if isinstance(event, Repeated) else Repeated(event, 1)
        self._delta = require_delta(delta)
        self._slack = slack
        self._accounting = accounting
        self._known: dict[int, EpsilonPair] = {}

    def pld(self, count: int) -> float:
        """Return an upper bound on epsilon after `count` rounds; 0 rounds cost nothing."""
        return self.pair(count).pld

    def rdp(self, count: int) -> float:
        """Return the RDP figure after `count` rounds."""
        return self.pair(count).rdp

    def pair(self, count: int) -> EpsilonPair:
        """Return both figures after `count` rounds."""
        priced = _rounded_up(count)
        if priced not in self._known:
            self._known[priced] = self._price(priced, certified=False)
        return self._known[priced]

    def certified(self, count: int) -> EpsilonPair:
        """Return both figures, PLD on the fine grid: slower, for final and close decisions."""
        return self._price(count, certified=True)

    def exceeds(self, count: int, epsilon: float) -> bool:
        """Return whether `count` rounds cost more than `epsilon`, on the fine grid if need be."""
        if self.pair(count).certified <= epsilon:
            return False
        return self.certified(count).certified > epsilon

    def _price(self, count: int, *, certified: bool) -> EpsilonPair:
        spends = (Repeated(self._round.event, self._round.count * count),) if count else ()
        interval = CERTIFIED_INTERVAL
        if not certified and self._accounting is Accounting.REDUCTION:
            interval = quick_interval(spends, rdp_epsilon(spends, self._delta))
        return epsilon_pair(
            spends,
            self._delta,
            slack=self._slack,
            interval=interval,
            accounting=self._accounting,
        )


def _rounded_up(count: int) -> int:
    """Return the smallest number >= count with at most nine significant bits."""
    step = 1 << max(0, count.bit_length() - 9)
    return -(-count // step) * step
