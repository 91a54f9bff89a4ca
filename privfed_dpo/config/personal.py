"""Settings of the adapters that clients keep to themselves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from privfed_dpo.config.section import PositiveFloat, PositiveInt, Section


class PersonalConfig(Section):
    """A private adapter of each client, trained from the shared one after the run, never sent."""

    enabled: bool = Field(
        False,
        description="train every client's own adapter when the shared one is done, and measure it "
        "on that client's held-out pairs; the figures are not private",
    )
    steps: PositiveInt = Field(30, description="most gradient steps of a client on its own pairs")
    learning_rate: PositiveFloat | None = Field(
        None, description="step size; null takes that of the run's own gradient steps"
    )
    proximal: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.01,
        description="pull back to the shared adapter: weight of half the squared distance to it",
    )
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2,
        description="share of a client's own pairs that decides how many of the steps are kept; "
        "clients with too few pairs for that keep the shared adapter",
    )
    keep: bool = Field(
        False,
        description="simulation: write these adapters under clients/ in the run folder; they "
        "reveal their client's pairs and must not be released with it",
    )
