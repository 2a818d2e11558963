"""The figures of the method and study pages, from the shipped model and fixed seeds.

    pip install -e '.[docs]'
    python docs/figures/make.py             # all
    python docs/figures/make.py pca probe   # some

Each function draws one page's figure and returns it; nothing is drawn by hand.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

import armillary as arm

HERE = Path(__file__).parent
SITE = arm.Site("resid_post", 3)
INK, BLUE, ORANGE, GREY = "#222222", "#1f6feb", "#d9730d", "#9a9a9a"
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 160, "legend.frameon": False})


@cache
def harvest(model: str = "arm-small", random: bool = False) -> Any:
    """Rows of 600 texts at the middle of the shipped model, or of its twin with random weights."""
    lm = arm.LanguageModel(model)
    lm = lm.randomized(seed=0) if random else lm
    return arm.harvest(lm, arm.reference_texts(600), [SITE], out=tempfile.mkdtemp() + "/acts")


def matrix(rows: Any) -> torch.Tensor:
    """All rows [N, D] in float32."""
    return torch.cat([batch.x.float() for batch in rows.batches(8192)])


def fvu(fit: Any, x: torch.Tensor) -> float:
    """The fraction of the variance of x [N, D] that a fit leaves unexplained."""
    return float((x - fit.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum())


def panels(n: int = 1) -> tuple[Figure, Any]:
    return plt.subplots(1, n, figsize=(3.6 * n, 2.7), layout="constrained")


def pca() -> Figure:
    """Cumulative explained variance, trained against random weights."""
    figure, axis = panels()
    for random, colour, name in ((False, BLUE, "arm-small"), (True, GREY, "random weights")):
        x = matrix(harvest(random=random)[SITE]).double()
        variance = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
        axis.plot(np.arange(1, len(variance) + 1), (variance.cumsum(0) / variance.sum()).numpy(), color=colour, label=name)
    axis.set(xlabel="components", ylabel="explained variance", xscale="log", ylim=(0, 1))
    axis.legend()
    return figure


def kmeans() -> Figure:
    """What centroids and principal components leave unexplained."""
    figure, axis = panels()
    rows, held_out = harvest()[SITE].split(0.8)
    x = matrix(held_out)
    numbers = [2, 4, 8, 16, 32, 64, 128]
    for method, name, colour in ((arm.KMeans, "k-means, F centroids", BLUE), (arm.PCA, "PCA, F components", ORANGE)):
        fits = [method(**{"n_features" if method is arm.KMeans else "n_components": n}).fit(rows, seed=0) for n in numbers]
        axis.plot(numbers, [fvu(fit, x) for fit in fits], "o-", ms=3, color=colour, label=name)
    axis.set(xlabel="F", ylabel="FVU of held-out text", xscale="log", ylim=(0, 1))
    axis.legend()
    return figure


def ica() -> Figure:
    """Atoms of PCA and of ICA on a mixture of two independent uniform sources."""
    figure, axes = panels(2)
    sources = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    x = sources @ torch.tensor([[1.0, 0.4], [0.5, 1.0]])
    for axis, method, name in ((axes[0], arm.PCA(n_components=2), "PCA"), (axes[1], arm.ICA(n_components=2), "ICA")):
        axis.scatter(*x.T, s=2, color=GREY)
        for atom in torch.nn.functional.normalize(method.fit(x).dictionary.atoms, dim=1):
            axis.annotate("", xy=tuple(0.7 * atom.tolist()[i] for i in (0, 1)), xytext=(0, 0), arrowprops={"color": BLUE, "width": 1.5})
        axis.set(title=name, aspect="equal", xticks=[], yticks=[])
    return figure


def _kinds() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and whether each is of program code."""
    acts = harvest()
    documents = list(acts.documents)
    is_code = torch.tensor([documents[i].labels["kind"] == "code" for i in acts.tokens.document[acts.tokens.rows]])
    return matrix(acts[SITE]), is_code


