"""One DPO step in every form, private and plain, over the same model, pairs and adapter vector."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from privfed_dpo.data.tokenize import TokenizedPair, pair_key
from privfed_dpo.dpo.clipped_sums import ClippedSums, SumMethod
from privfed_dpo.dpo.loss import PairLoss
from privfed_dpo.dpo.pair_gradients import PairGradients
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.logprobs import completion_logprobs
from privfed_dpo.model.pair_batch import PairBatch, SequenceBatch, pack_pairs, split_pairs

SENSITIVITY_STEPS = 1 << 20
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BETA = 0.1
Step = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of one measurement.

    Attributes:
        hidden: model width.
        layers: decoder layers.
        pairs: B.
        prompt_tokens: mean prompt length; single pairs lie within a quarter of it.
        completion_tokens: mean length of a completion, likewise.
        vocabulary: token ids.
        rank: LoRA rank, on all linear layers.
        kv_heads: key and value heads, of hidden / 64 query heads.
        micro_batch_pairs: pairs that go through the model at once, in every form; 0 is all.
    """

    hidden: int
    layers: int
    pairs: int
    prompt_tokens: int
    completion_tokens: int
    vocabulary: int = 8192
    rank: int = 8
    kv_heads: int = 2
    micro_batch_pairs: int = 0

    @property
    def name(self) -> str:
        """For tables: width, layers, pairs, prompt and completion."""
        return (
            f"h{self.hidden} L{self.layers} B{self.pairs} "
            f"{self.prompt_tokens}+{self.completion_tokens}"
        )


