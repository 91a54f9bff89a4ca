"""SCAFFOLD: control variates that point local steps the way all clients go together.

Client i keeps c_i, the server their mean c. A local step follows g_i - c_i + c; after K steps of
rate eta from x to y_i the client's new control variate is (Karimireddy et al., 2020, equation 4,
option II)

    c_i+ = c_i - c + (x - y_i) / (K eta),

which is the mean of the K gradients g_i that the steps used. What goes into the secure sum is the
change of the adapter and, behind it, c_i+ - c_i = (x - y_i) / (K eta) - c. The server adds the sum
of changes over N to c, so that c is the mean of what clients hold, to the bit of the grid.

Guarantee: in local mode every g_i is noised in full and booked before it is used. By induction over
steps and rounds c_i, y_i and all that is sent are functions of booked gradients and of what the
server sent, so control variates cost nothing, whoever sees them. That needs noise in every single
step, which no mode with shared noise has; there plans are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.plan import RunPlan

Reals = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.generic]]


class ControlVariateLost(ValueError):
    """What a client keeps is not what the server counted; c is no longer the mean.

    Attributes:
        counted_round: the last round that the server counted.
    """

    def __init__(self, counted_round: int) -> None:
        super().__init__(f"the change of round {counted_round} is not in this control variate")
        self.counted_round = counted_round


@dataclass(frozen=True, slots=True)
class Correction:
    """What corrects the local steps of one client in one round.

    Attributes:
        server: c, shape [d].
        own: c_i, shape [d].
    """

    server: Reals = field(repr=False)
    own: Reals = field(repr=False)

    def corrected(self, gradient: Reals) -> Reals:
        """Return g_i - c_i + c."""
        return gradient - self.own + self.server

    def change(self, moved: Reals, *, local_steps: int, rate: float) -> Reals:
        """Return c_i+ - c_i.

        Args:
            moved: y_i - x, shape [d].
            local_steps: K.
            rate: eta.
        """
        return -moved / (local_steps * rate) - self.server


@dataclass(slots=True)
class ControlVariate:
    """What a client keeps from round to round.

    A change takes effect once the server says that the round's sum was opened with this client in
    it; else server and client would no longer agree about c.

    Attributes:
        value: c_i, shape [d].
        counted_round: the last round whose change is in it; 0 if none.
        pending: what the client sent last, shape [d].
        pending_round: when that was; 0 if never, or if it is settled.
    """

    value: Reals = field(repr=False)
    pending: Reals = field(repr=False)
    counted_round: int = 0
    pending_round: int = 0

    @classmethod
    def start(cls, dimension: int) -> ControlVariate:
        """Begin at zero."""
        return cls(np.zeros(dimension), np.zeros(dimension))

    def settle(self, counted_round: int) -> None:
        """Keep or drop what is pending.

        Args:
            counted_round: the last round whose opened sum holds this client; 0 if none.

        Raises:
            ControlVariateLost: the change of that round is neither in the value nor pending.
        """
        if counted_round and counted_round == self.pending_round:
            self.value, self.counted_round = self.value + self.pending, counted_round
        if counted_round != self.counted_round:
            raise ControlVariateLost(counted_round)
        self.pending_round = 0

    def sent(self, round_number: int, change: Reals) -> None:
        """Remember the change that went into a round's sum."""
        self.pending, self.pending_round = change, round_number


def pack_controls(controls: Sequence[ControlVariate]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the control variates of clients 0 to n-1 as named arrays; those at zero take none."""
    if not controls:
        return {}
    known = [n for n, c in enumerate(controls) if c.counted_round]
    waiting = [n for n, c in enumerate(controls) if c.pending_round]
    dimension = controls[0].value.size
    return {
        "known": np.array([(n, controls[n].counted_round) for n in known], dtype=np.int64).reshape(
            -1, 2
        ),
        "values": np.array([controls[n].value for n in known]).reshape(-1, dimension),
        "waiting": np.array(
            [(n, controls[n].pending_round) for n in waiting], dtype=np.int64
        ).reshape(-1, 2),
        "pending": np.array([controls[n].pending for n in waiting]).reshape(-1, dimension),
    }


def unpack_controls(arrays: Arrays | None, plan: RunPlan) -> list[ControlVariate]:
    """Rebuild every client's control variate from `pack_controls`.

    Args:
        arrays: what a checkpoint holds; None begins at zero.
        plan: the run's plan.

    Returns:
        One for each client; none at all if the plan has no control variates.
    """
    if not plan.drift.scaffold:
        return []
    clients, dimension = len(plan.facts.client_names), plan.facts.dimension
    controls = [ControlVariate.start(dimension) for _ in range(clients)]
    if not arrays:
        return controls
    values, pending = (arrays[name].astype(np.float64) for name in ("values", "pending"))
    for (n, number), value in zip(arrays["known"].tolist(), values, strict=True):
        controls[n].value, controls[n].counted_round = value, number
    for (n, number), change in zip(arrays["waiting"].tolist(), pending, strict=True):
        controls[n].sent(number, change)
    return controls