def diffmeans() -> Figure:
    """Scores of held-out rows along the direction from all other text to code."""
    figure, axis = panels()
    x, is_code = _kinds()
    half = len(x) // 2
    fit = arm.DiffMeans().fit(arm.Labelled.of(x[:half], is_code[:half]))
    scores = fit.encode(x[half:]).dense()[:, 0]
    for flag, colour, name in ((False, GREY, "other text"), (True, BLUE, "program code")):
        axis.hist(scores[is_code[half:] == flag].numpy(), bins=60, density=True, histtype="stepfilled", alpha=0.6, color=colour, label=name)
    axis.axvline(0, color=INK, lw=0.8, ls=":")
    axis.set(xlabel="code on held-out rows", ylabel="density")
    axis.legend()
    return figure


def probe() -> Figure:
    """A probe's weights and its pattern where a distractor is shared by two dimensions (Haufe et al. 2014, section 2)."""
    figure, axis = panels()
    noise, draw = torch.Generator().manual_seed(0), torch.randn
    label = torch.arange(1200) % 2
    signal, distractor = label - 0.5, draw(1200, generator=noise)
    x = torch.stack([signal + distractor, distractor], 1) + 0.15 * draw(1200, 2, generator=noise)
    fit = arm.Probe(kind="ridge").fit(arm.Labelled.of(x, label))
    for value, colour, name in ((0, GREY, "class 0"), (1, ORANGE, "class 1")):
        axis.scatter(*x[label == value].T, s=2, color=colour, label=name)
    for vector, colour, name in (
        (fit.encoder.weight[0], INK, "weights: how to read it"),
        (fit.dictionary.atoms[0], BLUE, "pattern: what it changes"),
    ):
        end = 2.2 * torch.nn.functional.normalize(vector, dim=0)
        axis.plot([0, float(end[0])], [0, float(end[1])], color=colour, lw=2.5, label=name)
    axis.set(aspect="equal", xlabel="x₁ = label + distractor", ylabel="x₂ = distractor")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def topk_sae() -> Figure:
    """FVU along training, and on held-out text what more active latents buy; PCA with as many components for comparison."""
    figure, (left, right) = panels(2)
    rows, held_out = harvest()[SITE].split(0.8)
    x = matrix(held_out)
    ks = [4, 8, 16, 32, 64]
    fits = [arm.TopKSAE(n_features=2048, k=k, n_steps=600, batch_size=2048).fit(rows, seed=0) for k in ks]
    for k, fit, shade in zip(ks, fits, np.linspace(0.35, 0.95, len(ks)), strict=True):
        curve = fit.provenance["curve"]
        left.plot([point["step"] for point in curve], [point["fvu"] for point in curve], color=plt.cm.Blues(shade), label=f"k = {k}")
    left.set(xlabel="step", ylabel="FVU of the training batches", ylim=(0, 1))
    left.legend(fontsize=7)
    pcas = [arm.PCA(n_components=k).fit(rows) for k in ks]
    for many, colour, name in ((fits, BLUE, "TopK, k of 2,048 latents"), (pcas, ORANGE, "PCA, k components")):
        right.plot(ks, [fvu(fit, x) for fit in many], "o-", ms=3, color=colour, label=name)
    right.set(xlabel="k", ylabel="FVU of held-out text", xscale="log", ylim=(0, 1))
    right.set_xticks(ks, map(str, ks))
    right.minorticks_off()
    right.legend(fontsize=7)
    return figure


