import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.engine.sizing import UPDATE_LIMIT, size_gradient_sums, size_updates
from privfed_dpo.errors import PlanRefused


@given(
    pairs=st.integers(1, 10**6),
    cohort=st.integers(3, 1000),
    noise=st.floats(0, 50),
    dimension=st.integers(1, 10**7),
    bits=st.sampled_from([None, 64]),
)
def test_the_sum_of_every_pair_and_twelve_sigma_of_noise_fits(
    pairs, cohort, noise, dimension, bits
):
    ring = size_gradient_sums(
        largest_cohort_pairs=pairs,
        cohort=cohort,
        total_noise_multiplier=noise,
        dimension=dimension,
        bits=bits,
    )
    assert pairs * ring.clipper_steps + 12 * noise * ring.clipper_steps < 2 ** (ring.bits - 1)
    assert ring.clipper_steps & (ring.clipper_steps - 1) == 0


def test_32_bits_are_taken_where_they_are_fine_enough():
    # 2000 pairs, sigma 1.2: 2^20 * (2000 + 14.4) = 2.11e9 < 2^31 = 2.147e9.
    ring = size_gradient_sums(
        largest_cohort_pairs=2000, cohort=20, total_noise_multiplier=1.2, dimension=2048, bits=None
    )
    assert (ring.bits, ring.clipper_steps) == (32, 2**20)


def test_a_large_federation_gets_64_bits():
    ring = size_gradient_sums(
        largest_cohort_pairs=10**6, cohort=500, total_noise_multiplier=1, dimension=10**6, bits=None
    )
    assert ring.bits == 64


def test_an_impossible_32_bit_sum_is_refused():
    with pytest.raises(PlanRefused, match="does not fit"):
        size_gradient_sums(
            largest_cohort_pairs=2**32,
            cohort=20,
            total_noise_multiplier=1,
            dimension=10,
            bits=32,
        )


@given(st.integers(3, 100_000))
def test_updates_fit_64_bits(cohort):
    ring = size_updates(cohort=cohort, clipped=True, bits=None)
    assert cohort * UPDATE_LIMIT * ring.update_steps_per_unit <= 2**62


def test_updates_refuse_32_bits():
    with pytest.raises(PlanRefused, match="64 bits"):
        size_updates(cohort=10, clipped=False, bits=32)
