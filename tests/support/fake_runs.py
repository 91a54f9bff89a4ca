"""A runner that trains nothing: it writes the files of a run folder by formula, in no time."""

from __future__ import annotations

import json
import os
import signal

from privfed_dpo.errors import RunAborted


def instant(job, observers):
    """A finished run, unless the config's seed says otherwise: 13 fails, 14 aborts."""
    note(job, "resumed" if job.resume else "began")
    seed = job.config.run.seed
    if seed == 13:
        raise OSError(28, "No space left on device")
    if seed == 14:
        raise RunAborted("too few survivors", advice="Raise the tolerance.")
    finish(job)


def finishing(job, observers):
    """Whatever the seed, it finishes."""
    note(job, "began")
    finish(job)


def killed_once(job, observers):
    """The first attempt at seed 1 kills its process, as the system would."""
    note(job, "resumed" if job.resume else "began")
    if job.config.run.seed == 1 and "attempt" not in job.folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(job)


def interrupted(job, observers):
    note(job, "began")
    raise KeyboardInterrupt


def note(job, what):
    """One file per execution, so that a run done twice is seen."""
    folder = job.folder.parents[1] / "executions"
    folder.mkdir(exist_ok=True)
    (folder / f"{job.folder.name}.{what}.{os.getpid()}.{os.urandom(4).hex()}").touch()


def finish(job):
    config = job.config
    accuracy = 0.6 + 0.01 * config.run.seed + 0.01 * (config.privacy.target_epsilon or 9)
    final = {"reward_accuracy": accuracy, "reward_margin": 1.0, "loss": 0.5, "kl": 2.0}
    epsilon = config.privacy.target_epsilon
    summary = {
        "status": "finished",
        "reason": "all planned rounds are done",
        "final": final,
        "epsilon": {
            who: {"pld": epsilon, "rdp": epsilon and 1.1 * epsilon}
            for who in ("coalition", "server", "outside", "no_secagg")
        },
        "delta": 1e-5,
        "per_client": {"a": accuracy - 0.1, "b": accuracy + 0.1},
        "upload_bytes_total": 1000,
        "download_bytes_total": 2000,
        "seconds_total": 1.5,
        "rounds_done": 3,
    }
    (job.folder / "summary.json").write_text(json.dumps(summary))
