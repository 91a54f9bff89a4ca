"""The loopback carrier keeps the contract; its simulated losses are reproducible and monotone."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import PLAIN_INPUT, START
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import STEPS, Dropouts, LoopbackCarrier
from tests.contracts.carrier_contract import CarrierContract
from tests.support.round_parties import Parties, small_plan

ROUNDS, CLIENTS = st.integers(1, 10**6), st.integers(0, 10**4)


class TestLoopbackCarrier(CarrierContract):
    def open_carrier(self, handlers):
        return contextlib.nullcontext(LoopbackCarrier(handlers))


class TestLoopbackCarrierWithoutLosses(CarrierContract):
    """A simulation whose rate is 0 loses nobody, so the same promises hold."""

    def open_carrier(self, handlers):
        return contextlib.nullcontext(LoopbackCarrier(handlers, Dropouts(rate=0.0, seed=3)))


@given(number=ROUNDS, client=CLIENTS, seed=st.integers(0, 2**32), rate=st.floats(0, 1))
@settings(max_examples=200)
def test_a_client_that_vanished_stays_away_for_the_round(number, client, seed, rate):
    dropouts = Dropouts(rate=rate, seed=seed)
    gone = [dropouts.vanished(number, client, step) for step in STEPS]
    assert gone == sorted(gone), "present first, then gone"
    assert gone == [Dropouts(rate=rate, seed=seed).vanished(number, client, s) for s in STEPS]
    if gone[0]:
        assert dropouts.vanished(number, client, PLAIN_INPUT)


@pytest.mark.parametrize("step", STEPS)
def test_losses_can_be_aimed_at_one_step(step):
    dropouts = Dropouts(rate=1.0, seed=0, only_step=step)
    place = STEPS.index(step)
    for client in range(20):
        gone = [dropouts.vanished(1, client, s) for s in STEPS]
        assert gone == [False] * place + [True] * (len(STEPS) - place)


def losses(rate, *, rounds=400, clients=10):
    """Share of clients lost in a round, and of losses that began at each step."""
    dropouts = Dropouts(rate=rate, seed=1)
    first = [0] * len(STEPS)
    for number in range(rounds):
        for client in range(clients):
            gone = [dropouts.vanished(number, client, step) for step in STEPS]
            if any(gone):
                first[gone.index(True)] += 1
    total = sum(first)
    return total / (rounds * clients), [count / total for count in first]


def test_the_rate_is_kept_and_every_step_is_hit_alike():
    """4000 draws: five standard deviations around the rate, and around one fifth per step."""
    share, by_step = losses(0.3)
    deviation = 5 * np.sqrt(0.3 * 0.7 / 4000)
    assert abs(share - 0.3) < deviation
    assert abs(share - 0.35) > deviation, "the test could tell a neighbouring rate apart"
    allowed = 5 * np.sqrt(0.2 * 0.8 / (4000 * share))
    assert all(abs(part - 1 / len(STEPS)) < allowed for part in by_step)


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "in clear"])
@pytest.mark.parametrize("step", STEPS)
def test_a_round_with_losses_gives_the_sum_of_its_survivors(step, secure):
    """One of five vanishes at a chosen step; four are enough."""
    parties = Parties(small_plan(secure=secure))

    class LosesOne:
        def __init__(self):
            self.carrier = LoopbackCarrier(parties.handlers)

        def exchange(self, exchange):
            lost = STEPS.index(exchange.step) >= STEPS.index(step)
            messages = {n: m for n, m in exchange.messages.items() if n != 2 or not lost}
            return self.carrier.exchange(Exchange(exchange.round, exchange.step, messages))

    result = drive(parties.script(), LosesOne())
    # What counts is the masked input: whoever vanishes after it is still in the sum.
    counted = STEPS.index(step) > STEPS.index("MaskedInput") or (not secure and step != START)
    survivors = tuple(range(5)) if counted else (0, 1, 3, 4)
    assert result.survivors == survivors
    assert np.array_equal(result.total, parties.plain_sum(survivors))


def test_a_bug_of_a_client_is_not_mistaken_for_a_loss():
    def broken(data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        LoopbackCarrier({0: broken}).exchange(Exchange(1, START, {0: b"x"}))
