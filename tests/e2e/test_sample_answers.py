"""Answers to public prompts, in summary and report, and from the saved adapter as a user has it."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from privfed_dpo.lifecycle import train
from privfed_dpo.model.adapters import Adapter, AdapterSpec
from privfed_dpo.model.loading import LoadedModel
from privfed_dpo.model.samples import sample_answers
from privfed_dpo.verification import verify_run
from tests.support.tiny_run import tiny_config
from tests.support.tokenizers import CHATML, byte_pair_tokenizer
from tests.support.toy_models import FAMILIES, shaken

PROMPT = "how do i open my door ?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "run"
    keys = [
        f"evaluation.sample_prompts=['{PROMPT}', '<b> my bag']",
        "evaluation.sample_tokens=6",
        "privacy.mode=none",
        "privacy.max_grad_norm=null",
        "federation.learning_rate=0.2",
        "federation.rounds=2",
    ]
    train(tiny_config(folder, *keys))
    return folder


def test_summary_and_report_show_them_and_the_ledger_vouches_for_them(run):
    untouched = (run / "summary.json").read_text()
    summary = json.loads(untouched)
    first, second = summary["samples"]
    assert second["prompt"] == "<b> my bag"
    assert first["prompt"] == PROMPT
    assert first["before"] != first["after"], "two long steps change what it says"
    page = (run / "report.html").read_text()
    assert "Answers before and after" in page
    assert first["after"] in page
    assert "&lt;b&gt; my bag" in page
    assert verify_run(run).ok
    summary["samples"][0]["after"] = "a nicer answer"
    (run / "summary.json").write_text(json.dumps(summary))
    assert any("summary.json" in problem for problem in verify_run(run).problems)
    (run / "summary.json").write_text(untouched)


def test_the_saved_adapter_generates_the_same_answer(run):
    tokenizer = AutoTokenizer.from_pretrained(run / "base")
    base = AutoModelForCausalLM.from_pretrained(run / "base")
    served = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        row = served.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6
        )[0]
    answer = tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip()
    assert answer == json.loads((run / "summary.json").read_text())["samples"][0]["after"]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "phi3", "mixtral"])
def test_families_answer_with_and_without_a_chat_template(family):
    texts = ["how do i open my door ?"] * 3
    for template in (None, CHATML):
        tokenizer = byte_pair_tokenizer(texts, chat_template=template, eos=True)
        config = FAMILIES[family]()
        config.vocab_size = len(tokenizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
        loaded = LoadedModel(model, tokenizer, "toy")
        adapter = shaken(Adapter.attach(loaded, AdapterSpec(rank=2)), scale=0.5)
        (one,) = sample_answers(adapter, tokenizer, texts[:1], max_tokens=5)
        assert one == sample_answers(adapter, tokenizer, texts[:1], max_tokens=5)[0]
        assert one.before != one.after


@pytest.mark.parametrize(("repeats", "longest"), [(1, 200), (6, 200), (30, 200), (30, 3)])
def test_prompt_and_answer_stay_within_learned_positions(repeats, longest):
    texts = [PROMPT] * 3
    tokenizer = byte_pair_tokenizer(texts)
    config = FAMILIES["gpt2"]()
    config.vocab_size, config.n_positions, config.eos_token_id = len(tokenizer), 64, None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    adapter = Adapter.attach(LoadedModel(model, tokenizer, "toy"), AdapterSpec(rank=2))
    prompt = " ".join([PROMPT] * repeats)
    length = len(tokenizer(prompt)["input_ids"])
    asked = []
    generate = adapter.model.generate
    adapter.model.generate = lambda **given: asked.append(given) or generate(**given)
    (sample,) = sample_answers(adapter, tokenizer, [prompt], max_tokens=longest)
    assert sample.prompt == prompt
    kept, answer = asked[-1]["input_ids"].shape[1], asked[-1]["max_new_tokens"]
    assert kept + answer <= 64
    assert answer == min(longest, max(64 - length, 32))
    assert kept == min(length, 64 - answer)
    ending = tokenizer(prompt, return_tensors="pt")["input_ids"][:, -kept:]
    assert torch.equal(asked[-1]["input_ids"], ending)


@pytest.mark.parametrize("failure", [RuntimeError, IndexError, KeyError])
def test_a_model_that_cannot_generate_ends_no_run(run, monkeypatch, failure):
    tokenizer = AutoTokenizer.from_pretrained(run / "base")
    base = AutoModelForCausalLM.from_pretrained(run / "base")
    adapter = Adapter.attach(base, AdapterSpec(rank=2))

    def broken(**_):
        raise failure("no cache")

    monkeypatch.setattr(adapter.model, "generate", broken)
    with pytest.warns(UserWarning, match="no sample answers: .?no cache"):
        assert sample_answers(adapter, tokenizer, [PROMPT], max_tokens=3) == ()
