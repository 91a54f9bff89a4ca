"""A round through the real coordinator, carrier and secure aggregation: is its step the sum's?"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from accounting import Adjacency, Ledger, LedgerHeader, PrivacyUnit
from privfed_dpo.audit.simulation import (
    MAX_GRAD_NORM,
    Build,
    CheckResult,
    Setting,
    ring_sum,
    secret,
)
from privfed_dpo.engine.checkpoint import Checkpoint
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor
from privfed_dpo.engine.events import EngineEvent
from privfed_dpo.engine.federated import FederatedTraining
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.server_update import ServerState, ServerUpdate
from privfed_dpo.wire.loopback import LoopbackCarrier
from secure_agg import IdentityKey

_ROUND = Setting(clients=4, client_pairs=40, dimension=6, sample_rate=0.1, rounds=1)
_SERVER = -1
_TOLERANCE = 1e-9


def server_step(build: Build, seed: int) -> CheckResult:
    """The server moves by the opened sum over q S n, whatever was drawn.

    The same round is played twice with the same secrets: once through the whole protocol, once as
    a plain sum of what the clients contribute.
    """
    plan = _ROUND.plan()
    weights = np.zeros(_ROUND.dimension, dtype=np.float32)
    after = _trained(plan, build, seed)
    total = ring_sum(plan, [c.contribute(1, weights) for c in _contributors(plan, build, seed)])
    public = _ROUND.sample_rate * _ROUND.clients * _ROUND.client_pairs
    expected = -plan.grid().to_units(total) / public
    error = float(np.abs(after - expected).max() / np.abs(expected).max())
    return CheckResult("server step", error < _TOLERANCE, f"off by {100 * error:.3g} %")


def _contributors(plan: RunPlan, build: Build, seed: int) -> list[Contributor]:
    halves = np.zeros((_ROUND.client_pairs, 2, _ROUND.dimension))
    halves[:, 0, 0] = MAX_GRAD_NORM
    return [
        build.client(plan, halves, secret(seed, "server", number), number=number)
        for number in range(_ROUND.clients)
    ]


def _trained(
    plan: RunPlan, build: Build, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weights after one round from zero, by the real coordinator at learning rate 1."""
    run_id = secret(seed, "run")(16)
    contributors = _contributors(plan, build, seed)
    identities = [IdentityKey.generate(secret(seed, "key", c.client)) for c in contributors]
    coordinator = IdentityKey.generate(secret(seed, "coordinator"))
    roster = {number: identity.public for number, identity in enumerate(identities)}
    clients = {
        c.client: FederatedClient(
            contributor=c,
            run_id=run_id,
            identity=identity,
            roster=roster,
            coordinator=coordinator.public,
            entropy=secret(seed, "protocol", c.client),
        )
        for c, identity in zip(contributors, identities, strict=True)
    }
    saved: list[Checkpoint] = []
    with tempfile.TemporaryDirectory() as folder:
        training = FederatedTraining(
            plan=build.plan(plan, _SERVER),
            run_id=run_id,
            roster=roster,
            ledger=Ledger.create(Path(folder) / "ledger.jsonl", _header(plan, run_id)),
            sign=coordinator.sign,
            update=ServerUpdate(kind="sgd", learning_rate=1.0, momentum=0.0),
            measure=lambda _: {},
            measure_every=1,
            seed=seed,
            save=saved.append,
            observer=_ignore,
            clock=lambda: 0.0,
        )
        start = Checkpoint(
            round=0,
            state=ServerState.start(np.zeros(_ROUND.dimension, dtype=np.float32)),
            rows=(),
            plan_hash=plan.plan_hash,
            data_fingerprint="",
            seconds=0.0,
        )
        script = training.script(start)
        carrier = LoopbackCarrier({number: client.handle for number, client in clients.items()})
        with contextlib.suppress(StopIteration):
            exchange = next(script)
            while True:
                exchange = script.send(carrier.exchange(exchange))
    return saved[-1].state.weights


def _ignore(event: EngineEvent) -> None:
    del event


def _header(plan: RunPlan, run_id: bytes) -> LedgerHeader:
    return LedgerHeader(
        run_id=run_id.hex(),
        plan_hash=plan.plan_hash,
        config_hash="0" * 64,
        unit=PrivacyUnit.PAIR,
        adjacency=Adjacency.ZERO_OUT,
        budget=plan.budget,
        schedule=plan.schedule,
        clients=_ROUND.clients,
    )
