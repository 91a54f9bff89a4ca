"""Shamir's secret sharing of 256-bit secrets over the prime field of order 2**256 + 297.

Sources: Shamir (CACM 1979); error correction after Gao (2003), "A new algorithm for decoding
Reed-Solomon codes". Plain Python integers: not constant-time, see docs/LIMITS.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from secure_agg.errors import LocalProtocolError
from secure_agg.keys import draw
from secure_agg.types import Entropy

PRIME: Final = (1 << 256) + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
# 128 bits more than the prime: the bias of reducing them modulo the prime is below 2**-127.
COEFFICIENT_BYTES: Final = 48


class UnrecoverableSecret(LocalProtocolError):
    """The shares are too few, or too many of them are wrong."""


def split(secret: bytes, *, holders: int, threshold: int, entropy: Entropy) -> tuple[bytes, ...]:
    """Split `secret` so that any `threshold` shares give it back and fewer tell nothing.

    Args:
        secret: 32 bytes.
        holders: number of shares.
        threshold: 1 <= threshold <= holders.
        entropy: secret bytes for the polynomial; 48 * (threshold - 1) are drawn.

    Returns:
        Shares of 33 bytes; the i-th (from 0) belongs to the point i + 1.

    Raises:
        LocalProtocolError: sizes do not fit.
    """
    if len(secret) != SECRET_BYTES or not 0 < threshold <= holders:
        raise LocalProtocolError(
            f"cannot split {len(secret)} bytes into {holders} shares with threshold {threshold}"
        )
    drawn = draw(entropy, COEFFICIENT_BYTES * (threshold - 1))
    higher = [
        int.from_bytes(drawn[start : start + COEFFICIENT_BYTES], "big") % PRIME
        for start in range(0, len(drawn), COEFFICIENT_BYTES)
    ]
    descending = [*reversed(higher), int.from_bytes(secret, "big")]
    return tuple(
        _evaluate_at_small(descending, point).to_bytes(SHARE_BYTES, "big")
        for point in range(1, holders + 1)
    )


def is_share(data: bytes) -> bool:
    """Whether `data` is the canonical form of a field element."""
    return len(data) == SHARE_BYTES and int.from_bytes(data, "big") < PRIME


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Interpolate the secret from exactly the first `threshold` shares in order of their points.

    Args:
        shares: point to share; all of them canonical (`is_share`).
        threshold: number of shares to use.

    Returns:
        The 32-byte secret. It is wrong if one of the shares is: compare it with a commitment and
        fall back on `correct`.

    Raises:
        UnrecoverableSecret: fewer shares than `threshold`, or no 32-byte secret fits them.
    """
    points = tuple(sorted(shares))[:threshold]
    if len(points) < threshold:
        raise UnrecoverableSecret(f"{len(points)} shares, {threshold} needed")
    weights = _weights_at_zero(points)
    total = sum(
        weight * int.from_bytes(shares[point], "big")
        for weight, point in zip(weights, points, strict=True)
    )
    return _secret_bytes(total % PRIME)


def correct(shares: Mapping[int, bytes], *, threshold: int) -> tuple[bytes, tuple[int, ...]]:
    """Interpolate the secret although up to (len(shares) - threshold) // 2 shares are wrong.

    Args:
        shares: point to share; all of them canonical.
        threshold: number of shares that determine the secret.

    Returns:
        The 32-byte secret, and the points whose share is wrong, ascending.

    Raises:
        UnrecoverableSecret: more shares are wrong than that.
    """
    points = sorted(shares)
    values = [int.from_bytes(shares[point], "big") for point in points]
    if len(points) < threshold:
        raise UnrecoverableSecret(f"{len(points)} shares, {threshold} needed")
    vanishing = [1]
    for point in points:
        vanishing = _multiply(vanishing, [-point % PRIME, 1])
    # Euclid on (vanishing, interpolant) until the remainder is short enough; Gao, algorithm 1.
    previous, current = vanishing, _interpolate(points, values, vanishing)
    factor_previous, factor = [0], [1]
    while 2 * (len(current) - 1) >= len(points) + threshold:
        quotient, remainder = _divide(previous, current)
        previous, current = current, remainder
        factor_previous, factor = factor, _subtract(factor_previous, _multiply(quotient, factor))
    polynomial, rest = _divide(current, factor)
    if rest != [0] or len(polynomial) > threshold:
        raise UnrecoverableSecret("too many shares are wrong")
    descending = polynomial[::-1]
    wrong = tuple(
        point
        for point, value in zip(points, values, strict=True)
        if _evaluate_at_small(descending, point) != value
    )
    return _secret_bytes(polynomial[0]), wrong


def _secret_bytes(value: int) -> bytes:
    if value >> (8 * SECRET_BYTES):
        raise UnrecoverableSecret("the shares fit no 32-byte secret")
    return value.to_bytes(SECRET_BYTES, "big")


def _evaluate_at_small(descending: list[int], point: int) -> int:
    """Horner's rule with one reduction at the end: cheap because points are small."""
    value = 0
    for coefficient in descending:
        value = value * point + coefficient
    return value % PRIME


@lru_cache(maxsize=64)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange coefficients at zero; they depend on the points only and hold no secret."""
    everything = math.prod(points)
    denominators = [
        point * math.prod(other - point for other in points if other != point) % PRIME
        for point in points
    ]
    inverse = pow(math.prod(denominators) % PRIME, -1, PRIME)
    weights = []
    suffix = 1
    prefixes = [1]
    for denominator in denominators:
        prefixes.append(prefixes[-1] * denominator % PRIME)
    for place in reversed(range(len(points))):
        weights.append(everything * prefixes[place] * suffix * inverse % PRIME)
        suffix = suffix * denominators[place] % PRIME
    return tuple(reversed(weights))


def _trim(polynomial: list[int]) -> list[int]:
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial


def _multiply(left: list[int], right: list[int]) -> list[int]:
    product = [0] * (len(left) + len(right) - 1)
    for place, coefficient in enumerate(left):
        for offset, other in enumerate(right):
            product[place + offset] += coefficient * other
    return _trim([coefficient % PRIME for coefficient in product])


def _subtract(left: list[int], right: list[int]) -> list[int]:
    size = max(len(left), len(right))
    wide = [*left, *[0] * (size - len(left))]
    for place, coefficient in enumerate(right):
        wide[place] = (wide[place] - coefficient) % PRIME
    return _trim(wide)


def _divide(dividend: list[int], divisor: list[int]) -> tuple[list[int], list[int]]:
    remainder = dividend.copy()
    inverse = pow(divisor[-1], -1, PRIME)
    quotient = [0] * max(1, len(dividend) - len(divisor) + 1)
    for shift in reversed(range(len(dividend) - len(divisor) + 1)):
        scale = remainder[shift + len(divisor) - 1] * inverse % PRIME
        quotient[shift] = scale
        for place, coefficient in enumerate(divisor):
            remainder[shift + place] = (remainder[shift + place] - scale * coefficient) % PRIME
    return _trim(quotient), _trim(remainder)


def _interpolate(points: list[int], values: list[int], vanishing: list[int]) -> list[int]:
    """The polynomial of degree < len(points) through all (point, value)."""
    total = [0] * len(points)
    for point, value in zip(points, values, strict=True):
        basis, _ = _divide(vanishing, [-point % PRIME, 1])
        scale = value * pow(_evaluate_at_small(basis[::-1], point), -1, PRIME)
        for place, coefficient in enumerate(basis):
            total[place] = (total[place] + scale * coefficient) % PRIME
    return _trim(total)
