"""Resampling: dead latents are given the direction of a row that is badly rebuilt.

Bricken et al. 2023, "Towards monosemanticity", section "Neuron resampling": rows are drawn with probability proportional to the square
of their loss; the decoder row becomes the drawn row with norm 1, the encoder row the same direction with a fifth of the mean norm of
the living, and the bias 0.

Letters: n rows of this rank, N rows of all ranks, D_in and D widths, m dead latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.methods.sae.decoder import Decoder, Parameters
from armillary.methods.sae.step import Sample
from armillary.methods.sae.weights import normalise

#: Norm of a new encoder row, as a share of the mean norm of the living.
NORM = 0.2


def replant(parameters: Parameters, decoder: Decoder, latent: Tensor, sample: Sample, residual: Tensor, *, seed: tuple[int, int]) -> None:
    """Give the latents [m] new weights, in place and the same on every rank.

    Args:
        parameters, decoder: what is trained.
        latent: [m] int64 dead latents.
        sample: this rank's rows.
        residual: [n, D] their y_hat - y.
        seed: of the draw.
    """
    wanted = decoder.weights(parameters)
    beyond = sample.y - wanted.b_dec if wanted.W_skip is None else sample.y - wanted.b_dec - sample.x @ wanted.W_skip
    read, built = _drawn(sample.centred(wanted), beyond, residual, len(latent), seed)
    alive = torch.ones(len(parameters["b_enc"]), dtype=torch.bool, device=latent.device).index_fill(0, latent, False)
    for name in ("threshold", "r_mag", "b_mag"):
        if name in parameters and alive.any():
            # As the living have it where rows have norm 1, as the new ones do; a threshold as much lower as the encoder's rows are shorter.
            level = wanted.named()[name][alive].mean()
            parameters[name][latent] = level * NORM if name == "threshold" else level
    norm = wanted.W_enc[alive].norm(dim=1).mean() if alive.any() else wanted.W_enc.new_ones(())
    parameters["W_enc"][latent] = read * (NORM * norm)
    parameters["b_enc"][latent] = 0
    decoder.plant(parameters, latent, built)


def _drawn(read: Tensor, built: Tensor, residual: Tensor, m: int, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """m rows of all ranks, of norm 1: what is read [m, D_in] and what is to be rebuilt [m, D]."""
    rank, world = distributed.rank(), distributed.world()
    chance = distributed.gather_rows(residual.square().sum(1)).square().cpu()
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    row = torch.multinomial(chance + torch.finfo(chance.dtype).tiny, m, replacement=True, generator=generator)
    parts = []
    for table in (read, built):
        found = table.new_zeros(m, table.shape[1])
        mine = (row % world == rank).to(table.device)
        found[mine] = table[(row // world).to(table.device)[mine]]
        distributed.sum_(found)
        normalise(found)
        parts.append(found)
    return parts[0], parts[1]
