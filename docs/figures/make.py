"""The figures of the method and study pages, from the shipped model and fixed seeds.

    pip install -e '.[docs]'
    python docs/figures/make.py             # all
    python docs/figures/make.py pca probe   # some

Each function draws one page's figure and returns it; nothing is drawn by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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


#: Sizes of the fits of a figure that compares kinds of autoencoders.
SIZES = {"n_features": 1024, "n_steps": 400, "batch_size": 1024}


def frontier(axis: Any, kinds: dict[str, tuple[Any, str, str]], numbers: tuple[int, ...] = (4, 8, 16, 32), **more: Any) -> None:
    """FVU of held-out text against the mean number of codes, for several kinds {label: (method, name of its sparsity, colour)}."""
    rows, held_out = harvest()[SITE].split(0.8)
    x = matrix(held_out)
    for label, (method, sparsity, colour) in kinds.items():
        fits = [method(**{sparsity: n}, **SIZES, **more).fit(rows, seed=0) for n in numbers]
        l0 = [float(fit.encode(x).l0().double().mean()) for fit in fits]
        axis.plot(l0, [fvu(fit, x) for fit in fits], "o-", ms=3, color=colour, label=label)
    axis.set(xlabel="mean l0", ylabel="FVU of held-out text", xscale="log", ylim=(0, None))
    axis.set_xticks(numbers, map(str, numbers))
    axis.minorticks_off()
    axis.legend(fontsize=7)


def jumprelu_sae() -> Figure:
    """Codes per row along training for four targets, and the frontier."""
    figure, (left, right) = panels(2)
    rows, _ = harvest()[SITE].split(0.8)
    for l0, colour in ((4, GREY), (8, ORANGE), (16, BLUE), (32, INK)):
        curve = arm.JumpReLUSAE(l0=l0, **SIZES).fit(rows, seed=0).provenance["curve"]
        left.plot([point["step"] for point in curve], [point["l0"] for point in curve], color=colour)
        left.axhline(l0, color=colour, lw=0.8, ls=":")
    left.set(xlabel="step", ylabel="codes per row", yscale="log")
    left.set_yticks((4, 8, 16, 32), ("4", "8", "16", "32"))
    left.minorticks_off()
    kinds = {"JumpReLU": (arm.JumpReLUSAE, "l0", BLUE), "BatchTopK": (arm.BatchTopKSAE, "k", ORANGE), "TopK": (arm.TopKSAE, "k", GREY)}
    frontier(right, kinds)
    return figure


def relu_sae() -> Figure:
    """Codes against the coefficients they stand for, with and without annealing; and the frontier."""
    figure, (left, right) = panels(2)
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(32, 24, generator=generator))[0].T
    z = (torch.rand(8192, 24, generator=generator) < 0.1) * (0.5 + torch.rand(8192, 24, generator=generator))
    x = z @ atoms
    for p_end, colour, name in ((1.0, ORANGE, "L1"), (0.2, BLUE, "annealed to 0.2")):
        fit = arm.ReLUSAE(n_features=24, l0=2, p_end=p_end, n_steps=800, batch_size=512, lr=1e-2).fit(x, seed=0)
        cosine = atoms @ fit.dictionary.atoms.T
        latent = cosine.argmax(1)
        codes = fit.encode(x[:400]).dense()[:, latent]
        on = (z[:400] > 0) & (cosine.max(1).values > 0.8)
        left.scatter(z[:400][on], codes[on], s=2, color=colour, label=name)
    left.plot([0.5, 1.5], [0.5, 1.5], color=INK, lw=0.8, ls=":")
    left.set(xlabel="planted coefficient", ylabel="code")
    left.legend(fontsize=7, markerscale=3)
    kinds = {"ReLU": (arm.ReLUSAE, "l0", ORANGE), "TopK": (arm.TopKSAE, "k", GREY)}
    frontier(right, kinds)
    frontier(right, {"ReLU, annealed to 0.2": (arm.ReLUSAE, "l0", BLUE)}, p_end=0.2)
    return figure


def gated_sae() -> Figure:
    """The frontier beside ReLU and TopK."""
    figure, axis = panels()
    kinds = {"gated": (arm.GatedSAE, "l0", BLUE), "ReLU": (arm.ReLUSAE, "l0", ORANGE), "TopK": (arm.TopKSAE, "k", GREY)}
    frontier(axis, kinds)
    return figure


def matryoshka_sae() -> Figure:
    """FVU of every prefix, and of as many latents of a BatchTopK autoencoder."""
    figure, axis = panels()
    rows, held_out = harvest()[SITE].split(0.8)
    x = matrix(held_out)
    widths = arm.MatryoshkaSAE(n_features=SIZES["n_features"], k=1).widths
    for method, name, colour in ((arm.MatryoshkaSAE, "Matryoshka", BLUE), (arm.BatchTopKSAE, "BatchTopK", GREY)):
        fit = method(k=16, **SIZES).fit(rows, seed=0)
        axis.plot(widths, [fvu(fit.subset(range(width)), x) for width in widths], "o-", ms=3, color=colour, label=name)
    axis.set(xlabel="first latents, k = 16", ylabel="FVU of held-out text", xscale="log", ylim=(0, None))
    axis.set_xticks(widths, map(str, widths))
    axis.minorticks_off()
    axis.legend(fontsize=7)
    return figure


def archetypal_sae() -> Figure:
    """How alike two seeds are against the error, for three relaxations and TopK."""
    figure, axis = panels()
    rows, held_out = harvest()[SITE].split(0.8)
    x = matrix(held_out)
    methods = {f"archetypal, relaxed by {slack:g}": arm.ArchetypalSAE(k=16, relaxation=slack, **SIZES) for slack in (0.0, 0.05, 0.2)}
    for (name, method), colour in zip({**methods, "TopK": arm.TopKSAE(k=16, **SIZES)}.items(), (INK, BLUE, ORANGE, GREY), strict=True):
        fits = [method.fit(rows, seed=seed) for seed in range(2)]
        one, other = (torch.nn.functional.normalize(fit.dictionary.atoms, dim=1) for fit in fits)
        axis.plot(fvu(fits[0], x), float((one @ other.T).max(1).values.mean()), "o", color=colour, label=name)
    axis.set(xlabel="FVU of held-out text", ylabel="best cosine in another seed's fit", ylim=(0, 1.02))
    axis.legend(fontsize=7)
    return figure


def _neurons() -> Any:
    """The planted neurons of the tests."""
    sys.path.insert(0, str(HERE.parent.parent / "tests"))
    import neurons

    return neurons


def semi_nmf() -> Figure:
    """Error along the solution beside the paper's rule, and the tree of planted groups."""
    from armillary.methods.snmf.solver import Data, Plan, solve
    from armillary.methods.snmf.updates import Budget

    figure, axes = panels(2)
    data = _neurons().planted(1000, 1000, 40, share=0.02, actives=4, noise=0.5)
    for solver, colour, name in (("hals", BLUE, "ours"), ("multiplicative", ORANGE, "the paper's rule")):
        found = solve(Data(data.x), Plan(40, Budget(20), solver=solver, n_iter=100, tol=0.0), seed=0)
        share = _neurons().recovery(found.atoms, data.atoms)
        axes[0].plot(range(1, len(found.errors) + 1), found.errors, color=colour, label=f"{name}: {share:.0%} of the features found")
    axes[0].axhline(data.error, color=INK, lw=0.8, ls="--")
    axes[0].set(xlabel="iteration", ylabel="relative squared error", xscale="log", ylim=(0.15, 0.7))
    axes[0].legend(loc="upper right", fontsize=7)
    groups = _neurons().shared()
    fit = arm.SemiNMF(n_features=30, neurons_per_feature=14, target_l0=2).fit(groups.x)
    _overlaps(figure, axes[1], fit)
    return figure


