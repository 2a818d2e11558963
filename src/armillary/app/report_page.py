"""The demo's page: one HTML file that says what was done, how faithful it is, and what single features respond to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armillary.app.demo_sizes import Sizes
from armillary.app.showcase import BAND, N_RANDOM, N_STRONGEST, Shown
from armillary.core import html
from armillary.core.html import Html, tag
from armillary.core.progress import duration
from armillary.core.provenance import versions
from armillary.core.report import Estimate, Report, number

if TYPE_CHECKING:
    from armillary.core.activations import StoredRows
    from armillary.core.decomposition import Decomposition
    from armillary.core.site import Site
    from armillary.inspect import LogitEffect, Window

#: A promoted token's logit, in standard deviations above what random directions give, from which it means something.
CLEAR_Z = 3.0
TITLES = {"topk-sae": "TopK SAE", "kmeans": "k-means", "pca": "PCA"}


@dataclass(frozen=True)
class SiteResult:
    """What was found at one site.

    Args:
        site: where.
        rows: its activations.
        held_out: those of the texts that were kept from the fits and measured on; None where there was too little text to spare.
        fits: by method.
        report: the fidelity study of all of them; names begin with the method.
        shown: features to show, by method.
        sizes: of the fits.
        warnings: what the reader must know.
    """

    site: Site
    rows: StoredRows
    held_out: StoredRows | None
    fits: Mapping[str, Decomposition]
    report: Report
    shown: Mapping[str, Sequence[Shown]]
    sizes: Sizes
    warnings: tuple[str, ...]

    def estimates(self, method: str) -> dict[str, Estimate]:
        """The study's estimates for one method."""
        start = f"{method}: "
        return {name.removeprefix(start): value for name, value in self.report.estimates.items() if name.startswith(start)}


@dataclass(frozen=True)
class Run:
    """Everything the page is made from.

    Args:
        model, revision, n_layers: the language model.
        text: what was read, in words.
        sites: the results.
        folder: of the run.
        settings: of the run, as JSON.
        warnings: what the reader must know.
        seconds: so far.
    """

    model: str
    revision: str
    n_layers: int
    text: str
    sites: tuple[SiteResult, ...]
    folder: Path
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float


def slug(site: Site) -> str:
    """The site's name where it is part of a file's."""
    return re.sub(r"[^\w.-]+", "_", str(site))


def page(run: Run) -> str:
    """The page as one self-contained HTML document."""
    names = " and ".join(str(result.site) for result in run.sites)
    n_rows = run.sites[0].rows.n_rows
    lead = f"{n_rows:,} tokens, read inside the model at {names}, rewritten by three methods, and measured in {duration(run.seconds)}."
    sections = [
        html.section("What this page shows", *_overview(run)),
        html.section("How faithful are the decompositions?", *_fidelity(run)),
        html.section("How to read a feature", *_reading_guide()),
        *(html.section(f"Features at {result.site}", *_features(result)) for result in run.sites),
        html.section("Where this falls short", html.listing([*([] if run.sites[0].held_out else [SAME_TEXT]), *SHORTCOMINGS])),
        html.section("How it was made", *_provenance(run)),
    ]
    return html.page(f"{Path(run.model).name}, taken apart", sections, lead=lead)


# ---------------------------------------------------------------- overview

INTRODUCTION = (
    "A language model turns every token of a text into long lists of numbers, its activations, layer after layer. A decomposition rewrites "
    "each list as a sum of a few vectors from a dictionary. Each vector of the dictionary is called a feature. If the decomposition is "
    "good, the sum is close to the original, the model predicts as well with the sum in its place, and single features respond to things a "
    "person can recognise."
)
_SITE_WORDS = {
    "resid_post": "the residual stream, the vector that carries everything from layer to layer, as it leaves block {layer}",
    "resid_pre": "the residual stream as it enters block {layer}",
    "mlp_act": "the neurons of the MLP in block {layer}",
    "mlp_out": "what the MLP of block {layer} adds to the residual stream",
    "attn_out": "what attention in block {layer} adds to the residual stream",
    "attn_z": "the outputs of the attention heads in block {layer}",
}
_METHOD_WORDS = {
    "topk-sae": "a sparse autoencoder: {n_features} learnt directions, of which at most {k} are used for a token",
    "kmeans": "{n_clusters} typical activations; every token is replaced by the nearest one",
    "pca": "the {n_components} orthogonal directions along which activations vary most; every token uses all of them",
}


