"""Steps and notices of masked averaging: who hears whom, on which links, and who vouches for it.

Inside the sums travel the messages of `secure_agg`, unchanged. Around them nodes tell everybody,
signed and in clear, which neighbours they heard, which links of the whole graph follow from that,
and whether their own sum opened; who is present is public.
"""

from __future__ import annotations

from typing import Literal

from privfed_dpo.engine.gossip_messages import COMBINE
from privfed_dpo.engine.messages import Message
from secure_agg import Phase

HELLO = "Hello"
LINKS = "Links"
AGREE = "Agree"
VOTE = "Vote"


def closing(phase: Phase) -> str:
    """Name of the step in which every node ends this phase of its own sum."""
    return f"Close{phase.value}"


_SUM_STEPS = tuple(step for phase in Phase for step in (phase.value, closing(phase)))
MASKED_STEPS = (HELLO, LINKS, AGREE, *_SUM_STEPS[:-1], VOTE, COMBINE)
"""Steps of one masked mixing. The last phase of the sums is closed in VOTE."""

NOTICE_STEPS = frozenset({LINKS, AGREE, VOTE})
"""Steps in which each node says one thing to everybody, by way of whoever keeps the rounds in step.

In all others each message is for one node.
"""

PARCEL_STEPS = frozenset(MASKED_STEPS[:-1])
"""Steps in which nodes speak to nodes; the last one reports."""

Verdict = Literal["yes", "done", "undone", "never"]
"""What a node knows of a vote: it voted so and waits; all did, and it averaged; not all did; it
never voted so."""


class OpenVote(Message, frozen=True):
    """A round that waits at a node for the votes of others.

    Attributes:
        round: which.
        digest: SHA-256 of the links the node voted for.
    """

    round: int
    digest: bytes


class LinksNotice(Message, frozen=True, tag=14):
    """Body of a "links" notice.

    Attributes:
        heard: neighbours whose hello arrived, ascending.
        open: rounds about which the sender is in doubt: earlier ones, ascending, each once, since
            a node votes once in a round.
    """

    heard: tuple[int, ...]
    open: tuple[OpenVote, ...] = ()


class AgreeNotice(Message, frozen=True, tag=16):
    """Body of an "agree" notice.

    Attributes:
        digest: SHA-256 of all links that the sender found from the notices it got.
    """

    digest: bytes


class Answer(Message, frozen=True):
    """What the sender knows of a vote that somebody asked about."""

    round: int
    digest: bytes
    verdict: Verdict


class VoteNotice(Message, frozen=True, tag=15):
    """Body of a "vote" notice.

    Attributes:
        digest: SHA-256 of the links over which the sender's own sum was taken and opened whole;
            empty if it was not.
        answers: what it knows of votes that others are in doubt about.
    """

    digest: bytes
    answers: tuple[Answer, ...] = ()