def _overlaps(figure: Figure, axis: Any, fit: Any) -> None:
    """Jaccard indices of features' neurons, in the order of the tree."""
    from armillary.core.tree import overlap

    tree = arm.snmf.tree(fit, within=0.85)
    order = [leaf for root in tree.roots for leaf in tree.leaves(root)]
    order += [leaf for leaf in range(fit.n_features) if leaf not in order]
    values = overlap(fit.dictionary.atoms[order]).fill_diagonal_(float("nan"))
    figure.colorbar(axis.imshow(values, cmap="Blues", vmin=0, vmax=0.5), ax=axis, label="Jaccard index")
    axis.set(xlabel="feature", ylabel="feature", xticks=[], yticks=[])


def shared_neurons() -> Figure:
    """Overlaps of planted groups, and of the same features on random neurons."""
    from dataclasses import replace

    from armillary.core.selection import shuffle

    figure, axes = panels(2)
    groups = _neurons().shared()
    fit = arm.SemiNMF(n_features=30, neurons_per_feature=14, target_l0=2).fit(groups.x)
    _overlaps(figure, axes[0], fit)
    dictionary = replace(fit.dictionary, atoms=shuffle(fit.dictionary.atoms, 0))
    _overlaps(figure, axes[1], replace(fit, dictionary=dictionary))
    axes[0].set_title("planted groups")
    axes[1].set_title("random neurons")
    return figure