def batch_topk_sae() -> Figure:
    """How many codes rows get on held-out text, and what that buys over a fixed number."""
    figure, (left, right) = panels(2)
    rows, held_out = harvest()[SITE].split(0.8)
    x, ks = matrix(held_out), [4, 8, 16, 32, 64]
    sizes = {"n_features": 2048, "n_steps": 600, "batch_size": 2048}
    fits = {kind: [kind(k=k, **sizes).fit(rows, seed=0) for k in ks] for kind in (arm.BatchTopKSAE, arm.TopKSAE)}
    left.hist(fits[arm.BatchTopKSAE][2].encode(x).l0().numpy(), bins=range(0, 64, 2), color=BLUE)
    left.axvline(16, color=INK, lw=0.8, ls=":")
    left.set(xlabel="codes of a row, k = 16", ylabel="rows")
    for kind, colour, name in ((arm.BatchTopKSAE, BLUE, "BatchTopK"), (arm.TopKSAE, ORANGE, "TopK")):
        l0 = [float(fit.encode(x).l0().double().mean()) for fit in fits[kind]]
        right.plot(l0, [fvu(fit, x) for fit in fits[kind]], "o-", ms=3, color=colour, label=name)
    right.set(xlabel="mean l0", ylabel="FVU of held-out text", xscale="log", ylim=(0, None))
    right.set_xticks(ks, map(str, ks))
    right.minorticks_off()
    right.legend(fontsize=7)
    return figure


def abs_topk_sae() -> Figure:
    """FVU on held-out text beside TopK, and how one-sided features are."""
    figure, (left, right) = panels(2)
    rows, held_out = harvest()[SITE].split(0.8)
    x, ks = matrix(held_out), [4, 8, 16, 32]
    sizes = {"n_features": 2048, "n_steps": 600, "batch_size": 2048}
    fits = {kind: [kind(k=k, **sizes).fit(rows, seed=0) for k in ks] for kind in (arm.AbsTopKSAE, arm.TopKSAE)}
    for kind, colour, name in ((arm.AbsTopKSAE, BLUE, "AbsTopK"), (arm.TopKSAE, ORANGE, "TopK")):
        left.plot(ks, [fvu(fit, x) for fit in fits[kind]], "o-", ms=3, color=colour, label=name)
    left.set(xlabel="k", ylabel="FVU of held-out text", xscale="log", ylim=(0, None))
    left.set_xticks(ks, map(str, ks))
    left.minorticks_off()
    left.legend(fontsize=7)
    codes = fits[arm.AbsTopKSAE][2].encode(x).dense()
    fires = (codes != 0).sum(0)
    share = (codes < 0).sum(0)[fires > 20] / fires[fires > 20]
    right.hist(share.numpy(), bins=25, color=BLUE)
    right.set(xlabel="share of a feature's codes below zero, k = 16", ylabel="features")
    return figure


def fidelity() -> Figure:
    """Nats lost to each reconstruction, with intervals, between the ceiling (0) and the null (mean ablation)."""
    figure, (left, right) = panels(2)
    lm, documents = arm.LanguageModel("arm-small"), arm.reference_texts(900)
    rows, folder = harvest()[SITE], tempfile.mkdtemp()
    held_out = arm.harvest(lm, documents[600:], [SITE], out=f"{folder}/held_out")[SITE]
    methods = {
        "PCA 64": arm.PCA(n_components=64),
        "k-means 512": arm.KMeans(n_features=512),
        "TopK 32 of 2,048": arm.TopKSAE(n_features=2048, k=32, n_steps=600, batch_size=2048),
    }
    reports = [
        arm.studies.fidelity.run(
            arm.Subject(method.fit(rows, seed=0), rows=held_out, model=lm), config=arm.studies.fidelity.Config(n_tokens=20_000)
        )
        for method in methods.values()
    ]
    for axis, name, label in ((left, "fvu", "FVU"), (right, "ce_increase", "more cross-entropy, nats per token")):
        for i, report in enumerate(reports):
            found = report[name]
            axis.plot([found.low, found.high], [i, i], color=BLUE, lw=2)
            axis.plot(found.value, i, "o", color=BLUE, ms=4)
        axis.axvline(float(reports[0][name].null), color=GREY, ls="--", lw=1)
        axis.axvline(0, color=INK, lw=0.8)
        axis.set(xlabel=label, yticks=range(len(methods)), yticklabels=list(methods), ylim=(-0.6, len(methods) - 0.4))
    right.set_yticklabels([])
    return figure


FIGURES = {f.__name__: f for f in (pca, kmeans, ica, diffmeans, probe, topk_sae, batch_topk_sae, abs_topk_sae, fidelity)}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]().savefig(HERE / f"{name}.png")
        print(HERE / f"{name}.png")
