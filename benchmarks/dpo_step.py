"""What a private DPO step costs, next to plain steps and to Opacus' other ways, in one run.

    python benchmarks/dpo_step.py            every shape
    python benchmarks/dpo_step.py --quick    one small shape, few repeats
    python benchmarks/dpo_step.py --json     results as JSON on stdout
    python benchmarks/dpo_step.py --device cuda --dtype bfloat16 --shapes gpu

Same model, adapter, pairs, reference and thread count for all. A step is everything from token
ids to the gradient that an optimizer would take: for plain forms the sum over pairs, for private
ones the sum of clipped pair gradients (ours as exact integers on the grid). Times are process CPU
time on CPU and wall time between synchronisations on a GPU; the forms take turns in random order,
each ratio is taken within a turn, and the median over turns is reported with its quartiles. Peak
memory is measured for each form in a process of its own: the highest resident size (CPU) or
allocation (GPU) of two steps beyond what model and pairs hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

THREADS = "1"
PRIVATE, PACKED, TWO_ROWS, TRL = "private (ours)", "plain packed", "plain two rows", "TRL"
# Fields of `Shape`: hidden, layers, pairs, prompt tokens, completion tokens.
SHAPES = {
    "quick": [(256, 2, 8, 64, 64)],
    "cpu": [
        (256, 6, 8, 64, 64),
        (256, 4, 32, 192, 64),
        (512, 4, 16, 32, 96),
        (512, 4, 8, 256, 128),
        (1024, 2, 8, 384, 128),
    ],
    # About 0.5 and 1.2 billion weights, 64 pairs of 2 x 512 tokens, 16 or 8 pairs at once; with
    # a vocabulary of 64 Ki, LoRA rank 16 and 4 or 8 key and value heads.
    "gpu": [
        (1024, 24, 64, 256, 256, 1 << 16, 16, 4, 16),
        (2048, 20, 64, 256, 256, 1 << 16, 16, 8, 8),
    ],
}


def main() -> None:
    arguments = _arguments()
    # Before torch is loaded, and inherited by the processes that measure memory. Large blocks go
    # back to the system at once, so that resident memory is memory in use.
    os.environ["OMP_NUM_THREADS"] = THREADS
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if arguments.memory_of:
        name, sizes = json.loads(arguments.memory_of)
        print(json.dumps(_peak_bytes(name, sizes, arguments)))
        return
    kind = "quick" if arguments.quick else arguments.shapes
    repeats = 3 if arguments.quick else arguments.repeats
    results = []
    for sizes in SHAPES[kind]:
        memory = {} if arguments.no_memory else _memory(sizes, arguments)
        result = _measure(sizes, arguments, repeats) | {"peak_mib": memory}
        result |= _headline(result)
        results.append(result)
        if not arguments.json:
            print(_table(result), flush=True)
    if arguments.json:
        print(json.dumps({"environment": _environment(arguments), "results": results}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape, 3 repeats")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the frozen base weights")
    parser.add_argument("--only", default="", help="regular expression on the names of forms")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(only: str) -> list[str]:
    import dpo_step_variants as variants

    return [
        name
        for name in variants.VARIANTS
        if (name in (PRIVATE, PACKED) or re.search(only, name)) and (name != TRL or _has_trl())
    ]


def _has_trl() -> bool:
    try:
        metadata.version("trl")
    except metadata.PackageNotFoundError:
        return False
    return True


def _measure(sizes: tuple[int, ...], arguments: argparse.Namespace, repeats: int) -> dict:
    import dpo_step_variants as variants
    import torch

    torch.set_num_threads(int(THREADS))
    bench = variants.build(variants.Shape(*sizes), device=arguments.device, dtype=arguments.dtype)
    steps = {name: variants.make_step(name, bench) for name in _chosen(arguments.only)}
    disagreement = _disagreement({name: step() for name, step in steps.items()})
    turns: list[dict[str, float]] = []
    order = random.Random(0)
    for _ in range(repeats):
        turns.append({})
        for name in order.sample(sorted(steps), len(steps)):
            turns[-1][name] = _seconds(steps[name], arguments.device)
    return {
        "shape": bench.shape.name,
        "adapter_weights": bench.adapter.dimension,
        "seconds": {n: statistics.median(t[n] for t in turns) for n in steps},
        "time_over_plain_packed": {n: _quartiles(turns, n, PACKED) for n in steps},
        "time_over_plain_two_rows": {
            n: _quartiles(turns, n, TWO_ROWS) for n in steps if TWO_ROWS in steps
        },
        "time_over_trl": {n: _quartiles(turns, n, TRL) for n in steps if TRL in steps},
        "disagreement": disagreement,
    }


def _seconds(step: Callable[[], object], device: str) -> float:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    step()
    return time.process_time() - start


def _quartiles(turns: list[dict[str, float]], above: str, below: str) -> list[float]:
    ratios = sorted(turn[above] / turn[below] for turn in turns)
    if len(ratios) < 3:
        return [ratios[0], statistics.median(ratios), ratios[-1]]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return [low, middle, high]


def _disagreement(results: dict) -> dict[str, float]:
    """Relative distance of each result from the first of its kind: proof of equal work."""
    import dpo_step_variants as variants

    found = {}
    for kind in (variants.PLAIN, variants.PRIVATE):
        names = [name for name in kind if name in results]
        # Ours is off by the grid; the first of Opacus' own is the measure where there is one.
        measure = results[next((n for n in names if n.startswith("Opacus")), names[0])]
        for name in names:
            found[name] = float((results[name].to(measure) - measure).norm() / measure.norm())
    return found


def _memory(sizes: tuple[int, ...], arguments: argparse.Namespace) -> dict[str, float]:
    found = {}
    for name in _chosen(arguments.only):
        command = [sys.executable, str(Path(__file__).resolve()), "--device", arguments.device]
        command += ["--dtype", arguments.dtype, "--memory-of", json.dumps([name, sizes])]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        found[name] = json.loads(child.stdout.splitlines()[-1]) / 2**20
    return found


def _peak_bytes(name: str, sizes: list[int], arguments: argparse.Namespace) -> int:
    import dpo_step_variants as variants
    import torch

    torch.set_num_threads(int(THREADS))
    bench = variants.build(variants.Shape(*sizes), device=arguments.device, dtype=arguments.dtype)
    step = variants.make_step(name, bench)
    if arguments.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(), step()
        return torch.cuda.max_memory_allocated() - before
    # The high-water mark of this process alone; `ru_maxrss` would start from its parent's.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_bytes("VmRSS")
    step(), step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def _headline(result: dict) -> dict[str, float | None]:
    def middle(ratios: dict) -> float | None:
        return ratios[PRIVATE][1] if ratios else None

    def memory(below: str) -> float | None:
        peak = result["peak_mib"]
        return peak[PRIVATE] / peak[below] if below in peak else None

    return {
        "private_over_plain_time": middle(result["time_over_plain_packed"]),
        "private_over_plain_memory": memory(PACKED),
        "private_over_two_row_plain_time": middle(result["time_over_plain_two_rows"]),
        "private_over_two_row_plain_memory": memory(TWO_ROWS),
        "private_over_trl_time": middle(result["time_over_trl"]),
        "private_over_trl_memory": memory(TRL),
    }


def _table(result: dict) -> str:
    columns = ("/ packed (quartiles)", "/ two rows", "/ TRL", "peak MiB", "differs")
    widths = (24, 11, 6, 9, 9)
    heads = " ".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))
    lines = [
        f"\n{result['shape']}, {result['adapter_weights']} adapter weights",
        f"{'form':32} {'seconds':>8} {heads}",
    ]
    for name, seconds in result["seconds"].items():
        low, middle, high = result["time_over_plain_packed"][name]
        two = result["time_over_plain_two_rows"].get(name, [0, float("nan"), 0])[1]
        over_trl = result["time_over_trl"].get(name, [0, float("nan"), 0])[1]
        lines.append(
            f"{name:32} {seconds:8.3f} {middle:10.3f} ({low:.3f}-{high:.3f}) {two:11.3f} "
            f"{over_trl:6.3f} {result['peak_mib'].get(name, float('nan')):9.0f} "
            f"{result['disagreement'][name]:9.1e}"
        )
    return "\n".join(lines)


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    packages = ("torch", "transformers", "peft", "opacus", "trl", "numpy")
    versions = {p: metadata.version(p) for p in packages if p != "trl" or _has_trl()}
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, {THREADS} thread"
    if arguments.device.startswith("cuda"):
        import torch

        machine = torch.cuda.get_device_name()
    return versions | {"python": platform.python_version(), "machine": machine}


if __name__ == "__main__":
    main()
