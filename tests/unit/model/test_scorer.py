import pytest
import torch

from privfed_dpo.errors import ModelError
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.scorer import PairScorer
from tests.support.toy_models import FAMILIES, make_pair, toy_model, toy_pairs


def _adapter(model):
    return Adapter.attach(model, AdapterSpec(rank=2))


def _with_decoder(change):
    """A Llama whose decoder passes its arguments or result through `change`."""
    model = toy_model("llama")
    original = model.model.forward
    model.model.forward = lambda **arguments: change(original, arguments)
    return model


def _without_positions(forward, arguments):
    return forward(**{k: v for k, v in arguments.items() if k != "position_ids"})


def _without_pair_masks(forward, arguments):
    mask = arguments.get("attention_mask")
    if mask is not None and mask.ndim == 4:
        arguments = {**arguments, "attention_mask": None}
    return forward(**arguments)


def _refusing_pair_masks(forward, arguments):
    if getattr(arguments.get("attention_mask"), "ndim", 0) == 4:
        raise ValueError("two dimensions only")
    return forward(**arguments)


def _mixing_rows(forward, arguments):
    output = forward(**arguments)
    output.last_hidden_state = output.last_hidden_state - output.last_hidden_state.mean(dim=0)
    return output


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_packed_when_it_may_choose(family):
    assert PairScorer(_adapter(toy_model(family))).form == "packed"


def test_forms_can_be_demanded():
    adapter = _adapter(toy_model("llama"))
    assert PairScorer(adapter, "packed").form == "packed"
    assert PairScorer(adapter, "two_forward").form == "two_forward"


@pytest.mark.parametrize("change", [_without_positions, _without_pair_masks, _refusing_pair_masks])
def test_models_that_ignore_what_packing_needs_fall_back(change):
    adapter = _adapter(_with_decoder(change))
    assert PairScorer(adapter, "auto").form == "two_forward"
    with pytest.raises(ModelError, match="Packed rows are not exact"):
        PairScorer(adapter, "packed")


def test_a_kernel_without_masks_falls_back(monkeypatch):
    monkeypatch.setattr("privfed_dpo.model.scorer._MASKABLE_KERNELS", {"eager": "additive"})
    adapter = _adapter(toy_model("llama"))
    assert PairScorer(adapter).form == "two_forward"
    with pytest.raises(ModelError, match="kernel sdpa takes no mask"):
        PairScorer(adapter, "packed")


def test_a_model_that_mixes_pairs_is_refused_in_every_form():
    adapter = _adapter(_with_decoder(_mixing_rows))
    for form in ("auto", "packed", "two_forward"):
        with pytest.raises(ModelError, match="depend on the other pairs"):
            PairScorer(adapter, form)


def test_a_model_with_broken_weights_is_refused():
    model = toy_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        PairScorer(_adapter(model))


def test_a_model_that_changes_its_logits_is_refused():
    model = toy_model("llama")
    original = model.forward

    def forward(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    model.forward = forward
    with pytest.raises(ModelError, match="changes its logits"):
        PairScorer(_adapter(model))


def test_pairs_longer_than_the_attention_window_are_not_packed():
    model = toy_model("mistral", sliding_window=16)
    adapter = _adapter(model)
    scorer = PairScorer(adapter)
    short, long = make_pair(range(8), range(8), range(5)), make_pair(range(8), range(9), range(5))
    assert scorer.batch([short]).form == "packed"
    assert scorer.batch([short, long]).form == "two_forward"
    with pytest.raises(ModelError, match="window of 16"):
        PairScorer(adapter, "packed").batch([long])


def test_the_fallback_for_windows_equals_the_model_itself():
    model = toy_model("mistral", sliding_window=16)
    long = make_pair(range(5, 30), range(20, 40), range(40, 50))
    scorer = PairScorer(_adapter(model))
    ids = torch.tensor([[*long.prompt, *long.chosen]])
    scores = model(ids).logits[0, :-1].log_softmax(dim=1).gather(1, ids[0, 1:, None])
    with torch.no_grad():
        found = scorer.logprobs(scorer.batch([long]))[0, 0]
    torch.testing.assert_close(found, scores[len(long.prompt) - 1 :].sum(), rtol=1e-5, atol=1e-4)


def test_pairs_longer_than_the_positions_are_refused():
    scorer = PairScorer(_adapter(toy_model("gpt2")))
    fits = make_pair([1] * 100, [2] * 28, [3])
    assert scorer.batch([fits]).pair_count == 1
    with pytest.raises(ModelError, match="129 tokens, the model scores at most 128"):
        scorer.batch([fits, make_pair([1] * 100, [2] * 2, [3] * 29)])


def test_a_16_bit_base_is_packed_too():
    scorer = PairScorer(_adapter(toy_model("llama").to(torch.bfloat16)))
    assert scorer.form == "packed"
    assert scorer.logprobs(scorer.batch(toy_pairs(3))).dtype == torch.float32
