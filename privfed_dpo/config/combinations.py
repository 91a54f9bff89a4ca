"""Combinations of valid values that cannot work together."""

from __future__ import annotations

import itertools

from privfed_dpo.config.deployment import deployment_problems
from privfed_dpo.config.drift_combinations import drift_problems
from privfed_dpo.config.gossip_combinations import gossip_problems
from privfed_dpo.config.sections import Config
from privfed_dpo.config.sharding_combinations import sharding_problems


def impossible_combinations(config: Config) -> tuple[str, ...]:
    """Return one sentence for each contradiction in a field-wise valid config."""
    return tuple(
        _privacy(config)
        + _federation(config)
        + _secret_cohorts(config)
        + gossip_problems(config)
        + drift_problems(config)
        + deployment_problems(config)
        + _data(config)
        + _model(config)
        + sharding_problems(config)
    )


def _privacy(config: Config) -> list[str]:
    privacy = config.privacy
    problems = _user(config)
    if privacy.mode == "none":
        return problems
    if privacy.noise == "skellam" and privacy.accounting == "reduction":
        problems.append(
            "privacy.noise=skellam needs privacy.accounting=rdp: the reduction to a continuous "
            "Gaussian is proved for discrete Gaussian noise only"
        )
    if privacy.accounting == "rdp" and privacy.mode == "distributed" and privacy.record_copies > 1:
        problems.append(
            "privacy.accounting=rdp prices single records in privacy.mode=distributed; take "
            "privacy.record_copies=1, or privacy.accounting=reduction"
        )
    if privacy.target_epsilon is None and privacy.noise_multiplier is None:
        problems.append(
            f"privacy.mode={privacy.mode} needs privacy.target_epsilon (the noise is then "
            "calibrated) or privacy.noise_multiplier"
        )
    if privacy.noise_multiplier is not None and privacy.max_noise_multiplier is not None:
        problems.append(
            "privacy.max_noise_multiplier limits noise that is calibrated; with "
            "privacy.noise_multiplier it is given: set one of them to null"
        )
    if privacy.max_grad_norm is None and privacy.mode != "user":
        problems.append(
            f"privacy.mode={privacy.mode} needs privacy.max_grad_norm: without a clip bound "
            "no noise is enough"
        )
    if privacy.mode == "distributed" and config.federation.local_steps > 1:
        problems.append(
            "privacy.mode=distributed takes federation.local_steps=1: noise shares do not add "
            "up across local steps; use privacy.mode=local for several steps"
        )
    if privacy.mode in ("distributed", "user") and not config.secure_agg.enabled:
        problems.append(
            f"privacy.mode={privacy.mode} needs secure_agg.enabled=true: a client's share of noise "
            "protects nothing if its message is seen alone; use privacy.mode=local without it"
        )
    return problems


def _user(config: Config) -> list[str]:
    mode, bound = config.privacy.mode, config.privacy.max_update_norm
    if mode != "user":
        unused = "privacy.max_update_norm bounds the updates of privacy.mode=user; set it to null"
        return [] if bound is None else [unused]
    problems: list[str] = []
    if bound is None:
        problems.append(
            "privacy.mode=user needs privacy.max_update_norm: without a bound on a client's update "
            "no noise is enough"
        )
    if config.privacy.record_copies > 1:
        problems.append(
            "privacy.record_copies counts copies of a pair; in privacy.mode=user all pairs of a "
            "user sit at one client and are protected together: set it to 1"
        )
    if config.evaluation.audit_pairs:
        problems.append(
            "evaluation.audit_pairs tests what is promised to one pair; privacy.mode=user promises "
            "to hide whether a whole client is there; set it to 0"
        )
    return problems


def _federation(config: Config) -> list[str]:
    cohort, clients = config.federation.cohort, config.data.clients
    problems: list[str] = []
    if cohort is not None and clients is not None and cohort > clients:
        problems.append(f"federation.cohort={cohort} is more than data.clients={clients}")
    members = cohort or clients
    if members is not None:
        tolerance, colluders = config.privacy.dropout_tolerance, config.privacy.colluders
        if 2 * (members - tolerance) <= members + colluders:
            problems.append(
                f"privacy.dropout_tolerance={tolerance} with privacy.colluders={colluders} is too "
                f"much for {members} clients: two different survivor sets could both be signed; "
                "2 * (cohort - dropout_tolerance) must exceed cohort + colluders"
            )
    if config.evaluation.audit_lanes and config.privacy.mode != "distributed":
        problems.append(
            f"evaluation.audit_lanes audits the summed noise of privacy.mode=distributed, not "
            f"{config.privacy.mode}"
        )
    return problems


