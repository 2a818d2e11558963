"""Load with a real package what armillary wrote for it, and compare. Runs in that package's environment; prints one JSON line per folder.

<python with sae-lens> tests/interop/read_ours.py saelens FOLDER...
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def saelens(folder, x):
    from sae_lens import SAE

    sae = SAE.load_from_disk(str(folder))
    return sae.encode(x), sae(x)


def dictionary_learning(folder, x):
    from dictionary_learning.utils import load_dictionary

    ae, _ = load_dictionary(str(folder), device="cpu")
    return ae.encode(x), ae(x)


def sparsify(folder, x):
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(str(folder), device="cpu")
    found = sae.encode(x)
    codes = torch.zeros(len(x), sae.num_latents).scatter_(1, found.top_indices, found.top_acts)
    return codes, sae(x, y=x).sae_out


def main(tool, folders):
    read = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}[tool]
    for folder in map(Path, folders):
        expected = load_file(folder / "armillary_self_test.safetensors")
        answer = {"folder": folder.name, "error": ""}
        try:
            codes, y = read(folder, expected["x"])
            for name, found in (("codes", codes), ("y", y)):
                wanted = expected[name]
                answer[name] = float((found.float() - wanted).abs().max() / wanted.abs().max())
        except Exception as error:  # whatever the package complains about is the result
            answer["error"] = f"{type(error).__name__}: {error}"
        sys.stdout.write(f"RESULT {json.dumps(answer)}\n")


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1], sys.argv[2:])
