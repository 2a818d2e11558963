"""A few rows with their codes and reconstructions, kept beside files of other tools, so that a reader can tell whether it reads them right.

Letters: n rows, D_in and D widths, M latents.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.rows import width
from armillary.errors import CorruptFileError
from armillary.methods.formats.files import Tensors

FILE = "armillary_self_test.safetensors"
ROWS = 4
#: Largest difference that counts as the same, relative to the largest entry.
TOLERANCE = 1e-4


def write(fit: Decomposition, folder: Path) -> None:
    """Put the file into a folder."""
    fit = fit.to("cpu", torch.float32)  # as it is read back
    x = _rows(fit)
    codes = fit.encode(x)
    save_file({"x": x, "codes": codes.dense().contiguous(), "y": fit.decode(codes).contiguous()}, folder / FILE)


def check(fit: Decomposition, folder: Path) -> None:
    """Compare with the file in a folder, where there is one.

    Raises:
        CorruptFileError: the fit gives other codes or another reconstruction.
    """
    path = folder / FILE
    if not path.is_file():
        return
    kept = Tensors.read(path)
    x, n_codes = kept.take("x", None, width(fit.inputs)), fit.dictionary.n_atoms
    if len(x) == 0:
        raise CorruptFileError(f"{path} holds no rows to test with")
    codes = fit.encode(x)
    for name, found, wanted in (
        ("codes", codes.dense(), kept.take("codes", len(x), n_codes)),
        ("y", fit.decode(codes), kept.take("y", len(x), fit.dictionary.d)),
    ):
        off = float((found - wanted).abs().max()) / max(1e-12, float(wanted.abs().max()))
        if not off <= TOLERANCE:
            raise CorruptFileError(f"{folder} gives other {name} than those written beside it in {FILE} (off by {off:.1e} of the largest)")


def _rows(fit: Decomposition) -> Tensor:
    """[n, D_in] random rows, far enough from 0 that every one has codes, where that can be."""
    generator = torch.Generator().manual_seed(0)
    d = width(fit.inputs)
    x = torch.randn(ROWS, d, generator=generator)
    for _ in range(8):
        if bool(fit.encode(x).l0().all()):
            break
        x = x * 4
    return x