@dataclass(slots=True)
class Bench:
    """What all variants share: model under its adapter, pairs, reference, clip norm."""

    shape: Shape
    adapter: Adapter
    pairs: list[TokenizedPair]
    reference: np.ndarray
    loss: PairLoss
    max_grad_norm: float

    def fixed(self) -> torch.Tensor:
        """Reference log-probabilities on the device, float32 [B, 2]."""
        return torch.from_numpy(self.reference).to(self.adapter.device)

    def losses(self, batch: PairBatch) -> torch.Tensor:
        """Loss of each pair, float32 [B]."""
        scores = completion_logprobs(self.adapter.model, batch)
        return self.loss(scores, self.fixed(), batch.completion_lengths)

    def packed(self) -> PairBatch:
        """One row per pair."""
        return pack_pairs(self.pairs, pad_id=0, device=self.adapter.device)

    def two_rows(self) -> PairBatch:
        """All chosen rows, then all rejected ones, in ONE forward pass of 2B rows."""
        halves = split_pairs(self.pairs, pad_id=0, device=self.adapter.device).sequences
        width = max(half.input_ids.shape[1] for half in halves)
        rows = len(self.pairs)

        def widen(values: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(values, (0, width - values.shape[1]))

        def index(half: SequenceBatch, offset: int) -> torch.Tensor:
            old = half.input_ids.shape[1]
            row, column = half.predicting // old, half.predicting % old
            return (row + offset) * width + column

        joined = SequenceBatch(
            input_ids=torch.cat([widen(h.input_ids) for h in halves]),
            attention_mask=torch.cat([widen(h.attention_mask) for h in halves]),
            position_ids=torch.arange(width, device=self.adapter.device).repeat(2 * rows, 1),
            predicting=torch.cat([index(h, i * rows) for i, h in enumerate(halves)]),
            targets=torch.cat([h.targets for h in halves]),
            completions=torch.cat([h.completions for h in halves]),
            columns=torch.cat([h.columns for h in halves]),
        )
        lengths = torch.tensor([(len(p.chosen), len(p.rejected)) for p in self.pairs])
        return PairBatch("two_forward", (joined,), rows, lengths.float().to(self.adapter.device))


def build(shape: Shape, *, device: str, dtype: str, seed: int = 0) -> Bench:
    """Makes a random Llama with LoRA on all linear layers and pairs of uneven lengths."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 11 // 4,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).to(device).eval()
    spec = AdapterSpec(rank=shape.rank, target_modules=LINEARS)
    adapter = Adapter.attach(base, spec)
    draw = np.random.default_rng(seed)
    adapter.write(adapter.read() + 0.02 * draw.standard_normal(adapter.dimension))
    pairs = [_pair(shape, draw) for _ in range(shape.pairs)]
    reference = ReferenceLogprobs(adapter, fingerprint="benchmark", micro_batch_pairs=8)(pairs)
    bench = Bench(shape, adapter, pairs, reference, PairLoss("sigmoid", BETA), 1.0)
    # Half of the largest norm, so that some rows are clipped.
    (rows,) = PairGradients(adapter, beta=BETA, micro_batch_pairs=1)(pairs[:1], reference[:1])
    bench.max_grad_norm = float(rows.norm()) / 2
    return bench


def _pair(shape: Shape, draw: np.random.Generator) -> TokenizedPair:
    def ids(mean: int) -> tuple[int, ...]:
        length = int(draw.integers(mean - mean // 4, mean + mean // 4 + 1))
        return tuple(int(i) for i in draw.integers(4, shape.vocabulary, size=length))

    # Completions end as TRL ends them, so that all forms see the same tokens.
    end = (3,)
    parts = (
        ids(shape.prompt_tokens),
        ids(shape.completion_tokens - 1) + end,
        ids(shape.completion_tokens - 1) + end,
    )
    return TokenizedPair(*parts, key=pair_key(*parts))


def _gradient(bench: Bench, loss: torch.Tensor) -> torch.Tensor:
    for parameter in bench.adapter.parameters:
        parameter.grad = None
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in bench.adapter.parameters])


def plain_two_rows(bench: Bench) -> Step:
    return lambda: _gradient(bench, bench.losses(bench.two_rows()).sum())


def plain_packed(bench: Bench) -> Step:
    return lambda: _gradient(bench, bench.losses(bench.packed()).sum())


def ours(bench: Bench) -> Step:
    """Pair gradients, each clipped once, truncated to the grid, summed as integers."""
    return _ours(bench, "rows")


def ours_two_pass(bench: Bench) -> Step:
    """The same integers without holding any pair's gradient."""
    return _ours(bench, "two_pass")


def _ours(bench: Bench, method: SumMethod) -> Step:
    gradients = PairGradients(bench.adapter, beta=BETA, micro_batch_pairs=bench.shape.pairs)
    clipper = PairClipper(bench.max_grad_norm, SENSITIVITY_STEPS)
    sums = ClippedSums(gradients, clipper, method=method)
    unit = bench.max_grad_norm / SENSITIVITY_STEPS
    return lambda: torch.from_numpy(sums(bench.pairs, bench.reference).total) * unit


@contextlib.contextmanager
def _hooked(bench: Bench, kind: type[GradSampleHooks], **settings: object) -> Iterator[object]:
    layers = nn.ModuleList(bench.adapter.linear_layers)
    hooks = kind(layers, batch_first=True, loss_reduction="sum", **settings)
    layers.train()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield hooks
    finally:
        hooks.cleanup()
        layers.eval()


def _clipped(bench: Bench, rows: torch.Tensor) -> torch.Tensor:
    factor = (bench.max_grad_norm / rows.norm(dim=1)).clamp_(max=1.0)
    return factor @ rows


def _rows_added(bench: Bench, **settings: object) -> Step:
    def step() -> torch.Tensor:
        with _hooked(bench, GradSampleHooks, **settings):
            bench.losses(bench.two_rows()).sum().backward()
            half = bench.shape.pairs
            parts = [p.grad_sample.flatten(1) for p in bench.adapter.parameters]
            return _clipped(bench, torch.cat([g[:half] + g[half:] for g in parts], dim=1))

    return step


def opacus_rows_added(bench: Bench) -> Step:
    return _rows_added(bench)


def opacus_functorch(bench: Bench) -> Step:
    return _rows_added(bench, force_functorch=True)


def _two_backwards(bench: Bench, *, ghost: bool) -> Step:
    def step() -> torch.Tensor:
        kind = GradSampleHooksFastGradientClipping
        settings = {"max_grad_norm": bench.max_grad_norm, "use_ghost_clipping": ghost}
        with _hooked(bench, kind, **settings) as hooks:
            losses = bench.losses(bench.packed())
            losses.sum().backward(retain_graph=True)
            factor = hooks.get_clipping_coef()
            hooks.disable_hooks()
            return _gradient(bench, (factor.detach() * losses).sum())

    return step


def opacus_fast_clipping(bench: Bench) -> Step:
    return _two_backwards(bench, ghost=False)


def opacus_ghost(bench: Bench) -> Step:
    return _two_backwards(bench, ghost=True)


def trl(bench: Bench) -> Step:
    """TRL's own trainer: loss, reference forward in the step, backward; no optimizer step.

    Its defaults but for checkpointing (off, as in all other forms) and, on CPU, bf16 (off).
    """
    import datasets
    from trl import DPOConfig, DPOTrainer

    from privfed_dpo.model.tiny import build_word_tokenizer

    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    shape, device = bench.shape, bench.adapter.device
    tokenizer = build_word_tokenizer([f"w{i}" for i in range(4, shape.vocabulary)])
    base: PreTrainedModel = copy.deepcopy(bench.adapter.model).unload()
    texts = [
        {
            "prompt": tokenizer.decode(p.prompt),
            "chosen": " " + tokenizer.decode(p.chosen[:-1]) + " ",
            "rejected": " " + tokenizer.decode(p.rejected[:-1]) + " ",
        }
        for p in bench.pairs
    ]
    settings = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        beta=BETA,
        max_length=None,
        per_device_train_batch_size=shape.pairs,
        report_to=[],
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda",
        activation_checkpointing=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=base,
            args=settings,
            train_dataset=datasets.Dataset.from_list(texts),
            processing_class=tokenizer,
            peft_config=bench.adapter.model.peft_config["default"],
        )
    weights = dict(trainer.model.named_parameters())
    own = [weights[slot.name] for slot in bench.adapter.layout]
    with torch.no_grad():
        for parameter, values in zip(own, bench.adapter.parameters, strict=True):
            parameter.copy_(values)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["completion_mask"].sum() == sum(len(p.chosen + p.rejected) for p in bench.pairs)

    def step() -> torch.Tensor:
        for parameter in own:
            parameter.grad = None
        trainer.compute_loss(trainer.model.train(), dict(batch)).backward()
        # Its loss is a mean over pairs.
        return torch.cat([p.grad.reshape(-1) for p in own]) * shape.pairs

    return step


def make_step(name: str, bench: Bench) -> Step:
    """A step of one form; where a batch goes through the model in parts, their sum."""
    size = bench.shape.micro_batch_pairs or bench.shape.pairs
    parts = []
    for start in range(0, bench.shape.pairs, size):
        pairs = bench.pairs[start : start + size]
        fixed = bench.reference[start : start + size]
        part = replace(bench.shape, pairs=len(pairs))
        parts.append(VARIANTS[name](replace(bench, shape=part, pairs=pairs, reference=fixed)))
    return lambda: sum(part() for part in parts)


PLAIN: dict[str, Callable[[Bench], Step]] = {
    "plain two rows": plain_two_rows,
    "plain packed": plain_packed,
    "TRL": trl,
}
PRIVATE: dict[str, Callable[[Bench], Step]] = {
    "private (ours)": ours,
    "private (ours), two passes": ours_two_pass,
    "Opacus hooks, rows added": opacus_rows_added,
    "Opacus functorch, rows added": opacus_functorch,
    "Opacus fast clipping, packed": opacus_fast_clipping,
    "Opacus ghost clipping, packed": opacus_ghost,
}
VARIANTS = PLAIN | PRIVATE
