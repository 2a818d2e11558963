"""The methods, one file each, and the names they go by on the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from armillary.errors import unknown

if TYPE_CHECKING:
    from armillary.core.method import Method

#: Name -> "module:class"; nothing is imported until it is asked for.
METHODS: dict[str, str] = {
    "abs-topk-sae": "armillary.methods.sae.abs_topk:AbsTopKSAE",
    "archetypal-sae": "armillary.methods.sae.archetypal:ArchetypalSAE",
    "batch-topk-sae": "armillary.methods.sae.batch_topk:BatchTopKSAE",
    "convex-nmf": "armillary.methods.convex_nmf:ConvexNMF",
    "das": "armillary.methods.das:DAS",
    "diffmeans": "armillary.methods.diffmeans:DiffMeans",
    "gated-sae": "armillary.methods.sae.gated:GatedSAE",
    "ica": "armillary.methods.ica:ICA",
    "jumprelu-sae": "armillary.methods.sae.jump_relu:JumpReLUSAE",
    "kmeans": "armillary.methods.kmeans:KMeans",
    "mfa": "armillary.methods.mfa.method:MFA",
    "matryoshka-sae": "armillary.methods.sae.matryoshka:MatryoshkaSAE",
    "nmf": "armillary.methods.nmf:NMF",
    "pca": "armillary.methods.pca:PCA",
    "probe": "armillary.methods.probe:Probe",
    "relu-sae": "armillary.methods.sae.relu:ReLUSAE",
    "semi-nmf": "armillary.methods.snmf.semi_nmf:SemiNMF",
    "topk-sae": "armillary.methods.sae.topk:TopKSAE",
}


def load(name: str) -> type[Method]:
    """The class of a method, by its name on the command line.

    Raises:
        UnknownNameError: no such method; the nearest names are given.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    module, kind = METHODS[name].split(":")
    method: type[Method] = getattr(importlib.import_module(module), kind)
    return method
