"""Commands of a deployment: enrol, client, server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from privfed_dpo.config import Config, load_config
from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.errors import ConfigError

PolicyPath = Annotated[
    Path | None, typer.Option("--policy", help="this client's policy, a YAML file")
]


def enrol(
    policy: PolicyPath = None,
    server: Annotated[
        Path | None, typer.Option("--server", help="the coordinator's config instead")
    ] = None,
) -> None:
    """Make a party's signing key if it has none; print its public line of the roster."""
    if (policy is None) == (server is None):
        raise ConfigError(("enrol takes either --policy FILE or --server CONFIG",))
    if policy is not None:
        from privfed_dpo.deployment.client_process import enrol_client  # noqa: PLC0415

        rules = load_policy(policy)
        line: dict[str, object] = {rules.name: enrol_client(rules)}
    else:
        from privfed_dpo.deployment.coordinator import enrol_coordinator  # noqa: PLC0415

        line = {"coordinator": enrol_coordinator(load_config(Path(str(server))))}
    typer.echo(yaml.safe_dump(line, default_flow_style=None, sort_keys=False).rstrip())


def client(policy: Annotated[Path, typer.Option("--policy", help="YAML file")]) -> None:
    """Serve one client: holds its data, keys and budget, and answers through a local socket."""
    rules = load_policy(policy)
    from privfed_dpo.deployment.client_process import serve_client  # noqa: PLC0415
    from privfed_dpo.deployment.journal import to_stderr  # noqa: PLC0415

    serve_client(rules, journal=to_stderr)


def refuse_simulation(config: Config) -> None:
    """Keep `train` from inventing clients where real ones are enrolled.

    Raises:
        ConfigError: the config is a deployment's.
    """
    if config.deployment.roster is not None:
        raise ConfigError(
            ("deployment.roster is set: the clients are on other machines",),
            advice="Coordinate them with privfed-dpo server, or set deployment.roster=null.",
        )