def _secret_cohorts(config: Config) -> list[str]:
    federation = config.federation
    if federation.cohort_sampling != "poisson":
        return []
    problems: list[str] = []
    if config.privacy.mode != "user":
        problems.append(
            "federation.cohort_sampling=poisson is for privacy.mode=user: elsewhere no secret "
            "cohort is priced"
        )
    if federation.cohort is None or federation.max_participations is None:
        problems.append(
            "federation.cohort_sampling=poisson needs federation.cohort, the clients of a round "
            "on average, and federation.max_participations, since chance alone bounds nothing"
        )
    return problems


def _data(config: Config) -> list[str]:
    data = config.data
    problems: list[str] = []
    if data.partition != "natural" and data.clients is None:
        problems.append(f"data.partition={data.partition} needs data.clients")
    columns = data.columns
    for one, other in itertools.combinations(("prompt", "chosen", "rejected", "user"), 2):
        if getattr(columns, one) == getattr(columns, other):
            problems.append(
                f"data.columns.{one} and data.columns.{other} name the same column, "
                f"{getattr(columns, one)!r}"
            )
    simulated = config.deployment.roster is None
    if simulated and data.train == "synthetic" and data.clients is None:
        problems.append("data.train=synthetic needs data.clients")
    if data.max_pairs is not None and data.max_pairs < data.min_pairs:
        problems.append(f"data.max_pairs={data.max_pairs} is below data.min_pairs={data.min_pairs}")
    if config.model.base == "tiny-llama" and data.train != "synthetic":
        problems.append(
            "model.base=tiny-llama knows only the words of the embedded task; give a path or "
            "hub id in model.base for data of your own"
        )
    return problems


def _model(config: Config) -> list[str]:
    dpo, adapter = config.dpo, config.model.adapter
    problems: list[str] = []
    if dpo.label_smoothing > 0.0 and dpo.loss not in ("sigmoid", "robust"):
        problems.append(
            f"dpo.label_smoothing has no meaning for dpo.loss={dpo.loss}; use sigmoid or robust"
        )
    if dpo.loss == "robust" and dpo.label_smoothing == 0.0:
        problems.append("dpo.loss=robust needs dpo.label_smoothing above 0, the flip rate")
    if config.privacy.label_epsilon is not None and (
        dpo.loss not in ("sigmoid", "robust") or (dpo.loss == "sigmoid" and dpo.label_smoothing)
    ):
        problems.append(
            f"privacy.label_epsilon flips labels, which dpo.loss={dpo.loss} with "
            f"dpo.label_smoothing={dpo.label_smoothing:g} cannot make up for; use sigmoid without "
            "smoothing, or robust with the share of labels that were wrong before"
        )
    if dpo.target_margin > 0.0 and dpo.loss != "simpo":
        problems.append(f"dpo.target_margin has no meaning for dpo.loss={dpo.loss}; use simpo")
    if dpo.reference_free and dpo.loss == "ipo":
        problems.append("dpo.loss=ipo is not defined with dpo.reference_free=true")
    if dpo.micro_batch_pairs is None and dpo.memory_bytes is None:
        problems.append("dpo.micro_batch_pairs=null needs dpo.memory_bytes, the room there is")
    problems += _passes(config)
    if adapter.full_weights and (adapter.freeze_a or adapter.rslora or adapter.rank_pattern):
        problems.append(
            "model.adapter.full_weights has no factors: leave freeze_a, rslora and rank_pattern out"
        )
    if config.model.quantization != "none" and config.model.base == "tiny-llama":
        problems.append("model.quantization needs a checkpoint in model.base, not tiny-llama")
    return problems


def _passes(config: Config) -> list[str]:
    """What is private only with one pair a pass, since rounding there depends on the others."""
    dpo, model = config.dpo, config.model
    if config.privacy.mode == "none" or dpo.micro_batch_pairs == 1:
        return []
    wide = {
        "dpo.loss=hinge has a kink": dpo.loss == "hinge",
        f"model.dtype={model.dtype} rounds coarsely": model.dtype != "float32",
        f"model.quantization={model.quantization} rounds by what is in a pass": (
            model.quantization != "none"
        ),
    }
    return [
        f"{reason}: with several pairs in one pass, leaving one of them out could change the "
        "gradients of the others by more than noise is made for; set dpo.micro_batch_pairs=1"
        for reason, applies in wide.items()
        if applies
    ]
