"""The error tree of the composition layer; only the CLI turns these into text and exit codes."""

from __future__ import annotations


class PrivFedError(Exception):
    """Root of everything this package raises on purpose.

    Attributes:
        advice: one sentence that tells the user what to do next, or an empty string.
        exit_code: what the command line returns for it (0 done, 2 bad input, 3 budget refused,
            4 protocol aborted, 1 anything else).
    """

    exit_code: int = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class InputNotice(UserWarning):
    """Something about the input that is worth knowing and no reason to stop."""


class ConfigError(PrivFedError):
    """The configuration is wrong; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: tuple[str, ...], *, advice: str = "") -> None:
        self.problems = problems
        super().__init__("\n".join(problems), advice=advice)


class ContradictoryConfig(ConfigError):
    """Every value is valid by itself, but they cannot work together."""


class DataError(PrivFedError):
    """Preference data cannot be used; carries where and why."""

    exit_code = 2

    def __init__(self, message: str, *, source: str = "", advice: str = "") -> None:
        self.source = source
        super().__init__(message, advice=advice)


class ModelError(PrivFedError):
    """A model, tokenizer or adapter cannot be used for private per-pair training."""

    exit_code = 2


class PlanRefused(PrivFedError):
    """No plan with these numbers keeps its promises; nothing was computed and nothing spent."""

    exit_code = 2


class BudgetRefused(PrivFedError):
    """The privacy budget does not allow what was asked; nothing was spent."""

    exit_code = 3


class RunAborted(PrivFedError):
    """The protocol could not finish: too few survivors, or a peer that broke the rules."""

    exit_code = 4


class RunDiverged(PrivFedError):
    """Training left what numbers can hold and was ended early; the run folder is complete."""


class DiskFull(PrivFedError):
    """There is no room for what must be written; nothing was released that is not booked."""


class ResumeMismatch(PrivFedError):
    """A run folder does not belong to the data, model or configuration it is resumed with."""

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        expected: str,
        found: str,
        advice: str = "Restore the original file or start a new run in another folder.",
    ) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"{what} is not the one this run started with: expected {expected}, found {found}",
            advice=advice,
        )
