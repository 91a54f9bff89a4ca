"""From a configuration to the parts of a run: data, model, plan, clients."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.config import Config
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.partition import Partition, partition_pairs
from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.data.synthetic import SyntheticTask, synthetic_task
from privfed_dpo.data.tokenize import TokenizedPair, tokenize_pairs
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.lanes import LaneCoins
from privfed_dpo.engine.measurement import HeldOutMeasure, HeldOutPairs, choose_held_out
from privfed_dpo.engine.plan import PublicFacts, RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.eligibility import position_limit
from privfed_dpo.model.loading import LoadedModel, ModelSpec, empty_model, load_model
from privfed_dpo.model.tiny import TINY_LLAMA
from privfed_dpo.model.warmup import warm_up
from secure_agg import IdentityKey

SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Preference pairs before any model: who holds what, and what is held out.

    Attributes:
        partition: clients with their pairs.
        held_out: pairs the coordinator measures on; empty if none were given.
        task: the embedded task, where the data come from it.
    """

    partition: Partition = field(repr=False)
    held_out: tuple[PreferencePair, ...] = field(repr=False)
    task: SyntheticTask | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a run needs, built from its configuration.

    Attributes:
        config: the configuration.
        plan: the proved plan.
        loaded: base model and tokenizer.
        adapter: the policy.
        shards: every client's tokenized pairs and reference, by number.
        source: gives the engine gradients of the model.
        measure: held-out metrics.
        held_out: the pairs behind them; None if there are none.
        data_fingerprint: hash over all tokenized pairs.
    """

    config: Config
    plan: RunPlan
    loaded: LoadedModel = field(repr=False)
    adapter: Adapter = field(repr=False)
    shards: tuple[PrivateShard, ...] = field(repr=False)
    source: AdapterGradients = field(repr=False)
    measure: HeldOutMeasure = field(repr=False)
    held_out: HeldOutPairs | None = field(repr=False)
    data_fingerprint: str

    def clients(
        self, run_id: bytes, entropy: Entropy, coins: LaneCoins | None = None
    ) -> tuple[dict[int, FederatedClient], dict[int, bytes]]:
        """Make every client with fresh keys; returns clients and roster, by number.

        Args:
            run_id: 16 bytes that name the run.
            entropy: source of all their secrets.
            coins: the auditor's canaries; each client learns only those it hosts.
        """
        identities = {n: IdentityKey.generate(entropy) for n in range(len(self.shards))}
        roster = {number: identity.public for number, identity in identities.items()}
        clients = {
            number: FederatedClient(
                contributor=Contributor(
                    plan=self.plan,
                    client=number,
                    shard=shard,
                    source=self.source,
                    issuer=StreamIssuer(entropy),
                    lanes=coins.of_client(number) if coins else (),
                ),
                run_id=run_id,
                identity=identities[number],
                roster=roster,
                entropy=entropy,
            )
            for number, shard in enumerate(self.shards)
        }
        return clients, roster


@dataclass(frozen=True, slots=True)
class AdapterGradients:
    """The model as the engine sees it; shared by all clients of one process."""

    adapter: Adapter
    gradients: PairGradients

    def load(self, weights: npt.NDArray[np.float32]) -> None:
        """Put a flat adapter into the model."""
        self.adapter.write(weights)

    def pair_gradients(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.float32]
    ) -> Iterator[torch.Tensor]:
        """Yield raw pair gradients, one row per pair."""
        return self.gradients(pairs, reference)


def load_inputs(config: Config) -> Inputs:
    """Read and check preference data and spread it over clients.

    Raises:
        DataError: the data cannot be used; nothing was computed.
    """
    data = config.data
    task: SyntheticTask | None = None
    held_out: tuple[PreferencePair, ...] = ()
    if data.train == SYNTHETIC:
        task = synthetic_task(
            clients=data.clients or 1,
            pairs_per_client=data.pairs_per_client,
            eval_pairs=data.eval_pairs,
            seed=config.run.seed,
            heterogeneity=data.heterogeneity,
        )
        pairs, held_out = task.train, task.evaluation
    else:
        pairs = load_preferences(data.train, split=data.train_split)
    if data.eval is not None:
        held_out = load_preferences(data.eval, split=data.eval_split)
    partition = partition_pairs(
        pairs,
        kind=data.partition,
        clients=data.clients,
        min_pairs=data.min_pairs,
        max_pairs=data.max_pairs,
        seed=config.run.seed,
        alpha=data.dirichlet_alpha,
    )
    return Inputs(partition=partition, held_out=held_out, task=task)


def plan_only(config: Config, inputs: Inputs) -> RunPlan:
    """Make the plan without loading weights: only the model's configuration is read.

    Raises:
        PlanRefused, ModelError: see `make_plan` and `empty_model`.
    """
    base = empty_model(_model_spec(config))
    weights = sum(parameter.numel() for parameter in base.parameters())
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[config.model.dtype]
    adapter = Adapter.attach(base, _adapter_spec(config))
    facts = PublicFacts(
        client_names=tuple(shard.client for shard in inputs.partition.shards),
        client_pairs=tuple(len(shard.pairs) for shard in inputs.partition.shards),
        dimension=adapter.dimension,
        model_fingerprint="",
        model_bytes=weights * width,
    )
    return make_plan(config, facts)


def assemble(config: Config, *, base_folder: Path | None = None) -> Assembly:
    """Build all parts; the plan comes first, so that a bad one costs no compute.

    Args:
        config: the configuration.
        base_folder: where the embedded task's warmed-up base is kept, which no hub has: read if
            it is there, written if not.

    Raises:
        DataError, ModelError, PlanRefused: what is wrong and what to do; nothing was spent.
    """
    inputs = load_inputs(config)
    plan = plan_only(config, inputs)
    loaded = _load_base(config, inputs.task, base_folder)
    plan = replace(plan, facts=replace(plan.facts, model_fingerprint=loaded.fingerprint))
    adapter = Adapter.attach(loaded, _adapter_spec(config))
    limit = position_limit(loaded.model)
    max_length = min(config.data.max_length, limit or config.data.max_length)
    gradients = PairGradients(
        adapter,
        loss=config.dpo.loss,
        beta=config.dpo.beta,
        label_smoothing=config.dpo.label_smoothing,
        form=config.dpo.form,
        micro_batch_pairs=config.dpo.micro_batch_pairs,
    )
    reference = ReferenceLogprobs(
        adapter,
        fingerprint=loaded.fingerprint,
        cache_dir=cache_folder(config) / "reference",
        micro_batch_pairs=config.dpo.micro_batch_pairs,
        scorer=gradients.scorer,
    )
    shards = _tokenized_shards(inputs, loaded, max_length)
    scored = reference([pair for shard in shards for pair in shard])
    bounds = np.cumsum([0, *map(len, shards)])
    held_out = _held_out(config, inputs, loaded, max_length, reference)
    return Assembly(
        config=config,
        plan=plan,
        loaded=loaded,
        adapter=adapter,
        shards=tuple(
            PrivateShard(pairs=shard, reference=scored[start:stop])
            for shard, start, stop in zip(shards, bounds[:-1], bounds[1:], strict=True)
        ),
        source=AdapterGradients(adapter, gradients),
        measure=HeldOutMeasure(gradients, held_out, max_grad_norm=plan.max_grad_norm),
        held_out=held_out,
        data_fingerprint=_fingerprint(shards, held_out),
    )


def cache_folder(config: Config) -> Path:
    """Where warmed-up models and reference log-probabilities are kept between runs."""
    if config.run.cache_dir is not None:
        return Path(config.run.cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "privfed-dpo"


def _load_base(config: Config, task: SyntheticTask | None, base_folder: Path | None) -> LoadedModel:
    spec = _model_spec(config)
    if task is None or spec.base != TINY_LLAMA:
        return load_model(spec)
    if base_folder is not None and (base_folder / "config.json").is_file():
        return load_model(replace(spec, base=str(base_folder)))
    loaded = load_model(spec, vocabulary=task.vocabulary)
    texts = [loaded.tokenizer(text)["input_ids"] for text in task.warmup_texts]
    end = loaded.tokenizer.eos_token_id
    warm_up(
        loaded,
        [[*ids, end] for ids in texts],
        steps=config.model.warmup_steps,
        batch=config.model.warmup_batch,
        learning_rate=config.model.warmup_learning_rate,
        seed=config.run.seed,
        cache_dir=cache_folder(config) / "warmup",
    )
    if base_folder is not None:
        loaded.save(base_folder)
    return loaded


def _tokenized_shards(
    inputs: Inputs, loaded: LoadedModel, max_length: int
) -> tuple[tuple[TokenizedPair, ...], ...]:
    return tuple(
        tokenize_pairs(shard.pairs, loaded.tokenizer, max_length=max_length).pairs
        for shard in inputs.partition.shards
    )


def _held_out(
    config: Config,
    inputs: Inputs,
    loaded: LoadedModel,
    max_length: int,
    reference: ReferenceLogprobs,
) -> HeldOutPairs | None:
    if not inputs.held_out:
        return None
    chosen = choose_held_out(len(inputs.held_out), config.evaluation.pairs, seed=config.run.seed)
    raw = [inputs.held_out[i] for i in chosen]
    pairs = tokenize_pairs(raw, loaded.tokenizer, max_length=max_length).pairs
    return HeldOutPairs(
        pairs=pairs,
        reference=reference(pairs),
        users=tuple(pair.user or "" for pair in raw),
        gradient_pairs=min(config.evaluation.gradient_pairs, len(pairs)),
    )


def _model_spec(config: Config) -> ModelSpec:
    model = config.model
    return ModelSpec(
        base=model.base,
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        init_seed=config.run.seed,
    )


def _adapter_spec(config: Config) -> AdapterSpec:
    adapter = config.model.adapter
    return AdapterSpec(
        rank=adapter.rank,
        alpha=2.0 * adapter.rank if adapter.alpha is None else adapter.alpha,
        target_modules=adapter.target_modules,
        freeze_a=adapter.freeze_a,
        init_seed=config.run.seed,
    )


def _fingerprint(shards: Sequence[Sequence[TokenizedPair]], held_out: HeldOutPairs | None) -> str:
    digest = hashlib.sha256()
    for group in (*shards, held_out.pairs if held_out else ()):
        digest.update(f"/{len(group)}".encode())
        for pair in group:
            digest.update(bytes.fromhex(pair.key))
    return digest.hexdigest()
