"""Files that are damaged, foreign or dangerous: the message says which file, which key and what was expected."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from armillary.errors import CapabilityError, CorruptFileError, InputError, UnknownNameError
from armillary.methods import formats
from armillary.methods.sae.encoders import TopKEncoder

GOLDEN = Path(__file__).parent / "golden"


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def reconfigured(folder: Path, **settings: Any) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def retensored(folder: Path, drop: str = "", **tensors: torch.Tensor) -> None:
    path = folder / "sae_weights.safetensors"
    found = {**load_file(path), **tensors}
    found.pop(drop, None)
    save_file(found, path)


def test_wrong_shapes(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    retensored(folder, W_enc=torch.zeros(32, 8))
    with pytest.raises(CorruptFileError, match=r"sae_weights.safetensors: tensor 'W_enc' is \[32, 8\], expected \[8, 32\]"):
        formats.load(folder)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    reconfigured(folder, architecture="jumpreluu")
    with pytest.raises(UnknownNameError, match=r"cfg.json.*jumpreluu.*jumprelu"):
        formats.load(folder)


def test_missing_thresholds(tmp_path: Path) -> None:
    folder = copy("saelens_jumprelu", tmp_path)
    retensored(folder, drop="threshold")
    with pytest.raises(CorruptFileError, match="has no tensor 'threshold'; it holds W_dec, W_enc, b_dec, b_enc"):
        formats.load(folder)


def test_a_threshold_that_was_never_set(tmp_path: Path) -> None:
    folder = copy("dictionary_learning_BatchTopKSAE", tmp_path)
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({**tensors, "threshold": torch.tensor(-1.0)}, folder / "ae.pt")
    with pytest.raises(CorruptFileError, match="'threshold' is -1, never set"):
        formats.load(folder)


def test_a_missing_setting(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    (folder / "cfg.json").write_text('{"architecture": "standard", "d_in": 8}')
    with pytest.raises(CorruptFileError, match=r"cfg.json has no 'd_sae'"):
        formats.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
@pytest.mark.parametrize("name, file", [("saelens_standard", "sae_weights.safetensors"), ("dictionary_learning_AutoEncoder", "ae.pt")])
def test_a_file_written_in_part(name: str, file: str, share: float, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CorruptFileError, match=rf"{file} cannot be read|{file} holds more than tensors"):
        formats.load(folder)


def test_settings_written_in_part(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    (folder / "cfg.json").write_text('{"architecture": "stan')
    with pytest.raises(CorruptFileError, match=r"cfg.json cannot be read as JSON"):
        formats.load(folder)


class Trap:
    """Runs a command when it is unpickled by pickle itself."""

    def __reduce__(self) -> Any:
        return os.system, ("touch sprung",)


@pytest.mark.parametrize("protocol", ["zip", "bare"])
def test_a_pickle_with_code_in_it_does_not_run(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if protocol == "zip":
        torch.save({"encoder.weight": Trap()}, "sae.pt")
    else:
        Path("sae.pt").write_bytes(pickle.dumps({"encoder.weight": Trap()}))
    with pytest.raises(CorruptFileError, match=r"sae.pt holds more than tensors and plain values, and nothing of it was run"):
        formats.load("sae.pt")
    assert not Path("sprung").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    retensored(folder, b_dec=torch.full((8,), torch.nan))
    with pytest.raises(CorruptFileError, match="'b_dec' holds NaN"):
        formats.load(folder)


def test_a_path_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        formats.load(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"is no checkpoint of saelens.*it holds notes.txt"):
        formats.load(tmp_path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CorruptFileError, match="of no known tool; it holds weight"):
        formats.load(tmp_path / "other.pt")


def test_a_hub_address_without_a_repository() -> None:
    with pytest.raises(InputError, match="names no repository"):
        formats.load("hf://gemma")


@pytest.mark.parametrize(
    "name, file, change, words",
    [
        ("saelens_standard", "cfg.json", {"d_in": "x"}, "'d_in' is 'x', expected a whole number from 1"),
        ("saelens_standard", "cfg.json", {"d_in": None}, "'d_in' is None"),
        ("saelens_standard", "cfg.json", {"metadata": [1]}, ""),
        ("saelens_topk", "cfg.json", {"k": "x"}, "'k' is 'x'"),
        ("saelens_topk", "cfg.json", {"k": 33}, "'k' is 33, expected a whole number from 1 to 32"),
        ("saelens_topk", "cfg.json", {"k": 2.5}, "'k' is 2.5"),
        ("saelens_topk", "cfg.json", {"normalize_activations": None}, ""),
        ("dictionary_learning_AutoEncoder", "config.json", {"trainer": [1]}, "in a mapping"),
        ("sparsify_topk/layers.3", "cfg.json", {"k": 100}, "'k' is 100, expected a whole number from 1 to 32"),
    ],
)
def test_settings_of_the_wrong_kind(name: str, file: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "copy"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if not words:  # what may be missing may be null, or of another kind
        formats.load(folder)
        return
    with pytest.raises(CorruptFileError, match=words):
        formats.load(folder)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "abc"])
def test_a_scale_that_is_none(scale: Any, tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    reconfigured(folder, normalize_activations="expected_average_only_in")
    with pytest.raises(CorruptFileError, match=r"'scale' is .*, expected a finite number above 0"):
        formats.load(folder, hints={"scale": scale})
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    formats.load(folder, verify=False)


@pytest.mark.parametrize("tool", ["gemma_scope", "circuit_tracer"])
def test_a_tool_that_is_named_for_a_folder_without_its_files(tool: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds n"):
        formats.load(tmp_path, tool)


def test_what_another_meaning_would_be_given_is_refused(tmp_path: Path) -> None:
    transcoder = copy("saelens_transcoder", tmp_path)
    reconfigured(transcoder, normalize_activations="layer_norm")
    with pytest.raises(CapabilityError, match="normalises what it reads"):
        formats.load(transcoder)
    pursuit = copy("saelens_matching_pursuit", tmp_path)
    reconfigured(pursuit, apply_b_dec_to_input=False)
    with pytest.raises(CapabilityError, match="matching pursuit is read only"):
        formats.load(pursuit)


def test_an_uncentred_autoencoder_stays_one_in_sparsifys_files(tmp_path: Path) -> None:
    """There a transcoder would be fed the module's input."""
    fit = formats.load(GOLDEN / "saelens_topk")
    assert isinstance(fit.encoder, TopKEncoder)
    uncentred = replace(fit, encoder=replace(fit.encoder, center=torch.zeros(8)))
    folder = formats.save(uncentred, tmp_path / "out", "sparsify")
    assert json.loads((folder / "cfg.json").read_text())["transcode"] is False
    back = formats.load(folder)
    assert back.inputs == back.targets and back.site == fit.site
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(back.reconstruct(x), uncentred.reconstruct(x), rtol=1e-4, atol=1e-4)


