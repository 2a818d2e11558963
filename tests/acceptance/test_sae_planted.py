"""The quality experiment of the performance note (section 1.3): a planted dictionary, 300 steps of 2,048 rows.

The note's figures: sparsify reaches FVU 0.2174 and MMCS 0.921 with Adam; two runs of one recipe differ by about 2 % in FVU. Seen here
with the defaults of `TopKSAE` and the note's learning rate: FVU 0.180, MMCS 0.986, every direction above 0.9 (the noise differs a little).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import armillary as arm

D, PLANTED, LATENTS, K, STEPS, BATCH = 512, 2048, 8192, 32, 300, 2048


def planted(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [n, D] of 24 active directions on average, with power-law frequencies, an offset and 5 % noise; and the directions."""
    fixed, drawn = (torch.Generator().manual_seed(s) for s in (0, seed))
    atoms = torch.nn.functional.normalize(torch.randn(PLANTED, D, generator=fixed), dim=1)
    offset = torch.randn(D, generator=fixed)
    rate = torch.arange(1, PLANTED + 1).float().rsqrt()
    rate *= 24 / rate.sum()
    parts = []
    for _ in range(0, n, BATCH):
        on = torch.rand(BATCH, PLANTED, generator=drawn) < rate
        z = on * (1 + 0.5 * torch.randn(BATCH, PLANTED, generator=drawn).abs())
        clean = z @ atoms
        noise = torch.randn(BATCH, D, generator=drawn) * (0.05 * clean.var(0).mean()).sqrt()
        parts.append(clean + offset + noise)
    return torch.cat(parts), atoms


@pytest.mark.acceptance
def test_a_planted_dictionary_is_recovered_as_well_as_by_the_best_peer() -> None:
    x, atoms = planted(131_072, seed=1)
    held_out, _ = planted(8192, seed=2)
    method = arm.TopKSAE(n_features=LATENTS, k=K, n_steps=STEPS, batch_size=BATCH, lr=4e-3, warmup=20 / STEPS, decay=0.0)
    fit = method.fit(x, seed=0)
    residual = held_out - fit.reconstruct(held_out)
    fvu = float(residual.square().sum() / (held_out - held_out.mean(0)).square().sum())
    cosine = (atoms @ torch.nn.functional.normalize(fit.dictionary.atoms, dim=1).T).amax(1)
    assert fvu < 0.2174 * 1.05
    assert cosine.mean() > 0.90
