"""What holds clients together while they take local steps, as part of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.config import Config

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """How local steps are kept from drifting apart.

    FedProx (Li et al., 2020, algorithm 2) adds mu/2 |w - w_round|^2 to every client's loss, by one
    explicit gradient step: mu (w - w_round) joins the gradient of each local step.

    Guarantee: the pull is a function of iterates alone and reads no data. Where a client's own
    steps are noised, its iterates are, so the pull follows from what is already paid for; in user
    mode it is part of the update that is clipped as a whole. So it costs no privacy in any mode.

    Attributes:
        proximal: mu, >= 0; 0 leaves every step as it was, to the bit.
    """

    proximal: float = 0.0

    @classmethod
    def of(cls, config: Config) -> DriftPlan:
        """Take what a valid configuration says."""
        return cls(proximal=config.federation.proximal)

    def pulled_back(self, gradient: Reals, change: Reals) -> Reals:
        """Return the gradient of a local step with FedProx' pull.

        Args:
            gradient: of the client's own loss, shape [d].
            change: how far the iterate is from where the round began, shape [d].
        """
        return gradient + self.proximal * change if self.proximal else gradient

    def describe(self) -> dict[str, object]:
        """The same as plain facts, for the plan's hash and for people."""
        return {"proximal": self.proximal}
