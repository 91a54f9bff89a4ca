"""The configuration tree: every key with its type, range, unit and default.

The descriptions are the documentation: `keys` and `configs/reference.yaml` are made from
them. A value here is a wish; what a run really does stands in its plan.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfed_dpo.config.data_sections import DataConfig
from privfed_dpo.config.deployment import DeploymentConfig
from privfed_dpo.config.federation import FederationConfig
from privfed_dpo.config.gossip import GossipConfig
from privfed_dpo.config.model_sections import DpoConfig, ModelConfig
from privfed_dpo.config.personal import PersonalConfig
from privfed_dpo.config.section import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Prompt,
    Section,
    Seed,
    Share,
)

Mode = Literal["distributed", "local", "user", "gossip", "none"]


class RunConfig(Section):
    """Where a run lives and what its public randomness is."""

    dir: str | None = Field(
        None, description="run folder to create; null makes a new one under runs/"
    )
    seed: Seed = Field(
        0,
        description="seed of everything privacy does not rest on: partition, cohorts, model "
        "init, simulated drop-outs",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="CPU threads of the model; null is the library's choice; 1 is fastest for tiny "
        "models and on busy machines",
    )
    processes: PositiveInt = Field(
        1,
        description="processes on this machine that share a client's gradients, one GPU each where "
        "there are GPUs; integer sums do not depend on it",
    )
    shard_base: bool = Field(
        False,
        description="spread the frozen base over these processes (FSDP): each keeps its share and "
        "gathers the others' block by block; for bases that do not fit into one GPU",
    )
    cache_dir: str | None = Field(
        None,
        description="folder for warmed-up models, reference log-probabilities and, if it is given, "
        "token ids; null is ~/.cache/privfed-dpo, without token ids",
    )
    tensorboard: bool = Field(
        False,
        description="write each row also for TensorBoard, under tensorboard/ in the run folder; "
        "needs the extra `tensorboard`",
    )


class PrivacyConfig(Section):
    """What is promised, to whom, and who adds the noise."""

    mode: Mode = Field(
        "distributed",
        description="distributed: noise shares, only the sum is seen; local: full noise at each "
        "client; user: noise shares for a client's whole update, so that everything of one user is "
        "protected at once; gossip: full noise at each node of a graph without a server; none: no "
        "privacy, a baseline",
    )
    target_epsilon: PositiveFloat | None = Field(
        None, description="certified epsilon the run may spend; null if the noise is given"
    )
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="null is min(1e-5, N^-1.1) for N training pairs, or N users in user mode",
    )
    noise_multiplier: PositiveFloat | None = Field(
        None,
        description="noise standard deviation on the sum over max_grad_norm (user mode: over "
        "max_update_norm); null calibrates it to target_epsilon",
    )
    max_noise_multiplier: PositiveFloat | None = Field(
        None,
        description="most noise that target_epsilon may be calibrated to; a target that takes more "
        "is refused, with what would bring it within reach; null refuses only noise that drowns "
        "everything the data can add up to",
    )
    noise: Literal["discrete_gaussian", "skellam"] = Field(
        "discrete_gaussian",
        description="law of a client's integer noise; sums of Skellam shares are Skellam exactly, "
        "and take accounting=rdp",
    )
    accounting: Literal["reduction", "rdp"] = Field(
        "reduction",
        description="what certifies epsilon: PLD, by a reduction of the integer noise to a "
        "continuous Gaussian that is proved in docs/; or published Renyi bounds of the integer "
        "noise itself, about 10 % looser",
    )
    max_grad_norm: PositiveFloat | None = Field(
        0.1,
        description="clip bound on the gradient of one pair (L2); null only without privacy, or in "
        "user mode",
    )
    max_update_norm: PositiveFloat | None = Field(
        None,
        description="user mode: clip bound on what all local steps of a client in one round change "
        "in the adapter together (L2)",
    )
    sample_rate: Share = Field(
        0.2,
        description="probability with which each pair joins a step (Poisson sampling); it "
        "amplifies nothing in user mode",
    )
    record_copies: PositiveInt = Field(
        1,
        description="public bound on how often one record (user, prompt, chosen, rejected) may "
        "stand in the data of all clients; epsilon then covers all copies together",
    )
    label_epsilon: Annotated[float, Field(gt=0.0, le=30.0)] | None = Field(
        None,
        description="pure epsilon of a label (which answer was chosen): each is flipped once, "
        "before anything is computed, and the loss is debiased; in any mode, none included; null "
        "flips nothing",
    )
    dropout_tolerance: NonNegativeInt = Field(
        0, description="clients of a cohort that may vanish without weakening the promise"
    )
    colluders: NonNegativeInt = Field(
        0, description="clients of a cohort that may share all they know with the server"
    )


class SecureAggConfig(Section):
    """The secure-aggregation protocol and the faults of the simulated network."""

    enabled: bool = Field(
        True,
        description="false sums in clear, where the mode needs no secure sum (local, none)",
    )
    modulus_bits: Literal[32, 64] | None = Field(
        None, description="ring size; null takes 32 where the plan proves it is enough [bits]"
    )
    dropout_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="simulated: probability that a client vanishes in a round"
    )


class EvaluationConfig(Section):
    """What is measured on held-out pairs, never on the clients' training data."""

    every: PositiveInt = Field(1, description="rounds between evaluations")
    pairs: PositiveInt | None = Field(
        400, description="held-out pairs used for loss and accuracy; null is all [pairs]"
    )
    gradient_pairs: NonNegativeInt = Field(
        128,
        description="held-out pairs, drawn by the public seed, used for gradient norm, "
        "heterogeneity and clip fraction [pairs]",
    )
    curvature_products: NonNegativeInt = Field(
        3,
        description="products with the Hessian per probe, by which the floor of a finished run is "
        "taken apart on the gradient pairs; each costs two gradients of all of them; 0 is off",
    )
    sample_prompts: tuple[Prompt, ...] = Field(
        (),
        description="PUBLIC prompts answered before and after training, in summary and report; "
        "empty shows none",
    )
    sample_tokens: PositiveInt = Field(64, description="longest sample answer [tokens]")
    audit_lanes: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0,
        description="dummy coordinates with canaries that audit the noise of distributed mode at "
        "no cost in utility; 0 is off [coordinates]",
    )
    audit_pairs: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0,
        description="made-up pairs that secret coins put into clients' data, to audit the final "
        "adapter; keep them below 2 % of all pairs; 0 is off [pairs]",
    )
    audit_pairs_form: Literal["in_out", "swap"] = Field(
        "in_out",
        description="what a coin decides: whether the pair is there, or which response is chosen "
        "(audits replace-one adjacency)",
    )
    audit_held_back: NonNegativeInt = Field(
        0,
        description="pairs each client keeps out of training, at most half of them, so that the "
        "audit can measure membership inference; 0 is off [pairs]",
    )
    references: tuple[Literal["local_only", "centralised"], ...] = Field(
        (),
        description="simulation: what to compare the shared adapter with. local_only trains each "
        "client alone, centralised one model on all pairs in one place, both WITHOUT privacy; "
        "figures in summary and report are then not private either",
    )
    compared_clients: PositiveInt | None = Field(
        None,
        description="clients, drawn by the public seed, whose personal and local-only adapters "
        "are trained; null is all",
    )


class Config(Section):
    """Everything a run is told; see `configs/reference.yaml` for every key."""

    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    dpo: DpoConfig = Field(default_factory=DpoConfig)
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig)
    federation: FederationConfig = Field(default_factory=FederationConfig)
    secure_agg: SecureAggConfig = Field(default_factory=SecureAggConfig)
    gossip: GossipConfig = Field(default_factory=GossipConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    deployment: DeploymentConfig = Field(default_factory=DeploymentConfig)
    personal: PersonalConfig = Field(default_factory=PersonalConfig)

    @property
    def decentralised(self) -> bool:
        """Whether clients average with neighbours instead of through a server."""
        wanted = self.gossip.enabled
        return self.privacy.mode == "gossip" if wanted is None else wanted
