"""Every token knows its bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from armillary.core.tokens import Document
from armillary.errors import CapabilityError, TextError
from armillary.lm.model import LanguageModel
from support import TEXTS, tiny_lm, tiny_model, tiny_tokenizer


def wordpiece() -> Any:
    """A tokenizer that is not byte-level: words, and [UNK] for the rest."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "cafe", "."]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def sentence_piece() -> Any:
    """A tokenizer that writes a leading space as U+2581 and unknown characters as bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -3.0), ("▁the", -2.0), ("cat", -2.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("é", -2.5), ("▁caf", -2.2)], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<s>", pad_token="<s>")


def trimmed() -> Any:
    """A byte-level tokenizer that puts a space in front of the text and leaves spaces out of its offsets, as RoBERTa's."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(tiny_tokenizer()._tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<s>")


@pytest.mark.parametrize("make", [sentence_piece, trimmed])
def test_the_pieces_of_a_split_character_have_their_own_bytes(make: Any) -> None:
    text = "the café 🙂 cat"
    tokens = LanguageModel(tiny_model("gpt2"), make()).tokenize(text)
    assert b"".join(text.encode()[a:b] for a, b in tokens.span) == text.encode()
    smile = len("the café ".encode())
    assert [list(span) for span in tokens.span if smile <= span[0] < smile + 4] == [[smile + i, smile + i + 1] for i in range(4)]


def test_word_pieces_that_are_as_long_as_the_text_by_chance_are_not_taken_for_bytes() -> None:
    tokens = LanguageModel(tiny_model("bert"), wordpiece()).tokenize("the cats sat")  # "##" makes up for the two spaces
    assert [tokens.text(i) for i in range(len(tokens))] == ["", "the", " cat", "s", " sat", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_the_spans_of_a_byte_level_tokenizer_tile_the_text(text: str) -> None:
    tokens = tiny_lm("gpt2").tokenize(text)
    spans = tokens.span[~tokens.is_special]
    assert spans[0, 0] == 0
    assert spans[-1, 1] == len(text.encode())
    assert (spans[1:, 0] == spans[:-1, 1]).all()
    assert b"".join(text.encode()[a:b] for a, b in spans) == text.encode()


def test_the_spans_of_a_word_tokenizer_tile_the_text_too() -> None:
    text = "The  Café cats. 数 sat"
    tokens = LanguageModel(tiny_model("bert"), wordpiece()).tokenize(text)
    kept = np.flatnonzero(~tokens.is_special)
    assert "".join(tokens.text(int(i)) for i in kept) == text
    assert tokens.text(int(kept[1])) == "  Café"
    assert tokens.is_special[[0, -1]].all()


def test_special_tokens_have_no_document_and_positions_count_them() -> None:
    tokens = tiny_lm("gpt2").tokenize(["ab", "c"])
    assert tokens.document.tolist().count(-1) == 2
    assert [tokens.position[start] for start in tokens.starts[:-1]] == [0, 0]
    assert tokens.is_row.all()


def test_documents_keep_their_names_and_labels() -> None:
    tokens = tiny_lm("gpt2").tokenize([Document("abc", "one", {"kind": "code"})])
    assert tokens.documents[0].labels == {"kind": "code"}


def test_the_vocabulary_shows_leading_spaces() -> None:
    lm = tiny_lm("gpt2")
    words = lm.vocabulary()
    assert len(words) == lm.vocab_size == 300
    ids = lm.tokenize(" the").ids
    assert "".join(words[i] for i in ids[1:]) == " the"


def test_a_slow_tokenizer_is_refused_with_a_reason() -> None:
    class Slow:
        is_fast = False
        pad_token_id = 0

    with pytest.raises(CapabilityError, match="which characters"):
        LanguageModel(tiny_model("gpt2"), Slow()).tokenize("abc")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TextError, match="UTF-8"):
        tiny_lm("gpt2").tokenize("ab\ud800")


def test_two_tokenizations_align_on_bytes() -> None:
    text = "The cat sat on the mat."
    mine, theirs = tiny_lm("gpt2").tokenize(text), LanguageModel(tiny_model("bert"), wordpiece()).tokenize(text)
    here, there, coverage = mine.align(theirs)
    assert 0 < coverage < 1
    assert (mine.span[mine.rows[here], 1] == theirs.span[theirs.rows[there], 1]).all()


def test_no_special_tokens_is_a_policy_of_the_tokenizer() -> None:
    lm = LanguageModel(tiny_model("gpt2"), tiny_tokenizer(special=False))
    assert not lm.tokenize("abc").is_special.any()