def nmf() -> Figure:
    """Atoms of NMF and of PCA on rows made of bumps."""
    figure, axes = panels(2)
    g = torch.Generator().manual_seed(0)
    place = torch.arange(60.0)
    parts = torch.stack([torch.exp(-((place - centre) ** 2) / 18) for centre in (8, 20, 32, 44, 52)])
    x = (torch.rand(800, 5, generator=g) * (torch.rand(800, 5, generator=g) < 0.4)) @ parts
    for axis, method, name in ((axes[0], arm.NMF(n_features=5), "NMF"), (axes[1], arm.PCA(n_components=5), "PCA")):
        axis.plot(torch.nn.functional.normalize(method.fit(x).dictionary.atoms, dim=1).T.numpy(), lw=1)
        axis.set(title=name, xlabel="column", yticks=[])
    return figure


def convex_nmf() -> Figure:
    """Clusters in a plane, and what convex and semi-nonnegative factorisation make of them."""
    figure, axes = panels(2)
    g = torch.Generator().manual_seed(0)
    angle = torch.tensor([0.3, 1.2, 2.4])
    centres = 3 * torch.stack([angle.cos(), angle.sin()], dim=1)
    x = centres[torch.randint(3, (400,), generator=g)] + 0.35 * torch.randn(400, 2, generator=g)
    pair = (
        (arm.ConvexNMF(n_features=3, n_points=200), "convex NMF"),
        (arm.SemiNMF(n_features=3, neurons_per_feature=2, code_l1=0.01), "semi-NMF"),
    )
    for axis, (method, name) in zip(axes, pair, strict=True):
        axis.scatter(*x.T, s=3, color=GREY)
        for atom in method.fit(x, seed=0).dictionary.atoms:
            axis.annotate("", xy=(3.6 * atom).tolist(), xytext=(0, 0), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.5})
        axis.set(aspect="equal", xlim=(-4.2, 4.2), ylim=(-0.6, 4.4), xticks=[], yticks=[])
        axis.set_title(name, y=0.9)
    return figure


def mfa() -> Figure:
    """Regions in a plane, from a start that misses some, without and with moves."""
    from matplotlib.patches import Ellipse

    figure, axes = panels(2)
    g = torch.Generator().manual_seed(4)
    n, k = 1500, 9
    centres, angle = 9 * torch.rand(k, 2, generator=g), 3.14 * torch.rand(k, generator=g)
    along = torch.stack([angle.cos(), angle.sin()], 1) * (0.4 + 0.6 * torch.rand(k, 1, generator=g))
    region = torch.randint(k, (n,), generator=g)
    x = centres[region] + torch.randn(n, 1, generator=g) * along[region] + 0.12 * torch.randn(n, 2, generator=g)
    for axis, moves in zip(axes, (False, True), strict=True):
        fit = arm.MFA(n_regions=k, rank=1, noise="isotropic", init="random", split_merge=moves).fit(x, seed=3)
        axis.scatter(*x.T, s=2, color=GREY)
        m = fit.encoder.mixture
        for centroid, loading in zip(m.centroids, m.loadings[:, 0], strict=True):
            long, short = 4 * float((loading.square().sum() + m.noise[0, 0]).sqrt()), 4 * float(m.noise[0, 0].sqrt())
            turn = float(torch.rad2deg(torch.atan2(loading[1], loading[0])))
            axis.add_patch(Ellipse(centroid.tolist(), long, short, angle=turn, fill=False, color=BLUE, lw=1.3))
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_title("split_merge" if moves else "EM alone", y=0.94)
    return figure


