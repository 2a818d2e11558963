"""Readout: the linear map by which what an MLP's neurons or an attention's heads hold reaches the residual stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from armillary.core.site import Site
from armillary.errors import CapabilityError
from armillary.lm.sites import SiteMap, norm_behind, projection
from armillary.lm.weights import gain

#: Sites that lie in the residual stream or are added to it as they are.
IN_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def readout(sites: SiteMap, site: Site) -> Tensor:
    """[D_site, D] the map of a site of neurons or heads, with the gain of a norm behind it.

    Args:
        sites: of the model.
        site: canonical, not one of `IN_STREAM`.

    Raises:
        CapabilityError: another kind of site, or a model without a single such projection.
    """
    block = sites.block(int(site.layer or 0)) if site.kind in ("attn_z", "mlp_act") else None
    module = None if block is None else projection(block, site.kind)
    if block is None or module is None:
        raise CapabilityError(f"site '{site}' has no single linear map into the residual stream; mlp_act and attn_z have")
    weight: Any = module.weight
    matrix: Tensor = weight if type(module).__name__ == "Conv1D" else weight.T  # Conv1D keeps [D_in, D_out]
    matrix = matrix.detach()
    norm = norm_behind(block, site.kind)
    matrix = matrix if norm is None else matrix * gain(norm, matrix)
    return matrix if site.head is None else matrix[sites.head_columns(site, len(matrix))]
