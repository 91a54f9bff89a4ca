"""From a configuration and its inputs to the parts of a run: model, plan, shards, clients."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.audit.pair_canaries import PairCanaries, PairCoins, canary_slots, write_canaries
from privfed_dpo.config import Config
from privfed_dpo.data.token_cache import PairTokenizer
from privfed_dpo.data.tokenize import TokenizedPair, note_full_windows
from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.engine.client import FederatedClient
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.control_variates import ControlVariate
from privfed_dpo.engine.lanes import LaneCoins
from privfed_dpo.engine.measurement import HeldOutMeasure, HeldOutPairs, choose_held_out
from privfed_dpo.engine.objective import label_response, measured_loss
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.enrolment import Enrolment
from privfed_dpo.errors import DataError
from privfed_dpo.inputs import Inputs, load_inputs, load_links, measured_pairs
from privfed_dpo.label_secret import LabelSecret
from privfed_dpo.mechanism.keystream import Entropy, StreamIssuer
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.eligibility import position_limit
from privfed_dpo.model.loading import LoadedModel, empty_model
from privfed_dpo.policy import adapter_spec, base_bytes, cache_folder, load_base, model_spec
from privfed_dpo.population import PopulationFacts, population_facts
from privfed_dpo.workers.shared import SharedPolicy, open_policy


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a run needs, built from its configuration.

    Attributes:
        config: the configuration.
        plan: the proved plan.
        loaded: base model and tokenizer.
        adapter: the policy.
        shards: every client's tokenized pairs and reference, by number.
        source: what engine, coordinator and auditor ask the model through; to be closed.
        measure: held-out metrics.
        held_out: the pairs behind them; None if there are none.
        data_fingerprint: hash over all tokenized pairs.
        canaries: the auditor's made-up pairs and coins; they stand last in the shards.
        held_back: pairs of each client that were kept out of training.
        population: how far the users differ, as far as it is known.
        start: the untrained adapter, shape [d].
    """

    config: Config
    plan: RunPlan
    loaded: LoadedModel = field(repr=False)
    adapter: Adapter = field(repr=False)
    shards: tuple[PrivateShard, ...] = field(repr=False)
    source: LocalPolicy | SharedPolicy = field(repr=False)
    measure: HeldOutMeasure = field(repr=False)
    held_out: HeldOutPairs | None = field(repr=False)
    data_fingerprint: str
    canaries: PairCanaries | None = field(repr=False, default=None)
    held_back: tuple[tuple[TokenizedPair, ...], ...] = field(repr=False, default=())
    population: PopulationFacts | None = None
    start: npt.NDArray[np.float32] = field(
        repr=False, default_factory=lambda: np.zeros(0, np.float32)
    )

    @property
    def gradients(self) -> PairGradients:
        """Policy, loss and scorer behind the engine's gradients."""
        return self.source.gradients

    def close(self) -> None:
        """End all processes but this one."""
        self.source.close()

    def clients(
        self,
        run_id: bytes,
        enrolment: Enrolment,
        entropy: Entropy,
        *,
        participations: Mapping[str, int],
        coins: LaneCoins | None = None,
        controls: Sequence[ControlVariate] = (),
    ) -> dict[int, FederatedClient]:
        """Make every client, by number, with fresh secrets for noise and protocol.

        Args:
            run_id: 16 bytes that name the run.
            enrolment: long-lived signing keys.
            entropy: source of all other secrets.
            participations: rounds of this run that clients took part in before, by name.
            coins: the auditor's canaries; each client learns only those it hosts.
            controls: every client's control variate, for SCAFFOLD; clients change them.
        """
        names = self.plan.facts.client_names
        return {
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
                identity=enrolment.identities[number],
                roster=enrolment.roster,
                coordinator=enrolment.coordinator.public,
                entropy=entropy,
                participations=participations.get(names[number], 0),
                control=controls[number] if controls else None,
            )
            for number, shard in enumerate(self.shards)
        }


def plan_only(config: Config, inputs: Inputs) -> RunPlan:
    """Make the plan without loading weights: only the model's configuration is read.

    Raises:
        PlanRefused, ModelError: see `make_plan` and `empty_model`.
    """
    base = empty_model(model_spec(config))
    model_bytes = base_bytes(config, base)
    adapter = Adapter.attach(base, adapter_spec(config))
    held = inputs.client_pairs
    slots = canary_slots(config.evaluation.audit_pairs, len(held))
    facts = PublicFacts(
        client_names=inputs.client_names,
        client_pairs=tuple(pairs + slot for pairs, slot in zip(held, slots, strict=True)),
        dimension=adapter.dimension,
        model_fingerprint="",
        model_bytes=model_bytes,
        links=load_links(config, inputs.client_names),
    )
    return make_plan(config, facts)


def assemble(
    config: Config,
    *,
    inputs: Inputs | None = None,
    base_folder: Path | None = None,
    coins: PairCoins | None = None,
    labels: LabelSecret | None = None,
) -> Assembly:
    """Build all parts; the plan comes first, so that a bad one costs no compute.

    Args:
        config: the configuration.
        inputs: one party's part of the data, in a deployment; None loads what the config names.
        base_folder: where the embedded task's warmed-up base is kept, which no hub has: read if
            it is there, written if not.
        coins: the auditor's coins, one for each of the config's audit pairs.
        labels: where flips of labels come from, if the config wants any.

    Raises:
        DataError, ModelError, PlanRefused: what is wrong and what to do; nothing was spent.
    """
    inputs = load_inputs(config) if inputs is None else inputs
    plan = plan_only(config, inputs)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    loaded = load_base(config, inputs.task, base_folder)
    plan = replace(plan, facts=replace(plan.facts, model_fingerprint=loaded.fingerprint))
    adapter = Adapter.attach(loaded, adapter_spec(config))
    limit = position_limit(loaded.model)
    max_length = min(config.data.max_length, limit or config.data.max_length)
    source = open_policy(config, plan, adapter, max_length=max_length, base_folder=base_folder)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(source.close)
        parts = _with_data(
            config,
            inputs,
            plan=plan,
            loaded=loaded,
            source=source,
            max_length=max_length,
            coins=coins,
            labels=labels,
        )
        on_failure.pop_all()
    return parts


