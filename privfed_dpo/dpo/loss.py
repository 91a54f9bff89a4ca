"""Losses of a preference pair as functions of its log-ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn.functional import logsigmoid

from privfed_dpo.errors import ModelError

LossKind = Literal["sigmoid", "ipo", "hinge", "robust"]
LOSS_KINDS: tuple[LossKind, ...] = get_args(LossKind)


@dataclass(frozen=True, slots=True)
class PairLoss:
    """One loss with its constants, checked once.

    Attributes:
        kind: `sigmoid`, `ipo`, `hinge` or `robust`.
        beta: strength of the tie to the reference, > 0 (tau in the IPO paper).
        label_smoothing: assumed share of flipped labels, in [0, 0.5); only for `sigmoid`
            (conservative) and `robust` (debiased).
    """

    kind: LossKind = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Checks the constants.

        Raises:
            ModelError: unknown kind, beta not positive, or smoothing where it means nothing.
        """
        if self.kind not in LOSS_KINDS:
            raise ModelError(
                f"{self.kind!r} is not a pair loss.", advice=f"Use one of {', '.join(LOSS_KINDS)}."
            )
        if not 0 < self.beta < float("inf"):
            raise ModelError(f"beta is {self.beta}.", advice="Set beta to a positive number.")
        if not 0 <= self.label_smoothing < 0.5:  # noqa: PLR2004 - a coin flip carries nothing
            raise ModelError(
                f"label_smoothing is {self.label_smoothing}.", advice="Set it within [0, 0.5)."
            )
        if self.label_smoothing and self.kind not in ("sigmoid", "robust"):
            raise ModelError(
                f"label_smoothing has no meaning for the {self.kind} loss.",
                advice="Set it to 0, or use the sigmoid or robust loss.",
            )

    def __call__(
        self, policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Loss of each pair from its log-probabilities.

        Args:
            policy: float32 [B, 2], log pi of chosen and rejected.
            reference: float32 [B, 2], the same under the reference.
            lengths: float32 [B, 2], tokens of the completions.

        Returns:
            float32 [B].
        """
        ratio = pair_logratio(policy, reference, lengths, kind=self.kind)
        return pair_losses(
            ratio, kind=self.kind, beta=self.beta, label_smoothing=self.label_smoothing
        )


def pair_logratio(
    policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, *, kind: LossKind
) -> torch.Tensor:
    """The log-ratio a loss takes: h = log(pi/ref)(chosen) - log(pi/ref)(rejected).

    For `ipo` each completion's log-ratio is its mean per token, as its authors run it and TRL
    computes it; for all others it is the sum.

    Args:
        policy: [B, 2].
        reference: [B, 2].
        lengths: [B, 2], tokens.
        kind: which loss.

    Returns:
        [B].
    """
    shift = policy - reference
    if kind == "ipo":
        shift = shift / lengths
    return shift[:, 0] - shift[:, 1]


def pair_losses(
    logratio: torch.Tensor, *, kind: LossKind, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Loss of each pair, nothing summed.

    With h the log-ratio and e the label smoothing:

    - sigmoid: -(1-e) log s(beta h) - e log s(-beta h)  (Rafailov et al., 2023, eq. 7; with e > 0
      the conservative form of Mitchell, 2023)
    - robust: [-(1-e) log s(beta h) + e log s(-beta h)] / (1 - 2e)  (Chowdhury et al., 2024, sec. 3)
    - ipo: (h - 1/(2 beta))^2  (Azar et al., 2023, eq. 17)
    - hinge: max(0, 1 - beta h)  (Zhao et al., 2023; Liu et al., 2024)

    Args:
        logratio: float [B], from `pair_logratio`.
        kind: which loss.
        beta: > 0.
        label_smoothing: e, in [0, 0.5).

    Returns:
        float [B]. At h = 0: ln 2 (sigmoid, robust), 1/(4 beta^2) (ipo), 1 (hinge).

    Raises:
        ModelError: unknown kind.
    """
    margin = beta * logratio
    if kind == "sigmoid":
        kept = -logsigmoid(margin)
        if label_smoothing == 0.0:
            return kept
        return (1 - label_smoothing) * kept - label_smoothing * logsigmoid(-margin)
    if kind == "robust":
        debiased = -(1 - label_smoothing) * logsigmoid(margin)
        debiased = debiased + label_smoothing * logsigmoid(-margin)
        return debiased / (1 - 2 * label_smoothing)
    if kind == "ipo":
        return (logratio - 1 / (2 * beta)) ** 2
    if kind == "hinge":
        return torch.relu(1 - margin)
    raise ModelError(f"{kind!r} is not a pair loss.", advice=f"Use one of {', '.join(LOSS_KINDS)}.")
