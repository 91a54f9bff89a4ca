"""A saved adapter as a stranger would use it: transformers, peft and a few lines of arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.data.tokenize import tokenize_pairs


def reloaded_margins(folder, base, eval_path, *, beta, max_length=128):
    """Implicit reward margins of an evaluation file, float64 [n], by one plain pass per text.

    Nothing of the package scores here; it only reads and tokenizes the file.
    """
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = tokenize_pairs(load_preferences(str(eval_path)), tokenizer, max_length=max_length).pairs
    margins = []
    for pair in pairs:
        policy = [_score(model, pair.prompt, c) for c in (pair.chosen, pair.rejected)]
        with model.disable_adapter():
            base_scores = [_score(model, pair.prompt, c) for c in (pair.chosen, pair.rejected)]
        margins.append(beta * ((policy[0] - base_scores[0]) - (policy[1] - base_scores[1])))
    return np.array(margins)


@torch.no_grad()
def _score(model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    logs = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    return sum(logs[len(prompt) + i - 1, t].item() for i, t in enumerate(completion))
