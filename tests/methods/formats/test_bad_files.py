"""Files that are damaged, foreign or dangerous: the message says which file, which key and what was expected."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from armillary.errors import CorruptFileError, InputError, UnknownNameError
from armillary.methods import formats

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
