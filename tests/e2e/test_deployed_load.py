"""A hundred clients behind sockets, a fifth of them vanishing in each round at some phase."""

from pathlib import Path

import numpy as np
import pytest

from privfed_dpo.engine.messages import decode_envelope
from privfed_dpo.wire.carrier import drive
from privfed_dpo.wire.loopback import Dropouts
from tests.support.fake_federation import DIMENSION, fake_clients, fake_coordinator, fake_plan
from tests.support.relayed import client_sockets, relayed
from tests.support.socket_post import SocketPost

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS, RATE = 100, 20, 0.2
GROWTH_BYTES = 32 << 20


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_no_round_with_enough_survivors_is_lost_and_memory_stays_flat():
    plan = fake_plan(
        f"federation.rounds={ROUNDS}",
        "privacy.dropout_tolerance=40",
        "privacy.colluders=1",
        clients=CLIENTS,
    )
    clients, roster = fake_clients(plan)
    losses = Dropouts(RATE, seed=5)

    def lost(letter):
        envelope = decode_envelope(letter.data)
        return losses.vanished(envelope.round, int(letter.address), envelope.step)

    weights = np.zeros(DIMENSION, dtype=np.float32)
    results, memory, notes = [], [], []
    with client_sockets({n: c.handle for n, c in clients.items()}) as sockets:
        post = SocketPost({str(n): path for n, path in sockets.items()}, lost)
        with relayed(post, clients, seconds=300.0, note=notes.append) as carrier:
            for number in range(1, ROUNDS + 1):
                script = fake_coordinator(plan, roster, round_number=number).script(weights)
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
