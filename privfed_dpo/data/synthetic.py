"""A small task whose right answer is known: users with Bradley–Terry tastes that differ.

A prompt asks "how do i VERB my NOUN ?". An answer is put together from four attributes (greeting,
politeness, manner, closing) with three levels each, and every level has up to two wordings. A
user weighs the attributes and prefers the answer with the higher utility, with noise (Bradley and
Terry, 1952). Users share common weights, but each flips the sign of some, so tastes conflict.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.errors import DataError

VERBS = tuple(
    "fix clean move sell paint store build carry check cover draw find fold hide lift mend "  # noqa: SIM905
    "open pack plan save sort test wash wrap".split()
)
NOUNS = tuple(
    "bag bed bike boat book box car chair clock coat cup desk door drum fence garden gate "  # noqa: SIM905
    "guitar hat house kite lamp map mirror oven pen phone radio roof shelf".split()
)
ATTRIBUTES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("listen up", "well then"), ("hello there", "good day"), ("dear friend", "my dear")),
    (("just", "simply"), ("now", "first"), ("please", "kindly")),
    (("very fast", "at once"), ("as usual", "like always"), ("with care", "very gently")),
    (("bye now", "that is all"), ("good luck", "all the best"), ("ask me again", "call me soon")),
)
"""For each attribute its levels from low to high, and for each level its wordings."""

WORDINGS = 2
LEVEL_VALUES = (-1.0, 0.0, 1.0)
EVALUATION_GAP = 0.4
"""Held-out pairs differ by at least this much in common utility, so their verdict is clear."""

_TRIES = 100


@dataclass(frozen=True, slots=True)
class SyntheticTask:
    """Pairs for training and evaluation, public warm-up text, and how well one can do.

    Attributes:
        train: `clients * pairs_per_client` pairs, judged by users "user-000" and so on.
        evaluation: held-out pairs on prompts that are not in `train`, judged by the common weights
            without noise; `user` deals them round robin over the same users, so that per-client
            figures exist.
        warmup_texts: training prompts with random answers, drawn independently of any preference;
            public, for warming up a model on the grammar.
        vocabulary: every word, sorted; texts split at spaces into exactly these.
        bayes_accuracy: share of `evaluation` that the best single rule for these users gets right:
            the one that follows the mean of their true choice probabilities.
        label_agreement: share of `train` that agrees with the common weights; what label noise and
            opposed tastes leave of the signal.
    """

    train: tuple[PreferencePair, ...]
    evaluation: tuple[PreferencePair, ...]
    warmup_texts: tuple[str, ...]
    vocabulary: tuple[str, ...]
    bayes_accuracy: float
    label_agreement: float


@dataclass(frozen=True, slots=True)
class _Answer:
    levels: tuple[int, ...]
    text: str

    @property
    def values(self) -> NDArray[np.float64]:
        return np.array([LEVEL_VALUES[level] for level in self.levels])


def synthetic_task(
    *,
    clients: int,
    pairs_per_client: int,
    eval_pairs: int,
    seed: int,
    heterogeneity: float = 0.15,
    temperature: float = 0.5,
    wordings: int = 1,
    warmup_texts: int = 2000,
) -> SyntheticTask:
    """Make the task; the same arguments always give the same texts.

    Args:
        clients: number of users, at least 1.
        pairs_per_client: training pairs per user, at least 1.
        eval_pairs: held-out pairs, at least 1.
        seed: public; the data are synthetic, so nothing private rests on it.
        heterogeneity: probability that a user flips the sign of one attribute weight, in [0, 0.5].
        temperature: of the Bradley–Terry choice, P(a over b) = sigmoid((u_a - u_b) / temperature);
            above 0.
        wordings: how many phrases may stand for one level, 1 or 2; two are harder to learn.
        warmup_texts: how many public texts to make.

    Returns:
        The task with its Bayes accuracy.

    Raises:
        DataError: an argument is out of range.
    """
    if min(clients, pairs_per_client, eval_pairs) < 1 or warmup_texts < 0:
        raise DataError("clients, pairs_per_client and eval_pairs must be at least 1")
    if not 0 <= heterogeneity <= 0.5:  # noqa: PLR2004 - more would flip the common taste itself
        raise DataError(f"heterogeneity must lie in [0, 0.5], not {heterogeneity}")
    if not temperature > 0:
        raise DataError(f"temperature must be above 0, not {temperature}")
    if not 1 <= wordings <= WORDINGS:
        raise DataError(f"wordings must lie between 1 and {WORDINGS}, not {wordings}")
    streams = np.random.SeedSequence(seed).spawn(5)
    taste, users, train, held_out, public = (np.random.default_rng(stream) for stream in streams)
    weights = taste.choice((-1.0, 1.0), size=4) * taste.uniform(0.5, 1.0, size=4)
    flips = users.random((clients, 4)) < heterogeneity
    user_weights: NDArray[np.float64] = np.where(flips, -weights, weights)
    train_prompts, eval_prompts = _split_prompts(taste)

    trained, agreement = _judged_by_users(
        train,
        prompts=train_prompts,
        weights=weights,
        user_weights=user_weights,
        pairs_per_client=pairs_per_client,
        temperature=temperature,
        wordings=wordings,
    )
    evaluated, bayes = _judged_in_common(
        held_out,
        prompts=eval_prompts,
        weights=weights,
        user_weights=user_weights,
        count=eval_pairs,
        temperature=temperature,
        wordings=wordings,
    )
    return SyntheticTask(
        train=trained,
        evaluation=evaluated,
        warmup_texts=tuple(
            _question(prompt) + _random_answer(public, prompt, wordings).text
            for prompt in _draw(public, train_prompts, warmup_texts)
        ),
        vocabulary=_vocabulary(),
        bayes_accuracy=bayes,
        label_agreement=agreement,
    )


def _judged_by_users(
    generator: np.random.Generator,
    *,
    prompts: tuple[tuple[str, str], ...],
    weights: NDArray[np.float64],
    user_weights: NDArray[np.float64],
    pairs_per_client: int,
    temperature: float,
    wordings: int,
) -> tuple[tuple[PreferencePair, ...], float]:
    pairs: list[PreferencePair] = []
    agreements: list[float] = []
    judged: set[PreferencePair] = set()
    for user, own in enumerate(user_weights):
        for prompt in _draw(generator, prompts, pairs_per_client):
            for _ in range(_TRIES):
                first, second = _two_answers(generator, prompt, wordings)
                difference = first.values - second.values
                choice = _sigmoid(own @ difference / temperature)
                prefers_first = bool(generator.random() < choice)
                pair = _pair(prompt, first, second, prefers_first=prefers_first, user=user)
                if pair not in judged:
                    break
            judged.add(pair)
            pairs.append(pair)
            common = float(weights @ difference)
            agreements.append(0.5 if common == 0 else float((common > 0) == prefers_first))
    return tuple(pairs), float(np.mean(agreements))


def _judged_in_common(
    generator: np.random.Generator,
    *,
    prompts: tuple[tuple[str, str], ...],
    weights: NDArray[np.float64],
    user_weights: NDArray[np.float64],
    count: int,
    temperature: float,
    wordings: int,
) -> tuple[tuple[PreferencePair, ...], float]:
    pairs: list[PreferencePair] = []
    right = 0
    while len(pairs) < count:
        prompt = _draw(generator, prompts, 1)[0]
        first, second = _two_answers(generator, prompt, wordings)
        difference = first.values - second.values
        gap = float(weights @ difference)
        if abs(gap) < EVALUATION_GAP:
            continue
        mean_choice = float(np.mean(_sigmoid(user_weights @ difference / temperature)))
        right += (mean_choice > 0.5) == (gap > 0)  # noqa: PLR2004 - more likely than not
        user = len(pairs) % len(user_weights)
        pairs.append(_pair(prompt, first, second, prefers_first=gap > 0, user=user))
    return tuple(pairs), right / count


def _pair(
    prompt: tuple[str, str], first: _Answer, second: _Answer, *, prefers_first: bool, user: int
) -> PreferencePair:
    chosen, rejected = (first, second) if prefers_first else (second, first)
    return PreferencePair(
        prompt=_question(prompt),
        chosen=chosen.text,
        rejected=rejected.text,
        user=f"user-{user:03d}",
        topic=prompt[1],
    )


def _split_prompts(
    generator: np.random.Generator,
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Four fifths of all prompts for training, the rest for evaluation."""
    prompts = tuple(itertools.product(VERBS, NOUNS))
    order = generator.permutation(len(prompts))
    held_out = len(prompts) // 5
    return (
        tuple(prompts[index] for index in order[held_out:]),
        tuple(prompts[index] for index in order[:held_out]),
    )


