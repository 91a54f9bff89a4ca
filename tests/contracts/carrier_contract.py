"""What every carrier must do, whatever moves its bytes.

A carrier's tests subclass `CarrierContract` and implement `open_carrier`; pytest collects the
promises below for each of them.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privfed_dpo.engine.exchange import Exchange
from privfed_dpo.engine.messages import START
from privfed_dpo.wire.carrier import drive
from tests.support.round_parties import Parties, small_plan

MESSAGES = st.dictionaries(st.integers(0, 4), st.binary(max_size=64))


class CarrierContract(ABC):
    """The promises; `open_carrier` is the only thing a carrier's tests must provide."""

    @abstractmethod
    def open_carrier(self, handlers):
        """Return a context manager that yields a carrier to these handlers, by client number."""

    @pytest.fixture
    def carry(self):
        """Opens carriers and closes them when the test is over."""
        with contextlib.ExitStack() as stack:
            yield lambda handlers: stack.enter_context(self.open_carrier(handlers))

    @given(messages=MESSAGES)
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def test_every_message_arrives_unchanged_and_every_reply_comes_back(self, messages):
        """Bytes are opaque: empty ones, zeros and text are all the same to a carrier."""
        received = {}

        def handler(client):
            def handle(data):
                received[client] = data
                return data[::-1] + bytes([client])

            return handle

        with self.open_carrier({n: handler(n) for n in range(5)}) as carrier:
            replies = carrier.exchange(Exchange(round=1, step=START, messages=messages))
        assert received == messages, "the invited get their own message, nobody else gets one"
        assert dict(replies) == {n: m[::-1] + bytes([n]) for n, m in messages.items()}

    def test_a_megabyte_arrives_whole(self, carry):
        message = np.random.default_rng(0).bytes(2**20)
        carrier = carry({0: lambda data: data})
        replies = carrier.exchange(Exchange(round=1, step=START, messages={0: message}))
        assert dict(replies) == {0: message}

    def test_each_message_is_delivered_once(self, carry):
        calls = Counter()

        def handler(client):
            def handle(data):
                calls[client] += 1
                return b""

            return handle

        carrier = carry({n: handler(n) for n in range(3)})
        for number in (1, 2, 3):
            carrier.exchange(Exchange(round=number, step=START, messages={0: b"a", 2: b"b"}))
        assert calls == {0: 3, 2: 3}

    def test_exchanges_reach_a_client_in_order(self, carry):
        seen = []

        def handle(data):
            seen.append(data)
            return data

        carrier = carry({7: handle})
        for number in range(5):
            carrier.exchange(Exchange(round=1, step=START, messages={7: bytes([number])}))
        assert seen == [bytes([number]) for number in range(5)]

    def test_an_empty_reply_is_a_reply(self, carry):
        carrier = carry({0: lambda data: b""})
        replies = carrier.exchange(Exchange(round=1, step=START, messages={0: b"x"}))
        assert dict(replies) == {0: b""}

    def test_nobody_to_send_to_is_no_error(self, carry):
        carrier = carry({0: lambda data: data})
        assert dict(carrier.exchange(Exchange(round=1, step=START, messages={}))) == {}

    def test_replies_of_one_exchange_do_not_leak_into_the_next(self, carry):
        carrier = carry({0: lambda data: data, 1: lambda data: data})
        first = carrier.exchange(Exchange(round=1, step=START, messages={0: b"a", 1: b"b"}))
        second = carrier.exchange(Exchange(round=1, step=START, messages={1: b"c"}))
        assert dict(first) == {0: b"a", 1: b"b"}
        assert dict(second) == {1: b"c"}

    @pytest.mark.parametrize("secure", [True, False], ids=["masked", "in clear"])
    def test_rounds_give_the_plain_sum_bit_for_bit(self, carry, secure):
        parties = Parties(small_plan(secure=secure))
        carrier = carry(parties.handlers)
        for number in (1, 2):
            result = drive(parties.script(number), carrier)
            assert result.survivors == tuple(range(5))
            assert np.array_equal(result.total, parties.plain_sum(range(5)))

    def test_bytes_counted_are_bytes_carried(self, carry):
        parties = Parties(small_plan())
        carried = Counter()

        def counting(handle):
            def counted(data):
                carried["down"] += len(data)
                reply = handle(data)
                carried["up"] += len(reply)
                return reply

            return counted

        carrier = carry({n: counting(handle) for n, handle in parties.handlers.items()})
        result = drive(parties.script(), carrier)
        assert (result.download_bytes, result.upload_bytes) == (carried["down"], carried["up"])