def stability() -> Figure:
    """Cosines of features with their partners of other seeds, on arm-small's neurons."""
    import warnings

    figure, axes = panels(2)
    lm = arm.LanguageModel("arm-small")
    rows = arm.harvest(lm, arm.reference_texts(300), ["mlp_act.3"], out=tempfile.mkdtemp() + "/acts")["mlp_act.3"]
    for axis, share, name in ((axes[0], 0.02, "2 % of the neurons per feature"), (axes[1], None, "any number of neurons")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", arm.errors.NotIdentifiableWarning)
            found = arm.stability(arm.SemiNMF(n_features=100, neurons_per_feature=share), rows, seeds=3)
        estimate = found.report["matched_cosine"]
        axis.hist(found.cosine.mean(0), bins=np.linspace(0, 1, 41), color=BLUE)
        axis.axvline(estimate.null, color=INK, lw=0.8, ls="--")
        axis.set(title=f"{name}: {estimate.value:.2f}", xlabel="cosine with the partner", ylabel="features", xlim=(0, 1))
    return figure


def core_exclusive() -> Figure:
    """The weekday experiment on arm-small."""
    from armillary.app.replications import weekdays

    result = weekdays.run(weekdays.Settings(out=tempfile.mkdtemp() + "/weekdays"))
    table = result.facts["report"]["tables"]["change of logits"]
    values = np.array([table[day] for day in weekdays.DAYS]).T
    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    most = float(np.abs(values).max())
    figure.colorbar(axis.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto"), ax=axis, label="change of logit")
    axis.set_xticks(range(7), [day[:3] for day in weekdays.DAYS])
    axis.set_yticks(range(8), table["amplified"])
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


def _recall() -> tuple[Any, Any]:
    """The shipped model and a task it can do: the colour of one of three things."""
    from armillary.app.tasks import load_task

    return arm.LanguageModel("arm-small"), load_task("recall")


#: The variable, site and token of the figures about it.
KEY, THERE = {"variables": ("key",), "positions": ("last",)}, "resid_post.2"


def das() -> Figure:
    """Accuracy on the test by rank, learnt and random."""
    figure, axis = panels()
    lm, task = _recall()
    pairs, ranks = arm.Pairs.of(lm, THERE, "last", task.train, variable="key"), [1, 2, 4, 8, 16, 32, 64]
    fits = [arm.DAS(rank=rank, n_epochs=6).fit(pairs, seed=0) for rank in ranks]
    report = arm.studies.localization.run(
        [arm.Subject(fit, model=lm, task=task, name=str(rank)) for rank, fit in zip(ranks, fits, strict=True)],
        config=arm.studies.localization.Config(**KEY),
    )
    found = [report[f"{rank}: iia: key"] for rank in ranks]
    axis.fill_between(ranks, [one.low for one in found], [one.high for one in found], color=BLUE, alpha=0.2, lw=0)
    axis.plot(ranks, [one.value for one in found], "o-", ms=3, color=BLUE, label="DAS")
    random = [report.tables[f"{rank}: variables"]["random"][0] for rank in ranks]
    axis.plot(ranks, random, "o--", ms=3, color=GREY, label="random subspace")
    axis.set(xlabel="rank", ylabel="interchange accuracy", xscale="log", ylim=(0, 1.03))
    axis.set_xticks(ranks, map(str, ranks))
    axis.minorticks_off()
    axis.legend(fontsize=7)
    return figure


def localization() -> Figure:
    """Accuracy of exchanging everything, by layer and token; and of exchanging the best k features of four fits."""
    from armillary.studies.causal.interchange import Bench

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.9), layout="constrained", width_ratios=(1, 1.1))
    lm, task = _recall()
    sites = [arm.Site("resid_post", layer) for layer in range(lm.n_layers)]
    bench = Bench(lm, task, [(site, position) for site in sites for position in task.positions], variables=("key",))
    trials = bench.trials["key", "test"]
    score = [[trials.score(bench.everything("key", site, position)) for site in sites] for position in task.positions]
    figure.colorbar(left.imshow(score, cmap="Blues", vmin=0, vmax=1, aspect="auto"), ax=left, label="interchange accuracy")
    left.set(xlabel="layer, resid_post", yticks=range(len(task.positions)), yticklabels=task.positions)
    rows = arm.harvest(lm, arm.reference_texts(300), [THERE], out=tempfile.mkdtemp() + "/acts")[THERE]
    fits = {
        "PCA": (arm.PCA().fit(rows), ORANGE),
        "TopK, 16 of 1,024": (arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0), BLUE),
        "MFA, 64 regions, single atoms": (arm.MFA(n_regions=64, rank=8).fit(rows, seed=0), "#2a9d5c"),
    }
    sizes = [1, 2, 4, 8, 16, 32, 64, 128]
    for name, (fit, colour) in fits.items():
        values = []
        for n in sizes:
            config = arm.studies.localization.Config(**KEY, select="attribution", units="atom", n_features=n, n_random=1)
            values.append(arm.studies.localization.run(arm.Subject(fit, model=lm, task=task), config=config)["iia: key"].value)
        right.plot(sizes, values, "o-", ms=3, color=colour, label=name)
    learnt = arm.DAS(rank=16, n_epochs=6).fit(arm.Pairs.of(lm, THERE, "last", task.train, variable="key"), seed=0)
    of_das = arm.studies.localization.run(arm.Subject(learnt, model=lm, task=task), config=arm.studies.localization.Config(**KEY))
    right.plot(16, of_das["iia: key"].value, "*", ms=10, color=INK, label="DAS of rank 16")
    right.axhline(trials.score(bench.nothing("key")), color=GREY, ls="--", lw=1)
    right.axhline(trials.score(bench.everything("key", sites[2], "last")), color=INK, lw=0.8)
    right.set(xlabel="features exchanged", ylabel="interchange accuracy", xscale="log", ylim=(0, 1.03))
    right.set_xticks(sizes, map(str, sizes))
    right.minorticks_off()
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# ---------------------------------------------------------------- pictures of regions, drawn as the reader sees them: by a browser


