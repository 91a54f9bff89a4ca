"""The loss that is trained, and the loss that is measured: one place decides about both."""

from __future__ import annotations

from dataclasses import replace

from privfed_dpo.config import Config
from privfed_dpo.dpo.label_privacy import RandomizedResponse
from privfed_dpo.dpo.loss import PairLoss


def measured_loss(config: Config) -> PairLoss:
    """The pair loss a configuration names; held-out labels are nobody's secret and not flipped."""
    dpo = config.dpo
    return PairLoss(
        dpo.loss,
        dpo.beta,
        label_smoothing=dpo.label_smoothing,
        target_margin=dpo.target_margin,
        reference_free=dpo.reference_free,
    )


def trained_loss(config: Config) -> PairLoss:
    """The pair loss on the clients' pairs, debiased where labels are flipped.

    Labels that were wrong with probability e before they are flipped with probability p are wrong
    with p + e - 2 p e afterwards. The mean of the robust loss over wrong labels is the sigmoid loss
    of the right ones (Chowdhury et al., 2024, section 3); clipping comes after, and is biased as
    ever.
    """
    loss, response = measured_loss(config), label_response(config)
    if response is None:
        return loss
    before = loss.label_smoothing if loss.kind == "robust" else 0.0
    flips = response.flip_probability
    wrong = before + flips - 2.0 * before * flips
    return replace(loss, kind="robust", label_smoothing=wrong)


def label_response(config: Config) -> RandomizedResponse | None:
    """How labels are flipped; None if they are not."""
    epsilon = config.privacy.label_epsilon
    return None if epsilon is None else RandomizedResponse.for_epsilon(epsilon)
