"""What holds clients together while they take local steps, as part of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privfed_dpo.config import Config

Reals = npt.NDArray[np.float64]

_DELAYS = 0x57A1E


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """How local steps are kept from drifting apart, and how old the adapter is they begin at.

    FedProx (Li et al., 2020, algorithm 2) adds mu/2 |w - w_round|^2 to every client's loss, by one
    explicit gradient step: mu (w - w_round) joins the gradient of each local step. SCAFFOLD
    (Karimireddy et al., 2020, option II): see `control_variates`.

    Guarantee: the pull is a function of iterates alone and reads no data. Where a client's own
    steps are noised, its iterates are, so the pull follows from what is already paid for; in user
    mode it is part of the update that is clipped as a whole. Clip bounds and noise do not depend
    on where a gradient is taken, so an old adapter, a function of earlier releases, costs what a
    fresh one does. The caller ensures that delays do not depend on private data.

    Attributes:
        proximal: mu, >= 0; 0 leaves every step as it was, to the bit.
        scaffold: whether local steps are corrected by control variates.
        max_staleness: tau, most rounds by which a client's adapter is out of date.
        delay_seed: public seed of the delays.
    """

    proximal: float = 0.0
    scaffold: bool = False
    max_staleness: int = 0
    delay_seed: int = 0

    @classmethod
    def of(cls, config: Config) -> DriftPlan:
        """Take what a valid configuration says."""
        federation = config.federation
        return cls(
            proximal=federation.proximal,
            scaffold=federation.drift_control == "scaffold",
            max_staleness=federation.max_staleness,
            delay_seed=config.run.seed,
        )

    def pulled_back(self, gradient: Reals, change: Reals) -> Reals:
        """Return the gradient of a local step with FedProx' pull.

        Args:
            gradient: of the client's own loss, shape [d].
            change: how far the iterate is from where the round began, shape [d].
        """
        return gradient + self.proximal * change if self.proximal else gradient

    def delay(self, round_number: int, client: int) -> int:
        """Rounds by which a client's adapter is out of date: uniform on 0 to tau, public."""
        if not self.max_staleness:
            return 0
        rng = np.random.default_rng([self.delay_seed, _DELAYS, round_number, client])
        return int(rng.integers(self.max_staleness + 1))

    def describe(self) -> dict[str, object]:
        """The same as plain facts, for the plan's hash and for people."""
        return {
            "proximal": self.proximal,
            "scaffold": self.scaffold,
            "max_staleness": self.max_staleness,
        }
