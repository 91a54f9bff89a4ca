"""All experiments: prints the table as it goes and leaves results and figures in a folder.

    .venv/bin/python -m experiments --out runs/experiments

Exits with 1 if a verdict is not the one that docs/paper.md expects.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments.catalogue import EXPERIMENTS, outcome_of
from experiments.figures import draw
from experiments.findings import Effort, Experiment, Outcome
from experiments.table import HEADER, put_table, record, rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen experiments; return the exit code."""
    keys = [experiment.key for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(prog="experiments", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", default=keys, choices=keys, metavar="KEY")
    parser.add_argument("--seeds", type=int, default=Effort().seeds)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full rounds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--page", type=Path, help="page whose table and figures are replaced")
    options = parser.parse_args(arguments)
    effort = Effort(options.seeds, options.share)
    chosen = [experiment for experiment in EXPERIMENTS if experiment.key in options.only]
    options.out.mkdir(parents=True, exist_ok=True)
    figures = options.page.parent / "figures" if options.page else options.out
    figures.mkdir(exist_ok=True)
    begin = time.monotonic()
    print(HEADER, flush=True)
    outcomes = []
    for experiment, outcome in zip(
        chosen, _measured(chosen, effort, options.processes), strict=True
    ):
        outcomes.append(outcome)
        print(rows(experiment, outcome), flush=True)
        if outcome.chart:
            figure = figures / f"{experiment.key.lower()}.svg"
            figure.write_text(draw(outcome.chart, experiment.key), encoding="utf-8")
    seconds = time.monotonic() - begin
    results = {
        "seeds": effort.seeds,
        "share": effort.share,
        "seconds": round(seconds),
        "python": platform.python_version(),
        "experiments": [record(e, o) for e, o in zip(chosen, outcomes, strict=True)],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False))
    if options.page:
        table = "\n".join([HEADER, *(rows(e, o) for e, o in zip(chosen, outcomes, strict=True))])
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(put_table(page, table), encoding="utf-8")
    surprises = [f.claim for o in outcomes for f in o.findings if not f.as_expected]
    print(f"\n{seconds:.0f} s; results in {options.out}; unexpected verdicts: {len(surprises)}")
    for claim in surprises:
        print(f"  {claim}")
    return 1 if surprises else 0


def _measured(chosen: Sequence[Experiment], effort: Effort, processes: int) -> Iterator[Outcome]:
    """Outcomes in the order of the table, as soon as they are there."""
    if processes == 1:
        yield from (experiment.run(effort) for experiment in chosen)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        begun = {
            experiment.key: pool.submit(outcome_of, experiment.key, effort)
            for experiment in sorted(chosen, key=lambda experiment: not experiment.long)
        }
        yield from (begun[experiment.key].result() for experiment in chosen)


if __name__ == "__main__":
    raise SystemExit(main())
