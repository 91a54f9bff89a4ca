"""The built-in model: a Llama of about 120 k parameters over a word-level vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, PreTrainedTokenizerFast

from privfed_dpo.errors import ModelError

TINY_LLAMA = "tiny-llama"

PAD_TOKEN = "<pad>"  # noqa: S105 - a vocabulary entry
UNKNOWN_TOKEN = "<unk>"  # noqa: S105
BEGIN_TOKEN = "<s>"  # noqa: S105
END_TOKEN = "</s>"  # noqa: S105
SPECIAL_TOKENS = (PAD_TOKEN, UNKNOWN_TOKEN, BEGIN_TOKEN, END_TOKEN)

_MAX_POSITIONS = 256


def build_word_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """Makes a tokenizer with one id per word.

    The special tokens take the ids 0 to 3 (pad, unknown, begin, end), the words follow in the
    order of their first appearance. Text is split at white space; nothing is added to it.

    Args:
        vocabulary: the words; repeated ones count once.

    Returns:
        A fast tokenizer whose `save_pretrained` files load again through `AutoTokenizer`.

    Raises:
        ModelError: the vocabulary is empty or a word is empty or holds white space.
    """
    words = dict.fromkeys(word for word in vocabulary if word not in SPECIAL_TOKENS)
    if not words:
        raise ModelError(
            "The vocabulary of the built-in model is empty.",
            advice="Pass the words of the task, or set model.base to a checkpoint.",
        )
    broken = [word for word in words if not word or word.split() != [word]]
    if broken:
        raise ModelError(
            f"These vocabulary entries are not single words: {broken[:5]!r}.",
            advice="Split the text at white space before you collect the vocabulary.",
        )
    ids = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words))}
    core = Tokenizer(WordLevel(vocab=ids, unk_token=UNKNOWN_TOKEN))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        bos_token=BEGIN_TOKEN,
        eos_token=END_TOKEN,
        model_max_length=_MAX_POSITIONS,
    )


def tiny_llama_config(vocabulary_size: int) -> LlamaConfig:
    """Describes the built-in Llama: hidden 64, 2 layers, 4 query and 2 key heads, tied head.

    Args:
        vocabulary_size: number of token ids, special ones included.
    """
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
