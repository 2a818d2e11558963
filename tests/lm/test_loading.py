"""Models by name: shipped, folders, and names that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_model, tiny_tokenizer

from armillary.errors import CapabilityError, InputError, UnknownNameError
from armillary.lm.model import LanguageModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my-model"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_folder_is_a_model(folder: Path) -> None:
    lm = LanguageModel(folder)
    assert lm.name == str(folder)
    assert lm.dtype == torch.float32
    assert lm.logits("abc").shape[-1] == 300
    assert lm.context == 64


def test_the_dtype_is_respected(folder: Path) -> None:
    assert LanguageModel(str(folder), dtype="bf16").dtype == torch.bfloat16
    assert LanguageModel(folder, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(InputError, match="float7"):
        LanguageModel(folder, dtype="float7")


def test_an_encoder_folder_has_no_logits(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "b")
    tiny_tokenizer().save_pretrained(tmp_path / "b")
    assert not LanguageModel(tmp_path / "b").has_logits


def test_an_unknown_name_has_the_nearest_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownNameError, match="arm-small"):
        LanguageModel("arm-smal")


def test_a_missing_folder_is_never_looked_up_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no such folder"):
        LanguageModel(tmp_path / "nothing")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="cannot load"):
        LanguageModel(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(CapabilityError, match="encoder-decoder"):
        LanguageModel(tmp_path / "t5")
