"""One gradient per preference pair, by Opacus' hooks on the adapter's linear layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.loss import LossKind, PairLoss
from privfed_dpo.dpo.pair_hooks import PairGraph, pair_graph, recomputed_activations
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, Float32Vector
from privfed_dpo.model.pair_batch import PairBatch, length_ordered_batches
from privfed_dpo.model.scorer import PairScorer, RequestedForm

# How far a row may lie from one backward pass of its pair, in units of the scorer's tolerance.
_ROW_AGREEMENT = 10.0


class PairGradients:
    """Gradients of the pair loss with respect to the adapter vector, one row per pair.

    The row is the privacy unit: prompt, chosen and rejected together, one gradient, to be clipped
    once. Rows come raw: not clipped, not averaged, NaN and infinity left as they are. Whoever
    calls must clip each row, sum, and add noise before anything leaves the client.

    On construction the rows of a few made-up pairs are compared with one backward pass per pair,
    so a layer that mixes pairs, flattens them or is used behind the hooks is found before it
    meets data. On every batch each adapted layer must have seen one row per pair and give one
    gradient per pair. A failed check raises ModelError; rows that are not pairs are never handed
    out.

    Attributes:
        adapter: the policy.
        loss: the pair loss.
        scorer: layout and scoring, in the form that was decided.
        micro_batch_pairs: most pairs that go through the model at once; it changes memory and
            speed, never the set of rows. A row is a function of its pair up to float rounding,
            since kernels may add in another order for another batch; at 1 it is one to the bit.
        gradient_checkpointing: whether activations are computed again in the backward pass.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        loss: LossKind | PairLoss = "sigmoid",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        form: RequestedForm = "auto",
        micro_batch_pairs: int = 16,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Checks the model and settles the form.

        Args:
            adapter: the policy; the reference is the same model with the adapter off.
            loss: a kind, see `PairLoss`; or a loss with all its constants, and then `beta` and
                `label_smoothing` are not looked at.
            beta: see `PairLoss`.
            label_smoothing: see `PairLoss`.
            form: `packed` (one row per pair), `two_forward`, or `auto`: packed where exact.
            micro_batch_pairs: >= 1.
            gradient_checkpointing: keep only the inputs of decoder blocks and compute the rest
                again in the backward pass: less memory, about a third more time, same rows.

        Raises:
            ModelError: bad constants, no exact form for this model, or rows that are not pairs.
        """
        self.loss = loss if isinstance(loss, PairLoss) else PairLoss(loss, beta, label_smoothing)
        length_ordered_batches((), micro_batch_pairs)
        self.adapter = adapter
        self.scorer = PairScorer(adapter, form)
        self.micro_batch_pairs = micro_batch_pairs
        self.gradient_checkpointing = gradient_checkpointing
        self._refuse_inexact_rows()

    def __call__(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[torch.Tensor]:
        """Yields the gradients of all pairs, micro-batch by micro-batch.

        Args:
            pairs: the sampled pairs of ONE client; may be empty (then nothing is yielded and the
                client sends noise alone).
            reference: float [B, 2], log pi_ref of chosen and rejected, row by row.

        Returns:
            An iterator of float32 [b, d] on the adapter's device. Every pair is in exactly one
            row; rows follow length, not the order given (`indexed` tells which is which).

        Raises:
            ModelError: shapes do not fit, a pair is too long, or a row would not be a pair.
        """
        return (rows for _, rows in self.indexed(pairs, reference))

    def indexed(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        """Like a call, with the index into `pairs` of every row: (int64 [b], float32 [b, d])."""
        self.check_reference(pairs, reference)
        return self._rows(pairs, reference)

    def mean_gradient(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Float32Vector:
        """The plain mean gradient, unclipped and without noise: for metrics and baselines only.

        Args:
            pairs: at least one.
            reference: float [B, 2].

        Returns:
            float32 [d].

        Raises:
            ModelError: no pairs, or shapes do not fit.
        """
        self.check_reference(pairs, reference)
        if not pairs:
            raise ModelError("The mean over no pairs does not exist.", advice="Pass some pairs.")
        total = np.zeros(self.adapter.dimension, dtype=np.float64)
        for chosen in length_ordered_batches(pairs, self.micro_batch_pairs):
            batch = self.scorer.batch([pairs[i] for i in chosen])
            with self._activations():
                loss = self._losses(batch, reference[chosen]).sum()
                gradients = torch.autograd.grad(loss, self.adapter.parameters)
            total += torch.cat([g.reshape(-1) for g in gradients]).double().cpu().numpy()
        mean: Float32Vector = (total / len(pairs)).astype(np.float32)
        return mean

    def _rows(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        for chosen in length_ordered_batches(pairs, self.micro_batch_pairs):
            yield chosen, self._micro_batch([pairs[i] for i in chosen], reference[chosen])

    @contextlib.contextmanager
    def graph(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> Iterator[PairGraph]:
        """The losses of ONE micro-batch, whose gradients can be taken layer by layer.

        Args:
            pairs: b >= 1 pairs; row i of every layer's gradient is pair i.
            reference: float [b, 2].

        Returns:
            A context that holds the graph; its `backward` hands over float32 [b, size] per slot.

        Raises:
            ModelError: shapes do not fit, a pair is too long, or a row would not be a pair.
        """
        self.check_reference(pairs, reference)
        batch = self.scorer.batch(pairs)
        with self._activations(), pair_graph(self.adapter, batch) as graph:
            graph.set_losses(self._losses(batch, reference))
            yield graph

    def _micro_batch(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> torch.Tensor:
        layout = self.adapter.layout
        rows = torch.empty(len(pairs), self.adapter.dimension, device=self.adapter.device)

        def receive(index: int, values: torch.Tensor) -> None:
            rows[:, layout[index].start : layout[index].stop] = values

        with self.graph(pairs, reference) as graph:
            graph.backward(receive)
        return rows

    def _activations(self) -> contextlib.AbstractContextManager[None]:
        if self.gradient_checkpointing:
            return recomputed_activations(self.adapter.model)
        return contextlib.nullcontext()

    def _refuse_inexact_rows(self) -> None:
        pairs = self.scorer.made_up_pairs()
        start = self.adapter.read()
        # Away from the start, where half of the factors have no gradient to compare.
        self.adapter.write(start + 0.02 * np.cos(np.arange(self.adapter.dimension)))
        try:
            with torch.no_grad():
                scores = [self.scorer.logprobs(self.scorer.batch([pair])) for pair in pairs]
            reference = torch.cat(scores).cpu().numpy()
            rows = self._micro_batch(pairs, reference)
            for row, pair, fixed in zip(rows, pairs, reference, strict=True):
                alone = torch.from_numpy(self.mean_gradient([pair], fixed[None])).to(row.device)
                allowed = _ROW_AGREEMENT * self.scorer.tolerance() * alone.norm()
                if not (row - alone).norm() <= allowed:
                    raise ModelError(
                        "The rows of this model are not the gradients of single pairs.",
                        advice="Adapt other layers: one of these is used outside its forward "
                        "method or mixes the rows of a batch.",
                    )
        finally:
            self.adapter.write(start)

    def _losses(self, batch: PairBatch, reference: npt.NDArray[np.floating]) -> torch.Tensor:
        fixed = torch.from_numpy(reference.astype(np.float32)).to(self.adapter.device)
        return self.loss(self.scorer.logprobs(batch), fixed, batch.completion_lengths)

    def check_reference(
        self, pairs: Sequence[TokenizedPair], reference: npt.NDArray[np.floating]
    ) -> None:
        """Checks that there is one row of reference log-probabilities per pair.

        Raises:
            ModelError: the reference is not of shape [B, 2].
        """
        if reference.shape != (len(pairs), 2):
            raise ModelError(
                f"{len(pairs)} pairs need reference log-probabilities of shape "
                f"({len(pairs)}, 2), not {reference.shape}.",
                advice="Take them from ReferenceLogprobs for the same pairs in the same order.",
            )
