"""The engine's real parts around made-up gradients: what self-tests run, in fractions of a second.

A `Build` names the parts a self-test assembles. `CORRECT` takes them as they are; a planted bug
takes one of them from a subclass. No language model is involved: pairs are numbers, and a table
says what gradient each one has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.config import Config, DataConfig, FederationConfig
from privfed_dpo.config.sections import (
    EvaluationConfig,
    PrivacyConfig,
)
from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.engine.contribution import Contributor, PrivateShard, Steps
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.mechanism.clip import ClippedSum, PairClipper
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer

Halves = npt.NDArray[np.float64]
"""Gradients of n pairs, shape [n, 2, d]: one half from each completion; a pair has their sum."""

MAX_GRAD_NORM = 0.1


class TableGradients:
    """A gradient source that looks gradients up, and remembers which pairs were asked for.

    Args:
        halves: shape [n, 2, d]; the gradient of a pair is the sum of its two halves.
    """

    def __init__(self, halves: Halves) -> None:
        self.halves = halves
        self.drawn: list[list[int]] = []

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Take no notice of the weights."""

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield one row per pair."""
        del reference
        numbers = [pair.prompt[0] for pair in pairs]
        self.drawn.append(numbers)
        yield torch.from_numpy(self.rows(numbers))

    def clipped_sum(
        self,
        pairs: Sequence[TokenizedPair],
        reference: npt.NDArray[np.float32],
        clipper: PairClipper,
    ) -> ClippedSum:
        """Clip and sum the rows."""
        return clipper.clip_all(self.pair_gradients(pairs, reference), self.halves.shape[2])

    def rows(self, numbers: Sequence[int]) -> npt.NDArray[np.float64]:
        """Gradients of these pairs, shape [rows, d]."""
        total: npt.NDArray[np.float64] = self.halves[list(numbers)].sum(axis=1)
        return total


PlanChange = Callable[[RunPlan, int], RunPlan]
IssuerOf = Callable[[Entropy, int], StreamIssuer]


def _as_planned(plan: RunPlan, client: int) -> RunPlan:
    del client
    return plan


def _own_randomness(entropy: Entropy, client: int) -> StreamIssuer:
    del client
    return StreamIssuer(entropy)


@dataclass(frozen=True, slots=True)
class Build:
    """The parts of the mechanism under test.

    Attributes:
        name: what is wrong with it, in words.
        plan: the plan each client, and the server (as client -1), follows.
        contributor: the client's side of a round.
        source: the gradients.
        issuer: a client's randomness.
    """

    name: str
    plan: PlanChange = _as_planned
    contributor: type[Contributor] = Contributor
    source: type[TableGradients] = TableGradients
    issuer: IssuerOf = _own_randomness

    def client(
        self,
        plan: RunPlan,
        halves: Halves,
        entropy: Entropy,
        *,
        number: int = 0,
        lanes: tuple[int, ...] = (),
    ) -> Contributor:
        """Assemble one client over a table of gradients; its pairs are the table's rows."""
        pairs = tuple(TokenizedPair((i,), (0,), (1,), "") for i in range(len(halves)))
        return self.contributor(
            plan=self.plan(plan, number),
            client=number,
            shard=PrivateShard(pairs, np.zeros((len(pairs), 2), dtype=np.float32)),
            source=self.source(halves),
            issuer=self.issuer(entropy, number),
            lanes=lanes,
        )


CORRECT = Build("correct build")


def secret(seed: int, *labels: object) -> Entropy:
    """Bytes that stand in for the operating system's in a simulation: the same for the same labels.

    They protect nothing; a self-test has nothing to protect and must be repeatable.
    """
    calls = 0
    name = "/".join(map(str, (seed, *labels)))

    def draw(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{name}/{calls}".encode()).digest(count)

    return draw


def ring_sum(plan: RunPlan, contributions: Sequence[Steps]) -> Steps:
    """Add contributions in the ring and read the sum back, as secure aggregation does."""
    grid = plan.grid()
    total = np.zeros(plan.vector_length, dtype=grid.dtype)
    for steps in contributions:
        total += grid.to_ring(steps)
    return grid.from_ring(total)


@dataclass(frozen=True, slots=True)
class Setting:
    """Numbers of a simulated run; `plan` turns them into a real plan.

    Attributes:
        mode: "distributed" or "local".
        clients: all of them are in every cohort.
        client_pairs: pairs of each client.
        dimension: coordinates of the adapter.
        sample_rate: q.
        noise_multiplier: z.
        rounds: T.
        dropout_tolerance: D.
        colluders: K.
        local_steps: K of local mode.
        audit_lanes: m.
        delta: of the claim.
    """

    mode: str = "distributed"
    clients: int = 6
    client_pairs: int = 4
    dimension: int = 32
    sample_rate: float = 1.0
    noise_multiplier: float = 2.0
    rounds: int = 1
    dropout_tolerance: int = 0
    colluders: int = 0
    local_steps: int = 1
    audit_lanes: int = 0
    delta: float = 1e-5

    def plan(self) -> RunPlan:
        """Make the plan of these numbers, once."""
        return _plan(self)


@cache
def _plan(setting: Setting) -> RunPlan:
    names = tuple(f"client-{number}" for number in range(setting.clients))
    facts = PublicFacts(
        client_names=names,
        client_pairs=(setting.client_pairs,) * setting.clients,
        dimension=setting.dimension,
        model_fingerprint="",
        model_bytes=0,
    )
    privacy = PrivacyConfig.model_validate(
        {
            "mode": setting.mode,
            "noise_multiplier": setting.noise_multiplier,
            "max_grad_norm": MAX_GRAD_NORM,
            "sample_rate": setting.sample_rate,
            "dropout_tolerance": setting.dropout_tolerance,
            "colluders": setting.colluders,
            "delta": setting.delta,
        }
    )
    config = Config(
        data=DataConfig(clients=setting.clients),
        privacy=privacy,
        federation=FederationConfig(rounds=setting.rounds, local_steps=setting.local_steps),
        evaluation=EvaluationConfig(audit_lanes=setting.audit_lanes),
    )
    return make_plan(config, facts)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one self-test found in one build.

    Attributes:
        check: name of the test.
        passed: nothing was found.
        figure: the measured number and what it had to be, in words.
    """

    check: str
    passed: bool
    figure: str = field(compare=False)
