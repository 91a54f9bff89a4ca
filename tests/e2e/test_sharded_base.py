"""A base spread over two processes (FSDP2, gloo): the results of a whole one, bit for bit."""

import multiprocessing

import numpy as np
import pytest
from torch import distributed
from torch.distributed.tensor import DTensor

from privfed_dpo.dpo.local_policy import LocalPolicy
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.model.loading import load_model
from privfed_dpo.model.sharding import decoder_blocks, sharded_memory
from privfed_dpo.policy import build_gradients, model_spec
from tests.support.shared_base import config_of, parts_of, shared_policy, some_pairs, write_home

# Norms of these pairs lie on both sides of the bound.
CLIPPER = PairClipper(max_grad_norm=3.0, sensitivity_steps=1 << 20)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_home(tmp_path_factory.mktemp("sharded"))


@pytest.fixture(scope="module")
def policies(home):
    """The same policy over a whole base, and over one that two processes share."""
    config, adapter, _ = parts_of(home)
    whole = LocalPolicy(adapter, build_gradients(config, adapter, 4))
    shared = shared_policy(home)
    shared.load(adapter.read())
    yield whole, shared
    shared.close()
    assert not distributed.is_initialized()
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def pairs():
    return some_pairs(19)


def same_sum(left, right):
    assert np.array_equal(left.total, right.total)
    assert (left.pairs, left.non_finite) == (right.pairs, right.non_finite)
    return left.total.any()


def test_a_process_holds_its_share_and_gathers_block_by_block(home, policies, pairs):
    _, shared = policies
    model = shared.adapter.model.get_base_model()
    blocks = decoder_blocks(model)

    def gathered():
        weights = [block.mlp.up_proj.base_layer.weight for block in blocks]
        return sum(not isinstance(weight, DTensor) for weight in weights)

    seen = []
    hooks = [b.self_attn.register_forward_hook(lambda *_: seen.append(gathered())) for b in blocks]
    shared.reference_scores(pairs[:4])
    for hook in hooks:
        hook.remove()
    assert len(blocks) == len(seen) == 4
    assert max(seen) == 1, "one block computes; a CPU fetches none ahead"
    assert gathered() == 0
    held = sum(
        (p.to_local() if isinstance(p, DTensor) else p).nbytes
        for name, p in shared.adapter.model.named_parameters()
        if "lora_" not in name
    )
    bare = load_model(model_spec(config_of(home))).model
    assert held == sharded_memory(bare, 2, width=4).resting_bytes
    inside = sum(p.nbytes for block in decoder_blocks(bare) for p in block.parameters())
    assert held == sum(p.nbytes for p in bare.parameters()) - inside // 2


def test_sums_are_the_integers_of_a_whole_base(policies, pairs):
    whole, shared = policies
    reference = whole.reference_scores(pairs)
    assert np.array_equal(shared.reference_scores(pairs), reference)
    for count in (len(pairs), 9, 4, 1):
        some = pairs[:count], reference[:count]
        assert same_sum(shared.clipped_sum(*some, CLIPPER), whole.clipped_sum(*some, CLIPPER))
    nothing = shared.clipped_sum([], reference[:0], CLIPPER)
    assert not nothing.total.any()
    broken = reference.copy()
    broken[::3] = np.nan
    assert same_sum(
        shared.clipped_sum(pairs, broken, CLIPPER), whole.clipped_sum(pairs, broken, CLIPPER)
    )


def test_measurements_are_those_of_a_whole_base(policies, pairs, tmp_path):
    whole, shared = policies
    reference = whole.reference_scores(pairs)
    loss = whole.gradients.loss
    metrics, margins = shared.preferences(pairs, reference, loss)
    expected, expected_margins = whole.preferences(pairs, reference, loss)
    assert metrics == expected
    assert metrics.kl > 0
    assert np.array_equal(margins, expected_margins)
    rows = zip(
        shared.pair_gradients(pairs, reference), whole.pair_gradients(pairs, reference), strict=True
    )
    assert all(bool((left == right).all()) for left, right in rows)
    next(shared.pair_gradients(pairs, reference))  # whoever stops listening leaves nobody waiting
    shared.adapter.save(tmp_path)
    trainable = [p.requires_grad for p in shared.adapter.model.parameters()]
    assert shared.verify_saved(tmp_path, pairs[:3]) == 0.0
    assert trainable == [p.requires_grad for p in shared.adapter.model.parameters()]
    assert list(shared.adapter.model.peft_config) == ["default"]
