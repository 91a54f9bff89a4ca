"""Noise for a target: the recorded answers, the certificate, and what is out of reach."""

import json
import math
from pathlib import Path

import pytest

from accounting import (
    Budget,
    CalibrationFailed,
    GaussianRelease,
    InvalidPrivacyParameter,
    PoissonGaussianRelease,
    Repeated,
    calibrate_noise_multiplier,
    pld_epsilon,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "accounting.json").read_text())


@pytest.mark.parametrize("case", VECTORS["calibration"], ids=str)
def test_recorded_answers_with_their_certificates(case):
    def schedule(noise):
        return [Repeated(PoissonGaussianRelease(case["sample_rate"], noise), case["rounds"])]

    certificate = calibrate_noise_multiplier(schedule, Budget(case["epsilon"], 1e-5))
    assert certificate.noise_multiplier == pytest.approx(case["noise_multiplier"], rel=1.5e-3)
    assert certificate.epsilon <= certificate.target < certificate.epsilon_just_below
    assert certificate.epsilon == pld_epsilon(schedule(certificate.noise_multiplier), 1e-5)
    below = certificate.noise_multiplier * (1 - certificate.tolerance)
    assert certificate.epsilon_just_below == pld_epsilon(schedule(below), 1e-5)


def test_a_plain_gaussian_has_an_exact_answer():
    """R releases at z are one at z / sqrt(R): the answer scales with sqrt(R)."""
    answers = [
        calibrate_noise_multiplier(
            lambda noise, count=count: [Repeated(GaussianRelease(noise), count)],
            Budget(2.0, 1e-6),
            tolerance=1e-5,
        ).noise_multiplier
        for count in (1, 100)
    ]
    assert answers[1] / answers[0] == pytest.approx(10, rel=2e-5)


def test_a_tiny_target_is_met_though_the_quick_price_is_far_off():
    def schedule(noise):
        return [Repeated(PoissonGaussianRelease(0.2, noise), 25)]

    certificate = calibrate_noise_multiplier(schedule, Budget(1e-3, 1e-5))
    assert certificate.epsilon <= 1e-3 < certificate.epsilon_just_below


def test_a_few_evaluations_suffice():
    calls = []

    def schedule(noise):
        calls.append(noise)
        return [Repeated(PoissonGaussianRelease(0.02, noise), 300)]

    calibrate_noise_multiplier(schedule, Budget(2.0, 1e-5))
    assert len(calls) <= 16


@pytest.mark.parametrize("fixed", [0.5, 50.0])
def test_a_target_that_no_noise_reaches_is_refused_with_its_bracket(fixed):
    """A part of the schedule with fixed noise leaves a floor, or no noise is needed at all."""
    target = 1e-3 if fixed == 0.5 else 1e6

    def schedule(noise):
        return [Repeated(GaussianRelease(noise), 1), Repeated(GaussianRelease(fixed), 1)]

    with pytest.raises(CalibrationFailed) as caught:
        calibrate_noise_multiplier(schedule, Budget(target, 1e-5))
    low, high = caught.value.bracket
    assert low < high
    assert caught.value.epsilons[0] >= caught.value.epsilons[1]
    assert caught.value.target == target


def test_impossible_requests_are_refused():
    def schedule(noise):
        return [Repeated(GaussianRelease(noise), 1)]

    with pytest.raises(InvalidPrivacyParameter):
        calibrate_noise_multiplier(schedule, Budget(math.inf, 1e-5))
    with pytest.raises(InvalidPrivacyParameter):
        calibrate_noise_multiplier(schedule, Budget(1.0, 1e-5), tolerance=0.0)
