"""A hundred clients behind sockets, a fifth of them vanishing in each round at some phase."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from privfed_dpo.engine.drift_state import Departure
from privfed_dpo.engine.messages import decode_envelope
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import Dropouts
from tests.support.fake_federation import DIMENSION, fake_clients, fake_coordinator, fake_plan
from tests.support.relayed import client_sockets, relayed
from tests.support.socket_post import SocketPost

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS, RATE = 100, 20, 0.2
GROWTH_BYTES = 32 << 20
LOSSES = Dropouts(RATE, seed=5)


def vanishes(client, data):
    envelope = decode_envelope(data)
    return LOSSES.vanished(envelope.round, client, envelope.step)


@contextlib.contextmanager
def without_flower(sockets, note):
    """Letters go straight to the clients' sockets; yields a carrier and what a new round needs."""
    post = SocketPost(
        {str(number): path for number, path in sockets.items()},
        lambda letter: vanishes(int(letter.address), letter.data),
    )
    with relayed(post, sockets, seconds=300.0, note=note) as carrier:
        yield carrier, lambda: None


@contextlib.contextmanager
def over_flower(sockets, note):
    """Through both shims, Flower's link state and its simulation engine; who vanishes is offline."""
    from examples.virtual_nodes import virtual_nodes
    from privfed_dpo.wire.flower.records import from_records
    from privfed_dpo.wire.flower.server_app import GridPost

    def gone(client, message):
        return vanishes(client, from_records(message.content))

    with virtual_nodes(sockets, gone) as flower:
        post = GridPost(flower.grid)
        with relayed(post, sockets, address=flower.address, seconds=300.0, note=note) as carrier:
            yield carrier, flower.bring_back


@pytest.mark.parametrize(
    "transport",
    [without_flower, pytest.param(over_flower, marks=pytest.mark.flower)],
    ids=["sockets", "flower"],
)
def test_no_round_with_enough_survivors_is_lost_and_memory_stays_flat(transport):
    plan = fake_plan(
        f"federation.rounds={ROUNDS}",
        "privacy.dropout_tolerance=40",
        "privacy.colluders=1",
        clients=CLIENTS,
    )
    clients, roster = fake_clients(plan)
    start = Departure(np.zeros(DIMENSION, dtype=np.float32))
    results, memory, notes = [], [], []
    with (
        client_sockets({n: c.handle for n, c in clients.items()}) as sockets,
        transport(sockets, notes.append) as (carrier, bring_back),
    ):
        for number in range(1, ROUNDS + 1):
            bring_back()
            script = fake_coordinator(plan, roster, round_number=number).script(start)
            results.append(drive(script, carrier))
            memory.append(resident_bytes())
    assert all(result.total is not None for result in results), [r.reason for r in results]
    vanished = [sum(result.dropped.values()) for result in results]
    assert 0.1 * CLIENTS < np.mean(vanished) < 0.3 * CLIENTS
    assert len({phase for result in results for phase in result.dropped}) == 5
    assert memory[-1] - memory[4] < GROWTH_BYTES
    assert max(note.seconds for note in notes) < 300
    received = sum(note.received_bytes for note in notes)
    assert received == sum(result.upload_bytes for result in results)
    expected = {
        (n, c) for n in range(1, ROUNDS + 1) for c in clients if LOSSES.vanished(n, c, "Unmask")
    }
    assert {(note.round, note.client) for note in notes if note.lost} == expected


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
