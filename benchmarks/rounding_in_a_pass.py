"""What one pair leaves in the gradients of others: `python -m benchmarks.rounding_in_a_pass`.

Sums the clipped integer gradients of 64 pairs with the product's own classes, once whole and once
without the longest pair, and compares. "Sum" is how far the two lie apart, and "beyond its own"
that less the left-out pair's own vector: what rounding did to the others. Both are in units of the
sensitivity, so a private sum must stay at most 1. For the hinge loss beta is chosen so that another
pair stands at the kink, as data may happen to. Milliseconds are CPU time for one pair of the whole
sum. `--write` writes the report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.dpo.clipped_sums import ClippedSums
from privfed_dpo.dpo.loss import LossKind
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import reference_scores
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.pair_batch import length_ordered_batches

PAIRS, LONGEST, VOCABULARY = 64, 40, 97
STEPS = 1 << 20
CLIPPER = PairClipper(max_grad_norm=1e-3, sensitivity_steps=STEPS)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to compute."""

    dtype: torch.dtype
    loss: LossKind
    micro_batch_pairs: int


CASES = (
    Case(torch.float32, "sigmoid", 32),
    Case(torch.float32, "sigmoid", 1),
    Case(torch.bfloat16, "sigmoid", 32),
    Case(torch.bfloat16, "sigmoid", 16),
    Case(torch.bfloat16, "sigmoid", 1),
    Case(torch.float32, "hinge", 32),
    Case(torch.float32, "hinge", 1),
)


def made_up_pairs() -> list[TokenizedPair]:
    """Random pairs, in the order in which sums take them: first one twice as long as any other."""
    random = np.random.Generator(np.random.PCG64(20170612))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random.integers(3, VOCABULARY, size=count).tolist())

    lengths = random.integers(2, LONGEST, size=(PAIRS, 3))
    lengths[0] = 2 * LONGEST
    triples = [(tokens(one), tokens(two), tokens(three)) for one, two, three in lengths]
    pairs = [TokenizedPair(*triple, key=pair_key(*triple)) for triple in triples]
    order = length_ordered_batches(pairs, PAIRS)[0]
    return [pairs[place] for place in order]


def policy(dtype: torch.dtype) -> Adapter:
    """A Llama of two blocks, its adapter away from the start."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        initializer_range=0.1,
    )
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    adapter = Adapter.attach(model, AdapterSpec(rank=4))
    adapter.write(0.03 * np.cos(np.arange(adapter.dimension)))
    return adapter


def margins(gradients: PairGradients, pairs: Sequence[TokenizedPair]) -> np.ndarray:
    """Log-ratios of policy to reference, chosen less rejected, in the passes that sums take."""
    size = gradients.micro_batch_pairs
    reference = reference_scores(gradients.scorer, pairs, micro_batch_pairs=size)
    found = []
    with torch.no_grad():
        for start in range(0, len(pairs), size):
            scores = gradients.scorer.logprobs(gradients.scorer.batch(pairs[start : start + size]))
            found.append(scores.numpy() - reference[start : start + size])
    ratios = np.concatenate(found)
    return ratios[:, 0] - ratios[:, 1]


def beta_at_a_kink(adapter: Adapter, pairs: Sequence[TokenizedPair], size: int) -> float:
    """A beta with which the first pair decides on which side of the kink another one is."""
    gradients = PairGradients(adapter, loss="hinge", micro_batch_pairs=size)
    whole, less = margins(gradients, pairs)[1:], margins(gradients, pairs[1:])
    for place in np.flatnonzero((whole != less) & (whole > 0)):
        both = torch.tensor([whole[place], less[place]])
        for step in range(-400, 400):
            beta = (1 + step * 1e-8) / float(whole[place])
            one, other = (1 - beta * both > 0).tolist()
            if one is not other:
                return beta
    raise SystemExit("no pair's margin moves: choose other pairs")


def measure(case: Case, pairs: Sequence[TokenizedPair]) -> str:
    """One row of the table."""
    adapter = policy(case.dtype)
    beta = 0.5
    if case.loss == "hinge":
        beta = beta_at_a_kink(adapter, pairs, 32)
    gradients = PairGradients(
        adapter, beta=beta, loss=case.loss, micro_batch_pairs=case.micro_batch_pairs
    )
    sums = ClippedSums(gradients, CLIPPER)

    def total(chosen: Sequence[TokenizedPair]) -> np.ndarray:
        scores = reference_scores(
            gradients.scorer, chosen, micro_batch_pairs=case.micro_batch_pairs
        )
        return sums(chosen, scores).total

    whole, less, own = total(pairs), total(pairs[1:]), total(pairs[:1])
    begun = time.process_time()
    total(pairs)
    milliseconds = (time.process_time() - begun) / len(pairs) * 1e3
    moved = float(np.linalg.norm(whole - less)) / STEPS
    beyond = float(np.linalg.norm(whole - less - own)) / STEPS
    name = str(case.dtype).removeprefix("torch.")
    return (
        f"| {name} | {case.loss} | {case.micro_batch_pairs} | {moved:.5f} | {beyond:.2g} "
        f"| {milliseconds:.1f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = made_up_pairs()
    lines = [
        "# What rounding in a pass over several pairs does",
        "",
        "`OMP_NUM_THREADS=1 python -m benchmarks.rounding_in_a_pass --write`: a Llama of two",
        f"blocks, hidden size 128, {PAIRS} pairs of up to {3 * LONGEST} tokens and one of twice as",
        "many, which is left out; CPU, one thread.",
        "In units of the sensitivity, which a private sum must not exceed when a pair is left out:",
        "",
        "| weights | loss | pairs a pass | sum | beyond its own | CPU ms a pair |",
        "|---|---|---|---|---|---|",
        *(measure(case, pairs) for case in CASES),
        "",
        "What follows from it: docs/decisions/0039-what-rounding-in-a-pass-may-do.md.",
    ]
    text = "\n".join(lines) + "\n"
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