@dataclass(frozen=True)
class Drawn:
    """A plotly figure that a browser draws.

    Args:
        spec: {"data", "layout"}.
        width: in pixels.
    """

    spec: dict[str, Any]
    width: int = 900

    def savefig(self, path: Path) -> None:
        """Write a PNG of the figure alone, in the colours of the page."""
        from armillary.core.html import figure, fragment
        from armillary.core.html.page import page_js, plotly_js
        from armillary.core.html.parts import Html, tag

        browser = next(found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name)))
        canvas = fragment(figure({**self.spec, "config": {"displayModeBar": False}}))
        body = tag("body", Html(canvas), tag("script", plotly_js()), tag("script", page_js()), style="margin:0")
        html = Path(tempfile.mkdtemp()) / "figure.html"
        html.write_text(f'<!doctype html><meta charset="utf-8">{body}', encoding="utf-8")
        size = f"--window-size={self.width},{self.spec['layout']['height'] + 32}"
        told = ("--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=8000", "--force-device-scale-factor=1.5", size)
        subprocess.run([browser, *told, f"--screenshot={path}", html.as_uri()], check=True, capture_output=True)


@cache
def _regions() -> Any:
    """64 regions of arm-small's middle."""
    return arm.MFA(n_regions=64, rank=8).fit(harvest()[SITE], seed=0)


def _rows_of(word: str) -> np.ndarray[Any, Any]:
    """Rows whose token is `word`."""
    tokens = harvest().tokens
    return np.flatnonzero([tokens.text(int(token)) == word for token in tokens.rows])


