"""Settings of the data: where pairs come from, who holds them, and the embedded task's users."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfed_dpo.config.section import PositiveFloat, PositiveInt, Section


class ColumnsConfig(Section):
    """Names of the data's columns, where they are not these."""

    prompt: str = Field("prompt", description="text or messages before the completions")
    chosen: str = Field("chosen", description="the preferred completion")
    rejected: str = Field("rejected", description="the other completion")
    user: str = Field("user", description="who judged; needed by the natural partition")
    topic: str = Field("topic", description="subject; needed by the dirichlet partition")


class SyntheticConfig(Section):
    """How users of the embedded task differ, beside `data.heterogeneity`."""

    optimum_shift: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        0.0,
        description="standard deviation of a user's reward weights around the common ones, in "
        "units of the root mean square of the common weights",
    )
    opposed_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="share of users who want the opposite; they are the last ones"
    )
    annotator_noise: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="probability that a judgement is a fair coin"
    )
    temperature: PositiveFloat = Field(
        0.5,
        description="of the Bradley-Terry choice, sigmoid(difference in utility / temperature)",
    )
    covariate_shift: Annotated[float, Field(ge=0.0, le=3.0)] = Field(
        0.0,
        description="standard deviation, over users, of the logits with which topics come up and "
        "answers of each kind are offered",
    )
    verdict: Literal["common", "own", "votes"] = Field(
        "common",
        description="who judges held-out pairs: the common weights, without noise; each user's own "
        "weights, without noise; each user's own votes, noisy like those trained on",
    )


class DataConfig(Section):
    """Preference data and how it is spread over clients."""

    train: str = Field(
        "synthetic",
        description="private pairs: .jsonl, .jsonl.gz or .parquet file, hub id, or 'synthetic' "
        "for the embedded task",
    )
    eval: str | None = Field(
        None,
        description="held-out pairs the coordinator may see in clear; null measures nothing "
        "(the embedded task brings its own)",
    )
    train_split: str = Field("train", description="split of a hub data set used for training")
    eval_split: str = Field("test", description="split of a hub data set used for evaluation")
    partition: Literal["natural", "iid", "dirichlet"] = Field(
        "natural",
        description="natural: one client per `user`; iid: dealt at random; dirichlet: skewed by "
        "topic",
    )
    clients: PositiveInt | None = Field(
        None, description="number of clients; null takes every user (natural partition only)"
    )
    min_pairs: PositiveInt = Field(
        1, description="public floor: clients with fewer pairs are left out [pairs]"
    )
    max_pairs: PositiveInt | None = Field(
        None, description="public cap: larger clients are subsampled; null is no cap [pairs]"
    )
    dirichlet_alpha: PositiveFloat = Field(
        0.5, description="concentration of the dirichlet partition; small is skewed"
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        512, description="longest prompt plus completion; prompts are cut on the left [tokens]"
    )
    pairs_per_client: PositiveInt = Field(
        100, description="synthetic task: pairs each client holds [pairs]"
    )
    eval_pairs: PositiveInt = Field(
        400, description="synthetic task: held-out pairs in all [pairs]"
    )
    heterogeneity: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        0.15, description="synthetic task: probability that a user flips one of the tastes"
    )
    synthetic: SyntheticConfig = Field(default_factory=SyntheticConfig)
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
