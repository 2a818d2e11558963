"""Small files that the real packages wrote (`interop/make_golden.py`), compared with what the packages make of them.

Among them are the three cases that SAELens 6.54 itself converts wrongly: sparsify's W_dec, which it transposes; sparsify's centring,
which it takes from `normalize_decoder`; and dictionary_learning's AutoEncoderNew, whose bias it does not find.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from armillary.core.site import Site
from armillary.methods import formats

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.rglob("expected.safetensors"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(GOLDEN)))
def test_what_the_package_wrote_gives_what_the_package_gives(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    fit = formats.load(folder)
    codes = fit.encode(expected["x"])
    theirs = expected["codes"]
    if "layer_norm" in folder.name:  # its codes are of the normalised row; ours are in the row's own size, so that decoding needs no row
        theirs = theirs * expected["x"].std(dim=1, keepdim=True)
    torch.testing.assert_close(codes.dense(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.decode(codes), expected["y"], rtol=1e-5, atol=1e-5)
    assert theirs.abs().sum() > 1, "the codes are not all zero, or the test would see little"


def test_every_package_is_there_with_its_version() -> None:
    made = [json.loads((folder / "made_by.json").read_text()) for folder in FOLDERS]
    assert {one["package"] for one in made} == {"sae-lens", "dictionary-learning", "eai-sparsify"}
    assert all(one["version"] for one in made) and len(FOLDERS) >= 25


def test_the_places_are_known() -> None:
    sae = formats.load(GOLDEN / "saelens_jumprelu")
    assert sae.site == Site("resid_post", 3) and sae.inputs[0][0] is not None and sae.inputs[0][0].model == "gpt2"
    assert sae.provenance["prepend_bos"] is True and sae.provenance["hook_in"] == "blocks.3.hook_resid_post"
    transcoder = formats.load(GOLDEN / "saelens_skip_transcoder")
    (read, d_in), (built, d) = transcoder.inputs[0], transcoder.targets[0]
    assert read is not None and built is not None
    assert (read.site, d_in, built.site, d) == (Site("mlp_in", 3), 8, Site("mlp_out", 3), 6)
    assert transcoder.dictionary.base_rule == "skip"
    assert formats.load(GOLDEN / "dictionary_learning_AutoEncoder").site == Site("resid_post", 3)
    assert formats.load(GOLDEN / "saelens_matryoshka").provenance["widths"] == [8, 16, 32]


def test_a_training_checkpoint_is_the_inference_model() -> None:
    one, other = (formats.load(GOLDEN / f"saelens_batchtopk{way}") for way in ("", "_checkpoint"))
    torch.testing.assert_close(one.dictionary.atoms, other.dictionary.atoms)
    x = load_file(GOLDEN / "saelens_batchtopk" / "expected.safetensors")["x"]
    torch.testing.assert_close(one.encode(x).dense(), other.encode(x).dense())