def region_map() -> Drawn:
    """All regions in the plane of their centroids' principal axes."""
    from armillary.inspect import region_figures

    return Drawn(region_figures.region_map(_regions(), rows=harvest()[SITE]))


def region_space() -> Drawn:
    """The region that most tokens " used" belong to."""
    from armillary.inspect import region_figures

    rows = harvest()[SITE]
    region = int(_regions().encoder.regions(rows.read(_rows_of(" used")).float()).mode().values)
    return Drawn(region_figures.region_space(_regions(), rows, region))


def waterfall() -> Drawn:
    """The first token " used", by regions and by a sparse autoencoder."""
    from armillary.inspect import region_figures

    rows = harvest()[SITE]
    sae = arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0)
    x = rows.read(_rows_of(" used")[:1])[0].float()
    return Drawn(region_figures.waterfall({"MFA, 64 regions": _regions(), "TopK, 16 of 1,024": sae}, x))


def regions() -> Figure:
    """Likelihood of held-out text under five models, and how broad the regions of one of them are."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.9), layout="constrained", width_ratios=(1, 1.1))
    rows, held_out = harvest()[SITE].split(0.7)
    methods = {
        "PPCAs": arm.MFA(n_regions=32, rank=4, noise="isotropic_per_region"),
        "MFA": arm.MFA(n_regions=32, rank=4),
        "k-means": arm.KMeans(n_features=32),
        "one factor analyzer": arm.MFA(n_regions=1, rank=32),
    }
    subjects = [arm.Subject(method.fit(rows, seed=0), rows=held_out, name=name) for name, method in methods.items()]
    report = arm.studies.regions.run(subjects, config=arm.studies.regions.Config(n_draws=2))
    for i, name in enumerate(methods):
        above = report.tables[f"{name}: likelihood"]
        left.plot([above["least"][0], above["most"][0]], [i, i], color=BLUE, lw=2)
        left.plot(above["above one Gaussian"][0], i, "o", color=BLUE, ms=4)
    left.axvline(0, color=GREY, ls="--", lw=1)
    left.set(xlabel="nats per token above one Gaussian", yticks=range(4), yticklabels=list(methods), ylim=(3.6, -0.6))
    table = report.tables["MFA: regions"]
    tokens, documents, share = (np.array(table[name], float) for name in ("token_entropy", "document_entropy", "share"))
    narrow = np.array(table["kind"]) == "narrow"
    for colour, on, name in ((BLUE, ~narrow, "broad"), (ORANGE, narrow, "narrow")):
        right.scatter(np.exp(tokens[on]), np.exp(documents[on]), s=900 * share[on], color=colour, alpha=0.6, lw=0, label=name)
    for i in np.flatnonzero(narrow)[:6]:
        right.annotate(table["commonest"][i], (np.exp(tokens[i]), np.exp(documents[i])), (4, 4), textcoords="offset points", fontsize=7)
    right.set(xscale="log", yscale="log", xlabel="effective tokens of a region", ylabel="effective documents")
    right.legend(fontsize=7, loc="lower left", markerscale=0.6)
    return figure


def steering() -> Figure:
    """Concept against fluency along the features of an autoencoder, and the area under such curves for several fits."""
    figure, (left, right) = panels(2)
    lm, rows = arm.LanguageModel("arm-small"), harvest()[SITE]
    methods = {
        "TopK, 16 of 512": arm.TopKSAE(n_features=512, k=16, n_steps=600, batch_size=2048),
        "MFA, 32 regions": arm.MFA(n_regions=32, rank=4),
        "k-means, 32": arm.KMeans(n_features=32),
        "PCA, 32": arm.PCA(n_components=32),
    }
    subjects = [arm.Subject(method.fit(rows, seed=0), rows=rows, model=lm, name=name) for name, method in methods.items()]
    report = arm.studies.steering.run(subjects, config=arm.studies.steering.Config(n_features=12, alphas=()))
    curve = report.tables[f"{next(iter(methods))}: curve"]
    for along, colour in (("feature", BLUE), ("DiffMeans", ORANGE), ("against it", GREY), ("random direction", INK)):
        mine = [i for i, one in enumerate(curve["along"]) if one == along and curve["concept"][i] is not None]
        fluency, concept = ([value, *(curve[key][i] for i in mine)] for value, key in ((1, "fluency"), (0, "concept")))
        left.plot(fluency, concept, "o-", ms=3, color=colour, label=along)
    left.set(xlabel="fluency", ylabel="concept", title=next(iter(methods)))
    left.legend(fontsize=7)
    for i, name in enumerate(methods):
        found = report[f"{name}: area"]
        right.plot([found.low, found.high], [i, i], color=BLUE, lw=2)
        right.plot(found.value, i, "o", color=BLUE, ms=4, label="features" if i == 0 else None)
        right.plot(found.null, i, "|", color=INK, ms=10, label="random directions" if i == 0 else None)
        right.plot(report[f"{name}: area_diffmeans"].value, i, "x", color=ORANGE, ms=5, label="DiffMeans" if i == 0 else None)
    right.set(xlabel="area", yticks=range(len(methods)), yticklabels=list(methods), ylim=(len(methods) - 0.4, -0.6))
    right.legend(fontsize=7)
    return figure


def labels() -> Figure:
    """Scores of summaries of tokens, of a model and of its twin with random weights, beside those of other features' summaries."""
    from armillary.inspect import LocalJudge

    figure, axis = plt.subplots(figsize=(6.6, 3.0), layout="constrained")
    lm, study = arm.LanguageModel("arm-small"), arm.studies.labels
    judged, rest = ("detection", "fuzzing"), ("embedding", "token_rule", "bag_of_words", "top_token")
    for random, colour, name, shift in ((False, BLUE, "arm-small", -0.12), (True, ORANGE, "random weights", 0.12)):
        rows = harvest(random=random)[SITE]
        subject = arm.Subject(arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0), rows=rows, name=name)
        found = dict(study.run(subject, config=study.Config(n_features=64)).estimates)
        if not random:
            config = study.Config(n_features=16, labels_by="tokens", n_active=10, n_silent=10, surprisal=False)
            report = study.run(subject, config=config, judge=LocalJudge(lm, batch_size=32))
            found |= {one: report[one] for one in judged}
        for i, one in enumerate(found[each] for each in (*judged, *rest)):
            if one.value is not None:
                axis.plot([i + shift] * 2, [one.low, one.high], color=colour, lw=2)
                axis.plot(i + shift, one.value, "o", color=colour, ms=5, label=name if i == len(judged) else None)
                axis.plot(i + shift, one.null, "_", color=GREY, ms=12, label="another feature's" if random and i == len(judged) else None)
    axis.axhline(0.5, color=GREY, ls=":", lw=0.8)
    axis.set(xticks=range(6), xticklabels=(*judged, *rest), ylabel="area under the curve", ylim=(0.25, 1.0))
    axis.legend(fontsize=7, loc="upper left")
    return figure


