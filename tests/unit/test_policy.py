"""The engine's sums: the same message from every way of summing."""

import numpy as np
import pytest
import torch

from privfed_dpo.config import parse_config
from privfed_dpo.dpo.reference import ReferenceLogprobs
from privfed_dpo.engine.contribution import Contributor, PrivateShard
from privfed_dpo.engine.planning import make_plan
from privfed_dpo.engine.public_facts import PublicFacts
from privfed_dpo.errors import ModelError
from privfed_dpo.mechanism.keystream import StreamIssuer
from privfed_dpo.model.adapters import Adapter
from privfed_dpo.policy import adapter_spec, base_bytes, make_policy, model_spec
from tests.support.entropy import counted_entropy
from tests.support.toy_models import shaken, toy_model, toy_pairs

CONFIG = """
data: {clients: 3}
model: {adapter: {rank: 2, target_modules: all-linear}}
dpo: {beta: 0.5, micro_batch_pairs: 4}
privacy: {noise_multiplier: 1.0, max_grad_norm: 5.0, sample_rate: 0.7}
federation: {rounds: 2}
"""
PAIRS = tuple(toy_pairs(11, seed=5))


def engine_of(*overrides, family="llama"):
    """One client's contributor over a toy model, and its gradients."""
    config = parse_config(CONFIG, overrides)
    adapter = shaken(Adapter.attach(toy_model(family), adapter_spec(config)), scale=0.05)
    facts = PublicFacts(
        client_names=("a", "b", "c"),
        client_pairs=(len(PAIRS),) * 3,
        dimension=adapter.dimension,
        model_fingerprint="toy",
        model_bytes=0,
    )
    plan = make_plan(config, facts)
    source = make_policy(config, plan, adapter, max_length=24)
    shard = PrivateShard(PAIRS, ReferenceLogprobs(adapter, fingerprint="toy")(PAIRS))
    issuer = StreamIssuer(counted_entropy("policy"))
    return Contributor(plan, 0, shard, source, issuer), source


def sent(*overrides):
    contributor, source = engine_of(*overrides)
    return contributor.contribute(1, source.adapter.read())


def test_every_way_of_summing_sends_the_same_message():
    contributor, source = engine_of()
    plan, clipper = contributor.plan, contributor.plan.clipper()
    # By hand: sample, materialise, clip, add noise.
    issuer = StreamIssuer(counted_entropy("policy"))
    batch = plan.sampler().draw(len(PAIRS), issuer.issue("round-1/sample"))
    rows = source.gradients([PAIRS[i] for i in batch], contributor.shard.reference[batch])
    total = clipper.clip_all(rows, plan.facts.dimension).total
    noise = plan.share_noise().draw(total.size, issuer.issue("round-1/noise"))
    expected = total + noise
    assert np.array_equal(sent(), expected)
    assert np.array_equal(sent("dpo.gradient_sums=two_pass"), expected)
    assert np.array_equal(sent("dpo.gradient_checkpointing=true"), expected)
    assert np.array_equal(sent("dpo.memory_bytes=10"), expected), "the plan takes the second pass"


def test_the_plan_says_how_sums_are_taken():
    contributor, source = engine_of("dpo.memory_bytes=10")
    assert source.method == contributor.plan.describe()["gradient_sums"] == "two_pass"
    contributor, source = engine_of()
    assert source.method == contributor.plan.describe()["gradient_sums"] == "rows"


def test_the_micro_batch_is_the_largest_that_fits():
    room = {}
    for memory in (2**20, 2**21):
        _, source = engine_of("dpo.micro_batch_pairs=null", f"dpo.memory_bytes={memory}")
        room[memory] = source.gradients.micro_batch_pairs
    assert 1 <= room[2**20] < room[2**21]
    _, source = engine_of("dpo.micro_batch_pairs=null", f"dpo.memory_bytes={2**34}")
    assert source.gradients.micro_batch_pairs == len(PAIRS), "nobody holds more pairs"
    with pytest.raises(ModelError, match="One pair needs"):
        engine_of("dpo.micro_batch_pairs=null", "dpo.memory_bytes=1000")


def test_a_measured_micro_batch_sums_what_a_given_one_sums():
    _, source = engine_of("dpo.micro_batch_pairs=null", f"dpo.memory_bytes={2**20}")
    size = source.gradients.micro_batch_pairs
    measured = sent("dpo.micro_batch_pairs=null", f"dpo.memory_bytes={2**20}")
    assert np.array_equal(measured, sent(f"dpo.micro_batch_pairs={size}"))


def test_experts_take_one_pair_a_pass_unless_nothing_is_private():
    target = "model.adapter={rank: 2, target_modules: auto}"
    with pytest.raises(ModelError, match="jump, since a token goes to one expert") as refusal:
        engine_of(target, family="mixtral")
    assert refusal.value.advice == "Set dpo.micro_batch_pairs=1."
    for allowed in ("dpo.micro_batch_pairs=1", "privacy.mode=none"):
        engine_of(target, allowed, family="mixtral")


def test_what_the_adapter_keys_ask_for():
    config = parse_config(
        CONFIG,
        [
            "model.adapter.rank_pattern={q_proj: 4, 1.self_attn.o_proj: 1}",
            "model.adapter.rslora=true",
            "model.adapter.freeze_a=true",
        ],
    )
    adapter = Adapter.attach(toy_model("llama"), adapter_spec(config))
    shapes = {slot.name.split("model.")[-1]: slot.shape for slot in adapter.layout}
    assert all("lora_B" in name for name in shapes)
    assert shapes["layers.0.self_attn.q_proj.lora_B.default.weight"][1] == 4
    assert shapes["layers.0.self_attn.o_proj.lora_B.default.weight"][1] == 2
    assert shapes["layers.1.self_attn.o_proj.lora_B.default.weight"][1] == 1
    assert adapter.model.peft_config["default"].use_rslora
    full = parse_config(CONFIG, ["model.adapter.full_weights=true"])
    with pytest.warns(UserWarning, match="Full fine-tuning trains"):
        adapter = Adapter.attach(toy_model("llama"), adapter_spec(full))
    assert adapter.layout[0].shape == (32, 32)


def test_the_loss_has_all_its_constants():
    _, source = engine_of("dpo.loss=simpo", "dpo.target_margin=0.5")
    assert (source.gradients.loss.kind, source.gradients.loss.target_margin) == ("simpo", 0.5)
    _, source = engine_of("dpo.loss=hinge", "dpo.reference_free=true", "dpo.micro_batch_pairs=1")
    assert source.gradients.loss.reference_free


def test_attention_and_quantization_reach_the_model():
    spec = model_spec(
        parse_config(
            CONFIG,
            [
                "model.base=some/model",
                "data.train=x.jsonl",
                "model.quantization=4bit",
                "dpo.micro_batch_pairs=1",
                "model.attention=eager",
            ],
        )
    )
    assert (spec.quantization, spec.attention) == ("4bit", "eager")


def test_base_weights_in_four_bits_are_counted_as_such():
    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 4, bias=False))
    keys = ["model.base=some/model", "data.train=x.jsonl", "model.dtype=bfloat16"]
    keys.append("dpo.micro_batch_pairs=1")
    assert base_bytes(parse_config(CONFIG, keys), model) == 2 * (80 + 32)
    keys.append("model.quantization=4bit")
    assert base_bytes(parse_config(CONFIG, keys), model) == 2 * 80 + 16