def test_one_head_is_read_and_written_as_one(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    about = {**config["metadata"], "hook_name": "blocks.3.attn.hook_z", "hook_head_index": 2}
    reconfigured(folder, metadata=about)
    fit = formats.load(folder)
    assert str(fit.site) == "attn_z.3.h2"
    written = json.loads((formats.save(fit, tmp_path / "out", "saelens") / "cfg.json").read_text())["metadata"]
    assert written["hook_head_index"] == 2 and str(formats.load(tmp_path / "out").site) == "attn_z.3.h2"


def test_a_half_precision_fit_is_written(tmp_path: Path) -> None:
    fit = formats.load(GOLDEN / "saelens_topk").to(dtype=torch.bfloat16)
    formats.load(formats.save(fit, tmp_path / "out", "saelens"))


@pytest.mark.parametrize("content", [b"\x80\x02}q\x00X\x05\x00", b"\x80\x02.", b"\x80\x02h\x05."])
def test_a_garbled_pickle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"ae\.pt"):
        formats.load(tmp_path / "ae.pt", tool="torch_files")


def test_arrays_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    weights = {"W_enc": np.ones((4, 6)), "W_dec": np.ones((6, 4)), "b_enc": np.ones(6), "b_dec": np.ones(4), "threshold": np.ones(6)}
    np.savez(tmp_path / "params.npz", **weights, name=np.array("hello"))
    assert formats.load(tmp_path, tool="gemma_scope").dictionary.n_atoms == 6
    with pytest.raises(InputError, match="pass site= too"):
        formats.load(tmp_path, tool="gemma_scope", hints={"target": "mlp_out.3"})
    with open(tmp_path / "params.npz", "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(CorruptFileError, match="a single array"):
        formats.load(tmp_path, tool="gemma_scope")


@pytest.mark.parametrize("k", [100, -3, "2", 2.5])
def test_a_number_of_codes_that_cannot_be(k: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model_name": "m", "model_kind": "transcoder_set", "k": k}))
    tensors = {"W_enc": torch.ones(6, 4), "W_dec": torch.ones(6, 4), "b_enc": torch.ones(6), "b_dec": torch.ones(4)}
    save_file(tensors, tmp_path / "layer_0.safetensors")
    with pytest.raises(CorruptFileError, match="'k' is"):
        formats.load(tmp_path, hints={"layer": 0})
    save_file({**tensors, "k": torch.ones(2)}, tmp_path / "layer_0.safetensors")
    with pytest.raises(CorruptFileError, match=r"tensor 'k' is \[2\]"):
        formats.load(tmp_path, hints={"layer": 0})


def test_a_setting_that_is_not_used_may_be_anything(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path)
    reconfigured(folder, residual_threshold=None)
    formats.load(folder)


def test_a_self_test_without_rows(tmp_path: Path) -> None:
    fit = formats.load(copy("saelens_standard", tmp_path))
    folder = formats.save(fit, tmp_path / "out", "saelens")
    path = next(folder.glob("*self_test*"))
    save_file({name: tensor[:0].clone() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(CorruptFileError, match="no rows to test with"):
        formats.load(folder)


def test_relu_codes_of_dictionary_learning_count_atoms_of_norm_one(tmp_path: Path) -> None:
    fit = formats.load(copy("saelens_standard", tmp_path))
    norm = 1 + torch.rand(fit.dictionary.n_atoms, generator=torch.Generator().manual_seed(0))
    longer = replace(fit, dictionary=replace(fit.dictionary, atoms=fit.dictionary.atoms * norm[:, None]))
    again = formats.load(formats.save(longer, tmp_path / "out", "dictionary_learning"))
    x = torch.randn(20, fit.dictionary.d, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.reconstruct(x), longer.reconstruct(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.dictionary.atoms.norm(dim=1), torch.ones(fit.dictionary.n_atoms))