def concepts() -> Figure:
    """AUROC of the best feature of three fits on held-out documents, beside one raw dimension and the words."""
    figure, axis = plt.subplots(figsize=(5.4, 2.7), layout="constrained")
    rows = harvest()[SITE]
    fits = {
        "TopK 16 of 1,024": arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0),
        "PCA 64": arm.PCA(n_components=64).fit(rows),
        "MFA, 64 regions": _regions(),
    }
    report = arm.studies.concepts.run([arm.Subject(fit, rows=rows, name=name) for name, fit in fits.items()])
    first = next(iter(fits))
    shown = {name: (report[f"{name}: auroc"], BLUE) for name in fits}
    shown |= {"one raw dimension": (report[f"{first}: raw_dimension"], GREY), "the words": (report[f"{first}: bag_of_words"], GREY)}
    for i, (one, colour) in enumerate(shown.values()):
        axis.plot([one.low, one.high], [i, i], color=colour, lw=2)
        axis.plot(one.value, i, "o", color=colour, ms=4)
    axis.axvline(report[f"{first}: auroc"].null, color=INK, lw=0.8, ls="--")
    axis.axvline(report[f"{first}: auroc"].ceiling, color=INK, lw=0.8, ls=":")
    axis.set(xlabel="AUROC on held-out documents", yticks=range(len(shown)), yticklabels=list(shown), ylim=(len(shown) - 0.4, -0.6))
    return figure


