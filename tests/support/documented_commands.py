"""The commands that pages tell a reader to type, and what becomes of each in the tests."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property

from tests.architecture.documents import DOCUMENTS, ROOT, blocks, code_spans

PROGRAM = "privfed-dpo"
_PREFIX = ".venv/bin/"

ELSEWHERE = {
    "make setup": ("CI installs by it", "tests/e2e/test_packaging.py"),
    "make quickstart": ("what it types is run", "tests/e2e/test_typed_commands.py"),
    "make test": ("CI is it", ".ci/run"),
    "make test-slow": ("it would run itself", "tests/e2e/test_typed_commands.py"),
    "make lint": ("CI runs it", "Makefile"),
    "make types": ("CI runs it", "Makefile"),
    "make arch": ("CI runs it", "Makefile"),
    "make coverage": ("half an hour", "tests/architecture/test_suite.py"),
    "make mutants": ("half an hour", "tests/unit/secure_agg/test_mutant_list.py"),
    "make site": ("installs from a package index", "tests/architecture/test_site.py"),
    "make experiments": ("an hour", "tests/unit/experiments/test_catalogue.py"),
    "make demo-flower": ("Flower's processes", "tests/e2e/test_demo_flower.py"),
    "python -m tests.mutants.secure_agg": (
        "half an hour",
        "tests/unit/secure_agg/test_mutant_list.py",
    ),
    "privfed-dpo enrol": ("keys of a deployment", "tests/e2e/test_deployment.py"),
    "privfed-dpo client": ("waits for a coordinator", "tests/e2e/test_deployment.py"),
    "privfed-dpo server": ("waits for clients", "tests/e2e/test_deployment.py"),
    "flower-superlink": ("a server with keys and ports", "tests/e2e/test_demo_flower.py"),
    "flower-supernode": ("another machine", "tests/e2e/test_demo_flower.py"),
    "flwr": ("needs a running server", "tests/e2e/test_demo_flower.py"),
    "pip install": ("a package index", "tests/e2e/test_packaging.py"),
    "pre-commit install": ("writes hooks into a checkout", "tests/architecture/test_hooks.py"),
    "privfed-dpo sweep configs/sweeps/privacy_utility.yaml": (
        "half an hour",
        "tests/e2e/test_shipped_sweep.py",
    ),
    "privfed-dpo sweep configs/sweeps/users.yaml": (
        "an hour, on data of one's own; that it expands, and keys behind the command, are tested",
        "tests/unit/sweep/test_sweep_file.py",
    ),
}
"""What is not run as it is typed, by how it begins: why not, and what tests it instead."""

_TINY = (
    "federation.rounds=2 data.pairs_per_client=4 data.eval_pairs=12 model.warmup_steps=2 "
    "evaluation.pairs=12 evaluation.gradient_pairs=6 evaluation.curvature_products=0 "
    "privacy.noise_multiplier=1"
)
_MEASURED = f"--seeds 1 --set {_TINY.replace(' privacy.noise_multiplier=1', '')}"

SHRINK = {
    "train configs/users.yaml": (
        "federation.rounds=1 data.min_pairs=2 privacy.noise_multiplier=1 "
        "evaluation.pairs=12 evaluation.gradient_pairs=6"
    ),
    "train configs/llm.yaml": (
        "federation.rounds=1 run.processes=2 model.device=cpu model.base=path-or-hub-id "
        "data.train=pairs.jsonl.gz data.min_pairs=2 data.max_length=64 dpo.micro_batch_pairs=1 "
        "evaluation.curvature_products=0 privacy.noise_multiplier=1"
    ),
    "train": f"{_TINY} evaluation.compared_clients=2",
    "secagg": "--clients 40 --dim 1000",
    "-m benchmarks.quickstart_seeds": _MEASURED,
    "-m benchmarks": _MEASURED,
}
"""What makes a long command short, typed behind it; the longest beginning that fits counts."""

SLOW = ("sweep configs/sweeps/smoke.yaml", "audit --self-test")
"""What takes minutes and cannot be made short by words behind it: slow tests only."""

NEEDS = {
    "plan configs/users.yaml": "data.min_pairs=2",
    "plan configs/llm.yaml": (
        "model.base=path-or-hub-id data.train=pairs.jsonl.gz data.min_pairs=2"
    ),
}
"""What a reader has, and a test has not: a model on a hub, and more pairs."""

REFUSED = ("privacy.max_noise_multiplier=4",)
"""Words of commands that a page shows because they are refused."""


@dataclass(frozen=True)
class Typed:
    """One command of one page."""

    page: str
    line: str

    @cached_property
    def words(self):
        """Split as a shell would, without the folder of the environment."""
        program, *rest = shlex.split(self.line, comments=True)
        return (program.removeprefix(_PREFIX), *rest)

    @property
    def elsewhere(self):
        """Why it is not run here and where it is tested, or None."""
        plain = " ".join(self.words)
        return next((why for start, why in ELSEWHERE.items() if plain.startswith(start)), None)

    @property
    def is_run(self):
        """Whether a test can run it by itself."""
        program, *rest = self.words
        return program == PROGRAM or (program == "python" and rest[:1] == ["-m"])

    @property
    def needs(self):
        """Words without which it cannot run where tests run."""
        return _longest(NEEDS, self)

    @property
    def shrunk(self):
        """Words that make it short, or None if it is."""
        return _longest(SHRINK, self)

    @property
    def slow(self):
        """Whether it takes minutes."""
        return self.shrunk is not None or " ".join(self.words[1:]).startswith(SLOW)

    @property
    def refused(self):
        """Whether the page shows it because it is refused."""
        return any(word in self.words for word in REFUSED)


def _longest(table, typed):
    said = " ".join(typed.words[1:])
    fitting = [start for start in table if said.startswith(start)]
    return table[max(fitting, key=len)].split() if fitting else None


def typed_commands():
    """Every command in the pages, once: shell blocks, and inline code with arguments."""
    found = {}
    for page in DOCUMENTS:
        for body in blocks(page, "sh"):
            for line in body.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    typed = Typed(page, line)
                    found.setdefault(typed.words, typed)
        for span in code_spans(page):
            if re.match(rf"({PROGRAM} \S+|python -m|pip install|pre-commit) \S", span):
                found.setdefault(Typed(page, span).words, Typed(page, span))
    found |= {typed.words: typed for typed in made("quickstart")}
    return tuple(found.values())


def made(target):
    """What a make target types."""
    recipe = re.search(
        rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    for line in recipe.group(1).splitlines():
        yield Typed("Makefile", line.strip().replace("$(BIN)", ".venv/bin"))


def put_programs(folder):
    """Give a folder the environment that the pages type: the program and its Python."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    start = "from privfed_dpo.cli import main; main()"
    for name, command in {
        "python": f'exec "{sys.executable}" "$@"',
        PROGRAM: f'exec "{sys.executable}" -c "{start}" "$@"',
    }.items():
        path = programs / name
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
    return programs
