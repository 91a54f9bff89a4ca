"""Any threshold of shares gives the secret, fewer say nothing, wrong ones are found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_agg import LocalProtocolError
from secure_agg.shamir import (
    COEFFICIENT_BYTES,
    PRIME,
    UnrecoverableSecret,
    combine,
    correct,
    is_share,
    split,
)
from tests.support.secagg_rounds import entropy_from


@st.composite
def sharings(draw):
    holders = draw(st.integers(1, 14))
    threshold = draw(st.integers(1, holders))
    secret = draw(st.binary(min_size=32, max_size=32))
    entropy = entropy_from(str(draw(st.integers(0, 2**32))))
    shares = split(secret, holders=holders, threshold=threshold, entropy=entropy)
    return secret, threshold, dict(enumerate(shares, start=1))


@settings(max_examples=150, deadline=None)
@given(sharings(), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(sharing, random):
    secret, threshold, shares = sharing
    chosen = random.sample(sorted(shares), threshold)
    assert combine({p: shares[p] for p in chosen}, threshold=threshold) == secret
    assert combine(shares, threshold=threshold) == secret
    assert all(is_share(share) for share in shares.values())


@settings(max_examples=150, deadline=None)
@given(sharings(), st.randoms(use_true_random=False))
def test_as_many_lies_as_can_be_corrected_are_corrected_and_located(sharing, random):
    secret, threshold, shares = sharing
    lies = random.sample(sorted(shares), (len(shares) - threshold) // 2)
    told = dict(shares)
    for point in lies:
        shift = random.randrange(1, PRIME)
        told[point] = ((int.from_bytes(shares[point], "big") + shift) % PRIME).to_bytes(33, "big")
    assert correct(told, threshold=threshold) == (secret, tuple(sorted(lies)))


@settings(max_examples=60, deadline=None)
@given(sharings(), st.binary(min_size=32, max_size=32))
def test_fewer_shares_fit_every_secret_equally_well(sharing, other):
    """With threshold - 1 shares, for any secret there is a polynomial through them and it.

    Built by interpolation at point 0, so the given shares rule out no secret at all.
    """
    _, threshold, shares = sharing
    few = dict(list(shares.items())[: threshold - 1])
    points = [0, *few]
    values = [int.from_bytes(other, "big"), *(int.from_bytes(s, "big") for s in few.values())]

    def at(x):
        total = 0
        for i, (xi, yi) in enumerate(zip(points, values, strict=True)):
            term = yi
            for j, xj in enumerate(points):
                if i != j:
                    term = term * (x - xj) * pow(xi - xj, -1, PRIME) % PRIME
            total += term
        return total % PRIME

    extended = {p: at(p).to_bytes(33, "big") for p in range(1, threshold + 1)}
    assert all(extended[p] == s for p, s in few.items() if p in extended)
    assert combine(extended, threshold=threshold) == other


def test_a_sharing_by_hand():
    """f(x) = 5 + 3 x + 2 x^2: f(1) = 10, f(2) = 19, f(3) = 32, f(4) = 49."""

    def entropy(length):
        assert length == 2 * COEFFICIENT_BYTES
        return b"".join(c.to_bytes(COEFFICIENT_BYTES, "big") for c in (3, 2))

    shares = split((5).to_bytes(32, "big"), holders=4, threshold=3, entropy=entropy)
    assert [int.from_bytes(s, "big") for s in shares] == [10, 19, 32, 49]
    chosen = {2: shares[1], 3: shares[2], 4: shares[3]}
    assert combine(chosen, threshold=3) == (5).to_bytes(32, "big")


def test_too_few_shares_are_refused():
    shares = dict(enumerate(split(bytes(32), holders=3, threshold=2, entropy=bytes), start=1))
    for recover in (combine, correct):
        with pytest.raises(UnrecoverableSecret):
            recover({1: shares[1]}, threshold=2)


def test_a_value_above_32_bytes_is_no_secret():
    """2**256 is a field element but no secret: a constant polynomial of it must be refused."""
    share = (1 << 256).to_bytes(33, "big")
    with pytest.raises(UnrecoverableSecret):
        combine({1: share}, threshold=1)


def test_one_lie_too_many_is_refused_or_leads_elsewhere():
    """Four shares, two determine: one lie is corrected, two cannot be."""
    secret = bytes(range(32))
    shares = split(secret, holders=4, threshold=2, entropy=entropy_from("x"))
    told = dict(enumerate(shares, start=1))
    told[1] = told[2] = bytes(33)
    with pytest.raises(UnrecoverableSecret):
        correct(told, threshold=2)


@pytest.mark.parametrize(("holders", "threshold", "size"), [(3, 0, 32), (3, 4, 32), (3, 2, 31)])
def test_sizes_that_do_not_fit_are_refused(holders, threshold, size):
    with pytest.raises(LocalProtocolError):
        split(bytes(size), holders=holders, threshold=threshold, entropy=bytes)


def test_a_short_entropy_source_is_refused():
    with pytest.raises(LocalProtocolError, match="entropy"):
        split(bytes(32), holders=3, threshold=2, entropy=lambda n: bytes(n - 1))


def test_shares_are_canonical_field_elements():
    assert is_share((PRIME - 1).to_bytes(33, "big"))
    assert not is_share(PRIME.to_bytes(33, "big"))
    assert not is_share(bytes(32))


def test_the_field_is_a_prime_field():
    """Fermat to several bases, and 2**256 < p so that every 32-byte secret is an element."""
    assert PRIME > 1 << 256
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13, 17))