def _draw(
    generator: np.random.Generator, prompts: tuple[tuple[str, str], ...], count: int
) -> list[tuple[str, str]]:
    return [prompts[index] for index in generator.integers(len(prompts), size=count)]


def _two_answers(
    generator: np.random.Generator, prompt: tuple[str, str], wordings: int
) -> tuple[_Answer, _Answer]:
    first = _random_answer(generator, prompt, wordings)
    second = _random_answer(generator, prompt, wordings)
    while second.levels == first.levels:
        second = _random_answer(generator, prompt, wordings)
    return first, second


def _random_answer(
    generator: np.random.Generator, prompt: tuple[str, str], wordings: int
) -> _Answer:
    levels = tuple(int(level) for level in generator.integers(3, size=4))
    phrases = generator.integers(wordings, size=4)
    parts = (
        attribute[level][phrase]
        for attribute, level, phrase in zip(ATTRIBUTES, levels, phrases, strict=True)
    )
    return _Answer(levels=levels, text=_compose(prompt, parts))


def _question(prompt: tuple[str, str]) -> str:
    verb, noun = prompt
    return f"how do i {verb} my {noun} ?"


def _compose(prompt: tuple[str, str], parts: Iterable[str]) -> str:
    verb, noun = prompt
    greeting, politeness, manner, closing = parts
    return f" {greeting} , {politeness} {verb} the {noun} {manner} . {closing} ."


def _vocabulary() -> tuple[str, ...]:
    phrases = itertools.chain.from_iterable(itertools.chain.from_iterable(ATTRIBUTES))
    words = {word for phrase in phrases for word in phrase.split()}
    frame = _question(("", "")) + _compose(("", ""), ("", "", "", ""))
    return tuple(sorted(words.union(VERBS, NOUNS, frame.split())))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    choice: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x))
    return choice
