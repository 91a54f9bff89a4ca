"""The step from integers to the continuous Gaussian, checked on directly computed distributions.

The claim: a sum of discrete Gaussian shares is at least as private as continuous Gaussian noise of
variance sigma^2 - b^2, up to a tiny slack. Nothing here uses the proof; divergences are computed
from probabilities.
"""

import math

import numpy as np
import pytest
from scipy import fft

from accounting import GridNoise, PoissonGaussianRelease, Repeated, pld_epsilon
from accounting.closed_form import gaussian_delta


def discrete_gaussian(stddev, shift=0, window=14):
    """Return (support, probabilities) of the discrete Gaussian centred at an integer."""
    reach = math.ceil(window * stddev)
    support = np.arange(-reach, reach + 1) + shift
    weights = np.exp(-((support - shift) ** 2) / (2 * stddev**2))
    return support, weights / weights.sum()


def hockey_stick(p, q, epsilon):
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


@pytest.mark.parametrize(("stddev", "shares"), [(1.0, 10), (1.5, 4), (4.0, 3)])
def test_tau_bounds_how_far_a_sum_of_shares_is_from_one_discrete_gaussian(stddev, shares):
    _, one = discrete_gaussian(stddev)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    reach = (len(total) - 1) // 2
    points = np.arange(-reach, reach + 1)
    target = np.exp(-(points**2) / (2 * shares * stddev**2))
    target /= target.sum()
    inner = np.abs(points) <= 4 * math.sqrt(shares) * stddev
    worst = np.abs(np.log(total[inner] / target[inner])).max()
    exponent = -2 * (math.pi * stddev) ** 2
    tau = 10 * sum(math.exp(exponent * k / (k + 1)) for k in range(1, shares))
    assert worst <= tau + 1e-12


@pytest.mark.parametrize("smoothing", [0.5, 0.7, 1.0])
def test_kappa_bounds_how_the_normaliser_moves_with_its_centre(smoothing):
    """Small b, where kappa is large enough to be seen in double precision."""
    kappa = 2 * math.exp(-2 * (math.pi * smoothing) ** 2)
    integers = np.arange(-40, 41)
    centres = np.linspace(0, 1, 101)
    sums = np.exp(-((integers[None, :] - centres[:, None]) ** 2) / (2 * smoothing**2)).sum(axis=1)
    relative = sums / (smoothing * math.sqrt(2 * math.pi)) - 1
    assert np.abs(relative).max() <= kappa * (1 + 1e-3) + 1e-14
    assert np.abs(relative).max() > kappa / 2


