"""The two byte-level BPE tokenizers, trained on the training half of the corpus.

`arm-small` puts a beginning-of-sequence token before every text, as Llama's tokenizer does, by a post-processor; `arm-tiny`
adds nothing, as GPT-2's. Both know three special tokens and no unknown token: every byte is in the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
BOS, EOS, PAD = 0, 1, 2


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, prepend_bos: bool) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocabulary` entries (special tokens first: ids 0, 1, 2)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = _post_processor(prepend_bos)
    return tokenizer


def _post_processor(prepend_bos: bool) -> processors.PostProcessor:
    if not prepend_bos:
        return processors.ByteLevel(trim_offsets=False)
    bos = SPECIAL["bos_token"]
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, BOS)])
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context: int) -> None:
    """Write the files `AutoTokenizer.from_pretrained` reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **SPECIAL,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
