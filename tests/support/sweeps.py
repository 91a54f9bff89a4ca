"""Sweeps whose runs are made up, for tests of all that is around a run."""

from __future__ import annotations

import textwrap

from privfed_dpo.sweep.checks import PlannedPoint
from privfed_dpo.sweep.points import expand
from privfed_dpo.sweep.records import Attempt, Booked, RunRecord, RunState
from privfed_dpo.sweep.store import Address, SweepStore
from privfed_dpo.sweep.sweep_file import load_sweep

BASE = """
base:
  data: {clients: 6}
  privacy: {target_epsilon: 8, delta: 1.0e-5}
"""

SCHEDULE = {
    "mode": "local",
    "sample_rate": 1.0,
    "noise": {"kind": "own", "noise_multiplier": 10.0},
    "participations": 4,
    "local_steps": 1,
}


def sweep_file(folder, text, base=BASE):
    """Writes a sweep file over a small inline base and reads it."""
    path = folder / "sweep.yaml"
    path.write_text(base + textwrap.dedent(text))
    return load_sweep(path)


def plan_facts(config, schedule=None):
    """Facts of a plan, made up but for what the config says."""
    private = config.privacy.mode != "none"
    return {
        "mode": config.privacy.mode,
        "unit": "pair",
        "rounds": 3,
        "delta": 1e-5,
        "target_epsilon": config.privacy.target_epsilon,
        "epsilon": {},
        "schedule": schedule
        or (SCHEDULE if private else {**SCHEDULE, "mode": "none", "noise": None}),
    }


def planned_points(spec):
    """Every run of a sweep with a made-up plan."""
    return [PlannedPoint(point, plan_facts(point.config)) for point in expand(spec)[0]]


def stored(folder, spec, url=None):
    """The storage of a sweep, filled without planning anything."""
    store = SweepStore(Address(folder, url))
    store.create(spec.objective, tuple(spec.grid))
    planned = planned_points(spec)
    store.add(planned, [], [one.point.key for one in planned])
    return store


def ended(name, accuracy, *, epsilon=4.0, seed=0, mode="distributed", label="", **result):
    """A run that ended, as the storage knows it; epsilon None is a run without privacy."""
    private = epsilon is not None
    schedule = SCHEDULE if private else {**SCHEDULE, "mode": "none", "noise": None}
    cell = {"privacy.target_epsilon": epsilon if private else "inf", "privacy.mode": mode}
    bounds = {who: {"pld": epsilon, "rdp": epsilon} for who in ("coalition", "server", "outside")}
    facts = {
        "status": "finished",
        "exit_code": 0,
        "reason": "",
        "folder": f"runs/{name}",
        "epsilon": bounds if private else {},
        "delta": 1e-5,
        "reward_accuracy": accuracy,
        "reward_margin": 1.0,
        "loss": 0.5,
        "kl": 2.0,
        "client_accuracy_min": 0.4,
        "client_accuracy_mean": 0.6,
        "upload_bytes": 2048,
        "download_bytes": 4096,
        "seconds": 61.0,
        "audit_epsilon": None,
        "audit_verdict": None,
    }
    return RunRecord(
        number=0,
        state=RunState.ENDED,
        name=name,
        label=label,
        cells=({},) if label else (cell,),
        seed=seed,
        key=f"{name}",
        config="",
        plan={"mode": schedule["mode"], "delta": 1e-5, "rounds": 4, "schedule": schedule},
        attempts=(Attempt(f"runs/{name}", "here", Booked(4, 4)),),
        result={**facts, **result},
    )
