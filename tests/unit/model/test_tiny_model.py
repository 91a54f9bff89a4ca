import pytest
from transformers import AutoTokenizer

from privfed_dpo.errors import ModelError
from privfed_dpo.model.tiny import build_word_tokenizer, tiny_llama_config


def test_words_follow_the_special_tokens_in_order_of_appearance():
    tokenizer = build_word_tokenizer(["how", "do", "how", "?"])
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<unk>", "<s>", "</s>"]) == [0, 1, 2, 3]
    assert tokenizer("how do ? never")["input_ids"] == [4, 5, 6, 1]
    assert len(tokenizer) == 7


def test_tokenizer_survives_saving(tmp_path):
    tokenizer = build_word_tokenizer(["how", "do", "i"])
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("i do how")["input_ids"] == tokenizer("i do how")["input_ids"] == [6, 5, 4]
    assert (again.pad_token_id, again.eos_token_id) == (0, 3)


def test_special_tokens_in_the_vocabulary_are_not_doubled():
    assert len(build_word_tokenizer(["<pad>", "</s>", "word"])) == 5


@pytest.mark.parametrize("vocabulary", [[], ["<pad>"], ["two words"], [""], ["tab\t"]])
def test_bad_vocabularies_are_refused(vocabulary):
    with pytest.raises(ModelError) as caught:
        build_word_tokenizer(vocabulary)
    assert caught.value.advice


def test_tiny_config_has_grouped_queries_and_no_dropout():
    config = tiny_llama_config(50)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (50, 64, 2)
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.attention_dropout == 0.0
