"""Models by name: shipped, folders, and names that do not exist."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from armillary.errors import ArmillaryError, CapabilityError, InputError, UnknownNameError
from armillary.lm.model import LanguageModel
from support import tiny_model, tiny_tokenizer


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


def test_the_network_is_left_alone_when_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownNameError, match="switched off"):
        LanguageModel("somebody/something")


def test_without_a_network_a_name_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UnknownNameError, match="cannot be reached"):
        LanguageModel("somebody/something")


def test_a_folder_misspelt_has_its_neighbour_named(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean '.*my-model'"):
        LanguageModel(folder.parent / "my-modle")


def test_code_that_comes_with_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    told = {"auto_map": {"AutoConfig": "made_up.Config", "AutoModelForCausalLM": "made_up.Model"}, "model_type": "made-up"}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "made_up.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(CapabilityError, match="trust_remote_code=True"):
        LanguageModel(tmp_path)


def test_a_folder_without_a_tokenizer_reads_tokens(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    lm = LanguageModel(tmp_path)
    assert lm.tokenizer is None
    with pytest.raises(CapabilityError, match="without a tokenizer"):
        lm.tokenize("abc")
    assert LanguageModel(tmp_path, tiny_tokenizer()).logits("abc").isfinite().all()


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "llama"}'])
def test_a_damaged_folder_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArmillaryError, match="cannot load the model") as caught:
        LanguageModel(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_device_map_is_handed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    seen = {}

    def from_pretrained(*_: object, **options: object) -> object:
        seen.update(options)
        return tiny_model("llama")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("the model was moved"))
    LanguageModel(folder, device_map={"": "cpu"}, dtype="bf16", revision="main")
    assert seen["device_map"] == {"": "cpu"}
    assert (seen["dtype"], seen["revision"], seen["trust_remote_code"]) == (torch.bfloat16, "main", False)


def test_loading_leaves_the_librarys_own_settings(folder: Path) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    LanguageModel(folder)
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_a_twin_does_not_pass_for_the_commit_it_was_drawn_from(folder: Path) -> None:
    lm = LanguageModel(folder)
    lm.module.config._commit_hash = lm._commit = "0123456789"
    assert lm.revision == "0123456789"
    assert "0123456789" not in (lm.randomized().revision, LanguageModel(lm.module).revision)


def test_weights_that_a_checkpoint_lacks_are_the_same_in_every_load(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    RobertaForMaskedLM(RobertaConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path)  # without a pooler, which the bare model has
    torch.manual_seed(1)
    first, before = LanguageModel(tmp_path), torch.random.get_rng_state()
    assert first.revision == LanguageModel(tmp_path).revision
    assert torch.equal(before, torch.random.get_rng_state())
