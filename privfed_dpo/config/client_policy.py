"""What one client of a deployment allows, in a file of its own that no server ever sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from privfed_dpo.config.data_sections import ColumnsConfig
from privfed_dpo.config.loading import parse_mapping
from privfed_dpo.config.section import PositiveFloat, PositiveInt, Section
from privfed_dpo.errors import ConfigError


class LimitsConfig(Section):
    """What this client's data may ever be used for."""

    max_epsilon: PositiveFloat = Field(
        description="most epsilon that all runs together may ever spend on the data"
    )
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        1e-4, description="most delta that all runs together may spend"
    )
    min_cohort: Annotated[int, Field(ge=3)] = Field(
        3, description="fewest clients invited to a round"
    )
    min_threshold: Annotated[int, Field(ge=2)] = Field(
        2, description="fewest contributions in an opened sum"
    )
    min_colluders: Annotated[int, Field(ge=0)] = Field(
        0, description="clients that a plan must assume to help the server, at least"
    )
    allow_clear_updates: bool = Field(
        False,
        description="whether plans without secure aggregation are allowed, whose server sees this "
        "client's own noisy update",
    )
    plans: tuple[str, ...] = Field(
        (), description="plan hashes that are allowed; empty allows every plan within the limits"
    )


class ClientPolicy(Section):
    """One client: its data, its keys, its limits. Relative paths start at the policy's folder."""

    name: str = Field(min_length=1, description="the client's name on the roster")
    data: str = Field(description=".jsonl, .jsonl.gz or .parquet file with this client's pairs")
    split: str = Field("train", description="split, where the data are a folder of data sets")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    roster: str = Field("roster.yaml", description="the roster as agreed on at enrolment")
    state: str = Field(
        "state", description="folder of the identity key and of the client's ledgers"
    )
    socket: str = Field("client.sock", description="local socket for the transport")
    socket_group: str | None = Field(
        None,
        description="group that may connect too, where the transport runs under another user; "
        "null lets only this user in",
    )
    model: str | None = Field(
        None, description="folder of the base model on this machine; null takes the run's name"
    )
    device: str = Field("cpu", description="where the model is computed: cpu, cuda, cuda:1, auto")
    threads: PositiveInt | None = Field(None, description="CPU threads of the model")
    cache_dir: str | None = Field(None, description="folder for reference log-probabilities")
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = Field(
        1 << 28, description="longest message of a coordinator; more is refused [bytes]"
    )
    limits: LimitsConfig


def load_policy(path: Path) -> ClientPolicy:
    """Read a policy file; relative paths in it become absolute.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((f"cannot read the policy {path}: {error}",)) from error
    tree = parse_mapping(text, source=str(path))
    limits = tree.get("limits")
    if isinstance(limits, dict) and isinstance(limits.get("plans"), list):
        tree["limits"] = {**limits, "plans": tuple(limits["plans"])}
    try:
        policy = ClientPolicy.model_validate(tree)
    except ValidationError as error:
        problems = tuple(
            f"{'.'.join(map(str, item['loc']))}: {item['msg'][0].lower()}{item['msg'][1:]}"
            for item in error.errors()
        )
        raise ConfigError(problems, advice="docs/deploy.md explains every key.") from error
    here = path.absolute().parent
    places = ("data", "roster", "state", "socket", "model", "cache_dir")
    found = {place: getattr(policy, place) for place in places}
    return policy.model_copy(
        update={place: str(here / value) for place, value in found.items() if value is not None}
    )