def _overview(run: Run) -> list[Html]:
    first = run.sites[0]
    facts = {
        "model": run.model,
        "layers": run.n_layers,
        "text": run.text,
        "tokens": first.rows.n_rows,
        **({"of these, kept from the fits and measured on": first.held_out.n_rows} if first.held_out else {}),
        "documents": len(first.rows.tokens.documents),
        **{f"width of {result.site}": result.rows.layout[0][1] for result in run.sites},
    }
    places = [f"{result.site}: {_where(result.site)}" for result in run.sites]
    methods = [tag("span", tag("strong", TITLES[name]), f": {words}") for name, words in _described(first.sizes).items()]
    return [
        *(html.warning(text) for text in run.warnings),
        html.paragraph(INTRODUCTION),
        html.facts(facts),
        html.paragraph("Read at (layers are counted from 0):"),
        html.listing(places),
        html.paragraph("Rewritten by three methods:"),
        html.listing(methods),
    ]


def _where(site: Site) -> str:
    words = _SITE_WORDS.get(site.kind, "a place inside block {layer}" if site.layer is not None else "a place inside the model")
    return words.format(layer=site.layer)


def _described(sizes: Sizes) -> dict[str, str]:
    values = {name: f"{getattr(sizes, name):,}" for name in ("n_components", "n_clusters", "n_features", "k")}
    return {name: words.format(**values) for name, words in _METHOD_WORDS.items()}


# ---------------------------------------------------------------- fidelity

#: Column -> (estimate, what it means).
MEASURES = {
    "variance explained": (
        "explained_variance",
        "how much of the activations' variation the rewritten ones keep. 1 is a perfect copy; 0 is no better than always giving the mean.",
    ),
    "extra loss": (
        "ce_increase",
        "how much worse the model predicts the next token, in nats per token, when the rewritten activations replace its own. 0 is best.",
    ),
    "loss recovered": (
        "ce_recovered_mean",
        "the same on a scale: 0 is the damage done by replacing every activation by the mean, 1 is no damage.",
    ),
    "change of predictions": (
        "kl_spliced",
        "how far the whole distribution over next tokens moves, in nats per token (Kullback-Leibler divergence). 0 is best.",
    ),
    "features per token": ("l0", "how many features a token uses on average. Fewer is simpler. PCA always uses all of its features."),
    "never fire": ("dead", "share of the features that no token of this text uses."),
}  # fmt: skip


def _fidelity(run: Run) -> list[Html]:
    meanings = [tag("span", tag("strong", name), f": {words}") for name, (_, words) in MEASURES.items()]
    parts = [html.details("What the columns mean", html.listing(meanings), is_open=True)]
    for result in run.sites:
        parts += [tag("h3", f"At {result.site}", style="margin-top: 2rem"), _comparison(result), *_warnings(result), *_figures(result)]
        parts += [html.details("All measurements", html.estimates_table(result.report.estimates), html.listing(result.report.notes))]
    return parts


def _warnings(result: SiteResult) -> list[Html]:
    """The study's warnings in one box: those on measures that the table shows, each once where all methods have it."""
    bare = dict.fromkeys(re.sub(rf"^({'|'.join(TITLES)}): ", "", warning) for warning in result.report.warnings)
    told = [
        re.sub(r"\bce_recovered_mean\b", "the loss recovered", text) for text in bare if not re.search(r"_recovered_(zero|resample)", text)
    ]
    return [html.warning(html.join(*told, between=" "))] if told else []


