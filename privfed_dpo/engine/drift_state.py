"""What the coordinator keeps for late clients and for control variates, between rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.messages import ControlStart
from privfed_dpo.engine.plan import RunPlan

Reals = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the clients of one round set out from.

    Attributes:
        weights: the fresh adapter, shape [d].
        late: by client number, how many rounds old its adapter is, and that adapter.
        control: the mean control variate, for SCAFFOLD.
    """

    weights: Singles = field(repr=False)
    late: Mapping[int, tuple[int, Singles]] = field(default_factory=dict, repr=False)
    control: ControlStart | None = field(default=None, repr=False)

    def staleness(self, clients: Sequence[int]) -> float | None:
        """Mean age of the adapters of some clients in rounds; None for nobody."""
        ages = [self.late[client][0] if client in self.late else 0 for client in clients]
        return float(np.mean(ages)) if ages else None


@dataclass(frozen=True, slots=True)
class DriftState:
    """The coordinator's memory around local steps; everything in it follows from released sums.

    Attributes:
        recent: adapters of the last rounds, the newest last, shape [<= tau, d].
        control: c, shape [d]; of length 0 without SCAFFOLD.
        counted: by client, the last round whose opened sum holds it; 0 if none.
    """

    recent: Singles = field(repr=False)
    control: Reals = field(repr=False)
    counted: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def start(cls, plan: RunPlan) -> DriftState:
        """Begin with nothing remembered and c = 0."""
        dimension = plan.facts.dimension
        return cls(
            recent=np.zeros((0, dimension), dtype=np.float32),
            control=np.zeros(dimension if plan.drift.scaffold else 0),
            counted=np.zeros(len(plan.facts.client_names), dtype=np.int64),
        )

    @classmethod
    def of(cls, plan: RunPlan, arrays: Arrays | None) -> DriftState:
        """Take up what a checkpoint holds."""
        if not arrays:
            return cls.start(plan)
        return cls(
            recent=arrays["recent"].astype(np.float32),
            control=arrays["control"].astype(np.float64),
            counted=arrays["counted"].astype(np.int64),
        )

    @property
    def remembers(self) -> bool:
        """Whether there is anything that a checkpoint must keep."""
        return self.recent.size > 0 or self.control.size > 0

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays a checkpoint must keep."""
        return {"recent": self.recent, "control": self.control, "counted": self.counted}

    def departure(
        self, plan: RunPlan, round_number: int, cohort: Sequence[int], weights: Singles
    ) -> Departure:
        """Say what each client of a round is sent.

        Before round tau + 1 there are fewer old adapters than tau; the oldest stands for all that
        are older.

        Args:
            plan: delays and drift control.
            round_number: training round, from 1.
            cohort: client numbers, ascending.
            weights: the fresh adapter, shape [d].
        """
        late = {}
        for client in cohort:
            age = min(plan.drift.delay(round_number, client), len(self.recent))
            if age:
                late[client] = (age, self.recent[-age])
        control = None
        if plan.drift.scaffold:
            counted = tuple(int(self.counted[client]) for client in cohort)
            control = ControlStart(self.control.astype("<f4").tobytes(), counted)
        return Departure(weights, late, control)

    def after(
        self,
        plan: RunPlan,
        round_number: int,
        weights: Singles,
        *,
        survivors: Sequence[int],
        total: Reals | None,
    ) -> DriftState:
        """Return the memory after a round.

        Args:
            plan: delays and drift control.
            round_number: the round that was played.
            weights: the adapter that was fresh in it, shape [d].
            survivors: clients in the opened sum.
            total: that sum in units, shape [vector_length]; None if the round was aborted.
        """
        state = self
        if tau := plan.drift.max_staleness:
            state = replace(state, recent=np.vstack([self.recent, weights[None]])[-tau:])
        if plan.drift.scaffold and total is not None:
            dimension = plan.facts.dimension
            counted = self.counted.copy()
            counted[list(survivors)] = round_number
            change = total[dimension : 2 * dimension] / counted.size
            state = replace(state, control=self.control + change, counted=counted)
        return state
