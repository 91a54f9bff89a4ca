"""Everything this package raises on purpose; each error says who may be to blame and what to do."""

from __future__ import annotations

from secure_agg.types import ClientId, Culprit, Dispute, Phase


class SecAggError(Exception):
    """Root of the tree.

    Attributes:
        advice: one sentence that tells the caller what to do next.
    """

    advice: str = ""


def without_trace(error: SecAggError) -> SecAggError:
    """The same error, for keeping: one that was raised holds the frames it passed, secrets and all.

    Args:
        error: as it was raised.

    Returns:
        A twin of the same type, text and attributes, with neither traceback nor cause.
    """
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin


class InvalidParams(SecAggError, ValueError):
    """The parameters can give no safe round; lists every problem found.

    Attributes:
        problems: one sentence per problem.
    """

    advice = "correct the parameters; every participant must hold the same ones"

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class LocalProtocolError(SecAggError):
    """This side was called wrongly (wrong order, wrong vector); no peer is to blame."""

    advice = "correct the calling code; the session has sent nothing"


class SessionFailed(LocalProtocolError):
    """The session failed earlier and stays failed.

    Attributes:
        cause: the error that ended it.
    """

    advice = "start a new round with a new round_id; a failed session is never resumed"

    def __init__(self, cause: SecAggError) -> None:
        self.cause = cause
        super().__init__(f"the session failed earlier: {cause}")


class RemoteProtocolError(SecAggError):
    """A peer broke the protocol; its message changed nothing.

    Attributes:
        detail: what was wrong, without any secret.
        culprits: at least one of them is to blame; empty outside a round. One name means that it
            sent the message or made the bad data inside, several that this side cannot tell which
            of them did. A name stands for the line to that party too.
        phase: phase in which it was noticed, None outside a round.
    """

    advice = "treat the sender as gone for this round; of several names at least one is to blame"

    def __init__(
        self, detail: str, *, culprits: tuple[Culprit, ...] = (), phase: Phase | None = None
    ) -> None:
        self.detail = detail
        self.culprits = culprits
        self.phase = phase
        named = " or ".join(str(culprit) for culprit in culprits)
        where = f" in {phase}" if phase is not None else ""
        super().__init__(f"{detail}{where}" + (f" (culprit: {named})" if culprits else ""))


class MalformedMessage(RemoteProtocolError):
    """Bytes that are no message of this protocol: truncated, oversized, non-canonical, foreign."""


class UnexpectedMessage(RemoteProtocolError):
    """A well-formed message that has no place here: other phase, round, sender or addressee.

    Attributes:
        found: what arrived.
        expected: what this session was waiting for.
    """

    def __init__(
        self, *, found: str, expected: str, culprits: tuple[Culprit, ...], phase: Phase | None
    ) -> None:
        self.found = found
        self.expected = expected
        super().__init__(f"got {found}, expected {expected}", culprits=culprits, phase=phase)


class DuplicateMessage(RemoteProtocolError):
    """A second message of the same kind from the same client; the first one stands."""

    advice = "ignore it; the first message of that client stands"


class AuthenticationFailed(RemoteProtocolError):
    """A signature or a sealed box does not verify: not from whom it claims to be."""


class InconsistentView(RemoteProtocolError):
    """What a peer states contradicts the roster, the graph or what was agreed before."""


class UnsafeReveal(RemoteProtocolError):
    """The request would let the server see less than the agreed sum; nothing was revealed."""

    advice = "do not retry with this server before it has been looked into"


class RoundAborted(SecAggError):
    """Too few clients or right shares are left; nothing was unmasked and nothing can be.

    Attributes:
        phase: the phase that closed below its threshold.
        needed: replies required.
        received: replies there were.
        missing: clients whose reply was awaited and did not come, ascending.
        detail: which rule failed, when it is not the global threshold.
        disputes: shares that contradict what their owner published, up to the ones that ended the
            round; the error blames nobody beyond them.
    """

    advice = "start a new round with a new round_id, and count the privacy spend of this one"

    def __init__(
        self,
        *,
        phase: Phase,
        needed: int,
        received: int,
        missing: tuple[ClientId, ...],
        detail: str = "",
        disputes: tuple[Dispute, ...] = (),
    ) -> None:
        self.phase = phase
        self.needed = needed
        self.received = received
        self.missing = missing
        self.detail = detail
        self.disputes = disputes
        reason = f" ({detail})" if detail else ""
        super().__init__(
            f"{phase} closed with {received} of the {needed} replies needed{reason}; "
            f"missing: {', '.join(map(str, missing)) or 'nobody'}"
        )
