"""Forms of training, by who adds the noise."""

from enum import StrEnum


class Mode(StrEnum):
    """Who adds the noise.

    DISTRIBUTED: every client a share; only the sum is protected.
    LOCAL: every client in full, before anything leaves it.
    USER: every client a share, scaled to the norm of a client's whole update; only the sum of the
        clipped updates is protected, and everything of one client at once.
    GOSSIP: every node in full, before it sends anything to a neighbour. There is no server: what a
        node sends is post-processing of its own noisy steps, so its data cost the same against any
        coalition of the others, and against anybody outside.
    NONE: nobody; epsilon is infinite.
    """

    DISTRIBUTED = "distributed"
    LOCAL = "local"
    USER = "user"
    GOSSIP = "gossip"
    NONE = "none"
