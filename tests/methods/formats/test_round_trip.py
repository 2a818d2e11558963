"""What is written is read back as the same function, and says so itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import armillary as arm
from armillary.core.decomposition import Decomposition
from armillary.errors import CapabilityError, CorruptFileError, InputError, OutputExistsError, UnknownNameError
from armillary.methods import formats

SMALL = {"n_features": 24, "n_steps": 20, "batch_size": 256}


def rows(n: int, d: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator).relu() @ torch.randn(5, d, generator=torch.Generator().manual_seed(9)) + 0.5


METHODS = {
    "relu": arm.ReLUSAE(l0=4, **SMALL),
    "topk": arm.TopKSAE(k=4, **SMALL),
    "abs_topk": arm.AbsTopKSAE(k=4, **SMALL),
    "batch_topk": arm.BatchTopKSAE(k=4, **SMALL),
    "jumprelu": arm.JumpReLUSAE(l0=4, **SMALL),
    "gated": arm.GatedSAE(l0=4, **SMALL),
    "matryoshka": arm.MatryoshkaSAE(k=4, **SMALL),
    "archetypal": arm.ArchetypalSAE(k=4, **SMALL),
}
#: What each tool has a place for.
HOLDS = {
    "saelens": set(METHODS),
    "dictionary_learning": set(METHODS) - {"abs_topk"},
    "sparsify": {"topk", "archetypal"},
}


def fitted(name: str) -> Decomposition:
    return METHODS[name].fit(rows(1000))


@pytest.mark.parametrize("tool", formats.WRITTEN)
@pytest.mark.parametrize("name", METHODS)
def test_an_autoencoder_comes_back(name: str, tool: str, tmp_path: Path) -> None:
    fit, x = fitted(name), rows(50, seed=1)
    if name not in HOLDS[tool]:
        with pytest.raises(CapabilityError, match=r"no place for|cannot be written"):
            formats.save(fit, tmp_path / "out", tool)
        assert not any(tmp_path.iterdir()), "nothing is left behind"
        return
    back = formats.load(formats.save(fit, tmp_path / "out", tool))
    torch.testing.assert_close(back.encode(x).dense(), fit.encode(x).dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back.reconstruct(x), fit.reconstruct(x), rtol=1e-5, atol=1e-5)
    assert fit.encode(x).l0().sum() > 0


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("tool, method", [("saelens", "relu"), ("saelens", "jumprelu"), ("sparsify", "topk")])
def test_a_transcoder_comes_back(tool: str, method: str, skip: bool, tmp_path: Path) -> None:
    x = rows(1000)
    y = (x @ torch.randn(8, 8, generator=torch.Generator().manual_seed(2))).relu()
    fit = METHODS[method].model_copy(update={"skip": skip}).fit(arm.Targeted.pair(x, y))
    assert (fit.dictionary.base_rule == "skip") == skip
    back = formats.load(formats.save(fit, tmp_path / "out", tool))
    torch.testing.assert_close(back.encode(x).dense(), fit.encode(x).dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back.reconstruct(x), fit.reconstruct(x), rtol=1e-5, atol=1e-5)


def test_a_layer_normalised_one_comes_back(tmp_path: Path) -> None:
    fit = formats.load(Path(__file__).parent / "golden" / "saelens_standard_layer_norm")
    back = formats.load(formats.save(fit, tmp_path / "out", "saelens"))
    x = rows(50)
    torch.testing.assert_close(back.reconstruct(x), fit.reconstruct(x))


@pytest.mark.parametrize("tool", formats.WRITTEN)
def test_the_self_test_notices_a_changed_weight(tool: str, tmp_path: Path) -> None:
    folder = formats.save(fitted("topk"), tmp_path / "out", tool)
    (weights,) = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pt") and "self_test" not in path.name]
    if weights.suffix == ".pt":
        tensors = torch.load(weights, weights_only=True)
        tensors["encoder.weight"] = -tensors["encoder.weight"]
        torch.save(tensors, weights)
    else:
        tensors = load_file(weights)
        name = "W_enc" if "W_enc" in tensors else "encoder.weight"
        save_file({**tensors, name: -tensors[name]}, weights)
    with pytest.raises(CorruptFileError, match="other codes than those written beside it"):
        formats.load(folder)
    formats.load(folder, verify=False)


def test_the_place_and_the_special_token_are_told(tmp_path: Path) -> None:
    lm = arm.LanguageModel("arm-tiny")
    acts = arm.harvest(lm, arm.reference_texts(20), ["resid_post.1", "mlp_in.1", "mlp_out.1"], out=tmp_path / "acts")
    fit = arm.TopKSAE(k=4, **SMALL).fit(acts["resid_post.1"])
    formats.save(fit, tmp_path / "sae", "saelens")
    about = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]
    assert about["hook_name"] == "blocks.1.hook_resid_post" and about["model_name"] == "arm-tiny"
    assert formats.load(tmp_path / "sae").site == arm.Site("resid_post", 1)
    task = arm.Targeted.of(acts[["mlp_in.1", "mlp_out.1"]], inputs="mlp_in.1", targets="mlp_out.1")
    formats.save(arm.JumpReLUSAE(l0=4, **SMALL).fit(task), tmp_path / "transcoder", "saelens")
    about = json.loads((tmp_path / "transcoder" / "cfg.json").read_text())["metadata"]
    assert (about["hook_name"], about["hook_name_out"]) == ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")


def test_what_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="its encoder is a LinearEncoder"):
        formats.save(arm.PCA(n_components=2).fit(rows(100)), tmp_path / "out", "saelens")


def test_nothing_is_overwritten_and_names_are_checked(tmp_path: Path) -> None:
    fit = fitted("topk")
    formats.save(fit, tmp_path / "out", "sae-lens")
    with pytest.raises(OutputExistsError):
        formats.save(fit, tmp_path / "out", "saelens")
    with pytest.raises(UnknownNameError, match=r"did you mean 'saelens'|saelens"):
        formats.save(fit, tmp_path / "other", "saelenz")
    with pytest.raises(UnknownNameError, match="hint"):
        formats.load(tmp_path / "out", hints={"layr": 3})
    with pytest.raises(InputError, match="its folder"):
        formats.load(tmp_path)
