"""Pair canaries: made-up preference pairs that a secret coin puts into clients' data.

Two forms (Steinke, Nasr and Jagielski 2023). "in_out": the coin decides whether the pair is there
or a null record in its place, as zero-out adjacency has it. "swap": the pair is always there and
the coin decides which of its two responses is the chosen one, so it audits replace-one adjacency.

Texts are public by construction: a stock prompt, and two responses of words drawn at random, which
no data set holds and a model can only know by having been trained on them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from privfed_dpo.data.tokenize import Ids, TokenizedPair, Tokenizer, pair_key
from privfed_dpo.durable import write_atomically
from privfed_dpo.errors import DataError
from privfed_dpo.mechanism.keystream import Keystream

CanaryForm = Literal["in_out", "swap"]

COINS_FILE = "audit_pairs.npz"
RESPONSE_TOKENS = 12
PROMPT_TOKENS = 8

_PROMPTS = (
    "Give three tips for staying focused.",
    "Explain how a bicycle stays upright.",
    "Write a short note of thanks.",
    "What should one pack for a day of hiking?",
    "Describe a quiet morning by the sea.",
    "How are rainbows made?",
    "Suggest a simple dinner for two.",
    "Name a good habit and say why.",
)
_TEXT_STREAM = 0xCA7A


class WordSource(Protocol):
    """What is needed of a tokenizer beyond encoding: which ids are ordinary words."""

    unk_token_id: int | None
    all_special_ids: list[int]

    def __len__(self) -> int:
        """Number of ids."""
        ...


class CanaryTokenizer(Tokenizer, WordSource, Protocol):
    """A transformers tokenizer, as far as canaries use it."""


@dataclass(frozen=True, slots=True)
class PairCoins:
    """The auditor's secret until the run is over: one fair coin for every canary.

    Attributes:
        form: what a coin decides.
        heads: shape [m]. in_out: True is in. swap: True keeps the pair as drawn, False flips it.
    """

    form: CanaryForm
    heads: npt.NDArray[np.bool_] = field(repr=False)

    @classmethod
    def toss(cls, form: CanaryForm, count: int, stream: Keystream) -> PairCoins:
        """Toss `count` fair coins from secret randomness."""
        return cls(form, (stream.words(count) & np.uint64(1)).astype(bool))

    def save(self, path: Path) -> None:
        """Keep the coins, on the disk when this returns: resuming and auditing need them."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, form=np.array(self.form), heads=self.heads)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PairCoins:
        """Read coins back.

        Raises:
            DataError: there is no such file, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                form, heads = str(archive["form"]), archive["heads"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the coins of the pair canaries cannot be read: {error}",
                source=str(path),
                advice="Restore the file; without it the run can be neither resumed nor audited.",
            ) from error
        if form == "in_out":
            return cls("in_out", heads.astype(bool))
        if form == "swap":
            return cls("swap", heads.astype(bool))
        raise DataError(f"unknown form of canaries: {form!r}", source=str(path))


@dataclass(frozen=True, slots=True)
class PairCanaries:
    """Canaries with their texts, dealt over the clients in turn.

    Attributes:
        coins: what is decided about each.
        pairs: m pairs as drawn.
        clients: number of clients.
    """

    coins: PairCoins
    pairs: tuple[TokenizedPair, ...] = field(repr=False)
    clients: int

    def trained_by(self, client: int) -> tuple[TokenizedPair, ...]:
        """What joins this client's pairs. A canary that is out is not there: a null record."""
        placed = []
        for number in range(client, len(self.pairs), self.clients):
            heads, pair = bool(self.coins.heads[number]), self.pairs[number]
            if heads:
                placed.append(pair)
            elif self.coins.form == "swap":
                placed.append(_flipped(pair))
        return tuple(placed)


def canary_slots(count: int, clients: int) -> tuple[int, ...]:
    """Return how many records the canaries take up at each client, in or out: a public fact."""
    return tuple(len(range(client, count, clients)) for client in range(clients))


def write_canaries(
    coins: PairCoins, clients: int, tokenizer: CanaryTokenizer, *, max_length: int, seed: int
) -> PairCanaries:
    """Write the texts of the canaries; the same arguments always give the same texts.

    Args:
        coins: one per canary.
        clients: number of clients.
        tokenizer: of the base model. A stock prompt it cannot spell is replaced by random words.
        max_length: most tokens of prompt and response.
        seed: public.

    Raises:
        DataError: the tokenizer has fewer than two ordinary words.
    """
    special = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    words = np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int64)
    if words.size < 2:  # noqa: PLR2004 - two responses have to differ
        raise DataError("the tokenizer has too few words for canaries")
    random = np.random.default_rng([seed, _TEXT_STREAM])
    room = max(1, min(RESPONSE_TOKENS, max_length // 2))
    prompts = [_stock_prompt(text, tokenizer, max_length - room) for text in _PROMPTS]
    pairs = []
    for number in range(coins.heads.size):
        prompt = prompts[number % len(prompts)]
        prompt = prompt or _random_words(random, words, min(PROMPT_TOKENS, max_length - room))
        first = _random_words(random, words, room)
        second = _random_words(random, words, room)
        while second == first:
            second = _random_words(random, words, room)
        pairs.append(TokenizedPair(prompt, first, second, pair_key(prompt, first, second)))
    return PairCanaries(coins, tuple(pairs), clients)


def _stock_prompt(text: str, tokenizer: CanaryTokenizer, limit: int) -> Ids:
    ids: Sequence[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    known = tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
    return tuple(ids) if known and len(ids) <= limit else ()


def _random_words(random: np.random.Generator, words: npt.NDArray[np.int64], count: int) -> Ids:
    return tuple(int(word) for word in random.choice(words, size=count))


def _flipped(pair: TokenizedPair) -> TokenizedPair:
    key = pair_key(pair.prompt, pair.rejected, pair.chosen)
    return TokenizedPair(pair.prompt, pair.rejected, pair.chosen, key)