def _with_data(
    config: Config,
    inputs: Inputs,
    *,
    plan: RunPlan,
    loaded: LoadedModel,
    source: LocalPolicy | SharedPolicy,
    max_length: int,
    coins: PairCoins | None,
    labels: LabelSecret | None,
) -> Assembly:
    """Tokenize and score all pairs, and put the parts together."""
    reference = ReferenceLogprobs(
        source.adapter,
        fingerprint=loaded.fingerprint,
        cache_dir=cache_folder(config) / "reference",
        micro_batch_pairs=source.gradients.micro_batch_pairs,
        score=source.reference_scores,
    )
    canaries = _canaries(config, plan, loaded, max_length, coins)
    tokenize = PairTokenizer(
        loaded.tokenizer,
        fingerprint=loaded.fingerprint,
        max_length=max_length,
        cache_dir=None if config.run.cache_dir is None else cache_folder(config) / "tokens",
    )
    shards = tuple(
        (*pairs, *(canaries.trained_by(number) if canaries else ()))
        for number, pairs in enumerate(_tokenized_shards(inputs, tokenize))
    )
    held_back = tuple(tokenize(pairs) for pairs in inputs.held_back)
    names = plan.facts.client_names
    shards = _flipped(config, names, shards, labels, purpose="train")
    held_back = _flipped(config, names, held_back, labels, purpose="held-back")
    scored = reference([pair for shard in shards for pair in shard])
    bounds = np.cumsum([0, *map(len, shards)])
    held_out = _held_out(config, inputs, tokenize, reference, names)
    return Assembly(
        config=config,
        plan=plan,
        loaded=loaded,
        adapter=source.adapter,
        shards=tuple(
            PrivateShard(pairs=shard, reference=scored[start:stop])
            for shard, start, stop in zip(shards, bounds[:-1], bounds[1:], strict=True)
        ),
        source=source,
        measure=HeldOutMeasure(
            source,
            held_out,
            max_grad_norm=plan.max_grad_norm,
            loss=measured_loss(config),
        ),
        held_out=held_out,
        data_fingerprint=_fingerprint(shards, held_out),
        canaries=canaries,
        held_back=held_back,
        population=population_facts(config, inputs),
        start=source.adapter.read(),
    )


def _tokenized_shards(
    inputs: Inputs, tokenize: PairTokenizer
) -> tuple[tuple[TokenizedPair, ...], ...]:
    """Every client's pairs as token ids; all in one call, so that a cache is one file."""
    shards = [shard.pairs for shard in inputs.partition.shards]
    tokenized = tokenize([pair for pairs in shards for pair in pairs])
    bounds = np.cumsum([0, *map(len, shards)])
    return tuple(tokenized[start:stop] for start, stop in pairwise(bounds))


def _flipped(
    config: Config,
    names: Sequence[str],
    shards: tuple[tuple[TokenizedPair, ...], ...],
    labels: LabelSecret | None,
    *,
    purpose: str,
) -> tuple[tuple[TokenizedPair, ...], ...]:
    """Flip labels before anything is computed from them; canaries are pairs like all others."""
    response = label_response(config)
    if response is None:
        return shards
    if labels is None:
        raise DataError(
            "privacy.label_epsilon needs a secret that labels are flipped by",
            advice="Runs draw one; give LabelSecret.draw(secrets.token_bytes) to assemble.",
        )
    return tuple(
        response.privatize(pairs, labels.words(name, len(pairs), purpose=purpose))
        for name, pairs in zip(names, shards, strict=False)
    )


def _canaries(
    config: Config, plan: RunPlan, loaded: LoadedModel, max_length: int, coins: PairCoins | None
) -> PairCanaries | None:
    wanted = config.evaluation.audit_pairs
    if wanted != (coins.heads.size if coins else 0):
        raise DataError(
            f"evaluation.audit_pairs={wanted} needs as many coins of the auditor",
            advice="Pair canaries belong to simulated runs; set evaluation.audit_pairs=0.",
        )
    if coins is None:
        return None
    return write_canaries(
        coins,
        len(plan.facts.client_names),
        loaded.tokenizer,
        max_length=max_length,
        seed=config.run.seed,
    )


def _held_out(
    config: Config,
    inputs: Inputs,
    tokenize: PairTokenizer,
    reference: ReferenceLogprobs,
    clients: Sequence[str],
) -> HeldOutPairs | None:
    raw = measured_pairs(config, inputs.held_out)
    if not raw:
        return None
    named = set(clients)
    pairs = tokenize(raw)
    note_full_windows(pairs, tokenize.max_length)
    return HeldOutPairs(
        pairs=pairs,
        reference=reference(pairs),
        users=tuple(pair.user if pair.user in named else "" for pair in raw),
        gradient_places=tuple(
            choose_held_out(len(pairs), config.evaluation.gradient_pairs, seed=config.run.seed)
        ),
    )


def _fingerprint(shards: Sequence[Sequence[TokenizedPair]], held_out: HeldOutPairs | None) -> str:
    digest = hashlib.sha256()
    for group in (*shards, held_out.pairs if held_out else ()):
        digest.update(f"/{len(group)}".encode())
        for pair in group:
            digest.update(bytes.fromhex(pair.key))
    return digest.hexdigest()
