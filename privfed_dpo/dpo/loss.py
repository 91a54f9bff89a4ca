"""Losses of a preference pair as functions of its log-ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn.functional import logsigmoid

from privfed_dpo.errors import ModelError

LossKind = Literal["sigmoid", "ipo", "hinge", "robust", "simpo"]
LOSS_KINDS: tuple[LossKind, ...] = get_args(LossKind)

_PER_TOKEN: tuple[LossKind, ...] = ("ipo", "simpo")


@dataclass(frozen=True, slots=True)
class PairLoss:
    """One loss with its constants, checked once.

    Attributes:
        kind: `sigmoid`, `ipo`, `hinge`, `robust` or `simpo`.
        beta: strength of the tie to the reference, > 0 (tau in the IPO paper); without a
            reference the scale of the margin.
        label_smoothing: assumed share of flipped labels, in [0, 0.5); only for `sigmoid`
            (conservative) and `robust` (debiased).
        target_margin: gamma of SimPO, >= 0: by how much beta times the mean log-probability of
            chosen should exceed that of rejected; only for `simpo`.
        reference_free: leave the reference out, as if it gave every completion the same
            probability. Always so for `simpo`; for `hinge` it is the calibration loss of SLiC-HF
            (Zhao et al., 2023); not for `ipo`, whose target is a distance from the reference.
    """

    kind: LossKind = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    target_margin: float = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        """Checks the constants.

        Raises:
            ModelError: unknown kind, beta not positive, or a constant where it means nothing.
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
        if not 0 <= self.target_margin < float("inf"):
            raise ModelError(
                f"target_margin is {self.target_margin}.", advice="Set it to 0 or more."
            )
        if self.target_margin and self.kind != "simpo":
            raise ModelError(
                f"target_margin has no meaning for the {self.kind} loss.",
                advice="Set it to 0, or use the simpo loss.",
            )
        if self.reference_free and self.kind == "ipo":
            raise ModelError(
                "The ipo loss is not defined without a reference.",
                advice="Use sigmoid, hinge or simpo, or keep the reference.",
            )

    def __call__(
        self, policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Loss of each pair from its log-probabilities.

        Args:
            policy: float32 [B, 2], log pi of chosen and rejected.
            reference: float32 [B, 2], the same under the reference; not looked at by
                reference-free forms.
            lengths: float32 [B, 2], tokens of the completions.

        Returns:
            float32 [B].
        """
        if self.reference_free or self.kind == "simpo":
            reference = torch.zeros_like(policy)
        ratio = pair_logratio(policy, reference, lengths, kind=self.kind)
        return pair_losses(
            ratio,
            kind=self.kind,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            target_margin=self.target_margin,
        )


def pair_logratio(
    policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, *, kind: LossKind
) -> torch.Tensor:
    """The log-ratio a loss takes: h = log(pi/ref)(chosen) - log(pi/ref)(rejected).

    For `ipo` each completion's log-ratio is its mean per token, as its authors run it and TRL
    computes it, and so it is for `simpo`; for all others it is the sum.

    Args:
        policy: [B, 2].
        reference: [B, 2].
        lengths: [B, 2], tokens.
        kind: which loss.

    Returns:
        [B].
    """
    shift = policy - reference
    if kind in _PER_TOKEN:
        shift = shift / lengths
    return shift[:, 0] - shift[:, 1]


def pair_losses(
    logratio: torch.Tensor,
    *,
    kind: LossKind,
    beta: float,
    label_smoothing: float = 0.0,
    target_margin: float = 0.0,
) -> torch.Tensor:
    """Loss of each pair, nothing summed.

    With h the log-ratio, e the label smoothing and g the target margin:

    - sigmoid: -(1-e) log s(beta h) - e log s(-beta h)  (Rafailov et al., 2023, eq. 7; with e > 0
      the conservative form of Mitchell, 2023)
    - robust: [-(1-e) log s(beta h) + e log s(-beta h)] / (1 - 2e)  (Chowdhury et al., 2024, sec. 3)
    - ipo: (h - 1/(2 beta))^2  (Azar et al., 2023, eq. 17)
    - hinge: max(0, 1 - beta h)  (Zhao et al., 2023; Liu et al., 2024)
    - simpo: -log s(beta h - g), h without reference  (Meng et al., 2024, eq. 6)

    Args:
        logratio: float [B], from `pair_logratio`.
        kind: which loss.
        beta: > 0.
        label_smoothing: e, in [0, 0.5).
        target_margin: g, >= 0.

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
    if kind == "simpo":
        return -logsigmoid(margin - target_margin)
    raise ModelError(f"{kind!r} is not a pair loss.", advice=f"Use one of {', '.join(LOSS_KINDS)}.")
