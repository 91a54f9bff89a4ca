r"""A record that stands several times in the data: what its copies add up to.

Under zero-out adjacency all copies become null records at once: a record is not hidden as long as a
copy of it is there.

* Shared noise (distributed mode). A sum in which k copies are sampled moves by a binomial number of
  clip norms: a group release, priced as a mixture of Gaussians. Copies at different clients may be
  in different rounds. Releases that hold a and b copies cost no more than one release that holds
  a + b: for a likelihood ratio that is a mixture over shifts, any hockey-stick divergence is the
  mean of a convex function of the mixture, which is largest when all shifts point the same way (the
  sum of comonotone variables is the largest in convex order), and grows with their length; and two
  independent releases with shifts (i, 0) and (0, j) are one with a shift no longer than i + j. The
  same for scalar against vector shifts: Choquette-Choo, Ganesh, Steinke and Thakurta (2023,
  section 4). So small rounds may be merged, as long as no more than m copies come together, and
  `rounds_of` counts what is left: at most one merged round with half of m or fewer.
* Own noise (local mode, gossip). Each client's steps are noisy on their own, so the copies at m
  clients cost m times as many releases. Two copies at one client would be a group there, which is
  dearer; a client can remove its own repeats alone, so that case is refused where data are read.
"""

from dataclasses import dataclass

from accounting.errors import InvalidPrivacyParameter
from accounting.modes import Mode


@dataclass(frozen=True, slots=True)
class RecordCopies:
    """A public bound: no record stands more than `most` times in the data of all clients.

    Guarantee: the caller checks the data, or knows it; and that in local mode and gossip no client
    holds a record twice.

    Attributes:
        most: copies of one record over all clients, >= 2; without copies claim nothing.
        rounds: rounds of the whole run, >= 1.

    Raises:
        InvalidPrivacyParameter: a value lies outside its range.
    """

    most: int
    rounds: int

    def __post_init__(self) -> None:
        """Refuse what is no group of copies."""
        if self.most < 2:  # noqa: PLR2004 - one record is not a copy of itself
            raise InvalidPrivacyParameter(
                "record_copies", self.most, "state 2 or more copies, or nothing"
            )
        if self.rounds < 1:
            raise InvalidPrivacyParameter("rounds", self.rounds, "give at least 1")

    def rounds_of(self, participations: int, rounds: int) -> int:
        """Return how many releases of all copies together cover what the copies went through.

        Args:
            participations: most rounds of any one client, R.
            rounds: rounds so far, T.

        Returns:
            At most T, and at most what m R single copies can fill: after merging, all releases but
            one hold more than m / 2 copies. That is R for two copies.
        """
        filled = (self.most * participations - 1) // (self.most // 2 + 1) + 1
        return min(rounds, filled)


def record_releases(
    mode: Mode, *, participations: int, local_steps: int, copies: RecordCopies | None
) -> int:
    """Return how many noisy sums or steps of a run may hold one record or a copy of it.

    What the noise's own imperfections add up over; `RecordCopies.rounds_of` is smaller, since it
    counts what prices the copies once they are merged.

    Args:
        mode: who adds the noise.
        participations: most rounds of any one client.
        local_steps: noisy steps of a client per round, in local and gossip mode.
        copies: None for a record that stands once.
    """
    most = 1 if copies is None else copies.most
    if mode in {Mode.LOCAL, Mode.GOSSIP}:
        return participations * local_steps * most
    rounds = participations * most
    return rounds if copies is None else min(rounds, copies.rounds)
