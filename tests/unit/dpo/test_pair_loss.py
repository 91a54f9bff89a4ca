import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.dpo.loss import LOSS_KINDS, PairLoss, pair_logratio, pair_losses
from privfed_dpo.errors import ModelError

LN2 = math.log(2)
H = math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4


def _value_and_slope(h, **settings):
    ratio = torch.tensor([h], dtype=torch.float64, requires_grad=True)
    loss = pair_losses(ratio, **settings)
    (slope,) = torch.autograd.grad(loss.sum(), ratio)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("settings", "h", "value", "slope"),
    [
        # -ln s(w) and -beta s(-w), with w = beta h = ln 3.
        ({"kind": "sigmoid", "beta": 1.0}, H, math.log(4 / 3), -1 / 4),
        ({"kind": "sigmoid", "beta": 0.5}, 2 * H, math.log(4 / 3), -1 / 8),
        ({"kind": "sigmoid", "beta": 1.0}, -H, math.log(4), -3 / 4),
        # (1-e)(-ln s(w)) + e(-ln s(-w)); slope -(1-e)/4 + e 3/4.
        (
            {"kind": "sigmoid", "beta": 1.0, "label_smoothing": 0.1},
            H,
            0.9 * math.log(4 / 3) + 0.1 * math.log(4),
            -0.9 / 4 + 0.1 * 3 / 4,
        ),
        # [(1-e)(-ln s(w)) - e(-ln s(-w))] / (1-2e); slope [-(1-e)/4 - e 3/4] / (1-2e).
        (
            {"kind": "robust", "beta": 1.0, "label_smoothing": 0.1},
            H,
            (0.9 * math.log(4 / 3) - 0.1 * math.log(4)) / 0.8,
            (-0.9 / 4 - 0.1 * 3 / 4) / 0.8,
        ),
        # (h - 1/(2 beta))^2 with beta 0.25: (3 - 2)^2 and 2 (3 - 2).
        ({"kind": "ipo", "beta": 0.25}, 3.0, 1.0, 2.0),
        ({"kind": "ipo", "beta": 0.25}, 1.0, 1.0, -2.0),
        # 1 - beta h until it reaches 1/beta, nothing beyond.
        ({"kind": "hinge", "beta": 0.5}, 1.0, 0.5, -0.5),
        ({"kind": "hinge", "beta": 0.5}, -1.0, 1.5, -0.5),
        ({"kind": "hinge", "beta": 0.5}, 3.0, 0.0, 0.0),
        # -ln s(beta h - g) with 2 ln 3 - ln 3 = ln 3; slope -beta s(-ln 3).
        ({"kind": "simpo", "beta": 2.0, "target_margin": H}, H, math.log(4 / 3), -2 / 4),
        ({"kind": "simpo", "beta": 2.0, "target_margin": H}, 0.0, math.log(4), -2 * 3 / 4),
    ],
)
def test_values_and_slopes_by_hand(settings, h, value, slope):
    assert _value_and_slope(h, **settings) == pytest.approx((value, slope), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"kind": "sigmoid", "beta": 0.3}, LN2),
        ({"kind": "sigmoid", "beta": 0.3, "label_smoothing": 0.2}, LN2),
        ({"kind": "robust", "beta": 0.3, "label_smoothing": 0.2}, LN2),
        ({"kind": "ipo", "beta": 0.5}, 1.0),
        ({"kind": "hinge", "beta": 0.3}, 1.0),
    ],
)
def test_the_start(settings, start):
    assert _value_and_slope(0.0, **settings)[0] == pytest.approx(start)


@given(h=st.floats(-20, 20), e=st.floats(0, 0.45), beta=st.floats(0.05, 2))
def test_the_robust_loss_is_unbiased_under_flipped_labels(h, e, beta):
    # E[robust(flipped with probability e)] = sigmoid loss of the true label.
    robust = {"kind": "robust", "beta": beta, "label_smoothing": e}
    mean = (1 - e) * _value_and_slope(h, **robust)[0] + e * _value_and_slope(-h, **robust)[0]
    assert mean == pytest.approx(_value_and_slope(h, kind="sigmoid", beta=beta)[0], abs=1e-9)


def test_extreme_ratios_stay_finite():
    ratio = torch.tensor([-1e4, 1e4])
    for kind in LOSS_KINDS:
        assert torch.isfinite(pair_losses(ratio, kind=kind, beta=0.1)).all()


def test_ratios_are_sums_for_all_but_ipo():
    policy = torch.tensor([[-4.0, -9.0]])
    reference = torch.tensor([[-6.0, -6.0]])
    lengths = torch.tensor([[2.0, 3.0]])
    for kind in ("sigmoid", "robust", "hinge"):
        assert pair_logratio(policy, reference, lengths, kind=kind).tolist() == [5.0]
    # 2/2 - (-3)/3
    for kind in ("ipo", "simpo"):
        assert pair_logratio(policy, reference, lengths, kind=kind).tolist() == [2.0]


def test_a_loss_object_composes_both():
    loss = PairLoss("ipo", 0.25)
    policy, reference = torch.tensor([[-4.0, -9.0]]), torch.tensor([[-6.0, -6.0]])
    assert loss(policy, reference, torch.tensor([[2.0, 3.0]])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        # Sums of policy log-probabilities: h = -4 - (-4 - ln 9) = 2 ln 3.
        (PairLoss("sigmoid", 0.5, reference_free=True), math.log(4 / 3)),
        (PairLoss("robust", 0.5, reference_free=True), math.log(4 / 3)),
        (PairLoss("hinge", 0.25, reference_free=True), 1 - H / 2),
        # Means per token: h = -4/2 - (-4 - 2 ln 3)/4 = -1 + ln 3 / 2.
        (PairLoss("simpo", 2.0), -math.log(1 / (1 + math.exp(2 - H)))),
        (PairLoss("simpo", 2.0, target_margin=1.0), -math.log(1 / (1 + math.exp(3 - H)))),
    ],
)
def test_reference_free_forms_by_hand(loss, value):
    policy = torch.tensor([[-4.0, -4.0 - 2 * H]], dtype=torch.float64)
    lengths = torch.tensor([[2.0, 4.0]])
    for reference in ([[0.0, 0.0]], [[-7.0, 3.0]], [[math.nan, math.inf]]):
        found = loss(policy, torch.tensor(reference, dtype=torch.float64), lengths)
        assert found.item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "sigmoidal"},
        {"beta": 0.0},
        {"beta": -1.0},
        {"beta": float("nan")},
        {"beta": float("inf")},
        {"label_smoothing": 0.5},
        {"label_smoothing": -0.1},
        {"kind": "ipo", "label_smoothing": 0.1},
        {"kind": "hinge", "label_smoothing": 0.1},
        {"kind": "simpo", "label_smoothing": 0.1},
        {"kind": "simpo", "target_margin": -0.1},
        {"kind": "simpo", "target_margin": float("nan")},
        {"kind": "sigmoid", "target_margin": 0.5},
        {"kind": "ipo", "reference_free": True},
    ],
)
def test_constants_without_meaning_are_refused(settings):
    with pytest.raises(ModelError) as caught:
        PairLoss(**settings)
    assert caught.value.advice


def test_an_unknown_kind_is_refused():
    with pytest.raises(ModelError, match="not a pair loss"):
        pair_losses(torch.zeros(1), kind="apo", beta=1.0)