def probing() -> Figure:
    """AUROC of probes of few features on held-out documents."""
    figure, axis = plt.subplots(figsize=(5.4, 3.0), layout="constrained")
    rows, ks = harvest()[SITE], (1, 2, 5, 10, 20, 50)
    fits = {"TopK 16 of 1,024": arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0), "PCA 64": arm.PCA(n_components=64).fit(rows)}
    subjects = [arm.Subject(fit, rows=rows, name=name) for name, fit in fits.items()]
    report = arm.studies.probing.run(subjects, config=arm.studies.probing.Config(ks=ks))
    for name, colour in zip(fits, (BLUE, ORANGE), strict=True):
        curve = report.tables[f"{name}: curve"]
        axis.plot(ks, curve["auroc"], "o-", ms=3, color=colour, label=name)
        axis.fill_between(ks, curve["least"], curve["most"], color=colour, alpha=0.12, lw=0)
    first = next(iter(fits))
    curve = report.tables[f"{first}: curve"]
    axis.plot(ks, curve["raw dimensions"], color=GREY, label="raw dimensions")
    axis.plot(ks, curve["random features"], "--", color=GREY, label="random features")
    axis.axhline(report[f"{first}: full_vector"].value, color=INK, lw=0.8, ls=":", label="all dimensions")
    axis.set(xlabel="features of a probe", ylabel="AUROC on held-out documents", xscale="log")
    axis.set_xticks(ks, map(str, ks))
    axis.minorticks_off()
    axis.legend(fontsize=7)
    return figure


def absorption() -> Figure:
    """Absorption of properties of tokens, and F1 of the main sets, of three fits."""
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.4), layout="constrained", sharey=True)
    site = arm.Site("resid_post", 1)
    rows = arm.harvest(arm.LanguageModel("arm-small"), arm.reference_texts(600), [site], out=tempfile.mkdtemp() + "/acts")[site]
    fits = {
        "TopK 16 of 1,024": arm.TopKSAE(k=16, **SIZES).fit(rows, seed=0),
        "TopK 16 of 128": arm.TopKSAE(k=16, **{**SIZES, "n_features": 128}).fit(rows, seed=0),
        "MFA, 64 regions": arm.MFA(n_regions=64, rank=8).fit(rows, seed=0),
    }
    report = arm.studies.absorption.run([arm.Subject(fit, rows=rows, name=name) for name, fit in fits.items()])
    for axis, key, label in zip(axes, ("full_absorption", "sparse_f1"), ("full absorption", "F1 of the main set"), strict=True):
        for i, name in enumerate(fits):
            one = report[f"{name}: {key}"]
            axis.plot([one.low, one.high], [i, i], color=BLUE, lw=2)
            axis.plot(one.value, i, "o", color=BLUE, ms=4)
            random = [value for value in report.tables[f"{name}: classes"]["random_full"] if value is not None]
            null = float(np.mean(random)) if one.null is None else one.null
            axis.plot([null, null], [i - 0.25, i + 0.25], color=INK, lw=0.8, ls="--")
        axis.set(xlabel=label, xlim=(-0.02, 1))
    axes[0].set(yticks=range(len(fits)), yticklabels=list(fits), ylim=(len(fits) - 0.4, -0.6))
    return figure


SAES = (topk_sae, batch_topk_sae, abs_topk_sae, jumprelu_sae, relu_sae, gated_sae, matryoshka_sae, archetypal_sae)
REGIONS = (region_map, region_space, waterfall)
STUDIES = (fidelity, labels, regions, steering, stability, shared_neurons, core_exclusive, concepts, probing, absorption, localization)
FIGURES = {f.__name__: f for f in (pca, kmeans, ica, nmf, convex_nmf, semi_nmf, mfa, das, diffmeans, probe, *SAES, *STUDIES, *REGIONS)}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]().savefig(HERE / f"{name}.png")
        print(HERE / f"{name}.png")