@pytest.mark.parametrize(("steps", "z"), [(4, 1.5), (8, 1.0), (16, 0.8), (64, 2.0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 3.0])
def test_one_release_in_one_dimension(steps, z, epsilon):
    """delta of the discrete mechanism never exceeds that of its continuous model."""
    noise = GridNoise(z, steps, 1, 0, 0, 1, 1)
    stddev = noise.share_stddev_steps
    support, p = discrete_gaussian(stddev, shift=0)
    q = p * np.exp((2 * support * steps - steps**2) / (2 * stddev**2))
    model = float(gaussian_delta(epsilon, 1 / z))
    slack = noise.slack
    for left, right in ((p, q), (q, p)):
        actual = hockey_stick(left, right, epsilon + slack.epsilon)
        assert actual <= model * slack.delta_factor + 1e-12


@pytest.mark.parametrize("shift", [(8, 0), (6, 5), (4, 4)])
def test_one_release_in_two_dimensions(shift):
    """The worst direction is not always an axis: check several shifts of norm <= 8 steps."""
    steps, z, epsilon = 8, 0.9, 0.8
    stddev = GridNoise(z, steps, 1, 0, 0, 2, 1).share_stddev_steps
    assert math.hypot(*shift) <= steps
    reach = math.ceil(11 * stddev)
    axis = np.arange(-reach, reach + 1)
    mass = np.exp(-(axis**2) / (2 * stddev**2))
    total = mass.sum()
    moved = [np.exp(-((axis - s) ** 2) / (2 * stddev**2)) / total for s in shift]
    p = np.outer(mass / total, mass / total)
    q = np.outer(*moved)
    model = float(gaussian_delta(epsilon, 1 / z))
    assert hockey_stick(q, p, epsilon) <= model + 1e-12
    assert hockey_stick(p, q, epsilon) <= model + 1e-12


@pytest.mark.parametrize(("smoothing", "inner"), [(0.5, 0.2), (0.6, 0.3), (0.7, 0.25)])
def test_rounding_a_gaussian_at_random_gives_the_discrete_one(smoothing, inner):
    """Small b, where kappa shows: the log ratio stays within 2 kappa, and is not far below it."""
    kappa = 2 * math.exp(-2 * (math.pi * smoothing) ** 2)
    total = math.hypot(smoothing, inner)
    integers = np.arange(-60, 61)
    step = 1e-3
    y = np.arange(-12 * inner, 12 * inner, step)
    density = np.exp(-((y / inner) ** 2) / 2) * step / (inner * math.sqrt(2 * math.pi))
    weights = np.exp(-((integers[:, None] - y[None, :]) ** 2) / (2 * smoothing**2))
    rounded = (weights / weights.sum(axis=0)) @ density
    support, exact = discrete_gaussian(total, window=5)
    worst = np.abs(np.log(exact / rounded[support + 60])).max()
    assert kappa / 10 < worst <= 2 * kappa


def sampled_gaussian_deltas(q, z, epsilon):
    """delta of the sampled Gaussian in both directions, in closed form."""
    grown = math.exp(epsilon)
    remove = q * float(gaussian_delta(math.log1p((grown - 1) / q), 1 / z))
    left = 1 - grown * (1 - q)
    add = left * float(gaussian_delta(math.log(grown * q / left), 1 / z)) if left > 0 else 0.0
    return remove, add


@pytest.mark.parametrize("shift", [(4, 0, 0), (2, 2, 2), (0, 3, -2)])
@pytest.mark.parametrize("epsilon", [0.0, 0.15, 0.6])
def test_one_sampled_release_of_real_shares_in_three_dimensions(shift, epsilon):
    """Three convolved shares, not one discrete Gaussian, and a record that joins with rate q."""
    steps, z, q, clients = 4, 1.6, 0.3, 3
    noise = GridNoise(z, steps, clients, 0, 0, 3, 1)
    share = discrete_gaussian(noise.share_stddev_steps, window=7)[1]
    axis = share
    for _ in range(clients - 1):
        axis = np.convolve(axis, share)
    middle = len(axis) // 2
    reach = math.ceil(8 * noise.sum_stddev_steps(clients))
    still = axis[middle - reach : middle + reach + 1]
    moved = [axis[middle - reach - s : middle + reach + 1 - s] for s in shift]
    base = np.einsum("i,j,k->ijk", still, still, still)
    mixed = (1 - q) * base + q * np.einsum("i,j,k->ijk", *moved)
    remove, add = sampled_gaussian_deltas(q, z, epsilon)
    assert hockey_stick(mixed, base, epsilon) <= remove + 1e-12
    assert hockey_stick(base, mixed, epsilon) <= add + 1e-12
    too_good, _ = sampled_gaussian_deltas(
        q, 1.35 * noise.sum_stddev_steps(clients) / steps, epsilon
    )
    if shift == (4, 0, 0):
        assert hockey_stick(mixed, base, epsilon) > too_good, "the check must be able to fail"


def composed_epsilon(p, q, rounds, delta, interval=1e-3):
    """Smallest epsilon of `rounds` independent copies of (p, q), privacy loss rounded UP."""
    loss = np.log(p) - np.log(q)
    bins = np.ceil(loss / interval).astype(int)
    low = bins.min()
    size = fft.next_fast_len(8 * (bins.max() - low + 1))
    single = np.bincount(bins - low, weights=p, minlength=size)
    spectrum = np.exp(rounds * np.log(fft.fft(single)))
    composed = np.maximum(np.real(fft.ifft(spectrum)), 0)
    mean = rounds * float(np.dot(np.arange(size), single))
    offset = round(mean) - size // 2
    index = (np.arange(size) + offset) % size
    values = (np.arange(size) + offset + rounds * low) * interval
    composed = composed[index]
    left, right = 0.0, 50.0
    while right - left > 1e-5:
        middle = (left + right) / 2
        excess = np.where(values > middle, composed * -np.expm1(middle - values), 0.0).sum()
        left, right = (middle, right) if excess > delta else (left, middle)
    return right


@pytest.mark.parametrize(
    ("q", "z", "rounds", "steps"), [(0.05, 1.0, 100, 16), (0.05, 1.0, 100, 64), (0.2, 2.0, 50, 32)]
)
def test_a_whole_sampled_run_in_one_dimension(q, z, rounds, steps):
    """Poisson sampling and composition on the integers, against PLD of the continuous model."""
    noise = GridNoise(z, steps, 1, 0, 0, 1, rounds)
    stddev = noise.share_stddev_steps
    support, base = discrete_gaussian(stddev, window=9)
    shifted = base * np.exp((2 * support * steps - steps**2) / (2 * stddev**2))
    mixed = (1 - q) * base + q * shifted
    delta = 1e-5
    direct = max(
        composed_epsilon(mixed, base, rounds, delta), composed_epsilon(base, mixed, rounds, delta)
    )
    model = pld_epsilon([Repeated(PoissonGaussianRelease(q, z), rounds)], delta)
    rounding_up = rounds * 1e-3
    assert direct - rounding_up <= model * 1.002
    naive = pld_epsilon([Repeated(PoissonGaussianRelease(q, 1.35 * stddev / steps), rounds)], delta)
    assert direct > naive, "the check must be able to fail"