def _comparison(result: SiteResult) -> Html:
    """Methods by measures, each with its interval; then what doing nothing and doing everything right would give."""
    estimates = {TITLES[name]: result.estimates(name) for name in result.fits}
    of_first = next(iter(estimates.values()))
    ends = {"always the mean": "null", "a perfect copy": "ceiling"}
    columns: dict[str, Sequence[Any]] = {"method": [*estimates, *(tag("span", end, class_="dim") for end in ends)]}
    for column, (name, _) in MEASURES.items():
        cells = [_cell(own[name]) for own in estimates.values()]
        columns[column] = [*cells, *(tag("span", number(getattr(of_first[name], end)), class_="dim") for end in ends.values())]
    return html.data_table(columns, caption="Value, and below it the 95 % interval over documents")


def _cell(estimate: Estimate) -> Html:
    if estimate.value is None:
        return tag("span", "–", class_="dim", title=estimate.reason)
    interval = "" if estimate.low in (None, estimate.high) else f"{number(estimate.low)} – {number(estimate.high)}"
    return html.join(tag("strong", number(estimate.value)), Html("<br>"), tag("span", interval, class_="dim"))


def _figures(result: SiteResult) -> list[Html]:
    figures = [_loss_figure(result)] if "ce_clean" in result.estimates(next(iter(result.fits))) else []
    if "density" in result.report.figures:
        title = "How often features fire: to the left rare and specific ones, to the right those that fire on many tokens"
        figures.append(html.figure(_retitled(result.report.figures["density"]), title=title))
    return figures


