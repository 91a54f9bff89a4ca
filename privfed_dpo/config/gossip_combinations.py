"""Combinations that cannot work without a server."""

from __future__ import annotations

from privfed_dpo.config.federation import FederationConfig
from privfed_dpo.config.gossip import GossipConfig
from privfed_dpo.config.sections import Config

_RANDOM = ("expander", "erdos_renyi")
_FEWEST_NODES = 2


def gossip_problems(config: Config) -> list[str]:
    """Return one sentence for each contradiction around training without a server."""
    mode, wanted = config.privacy.mode, config.gossip.enabled
    if mode == "gossip" and wanted is False:
        return ["privacy.mode=gossip has no server, so gossip.enabled cannot be false"]
    if wanted and mode not in ("gossip", "none"):
        reason = f"gossip.enabled=true has no server for privacy.mode={mode}"
        return [f"{reason}; use privacy.mode=gossip, or privacy.mode=none for a baseline"]
    if not config.decentralised:
        return (
            ["gossip.masked=true is for training without a server: use privacy.mode=gossip"]
            if config.gossip.masked
            else []
        )
    return _server_parts(config) + _graph(config) + _masking(config)


def _server_parts(config: Config) -> list[str]:
    """Find settings of a server that does not exist."""
    federation, privacy = config.federation, config.privacy
    problems: list[str] = []
    if config.secure_agg.enabled:
        problems.append(
            "without a server there is no secure sum over all nodes: every node adds its full "
            "noise instead; set secure_agg.enabled=false (gossip.masked=true masks neighbourhoods)"
        )
    if config.secure_agg.dropout_rate > 0.0:
        problems.append(
            "secure_agg.dropout_rate loses clients of a secure sum; without a server use "
            "gossip.node_dropout and gossip.link_dropout"
        )
    if federation.cohort is not None:
        problems.append(
            "federation.cohort chooses clients for a server; without one every node takes part in "
            "every round: set it to null"
        )
    if federation.max_participations is not None:
        problems.append(
            "federation.max_participations spreads rounds over a server's cohorts; every node "
            "takes part in all rounds: set it to null"
        )
    if privacy.dropout_tolerance or privacy.colluders:
        problems.append(
            "privacy.dropout_tolerance and privacy.colluders are about shares of noise; without a "
            "server each node's own noise holds against all others together: set both to 0"
        )
    unused = FederationConfig()
    for name in ("server_optimizer", "learning_rate", "momentum"):
        value, default = getattr(federation, name), getattr(unused, name)
        if value != default:
            problems.append(
                f"federation.{name}={value} is the server's, and there is none; nodes step with "
                f"federation.local_learning_rate: leave it at {default}"
            )
    return problems


def _graph(config: Config) -> list[str]:
    gossip, clients = config.gossip, config.data.clients
    problems: list[str] = []
    if clients is not None and clients < _FEWEST_NODES:
        problems.append(f"data.clients={clients} leaves nobody to average with")
    if (gossip.topology == "file") != (gossip.links_file is not None):
        problems.append("gossip.topology=file and gossip.links_file belong together")
    if gossip.redraw_rounds is not None and gossip.topology not in _RANDOM:
        problems.append(
            f"gossip.redraw_rounds draws random graphs anew; gossip.topology={gossip.topology} is "
            f"always the same: use one of {', '.join(_RANDOM)}"
        )
    return problems


def _masking(config: Config) -> list[str]:
    """Find settings that masked sums cannot go with, and settings of masked sums without them."""
    gossip, unused = config.gossip, GossipConfig()
    if not gossip.masked:
        return [
            f"gossip.{name} is about masked sums: set gossip.masked=true, or leave it at {default}"
            for name in ("fewest_neighbours", "colluders")
            if getattr(gossip, name) != (default := getattr(unused, name))
        ]
    if gossip.order == "cta":
        reason = "a node takes a fresh step before every sum, so that no two hold the same adapter"
        return [f"gossip.masked=true needs gossip.order=atc: {reason}"]
    return []
