"""Everything that can go wrong while describing, pricing or recording a release.

One tree, rooted in `AccountingError`. Each error carries its facts as attributes, and a message
that says what to do next. None of them ever holds data, gradients, noise or keys.
"""


class AccountingError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidPrivacyParameter(AccountingError, ValueError):
    """A privacy parameter lies outside the range in which the guarantee holds.

    Attributes:
        parameter: name of the offending parameter.
        value: the value that was given.
        advice: what would be accepted, and what to change.
    """

    def __init__(self, parameter: str, value: object, advice: str) -> None:
        self.parameter = parameter
        self.value = value
        self.advice = advice
        super().__init__(f"{parameter} = {value!r} is not usable: {advice}")


class UnsupportedMechanism(AccountingError):
    """No accountant of this package can price the given mechanism.

    Attributes:
        event: the event, or the encoded mapping, that was not understood.
        advice: what would be accepted.
    """

    def __init__(self, event: object, advice: str) -> None:
        self.event = event
        self.advice = advice
        super().__init__(f"no accountant prices {event!r}: {advice}")


class UnsupportedAdjacency(AccountingError):
    """An accountant was asked for an adjacency under which its bound does not hold.

    Attributes:
        accountant: the accountant that refused, e.g. "RDP".
        adjacency: the adjacency that was asked for.
    """

    def __init__(self, accountant: str, adjacency: str, advice: str) -> None:
        self.accountant = accountant
        self.adjacency = adjacency
        self.advice = advice
        super().__init__(f"{accountant} gives no valid bound under {adjacency} adjacency: {advice}")


class BudgetExceeded(AccountingError):
    """The next release would cost more than the budget, or than the plan, allows.

    Attributes:
        requested: the amount after the refused release: epsilon, or a number of participations
            or rounds.
        remaining: what may still be spent before the limit, in the same unit, never negative.
        resource: "epsilon", "participations" or "rounds".
    """

    def __init__(self, requested: float, remaining: float, *, resource: str = "epsilon") -> None:
        self.requested = requested
        self.remaining = remaining
        self.resource = resource
        super().__init__(
            f"the release was refused: it would bring {resource} to {requested:.6g}, "
            f"and only {remaining:.6g} more is left; stop the run, or plan a new one "
            "with a larger budget or more noise"
        )


class CalibrationFailed(AccountingError):
    """No noise multiplier in the searched bracket meets the target.

    Attributes:
        bracket: (smallest, largest) noise multiplier that was tried.
        epsilons: epsilon at those two ends, upper bounds.
        target: the epsilon that was asked for.
    """

    def __init__(
        self,
        bracket: tuple[float, float],
        epsilons: tuple[float, float],
        target: float,
    ) -> None:
        self.bracket = bracket
        self.epsilons = epsilons
        self.target = target
        super().__init__(
            f"no noise multiplier between {bracket[0]:g} and {bracket[1]:g} gives epsilon "
            f"{target:g} (it runs from {epsilons[0]:.6g} down to {epsilons[1]:.6g}); "
            "change the target, the sample rate or the number of rounds"
        )


class LedgerCorrupted(AccountingError):
    """A complete line of a ledger is not what an honest writer could have written.

    Attributes:
        index: position of the offending line, counted from 0.
        reason: what is wrong with it, in words.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        self.reason = reason
        super().__init__(
            f"ledger line {index} is not valid: {reason}; restore the ledger from a copy, "
            "do not continue the run on it"
        )


class LedgerMisuse(AccountingError):
    """The ledger was asked for an entry that has no place in its order.

    For example an outcome without a spend, a round that went backwards, or a write after `close`.
    """
