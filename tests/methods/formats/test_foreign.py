"""Tools whose files are only read: every key and orientation of the formats, by tiny files made here, against the formula written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from armillary.core.site import Site
from armillary.errors import InputError
from armillary.methods import formats

D, M, K = 8, 32, 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.5


W_ENC, B_ENC, W_DEC, B_DEC = draw(M, D, seed=1), draw(M, seed=2), draw(M, D, seed=3), draw(D, seed=4)
THRESHOLD = draw(M, seed=5).abs()
X = draw(6, D, seed=6) * 4 + 0.7


def jumprelu(x: Tensor = X, threshold: Tensor = THRESHOLD) -> Tensor:
    p = x @ W_ENC.T + B_ENC
    return p.relu() * (p > threshold)


def top(p: Tensor) -> Tensor:
    value, index = p.topk(K, dim=1)
    return torch.zeros_like(p).scatter(1, index, value.relu())


def agrees(path: Path, codes: Tensor, y: Tensor, **hints: Any) -> Any:
    fit = formats.load(path, hints=hints)
    torch.testing.assert_close(fit.encode(X).dense(), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.reconstruct(X), y, rtol=1e-5, atol=1e-5)
    assert codes.abs().sum() > 1
    return fit


@pytest.mark.parametrize("case", ["W", "w"])
@pytest.mark.parametrize(
    "folder, site, target",
    [
        ("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", Site("resid_post", 12), None),
        ("gemma-scope-9b-pt-mlp/layer_3/width_16k/average_l0_5", Site("mlp_out", 3), None),
        ("gemma-scope-2b-pt-att/layer_0/width_16k/average_l0_5", Site("attn_z", 0), None),
        ("gemma-scope-2b-pt-transcoders/layer_7/width_16k/average_l0_5", Site("mlp_in", 7), Site("mlp_out", 7)),
    ],
)
def test_gemma_scope(folder: str, site: Site, target: Site | None, case: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    arrays = {f"{case}_enc": W_ENC.T, f"{case}_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": THRESHOLD}
    np.savez(place / "params.npz", **{name: array.numpy() for name, array in arrays.items()})
    for path in (place, place / "params.npz"):
        fit = agrees(path, jumprelu(), jumprelu() @ W_DEC + B_DEC)
        assert fit.site == site and fit.inputs[0][0].model.startswith("google/gemma-2-")
        assert fit.targets[0][0].site == (target or site)


def test_gemma_scopes_embedding_reads_rows_times_sqrt_d(tmp_path: Path) -> None:
    place = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    place.mkdir(parents=True)
    arrays = {"W_enc": W_ENC.T, "W_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": THRESHOLD}
    np.savez(place / "params.npz", **{name: array.numpy() for name, array in arrays.items()})
    codes = jumprelu(X / D**0.5)
    fit = agrees(place, codes, codes @ W_DEC * D**0.5 + B_DEC)
    assert fit.site == Site("embed")


def test_gemma_scope_2_with_an_affine_skip_connection(tmp_path: Path) -> None:
    place = tmp_path / "gemma-scope-2-1b-pt" / "transcoder_all" / "layer_5_width_16k_l0_small_affine"
    place.mkdir(parents=True)
    skip = draw(D, D, seed=9)
    tensors = {"w_enc": W_ENC.T, "w_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": THRESHOLD, "affine_skip_connection": skip}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "params.safetensors")
    y = jumprelu() @ W_DEC + B_DEC + X @ skip
    fit = agrees(place, jumprelu(), y)
    assert (fit.site, fit.targets[0][0].site) == (Site("mlp_in", 5), Site("mlp_out", 5))
    hooks = {"hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output", "hf_hook_point_out": "model.layers.5.mlp.output"}
    (place / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", **hooks}))
    fit = agrees(place, jumprelu(), y)
    assert fit.site == Site("mlp_in", 5) and fit.inputs[0][0].model == "google/gemma-3-270m", "folders first, as the Hub spells it"
    moved = place.rename(tmp_path / "elsewhere")
    assert str(agrees(moved, jumprelu(), y).site).startswith("path:model.layers.5.pre_feedforward")


def test_llama_scope_scales_rows_by_their_mean_norm(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    tensors = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T.contiguous(), "decoder.bias": B_DEC}
    save_file(tensors, tmp_path / "checkpoints" / "final.safetensors")
    config = {"d_model": D, "d_sae": M, "hook_point_in": "blocks.9.hook_resid_post", "jump_relu_threshold": 0.4}
    (tmp_path / "hyperparams.json").write_text(json.dumps({**config, "dataset_average_activation_norm": {"in": 5.0}}))
    scale = D**0.5 / 5
    codes = jumprelu(X * scale, torch.full((M,), 0.4 * scale))
    fit = agrees(tmp_path, codes, (codes @ W_DEC + B_DEC) / scale)
    assert fit.site == Site("resid_post", 9)


def test_llama_scope_of_a_later_kind(tmp_path: Path) -> None:
    tensors = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T.contiguous(), "decoder.bias": B_DEC}
    save_file({**tensors, "log_jumprelu_threshold": THRESHOLD.log()}, tmp_path / "sae_weights.safetensors")
    config = {"d_model": D, "expansion_factor": M // D, "hook_point_in": "blocks.9.hook_resid_post"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    agrees(tmp_path, jumprelu(), jumprelu() @ W_DEC + B_DEC)


def test_llamascopiums_own_layout(tmp_path: Path) -> None:
    tensors = {"W_E": W_ENC.T.contiguous(), "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": M // D, "act_fn": "topk", "top_k": K, "norm_activation": "dataset-wise"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "hook_point_in": "blocks.9.hook_resid_post"}))
    with pytest.raises(InputError, match="norm"):
        formats.load(tmp_path)
    scale = D**0.5 / 3
    codes = top(X * scale @ W_ENC.T + B_ENC)
    agrees(tmp_path, codes, (codes @ W_DEC + B_DEC) / scale, norm=3.0)


def test_openais_topk_normalises_rows_and_undoes_it(tmp_path: Path) -> None:
    tensors = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": W_ENC, "decoder.weight": W_DEC.T.contiguous()}
    torch.save(
        {**tensors, "activation": "TopK", "activation_state_dict": {"k": K}, "stats_last_nonzero": torch.zeros(M)}, tmp_path / "6.pt"
    )
    mean, std = X.mean(1, keepdim=True), X.std(1, keepdim=True)
    codes = top(((X - mean) / (std + 1e-5) - B_DEC) @ W_ENC.T + B_ENC)
    fit = agrees(tmp_path / "6.pt", codes * std, (codes @ W_DEC + B_DEC) * std + mean)
    assert fit.site == Site("resid_post", 6)


def test_openais_relu_does_not(tmp_path: Path) -> None:
    tensors = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": W_ENC, "decoder.weight": W_DEC.T.contiguous()}
    torch.save({**tensors, "activation": "ReLU", "activation_state_dict": {}}, tmp_path / "6.pt")
    codes = ((X - B_DEC) @ W_ENC.T + B_ENC).relu()
    agrees(tmp_path / "6.pt", codes, codes @ W_DEC + B_DEC)


@pytest.mark.parametrize("names", [("encoder_linear", "decoder_linear"), ("encoder", "decoder")])
def test_linear_layers_of_goodfire_and_deepseek(names: tuple[str, str], tmp_path: Path) -> None:
    encoder, decoder = names
    tensors = {f"{encoder}.weight": W_ENC, f"{encoder}.bias": B_ENC, f"{decoder}.weight": W_DEC.T, f"{decoder}.bias": B_DEC}
    torch.save(tensors, tmp_path / "sae.pth")
    codes = (X @ W_ENC.T + B_ENC).relu()
    fit = agrees(tmp_path / "sae.pth", codes, codes @ W_DEC + B_DEC, layer=19)
    assert fit.site == Site("resid_post", 19)


def test_qwen_scope_has_its_k_in_the_folders_name(tmp_path: Path) -> None:
    place = tmp_path / f"SAE-Res-Qwen3-8B-W32K-L0_{K}"
    place.mkdir()
    tensors = {"W_enc": W_ENC, "W_dec": W_DEC.T.contiguous(), "b_enc": B_ENC, "b_dec": B_DEC}
    torch.save(tensors, place / "layer3.sae.pt")
    codes = top(X @ W_ENC.T + B_ENC)
    assert agrees(place / "layer3.sae.pt", codes, codes @ W_DEC + B_DEC).site == Site("resid_post", 3)
    torch.save(tensors, tmp_path / "layer3.sae.pt")
    with pytest.raises(InputError, match="k="):
        formats.load(tmp_path / "layer3.sae.pt")
    agrees(tmp_path / "layer3.sae.pt", codes, codes @ W_DEC + B_DEC, k=K)


def circuit_tracer_config(folder: Path, kind: str) -> None:
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_name": "m", "model_kind": kind, **hooks}))


def test_a_set_of_transcoders(tmp_path: Path) -> None:
    circuit_tracer_config(tmp_path, "transcoder_set")
    skip = draw(D, D, seed=9)
    tensors = {"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "W_skip": skip}
    for layer in (0, 1):
        save_file({**tensors, "activation_function.threshold": THRESHOLD}, tmp_path / f"layer_{layer}.safetensors")
    with pytest.raises(InputError, match="blocks 0 to 1; pass layer="):
        formats.load(tmp_path)
    y = jumprelu() @ W_DEC + B_DEC + X @ skip.T
    fit = agrees(tmp_path, jumprelu(), y, layer=1)
    assert (fit.site, fit.targets[0][0].site) == (Site("mlp_in", 1), Site("mlp_out", 1))
    agrees(tmp_path / "layer_0.safetensors", jumprelu(), y)


def test_a_cross_layer_transcoder_writes_to_every_later_block(tmp_path: Path) -> None:
    circuit_tracer_config(tmp_path, "cross_layer_transcoder")
    far = draw(M, 3, D, seed=9)
    enc = {"W_enc_2": W_ENC, "b_enc_2": B_ENC, "b_dec_2": B_DEC, "threshold_2": THRESHOLD}
    save_file(enc, tmp_path / "W_enc_2.safetensors")
    save_file({"W_dec_2": far}, tmp_path / "W_dec_2.safetensors")
    y = torch.cat([jumprelu() @ far[:, 0] + B_DEC, jumprelu() @ far[:, 1], jumprelu() @ far[:, 2]], dim=1)
    fit = agrees(tmp_path, jumprelu(), y, layer=2)
    assert [str(source.site) for source, _ in fit.targets] == ["mlp_out.2", "mlp_out.3", "mlp_out.4"]


def test_saelens_before_version_6(tmp_path: Path) -> None:
    save_file({"W_enc": W_ENC.T.contiguous(), "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}, tmp_path / "sae_weights.safetensors")
    old = {"d_in": D, "d_sae": M, "hook_point": "blocks.4.hook_resid_pre", "model_name": "gpt2-small", "activation_fn_str": "topk"}
    (tmp_path / "cfg.json").write_text(json.dumps({**old, "activation_fn_kwargs": {"k": K}, "normalize_activations": False}))
    codes = top((X - B_DEC) @ W_ENC.T + B_ENC)
    assert agrees(tmp_path, codes, codes @ W_DEC + B_DEC).site == Site("resid_pre", 4)


def test_saelens_rows_of_constant_norm(tmp_path: Path) -> None:
    save_file({"W_enc": W_ENC.T.contiguous(), "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": M, "normalize_activations": "constant_norm_rescale"}))
    size = X.norm(dim=1, keepdim=True) / D**0.5
    codes = ((X / size - B_DEC) @ W_ENC.T + B_ENC).relu()
    agrees(tmp_path, codes * size, (codes @ W_DEC + B_DEC) * size)


def test_saelens_rows_of_one_mean_norm_need_to_be_told_the_scale(tmp_path: Path) -> None:
    save_file({"W_enc": W_ENC.T.contiguous(), "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": M, "normalize_activations": "expected_average_only_in"}))
    with pytest.raises(InputError, match="scale=sqrt"):
        formats.load(tmp_path)
    codes = ((X * 0.3 - B_DEC) @ W_ENC.T + B_ENC).relu()
    agrees(tmp_path, codes, (codes @ W_DEC + B_DEC) / 0.3, scale=0.3)
