"""A realistic run folder, made by formula from a seed; no engine runs and nothing is measured."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict

import numpy as np

from privfed_dpo.engine.events import MetricsRow, PlanReady, RoundFinished, RunFinished
from privfed_dpo.observe.recorder import RunRecorder

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
STATEMENT = """Run 5f0c: (epsilon, delta)-differential privacy, delta = 1e-05, mode distributed.
Unit: one preference pair (prompt, chosen, rejected).
Adjacency: zero-out. Any one unit may be replaced by a null record that contributes nothing; the \
sizes of all data sets are public.
Scope: what 30 rounds release about one unit, each at sample rate 0.2; clients hold disjoint data.
Upper bounds on epsilon (PLD certified; RDP as a cross-check):
  coalition: 7.9981 (RDP 8.7310) - the server and 2 colluding clients, 13 of 16 survivors
  server: 7.1402 (RDP 7.8215) - the server alone, 13 of 16 survivors
This holds if:
  - each pair's gradient is clipped once, as a whole, and sums are divided by public constants only;
  - noise and sampling come from a secret cryptographic source that is never reused."""


def plan_facts(rounds=30):
    return {
        "mode": "distributed",
        "unit": "pair",
        "adjacency": "zero_out",
        "clients": 16,
        "pairs_total": 1600,
        "pairs_min": 100,
        "pairs_max": 100,
        "rounds": rounds,
        "cohort": 16,
        "participations": rounds,
        "local_steps": 1,
        "sample_rate": 0.2,
        "expected_batch_pairs": 320.0,
        "target_epsilon": 8.0,
        "delta": 1e-5,
        "epsilon": {
            "server": {"pld": 7.1402, "rdp": 7.8215},
            "coalition": {"pld": 7.9981, "rdp": 8.7310},
            "outside": {"pld": 7.1402, "rdp": 7.8215},
            "no_secagg": {"pld": 61.2033, "rdp": 66.0},
        },
        "noise_multiplier": 0.8312,
        "share_noise_multiplier": 0.2506,
        "max_grad_norm": 0.1,
        "sensitivity_steps": 4096,
        "share_stddev_steps": 1026.5,
        "slack_epsilon": 0.0,
        "grid_steps_per_unit": 40960.0,
        "update_limit": None,
        "ring_bits": 32,
        "secure_aggregation": True,
        "threshold": 13,
        "dropout_tolerance": 3,
        "colluders": 2,
        "dimension": 2048,
        "vector_bytes": 8192,
        "upload_bytes": 11_000,
        "gradient_bytes": 262_144,
        "model_fingerprint": hashlib.sha256(b"model").hexdigest(),
        "model_bytes": 480_000,
        "objective": {"loss": "sigmoid", "beta": 0.5, "server_optimizer": "adam"},
        "schedule": {"kind": "distributed", "rounds": rounds},
    }


def metrics_rows(rounds=30, *, seed=0, aborted=(9,), private=True):
    """Round 0 and `rounds` more; heterogeneity is measured every third round, drift never."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(rounds + 1):
        progress = 1 - math.exp(-number / 8)
        released = number not in aborted
        lost = int(random.integers(0, 4)) if released else 5
        phase = PHASES[int(random.integers(0, 3))]
        rows.append(
            MetricsRow(
                round=number,
                status="start" if number == 0 else "released" if released else "aborted",
                epsilon=8.0 * math.sqrt(number / rounds) if private else None,
                epsilon_rdp=8.73 * math.sqrt(number / rounds) if private else None,
                epsilon_realised=7.1 * math.sqrt(number / rounds) if private else None,
                loss=math.log(2)
                - 0.25 * progress
                + 0.004 * random.standard_normal() * (number > 0),
                reward_accuracy=0.5
                + 0.4 * progress
                + 0.012 * random.standard_normal() * (number > 0),
                reward_margin=0.9 * progress + 0.01 * random.standard_normal() * (number > 0),
                kl=0.6 * progress,
                grad_norm_sq=0.02 * math.exp(-number / 7) + 0.0015,
                heterogeneity=0.006 + 0.001 * progress if number % 3 == 0 else None,
                clip_fraction=0.9 - 0.3 * progress,
                cohort=16 if number else None,
                survivors=(16 - lost if released else 0) if number else None,
                upload_bytes=150_000 + 9_000 * (16 - lost) if number else None,
                download_bytes=230_000 + 2_000 * (16 - lost) if number else None,
                seconds=1.9 + 0.3 * float(random.random()),
                dropped={phase: lost} if number and lost else {},
            )
        )
    return tuple(rows)


def summary_facts(rows, *, private=True, per_client=True):
    plan = plan_facts(rows[-1].round)
    counted = [row.survivors for row in rows if row.status == "released"]
    random = np.random.default_rng(1)
    return {
        "status": "finished",
        "reason": "all planned rounds were done",
        "statement": STATEMENT if private else "Run 5f0c: NO differential privacy.",
        "epsilon": plan["epsilon"] if private else {"server": {"pld": None, "rdp": None}},
        "delta": 1e-5 if private else None,
        "initial": asdict(rows[0]),
        "final": asdict(rows[-1]),
        "rounds_done": len(counted),
        "rounds_planned": plan["rounds"],
        "survivors": {"min": min(counted), "mean": sum(counted) / len(counted)},
        "upload_bytes_total": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes_total": sum(row.download_bytes or 0 for row in rows),
        "seconds_total": sum(row.seconds for row in rows),
        "plan": plan,
        "clients": 16,
        "versions": {"privfed-dpo": "0.1.0", "torch": "2.13.0", "opacus": "1.6.0"},
        "ledger_head": hashlib.sha256(b"ledger").hexdigest(),
        "adapter_sha256": hashlib.sha256(b"adapter").hexdigest(),
        "per_client": (
            {f"user-{i:03d}": float(np.clip(0.86 + 0.06 * random.standard_normal(), 0, 1)) for i in range(16)}
            if per_client
            else None
        ),
    }  # fmt: skip


def make_run_folder(path, *, rounds=30, played=None, private=True, per_client=True):
    """Write config, environment, plan, metrics, ledger and the summary.

    A run `played` for fewer rounds than planned has no summary: it was interrupted.
    """
    recorder = RunRecorder(path)
    rows = metrics_rows(rounds, private=private)
    plan = plan_facts(rounds)
    if not private:
        plan |= {"mode": "none", "target_epsilon": None, "noise_multiplier": None}
    recorder(PlanReady(plan))
    for row in rows[: None if played is None else played + 1]:
        recorder(RoundFinished(row))
    if played is None:
        recorder(RunFinished(summary_facts(rows, private=private, per_client=per_client)))
    (path / "config.yaml").write_text("run:\n  seed: 0\nprivacy:\n  mode: distributed\n")
    (path / "environment.json").write_text(
        json.dumps({"python": "3.11.7", "system": "Linux", "cpus": 2, "versions": {"numpy": "2.4"}})
    )
    (path / "ledger.jsonl").write_text("{}\n")
    return path
