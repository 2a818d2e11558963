"""armillary: take a language model's activations apart and understand the parts.

Everything public is a name of this module. Importing it loads neither torch nor transformers: a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from armillary.core.activations import Harvest as Harvest
    from armillary.core.activations import open as open
    from armillary.core.artifact import load as load
    from armillary.core.codes import Codes as Codes
    from armillary.core.decomposition import Decomposition as Decomposition
    from armillary.core.dictionary import Dictionary as Dictionary
    from armillary.core.dictionary import Feature as Feature
    from armillary.core.journal import TensorBoard as TensorBoard
    from armillary.core.journal import Trackio as Trackio
    from armillary.core.journal import WandB as WandB
    from armillary.core.journal import journal as journal
    from armillary.core.method import Labelled as Labelled
    from armillary.core.method import Method as Method
    from armillary.core.method import fit_many as fit_many
    from armillary.core.nnls import NNLS as NNLS
    from armillary.core.pairs import Pairs as Pairs
    from armillary.core.pursuit import GradientPursuit as GradientPursuit
    from armillary.core.pursuit import MatchingPursuit as MatchingPursuit
    from armillary.core.pursuit import OrthogonalPursuit as OrthogonalPursuit
    from armillary.core.report import Estimate as Estimate
    from armillary.core.report import Report as Report
    from armillary.core.selection import agreement as agreement
    from armillary.core.selection import select as select
    from armillary.core.selection import stability as stability
    from armillary.core.side_by_side import SideBySide as SideBySide
    from armillary.core.site import Site as Site
    from armillary.core.study import Subject as Subject
    from armillary.core.targeted import Targeted as Targeted
    from armillary.core.tokens import Document as Document
    from armillary.core.tokens import Tokens as Tokens
    from armillary.lm.harvest import harvest as harvest
    from armillary.lm.model import LanguageModel as LanguageModel
    from armillary.lm.reference.texts import reference_texts as reference_texts
    from armillary.methods.convex_nmf import ConvexNMF as ConvexNMF
    from armillary.methods.das import DAS as DAS
    from armillary.methods.diffmeans import DiffMeans as DiffMeans
    from armillary.methods.ica import ICA as ICA
    from armillary.methods.kmeans import KMeans as KMeans
    from armillary.methods.mfa.method import MFA as MFA
    from armillary.methods.nmf import NMF as NMF
    from armillary.methods.pca import PCA as PCA
    from armillary.methods.probe import Probe as Probe
    from armillary.methods.sae.abs_topk import AbsTopKSAE as AbsTopKSAE
    from armillary.methods.sae.archetypal import ArchetypalSAE as ArchetypalSAE
    from armillary.methods.sae.batch_topk import BatchTopKSAE as BatchTopKSAE
    from armillary.methods.sae.gated import GatedSAE as GatedSAE
    from armillary.methods.sae.jump_relu import JumpReLUSAE as JumpReLUSAE
    from armillary.methods.sae.matryoshka import MatryoshkaSAE as MatryoshkaSAE
    from armillary.methods.sae.relu import ReLUSAE as ReLUSAE
    from armillary.methods.sae.topk import TopKSAE as TopKSAE
    from armillary.methods.snmf.semi_nmf import SemiNMF as SemiNMF
    from armillary.studies.causal.dose import doses as doses
    from armillary.studies.quality.concept_score import concept_score as concept_score

__version__ = "0.1.0"

_HOME = {
    "AbsTopKSAE": "methods.sae.abs_topk",
    "ArchetypalSAE": "methods.sae.archetypal",
    "BatchTopKSAE": "methods.sae.batch_topk",
    "Codes": "core.codes",
    "ConvexNMF": "methods.convex_nmf",
    "DAS": "methods.das",
    "Decomposition": "core.decomposition",
    "Dictionary": "core.dictionary",
    "DiffMeans": "methods.diffmeans",
    "Document": "core.tokens",
    "Estimate": "core.report",
    "Feature": "core.dictionary",
    "GatedSAE": "methods.sae.gated",
    "GradientPursuit": "core.pursuit",
    "Harvest": "core.activations",
    "ICA": "methods.ica",
    "JumpReLUSAE": "methods.sae.jump_relu",
    "KMeans": "methods.kmeans",
    "Labelled": "core.method",
    "LanguageModel": "lm.model",
    "MFA": "methods.mfa.method",
    "MatchingPursuit": "core.pursuit",
    "MatryoshkaSAE": "methods.sae.matryoshka",
    "Method": "core.method",
    "NMF": "methods.nmf",
    "NNLS": "core.nnls",
    "OrthogonalPursuit": "core.pursuit",
    "PCA": "methods.pca",
    "Pairs": "core.pairs",
    "Probe": "methods.probe",
    "ReLUSAE": "methods.sae.relu",
    "Report": "core.report",
    "SemiNMF": "methods.snmf.semi_nmf",
    "SideBySide": "core.side_by_side",
    "Site": "core.site",
    "Subject": "core.study",
    "Targeted": "core.targeted",
    "Tokens": "core.tokens",
    "TensorBoard": "core.journal",
    "TopKSAE": "methods.sae.topk",
    "Trackio": "core.journal",
    "WandB": "core.journal",
    "agreement": "core.selection",
    "fit_many": "core.method",
    "harvest": "lm.harvest",
    "journal": "core.journal",
    "load": "core.artifact",
    "open": "core.activations",
    "reference_texts": "lm.reference.texts",
    "concept_score": "studies.quality.concept_score",
    "doses": "studies.causal.dose",
    "select": "core.selection",
    "stability": "core.selection",
}
_MODULES = {
    "errors": "errors",
    "formats": "methods.formats",
    "inspect": "inspect",
    "mfa": "methods.mfa",
    "snmf": "methods.snmf",
    "studies": "studies",
}

__all__ = sorted([*_HOME, *_MODULES])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"armillary.{_MODULES[name]}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"armillary.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'armillary' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
