"""What a preference is: a prompt, a chosen and a rejected completion, and whose judgment it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation.

    Attributes:
        role: who speaks, in the words of the chat template ("system", "user", "assistant").
        content: what is said; never empty.
    """

    role: str
    content: str


Text = str | tuple[ChatMessage, ...]
"""Plain text, or a conversation; all three parts of one pair have the same form."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One person's judgment: of two completions of one prompt, this one is better.

    The pair is the default unit of differential privacy.

    Attributes:
        prompt: what both completions answer.
        chosen: the preferred completion, without the prompt. Plain text carries its own leading
            space, so that `prompt + chosen` is well formed.
        rejected: the other completion, in the same form.
        user: who judged, or None when the source does not say. Becomes the client in a natural
            partition.
        topic: a label of the subject, or None.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    user: str | None = None
    topic: str | None = None

    @property
    def conversational(self) -> bool:
        """True when the pair consists of message lists, which need a chat template."""
        return not isinstance(self.prompt, str)

    def flipped(self) -> PreferencePair:
        """The same two completions judged the other way round."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)


@dataclass(frozen=True, slots=True)
class PreferenceFacts:
    """What is worth knowing about a set of pairs before training on it.

    Attributes:
        pairs: how many there are.
        users: how many different users; 0 when no pair names one.
        topics: how many different topics; 0 when no pair names one.
        conversational: how many are message lists.
        duplicates: pairs that repeat an earlier one (same user, prompt and completions). At the
            unit "pair" a judgment present k times is protected only by the weaker guarantee for
            groups of k records, so the caller should remove these or say so.
        contradictions: pairs in which a user judges the other way round than in an earlier one.
    """

    pairs: int
    users: int
    topics: int
    conversational: int
    duplicates: int
    contradictions: int


def describe_pairs(pairs: Iterable[PreferencePair]) -> PreferenceFacts:
    """Count users, topics, repeated and contradictory judgments.

    Args:
        pairs: the judgments, in any order.

    Returns:
        The counts. They are exact and therefore not private: they may stay with whoever owns the
        data, or be declared public.
    """
    users: set[str] = set()
    topics: set[str] = set()
    seen: Counter[tuple[str | None, Text, Text, Text]] = Counter()
    count = conversational = duplicates = contradictions = 0
    for pair in pairs:
        count += 1
        conversational += pair.conversational
        if pair.user is not None:
            users.add(pair.user)
        if pair.topic is not None:
            topics.add(pair.topic)
        verdict = (pair.user, pair.prompt, pair.chosen, pair.rejected)
        opposite = (pair.user, pair.prompt, pair.rejected, pair.chosen)
        duplicates += verdict in seen
        contradictions += opposite in seen
        seen[verdict] += 1
    return PreferenceFacts(
        pairs=count,
        users=len(users),
        topics=len(topics),
        conversational=conversational,
        duplicates=duplicates,
        contradictions=contradictions,
    )
