"""Write tiny checkpoints with a real package, and what the package itself makes of some rows. Runs in that package's environment:

    <python with sae-lens> tests/interop/make_golden.py sae-lens OUT

Every checkpoint gets a folder with the package's own files and `expected.safetensors`: x, what is read; codes, dense; y, the
reconstruction. Weights are random with biases far from zero, so that a forgotten bias or transposition shows.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

D_IN, D_SAE, D_OUT, K, N = 8, 32, 6, 4, 5


def randomise(module, seed):
    """Random parameters and buffers of floating type; thresholds positive, decoder rows of mixed norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
            if tensor.is_floating_point() and tensor.numel() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
                if "threshold" in name:
                    tensor.abs_()


def rows(seed=1):
    return torch.randn(N, D_IN, generator=torch.Generator().manual_seed(seed)) * 2 + 0.7


def expect(folder, codes, y, package):
    """Write what the package makes of `rows()`."""
    found = {"x": rows(), "codes": codes, "y": y}
    save_file({name: tensor.detach().float().contiguous() for name, tensor in found.items()}, folder / "expected.safetensors")
    made = {"package": package, "version": version(package), "torch": torch.__version__}
    (folder / "made_by.json").write_text(json.dumps(made, indent=1))


# ---------------------------------------------------------------- sae-lens


def sae_lens(out):
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    def meta(**more):
        return SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_post", prepend_bos=True, context_size=64, **more)

    plain = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    kinds = {
        "standard": ("StandardSAE", {}),
        "standard_uncentred": ("StandardSAE", {"apply_b_dec_to_input": False}),
        "standard_layer_norm": ("StandardSAE", {"normalize_activations": "layer_norm"}),
        "topk": ("TopKSAE", {"k": K, "rescale_acts_by_decoder_norm": False}),
        "topk_rescaled": ("TopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("JumpReLUSAE", {}),
        "gated": ("GatedSAE", {}),
    }
    if hasattr(sae_lens, "AbsTopKSAE"):
        kinds["abstopk"] = ("AbsTopKSAE", {"k": K})
    pursuit = {"residual_threshold": 1e-3, "max_iterations": 24}
    kinds["matching_pursuit"] = ("MatchingPursuitSAE", pursuit)
    kinds["matching_pursuit_repeating"] = ("MatchingPursuitSAE", {**pursuit, "stop_on_duplicate_support": False})
    x = rows()
    for i, (name, (kind, more)) in enumerate(kinds.items()):
        sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**plain, **more, metadata=meta()))
        randomise(sae, i)
        if name.startswith("matching_pursuit"):
            sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        folder = out / f"saelens_{name}"
        sae.save_model(str(folder))
        codes = sae.encode(x)
        expect(folder, codes, sae(x), "sae-lens")
    transcoders = {"transcoder": "Transcoder", "skip_transcoder": "SkipTranscoder", "jumprelu_transcoder": "JumpReLUTranscoder"}
    for i, (name, kind) in enumerate(transcoders.items()):
        where = meta(hook_name_out="blocks.3.hook_mlp_out")
        where.hook_name = "blocks.3.ln2.hook_normalized"
        settings = {"apply_b_dec_to_input": False, "d_out": D_OUT, "metadata": where}
        sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**plain, **settings))
        randomise(sae, 20 + i)
        folder = out / f"saelens_{name}"
        sae.save_model(str(folder))
        expect(folder, sae.encode(x), sae(x), "sae-lens")
    for i, (name, kind) in enumerate({"batchtopk": "BatchTopKTrainingSAE", "matryoshka": "MatryoshkaBatchTopKTrainingSAE"}.items()):
        more = {"matryoshka_widths": [8, 16, 32]} if name == "matryoshka" else {}
        sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**plain, k=K, metadata=meta(), **more))
        randomise(sae, 30 + i)
        sae.topk_threshold.data.fill_(1.3)
        for way, write in {"": "save_inference_model", "_checkpoint": "save_model"}.items():
            folder = out / f"saelens_{name}{way}"
            getattr(sae, write)(str(folder))
            known = sae_lens.SAE.load_from_disk(str(out / f"saelens_{name}"))
            expect(folder, known.encode(x), known(x), "sae-lens")  # of a checkpoint too: what inference makes of it


# ---------------------------------------------------------------- dictionary-learning


def dictionary_learning(out):
    from dictionary_learning import dictionary as dl
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary

    x = rows()
    made = {
        "AutoEncoder": dl.AutoEncoder(D_IN, D_SAE),
        "AutoEncoderNew": dl.AutoEncoderNew(D_IN, D_SAE),
        "GatedAutoEncoder": dl.GatedAutoEncoder(D_IN, D_SAE),
        "JumpReluAutoEncoder": dl.JumpReluAutoEncoder(D_IN, D_SAE),
        "AutoEncoderTopK": AutoEncoderTopK(D_IN, D_SAE, K),
        "BatchTopKSAE": BatchTopKSAE(D_IN, D_SAE, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [8, 8, 16]),
    }
    for i, (name, ae) in enumerate(made.items()):
        randomise(ae, i)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            ae.threshold.fill_(0.9)
        folder = out / f"dictionary_learning_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": name,
            "trainer_class": "?",
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 3,
            "lm_name": "gpt2",
            "k": K,
        }
        trainer["submodule_name"] = "resid_post_layer_3"
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out", "ctx_len": 64}}, indent=1))
        if name != "AutoEncoderNew":  # which their reader does not know; it gives what it reads unit rows
            read, _ = load_dictionary(str(folder), device="cpu")
        else:
            read = ae
        expect(folder, read.encode(x), read(x), "dictionary-learning")


# ---------------------------------------------------------------- sparsify


def sparsify(out):
    from sparsify import SparseCoder, SparseCoderConfig

    x = rows()
    kinds = {
        "topk": {},
        "topk_normalised": {"normalize_decoder": True},
        "transcode": {"transcode": True},
        "skip_transcode": {"transcode": True, "skip_connection": True},
    }
    for i, (name, more) in enumerate(kinds.items()):
        sae = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **{"normalize_decoder": False, **more}), "cpu", torch.float32)
        randomise(sae, i)
        if more.get("normalize_decoder"):
            sae.set_decoder_norm_to_unit_norm()
        folder = out / f"sparsify_{name}" / "layers.3"
        sae.save_to_disk(str(folder))
        found = sae.encode(x)
        codes = torch.zeros(N, D_SAE).scatter_(1, found.top_indices, found.top_acts)
        y = sae(x, y=x).sae_out
        expect(folder, codes, y, "eai-sparsify")


if __name__ == "__main__":
    made_by = {"sae-lens": sae_lens, "dictionary-learning": dictionary_learning, "sparsify": sparsify}
    with torch.no_grad():
        made_by[sys.argv[1]](Path(sys.argv[2]))