def _retitled(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A study's figure with the methods' names as this page writes them, and its title left to the caption."""
    traces = [{**trace, "name": TITLES.get(trace["name"], trace["name"])} for trace in figure["data"]]
    return {"data": traces, "layout": {**figure["layout"], "title": None}}


def _loss_figure(result: SiteResult) -> Html:
    """Extra loss with each rewriting in place, beside what wiping the site out costs."""
    of_first = result.estimates(next(iter(result.fits)))
    clean = of_first["ce_clean"].value or 0.0
    bars = {TITLES[name]: result.estimates(name)["ce_increase"] for name in result.fits}
    bars |= {f"{what} instead": Estimate((of_first[f"ce_{what}"].value or 0.0) - clean) for what in ("mean", "zero")}
    value = [estimate.value or 0.0 for estimate in bars.values()]
    above = [None if e.high is None else e.high - y for e, y in zip(bars.values(), value, strict=True)]
    below = [None if e.low is None else y - e.low for e, y in zip(bars.values(), value, strict=True)]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    spec = {
        "data": [{"type": "bar", "x": list(bars), "y": value, "error_y": error}],
        "layout": {"yaxis": {"title": {"text": "extra loss, nats per token"}}, "height": 320},
    }
    title = (
        f"What rewriting or wiping out {result.site} costs the model, whose own loss is {number(clean)} nats per token (lower is better)"
    )
    return html.figure(spec, title=title)


# ---------------------------------------------------------------- features


def _reading_guide() -> list[Html]:
    notes = {
        "Contexts": (
            "pieces of the text around tokens on which the feature is active; the underlined token is the one meant. Blue tokens activate "
            "the feature, the stronger the bluer; orange ones have a negative coefficient. Point at a token for its value."
        ),
        "Strongest and sampled": (
            "the strongest contexts show a feature at its most flattering. Below them stand contexts drawn at random from all tokens it is "
            "active on: a feature is about one thing only if those fit too."
        ),
        "Promoted and suppressed tokens": (
            "what the feature's direction does to the next token if it is read out directly, past all later layers. Any direction promotes "
            f"something, so it is compared with random directions: below {CLEAR_Z:.0f} standard deviations it means nothing."
        ),
        "Which features are shown": (
            f"by rule: the {N_STRONGEST} with most activation in all among those that fire on {BAND[0]:.2%} to {BAND[1]:.0%} of tokens, "
            f"then {N_RANDOM} drawn at random from the rest. PCA's are always active, so there the largest coefficients decide."
        ),
    }
    return [html.listing([tag("span", tag("strong", name), f": {words}") for name, words in notes.items()])]


def _features(result: SiteResult) -> list[Html]:
    parts: list[Html] = []
    words = _described(result.sizes)
    for name, shown in result.shown.items():
        parts += [tag("h3", TITLES[name]), html.paragraph(f"{words[name][0].upper()}{words[name][1:]}.", class_="dim")]
        reasons = list(dict.fromkeys(one.no_effect for one in shown if one.no_effect))
        parts += [html.paragraph(f"Promoted tokens are left out: {reason}", class_="dim") for reason in reasons]
        parts.append(html.cards(*(_card(name, result.site, one) for one in shown)))
    return parts


def _card(method: str, site: Site, shown: Shown) -> Html:
    noun, verb = {"kmeans": ("Cluster", "holds"), "pca": ("Component", "fires on")}.get(method, ("Feature", "fires on"))
    parts = [*_contexts(shown), *_effect(shown.effect)]
    return html.card(f"{noun} {shown.feature}", *parts, subtitle=_subtitle(shown, verb), id_=f"{method}-{site}-{shown.feature}")


def _subtitle(shown: Shown, verb: str) -> str:
    how_often = "" if shown.density is None else f"{verb} {shown.density:.2%} of tokens; "
    strength = f"largest activation {number(shown.largest)}; " if shown.is_graded else ""
    return f"{how_often}{strength}{'drawn at random' if shown.why == 'random' else 'one of the strongest'}"


def _contexts(shown: Shown) -> list[Html]:
    strongest = [tag("h4", "Strongest"), *(_window(window, shown.largest) for window in shown.top)] if shown.is_graded else []
    sample = [tag("h4", "Sampled"), *(_window(window, shown.largest) for window in shown.sample)] if shown.sample else []
    return [*strongest, *sample]


def _window(window: Window, largest: float) -> Html:
    """A context on few lines: an end of line is shown as a mark, indentation as one space."""
    tokens = [re.sub(r" {2,}", " ", token.replace("\n", "↵ ")) for token in window.tokens]
    return html.context(tokens, [value or 0.0 for value in window.activations], scale=largest, focus=window.centre)


def _effect(effect: LogitEffect | None) -> list[Html]:
    """Promoted and suppressed tokens, folded away where random directions do as much."""
    if effect is None:
        return []
    tokens = html.token_list(*([(one.token, one.logit) for one in side] for side in (effect.promoted, effect.suppressed)))
    z = max(effect.z_promoted, effect.z_suppressed)
    if z < CLEAR_Z:
        return [html.details("Promoted tokens: no clearer than those of random directions", tokens)]
    return [tokens, html.paragraph(f"{z:.1f} standard deviations beyond random directions", class_="dim")]


# ---------------------------------------------------------------- limits and provenance

SAME_TEXT = "There was too little text to keep some from the fits: they are measured on what they were fitted to, and are worse elsewhere."
SHORTCOMINGS = (
    "One seed, one size and short training: another seed gives other features, and longer training on more text gives better ones.",
    "What a feature seems to be about is read off contexts by eye; nothing here tests it, and nothing shows that the model uses it.",
    "Promoted tokens follow the direct path only; later layers may undo or reverse them.",
    "PCA's components are shown at their positive end only.",
)


def _provenance(run: Run) -> list[Html]:
    first = run.sites[0]
    name = f"topk-sae-{slug(first.site)}"
    feature = first.shown["topk-sae"][0].feature if first.shown["topk-sae"] else 0
    commands = [
        f"armillary inspect {run.folder / name} {feature}",
        f"armillary study fidelity {run.folder / name}",
        f"armillary verify {run.folder}",
    ]
    fits = {f"{fit} at {result.site}": dict(value.provenance["options"]) for result in run.sites for fit, value in result.fits.items()}
    record = dict(first.rows.record)
    return [
        html.paragraph("To go on from here:"),
        html.listing([tag("code", command) for command in commands]),
        html.details("Settings", html.facts(run.settings)),
        html.details("Fits", html.facts(fits)),
        html.details("Activations", html.facts({"model revision": run.revision, **record})),
        html.details("Versions", html.facts(versions())),
    ]
