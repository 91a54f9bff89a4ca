"""How well a policy fits preferences: loss, implicit accuracy, margin, distance travelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.dealing import ALONE, Deal
from privfed_dpo.dpo.loss import LossKind, PairLoss
from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.model.logprobs import (
    Head,
    frozen_head,
    predicting_states,
    rows_per_chunk,
    sum_by_completion,
    token_logprobs,
)
from privfed_dpo.model.pair_batch import PairBatch, length_ordered_batches
from privfed_dpo.model.scorer import PairScorer, RequestedForm

# What float32 cannot tell from zero in a difference of four log-probabilities, relative to them.
_TIE_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class PreferenceMetrics:
    """Means over pairs; computed on the given pairs without noise, so only for public ones.

    Attributes:
        loss: the pair loss.
        reward_accuracy: share of pairs with a positive margin, ties counted one half.
        reward_margin: beta times (log-ratio of chosen minus log-ratio of rejected).
        kl: sum over a completion's positions of the exact KL(pi || pi_ref) between next-token
            distributions, mean over the 2 n completions, in nats. Prefixes are the completions of
            the data and not samples of the policy, so it is the policy's distance from the
            reference along this text, not the KL divergence of whole answers. Never negative, 0
            at the start. None if it was not asked for.
        chosen_logratio: log pi/pi_ref of chosen, in nats.
        rejected_logratio: log pi/pi_ref of rejected, in nats.
        count: pairs.
    """

    loss: float
    reward_accuracy: float
    reward_margin: float
    kl: float | None
    chosen_logratio: float
    rejected_logratio: float
    count: int


def evaluate_preferences(
    adapter: Adapter,
    pairs: Sequence[TokenizedPair],
    reference: npt.NDArray[np.floating],
    *,
    beta: float,
    loss: LossKind | PairLoss = "sigmoid",
    label_smoothing: float = 0.0,
    micro_batch_pairs: int = 16,
    form: RequestedForm = "auto",
    with_kl: bool = True,
    scorer: PairScorer | None = None,
    deal: Deal = ALONE,
) -> tuple[PreferenceMetrics, npt.NDArray[np.float64]]:
    """Measures a policy on preference pairs.

    A margin that float32 cannot tell from 0 (a millionth of the log-probabilities involved)
    counts as a tie: at the start, where policy and reference are the same, the accuracy is 0.5.
    Under a 16-bit base, ties at the start need `reference` to come from `ReferenceLogprobs` with
    the same pairs and micro-batches, so that both sums are rounded alike.

    Args:
        adapter: the policy; scored without gradients.
        pairs: n >= 1 pairs, public or held out.
        reference: float [n, 2], their reference log-probabilities.
        beta: scale of the margin, > 0.
        loss: which pair loss, or one with all its constants (then `label_smoothing` is not
            looked at; `beta` still scales the margin).
        label_smoothing: see `PairLoss`.
        micro_batch_pairs: most pairs scored at once.
        form: layout of pairs, see `PairScorer`.
        scorer: this adapter's scorer, if there is one already; takes the place of `form`.
        with_kl: also measure the distance to the reference; doubles the time.
        deal: which of the micro-batches this process takes; every process gets the whole result.

    Returns:
        The metrics, and the margins beta * h, float64 [n], in the order of the pairs; ties are
        exactly 0.

    Raises:
        ModelError: no pairs, or shapes do not fit.
    """
    if not pairs or reference.shape != (len(pairs), 2):
        raise ModelError(
            f"Evaluation needs pairs and a reference of shape ({len(pairs)}, 2); got "
            f"{reference.shape}.",
            advice="Take the reference from ReferenceLogprobs for the same pairs.",
        )
    pair_loss = loss if isinstance(loss, PairLoss) else PairLoss(loss, beta, label_smoothing)
    scorer = scorer or PairScorer(adapter, form)
    policy = np.zeros((len(pairs), 2), dtype=np.float32)
    losses = np.zeros(len(pairs), dtype=np.float64)
    divergence = np.zeros((len(pairs), 2), dtype=np.float64)
    for chosen, counts in deal.turns(length_ordered_batches(pairs, micro_batch_pairs)):
        batch = scorer.batch([pairs[i] for i in chosen])
        scores, distance = _score(adapter, batch, with_kl=with_kl)
        if not counts:
            continue
        fixed = torch.from_numpy(reference[chosen].astype(np.float32)).to(scores.device)
        losses[chosen] = pair_loss(scores, fixed, batch.completion_lengths).cpu().numpy()
        policy[chosen] = scores.cpu().numpy()
        divergence[chosen] = distance.cpu().numpy()
    policy, losses = deal.together(policy), deal.together(losses)
    divergence = deal.together(divergence)
    shift = policy.astype(np.float64) - reference
    margins = _margins(policy, reference, beta)
    metrics = PreferenceMetrics(
        loss=float(losses.mean()),
        reward_accuracy=float(np.mean((margins > 0) + 0.5 * (margins == 0))),
        reward_margin=float(margins.mean()),
        kl=float(divergence.mean()) if with_kl else None,
        chosen_logratio=float(shift[:, 0].mean()),
        rejected_logratio=float(shift[:, 1].mean()),
        count=len(pairs),
    )
    return metrics, margins


def _margins(
    policy: npt.NDArray[np.float32], reference: npt.NDArray[np.floating], beta: float
) -> npt.NDArray[np.float64]:
    shift = policy.astype(np.float64) - reference
    ratio = shift[:, 0] - shift[:, 1]
    size = np.abs(policy).sum(axis=1) + np.abs(reference).sum(axis=1)
    # A margin that is not finite is neither a tie nor a win.
    margins: npt.NDArray[np.float64] = np.where(np.abs(ratio) <= _TIE_SHARE * size, 0.0, ratio)
    return beta * margins


@torch.no_grad()
def _score(
    adapter: Adapter, batch: PairBatch, *, with_kl: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and divergences of a batch, both float32 [B, 2]."""
    head = frozen_head(adapter.model)
    rows = rows_per_chunk(adapter.model)
    states = [predicting_states(adapter.model, s) for s in batch.sequences]
    scores = [
        token_logprobs(h, s.targets, head, rows)
        for h, s in zip(states, batch.sequences, strict=True)
    ]
    summed = sum_by_completion(scores, batch)
    if not with_kl:
        return summed, torch.zeros_like(summed)
    with adapter.disabled():
        base = [predicting_states(adapter.model, s) for s in batch.sequences]
        distances = [
            torch.cat(list(_token_divergence(p, q, head, rows)))
            for p, q in zip(states, base, strict=True)
        ]
    return summed, sum_by_completion(distances, batch)


def _token_divergence(
    policy: torch.Tensor, base: torch.Tensor, head: Head, rows: int
) -> Iterator[torch.Tensor]:
    for p, q in zip(torch.split(policy, rows), torch.split(base, rows), strict=True):
        log_p = head(p).float().log_softmax(dim=1)
        log_q = head(q).float().log_softmax(dim=1)
        # Rounding can push a sum that is 0 slightly below it.
        yield (log_p.exp() * (log_p - log_q)).sum(dim=1).clamp_(min=0.0)
