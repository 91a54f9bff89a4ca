"""A small task whose right answer is known: users with Bradley–Terry tastes that differ.

A prompt asks "how do i VERB my NOUN ?". An answer is put together from four attributes (greeting,
politeness, manner, closing) with three levels each, and every level has up to two wordings. A
user weighs the attributes and prefers the answer with the higher utility, with noise (Bradley and
Terry, 1952). Users share common weights, but each flips the sign of some, so tastes conflict; the
dials of `TasteDials` make them differ in further ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed_dpo.data.optimum import KnownOptimum, Verdict, known_optimum
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.tastes import TasteDials, Tastes, draw_tastes
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
        evaluation: held-out pairs on prompts that are not in `train`; `user` deals them round robin
            over the same users, so that per-client figures exist.
        warmup_texts: training prompts with random answers, drawn independently of any preference;
            public, for warming up a model on the grammar.
        vocabulary: every word, sorted; texts split at spaces into exactly these.
        bayes_accuracy: share of `evaluation` that the best single rule for these users gets right:
            the one that follows the mean of their true choice probabilities.
        label_agreement: share of `train` that agrees with the common weights; what label noise and
            opposed tastes leave of the signal.
        optimum: how well one, one for each group, or one rule for each user could do.
    """

    train: tuple[PreferencePair, ...]
    evaluation: tuple[PreferencePair, ...]
    warmup_texts: tuple[str, ...]
    vocabulary: tuple[str, ...]
    bayes_accuracy: float
    label_agreement: float
    optimum: KnownOptimum


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
    optimum_shift: float = 0.0,
    opposed_share: float = 0.0,
    annotator_noise: float = 0.0,
    covariate_shift: float = 0.0,
    verdict: Verdict = "common",
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
        optimum_shift: see `TasteDials`, and so for the next three.
        opposed_share: see there.
        annotator_noise: see there.
        covariate_shift: see there.
        verdict: who judges held-out pairs. By the common weights (without noise, and only pairs
            that differ by EVALUATION_GAP in common utility), by each user's own weights without
            noise, or by votes like those trained on.

    Returns:
        The task with its Bayes accuracies.

    Raises:
        DataError: an argument is out of range.
    """
    if min(clients, pairs_per_client, eval_pairs) < 1 or warmup_texts < 0:
        raise DataError("clients, pairs_per_client and eval_pairs must be at least 1")
    if not 1 <= wordings <= WORDINGS:
        raise DataError(f"wordings must lie between 1 and {WORDINGS}, not {wordings}")
    dials = TasteDials(
        flip_probability=heterogeneity,
        optimum_shift=optimum_shift,
        opposed_share=opposed_share,
        annotator_noise=annotator_noise,
        temperature=temperature,
        covariate_shift=covariate_shift,
    )
    taste, users, train, held_out, public, shifts, offers = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(7)
    )
    weights = taste.choice((-1.0, 1.0), size=4) * taste.uniform(0.5, 1.0, size=4)
    tastes = draw_tastes(
        weights,
        clients=clients,
        dials=dials,
        flips=users,
        shifts=shifts,
        offers=offers,
        levels=len(LEVEL_VALUES),
        topics=len(NOUNS),
    )
    train_prompts, eval_prompts = _split_prompts(taste)
    trained, agreement = _training_votes(
        _Questions(train, train_prompts, tastes, wordings), pairs_per_client
    )
    evaluated, bayes = _held_out_verdicts(
        _Questions(held_out, eval_prompts, tastes, wordings), eval_pairs, verdict
    )
    warm = _Questions(public, train_prompts, None, wordings)
    return SyntheticTask(
        train=trained,
        evaluation=evaluated,
        warmup_texts=tuple(
            _question(prompt) + warm.answer(0, prompt).text
            for prompt in warm.prompts_for(0, warmup_texts)
        ),
        vocabulary=_vocabulary(),
        bayes_accuracy=bayes,
        label_agreement=agreement,
        optimum=known_optimum(
            tastes, values=LEVEL_VALUES, verdict=verdict, common_gap=EVALUATION_GAP
        ),
    )


@dataclass(frozen=True, slots=True)
class _Questions:
    """What users are asked: prompts, and two answers to each.

    Attributes:
        generator: public randomness.
        prompts: what may be asked.
        tastes: the users; None where nobody judges.
        wordings: phrases that may stand for one level.
    """

    generator: np.random.Generator
    prompts: tuple[tuple[str, str], ...]
    tastes: Tastes | None
    wordings: int

    @property
    def users(self) -> Tastes:
        if self.tastes is None:
            raise DataError("nobody judges these answers")
        return self.tastes

    @property
    def _shifted(self) -> bool:
        return self.tastes is not None and self.tastes.dials.covariate_shift > 0

    def prompts_for(self, user: int, count: int) -> list[tuple[str, str]]:
        if not self._shifted:
            places = self.generator.integers(len(self.prompts), size=count)
            return [self.prompts[place] for place in places]
        shares = self.users.topics[user][[NOUNS.index(noun) for _, noun in self.prompts]]
        chosen = self.generator.choice(len(self.prompts), size=count, p=shares / shares.sum())
        return [self.prompts[place] for place in chosen]

    def two_answers(self, user: int, prompt: tuple[str, str]) -> tuple[_Answer, _Answer]:
        first, second = self.answer(user, prompt), self.answer(user, prompt)
        while second.levels == first.levels:
            second = self.answer(user, prompt)
        return first, second

    def answer(self, user: int, prompt: tuple[str, str]) -> _Answer:
        if self._shifted:
            below = self.users.levels[user].cumsum(axis=1)[:, :-1]
            drawn = (self.generator.random((4, 1)) >= below).sum(axis=1)
        else:
            drawn = self.generator.integers(3, size=4)
        levels = tuple(int(level) for level in drawn)
        phrases = self.generator.integers(self.wordings, size=4)
        parts = (
            attribute[level][phrase]
            for attribute, level, phrase in zip(ATTRIBUTES, levels, phrases, strict=True)
        )
        return _Answer(levels=levels, text=_compose(prompt, parts))


def _training_votes(
    questions: _Questions, pairs_per_client: int
) -> tuple[tuple[PreferencePair, ...], float]:
    """Every user's noisy votes, and how many of them agree with the common weights."""
    tastes = questions.users
    pairs: list[PreferencePair] = []
    agreements: list[float] = []
    judged: set[PreferencePair] = set()
    for user, own in enumerate(tastes.own):
        for prompt in questions.prompts_for(user, pairs_per_client):
            for _ in range(_TRIES):
                first, second = questions.two_answers(user, prompt)
                difference = first.values - second.values
                chance = tastes.choice(own @ difference)
                prefers_first = bool(questions.generator.random() < chance)
                pair = _pair(prompt, first, second, prefers_first=prefers_first, user=user)
                if pair not in judged:
                    break
            judged.add(pair)
            pairs.append(pair)
            common = float(tastes.common @ difference)
            agreements.append(0.5 if common == 0 else float((common > 0) == prefers_first))
    return tuple(pairs), float(np.mean(agreements))


def _held_out_verdicts(
    questions: _Questions, count: int, verdict: Verdict
) -> tuple[tuple[PreferencePair, ...], float]:
    """Held-out pairs, and how many of them the mean of the users' choices gets right."""
    tastes = questions.users
    pairs: list[PreferencePair] = []
    right = 0
    while len(pairs) < count:
        user = len(pairs) % len(tastes.own)
        prompt = questions.prompts_for(user, 1)[0]
        first, second = questions.two_answers(user, prompt)
        difference = first.values - second.values
        gap = float(tastes.common @ difference)
        if verdict == "common" and abs(gap) < EVALUATION_GAP:
            continue
        wanted = gap if verdict == "common" else float(tastes.own[user] @ difference)
        prefers_first = wanted > 0
        if verdict == "votes":
            chance = tastes.choice(wanted)
            prefers_first = bool(questions.generator.random() < chance)
        mean_choice = float(np.mean(tastes.choice(tastes.own @ difference)))
        right += (mean_choice > 0.5) == prefers_first  # noqa: PLR2004 - more likely than not
        pairs.append(_pair(prompt, first, second, prefers_first=prefers_first, user=user))
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
