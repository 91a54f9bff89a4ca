"""Rejection sampling on the integers, from a cipher's words: what every noise here is made of.

Bernoulli trials compare a 64-bit word with a probability computed in float64; exponents above one
are split into unit steps, so that rare events keep their relative precision. A trial is wrong by at
most a few roundings of 2^-53, relatively.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from privfed_dpo.mechanism.keystream import Keystream

_WORD_SPAN = 2.0**64
_UNIT_STEP_THRESHOLD = np.uint64(int(np.exp(-1.0) * _WORD_SPAN))


def discrete_laplace(scale: int, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """Integers with probability proportional to exp(-|x| / scale); at most `count` of them."""
    offset = _uniform_below(scale, count, stream)
    offset = offset[bernoulli_exp(offset / scale, stream)]
    steps = _geometric(offset.size, stream)
    magnitude = offset + scale * steps
    negative = (stream.words(magnitude.size) & np.uint64(1)).astype(bool)
    keep = ~(negative & (magnitude == 0))
    signed: npt.NDArray[np.int64] = np.where(negative, -magnitude, magnitude)[keep]
    return signed


def _uniform_below(bound: int, count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """Exactly uniform integers in [0, bound), by rejecting words above the last full multiple."""
    limit = np.uint64((1 << 64) // bound * bound - 1)
    words = stream.words(count)
    while bool((rejected := words > limit).any()):
        words[rejected] = stream.words(int(rejected.sum()))
    return (words % np.uint64(bound)).astype(np.int64)


def _geometric(count: int, stream: Keystream) -> npt.NDArray[np.int64]:
    """How many unit steps, each taken with probability 1/e, succeed before the first failure."""
    total = np.zeros(count, dtype=np.int64)
    alive = np.arange(count)
    while alive.size:
        alive = alive[stream.words(alive.size) < _UNIT_STEP_THRESHOLD]
        total[alive] += 1
    return total


def bernoulli_exp(exponent: npt.NDArray[np.float64], stream: Keystream) -> npt.NDArray[np.bool_]:
    """Independent trials that succeed with probability exp(-exponent), exponent >= 0."""
    whole = np.floor(exponent)
    threshold = np.exp(whole - exponent) * _WORD_SPAN
    certain = threshold >= _WORD_SPAN
    words = stream.words(exponent.size)
    limit = np.where(certain, 0.0, threshold).astype(np.uint64)
    success = certain | (words < limit)
    remaining = np.flatnonzero(success & (whole >= 1.0))
    steps = whole[remaining]
    while remaining.size:
        lucky = stream.words(remaining.size) < _UNIT_STEP_THRESHOLD
        success[remaining[~lucky]] = False
        remaining, steps = remaining[lucky], steps[lucky] - 1.0
        remaining, steps = remaining[steps >= 1.0], steps[steps >= 1.0]
    return success
