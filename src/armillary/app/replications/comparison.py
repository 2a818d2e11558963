"""comparison: every kind of method at one budget, over every study that can tell them apart, with the papers' claims beside it.

PCA, k-means, a sparse autoencoder, semi-NMF, a mixture of factor analyzers and differences of means are fitted to the same text of one
model, with as many atoms, and as many of them per row, as can be. Single dimensions stand for what no method does; DAS, which is told the
task, for what localization could reach. The studies are those of `armillary compare`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from armillary.app.comparing import plans
from armillary.app.comparing.claims import Claim
from armillary.app.comparing.files import refuse_another, save
from armillary.app.comparing.recipes import RECIPES, Budget, Stored
from armillary.app.comparing.run import Asked, More, compare, reading_once, record_of
from armillary.app.replications import Result, Say
from armillary.app.subjects import model_name
from armillary.app.tasks import load_task
from armillary.core.artifact import load as load_fit
from armillary.core.artifact import write_atomic
from armillary.core.config import Config
from armillary.core.decomposition import Decomposition
from armillary.core.model import Model
from armillary.core.progress import duration
from armillary.core.report import Estimate, plain
from armillary.core.site import Site
from armillary.core.study import Subject
from armillary.core.texts import read_documents
from armillary.errors import InputError, MismatchError
from armillary.lm.harvest import harvest
from armillary.lm.model import LanguageModel
from armillary.lm.reference.texts import reference_texts
from armillary.methods.das import DAS
from armillary.studies.causal import localization

REGIONS, GROUPS, AXBENCH = "Shafran et al. 2026 (MFA)", "Shafran et al. 2025 (semi-NMF)", "Wu et al. 2025 (AxBench)"
MIB, PROBES = "Mueller et al. 2025 (MIB)", "Kantamneni et al. 2025 (sae-probes)"

#: What the papers say that a comparison of these methods can look at.
CLAIMS = (
    Claim("regions steer better than a sparse autoencoder's features", REGIONS, "steering", "score", "mfa", "sae"),
    Claim("regions steer better than differences of means", REGIONS, "steering", "above_diffmeans", "mfa", None),
    Claim("regions localize better than principal axes", REGIONS, "localization", "iia", "mfa", "pca"),
    Claim("regions localize better than a sparse autoencoder", REGIONS, "localization", "iia", "mfa", "sae"),
    Claim("regions are more interpretable than a sparse autoencoder's features", REGIONS, "labels", "embedding", "mfa", "sae"),
    Claim("neuron groups detect concepts as well as a sparse autoencoder", GROUPS, "concepts", "s_cd", "snmf", "sae", 0, margin=0.1),
    Claim("neuron groups steer better than a sparse autoencoder's features", GROUPS, "steering", "score", "snmf", "sae"),
    Claim("neuron groups steer better than differences of means", GROUPS, "steering", "above_diffmeans", "snmf", None),
    Claim("differences of means detect concepts better than a sparse autoencoder", AXBENCH, "concepts", "auroc", "diffmeans", "sae"),
    Claim("an autoencoder localizes no better than single dimensions", MIB, "localization", "iia", "sae", "dimensions", -1, margin=0.05),
    Claim("DAS localizes better than a sparse autoencoder", MIB, "localization", "iia", "das", "sae"),
    Claim("one feature of an autoencoder tells more than one dimension", PROBES, "probing", "above_raw_1", "sae", None),
)


class Settings(Config):
    """What the comparison is told."""

    model: str = "arm-small"
    """A causal model's name on the Hugging Face hub, a folder, or arm-small, which ships with the package."""
    text: tuple[str, ...] = ()
    """Texts, as `armillary harvest` reads them, with labels; the shipped model's own held-out text if none are given."""
    label: str = "kind"
    """Label of the texts that differences of means are of."""
    layer: int | None = Field(None, ge=0)
    """Whose residual stream and MLP are taken apart.  [default: halfway up]"""
    n_atoms: int = Field(256, ge=16)
    """Atoms of every dictionary that can have so many."""
    n_active: int = Field(8, ge=2)
    """Atoms that add up a row, where a method can be told."""
    n_seeds: int = Field(1, ge=1)
    """Fits of every method that is not the same every time."""
    n_texts: int = Field(680, ge=20)
    """Texts at most; seven of ten are fitted to, the others measured on."""
    tasks: tuple[str, ...] = ("recall", "mcqa", "city")
    """Of the localization study."""
    studies: tuple[str, ...] = ()
    """Which to ask; all of a comparison's if none are named."""
    budget: Literal["small", "full"] = "small"
    """How much of everything is measured."""
    seed: int = Field(0, ge=0)
    """Same seed, same bits."""
    out: str = "runs/comparison"
    """Folder to write. A run that was stopped goes on there."""


def run(settings: Settings = Settings(), *, say: Say = lambda line: None) -> Result:
    """Harvest, fit, measure, and write the table.

    Raises:
        OutputExistsError: the folder holds another comparison.
        InputError: an unknown model, layer or task, or texts without the label.
        CapabilityError: the model is no causal one.
    """
    began, folder = time.monotonic(), Path(settings.out)
    lm = LanguageModel(model_name(settings.model))
    lm.require_logits()
    stored = _rows(lm, settings, say)
    subjects = [Subject(fit, rows=stored.held_out(fit), model=lm, name=name) for name, fit in _fits(lm, stored, settings, say).items()]
    tasks = [load_task(name, settings.seed) for name in settings.tasks]
    asked = plans.plan(settings.studies or tuple(plans.SHOWN), tasks, settings.budget, seed=settings.seed)
    for line in plans.lines(plans.costs(asked, subjects), plans.speed_of(subjects)):
        say(line)
    subjects = reading_once(subjects)
    model = subjects[0].require_model()
    more = {"das": More(lambda one: _das(model, one, stored, settings), {"rank": settings.n_active, "site": str(stored.stream_site)})}
    refuse_another(record_of(asked, subjects), folder)
    found = compare(asked, subjects, folder=folder / "measured", title=f"{lm.name} taken apart", claims=CLAIMS, more=more, say=say)
    pages = save(found, folder)
    say(f"done in {duration(time.monotonic() - began)}")
    return Result(folder, pages[0], (found,), {"out": str(folder), "comparison": found.to_json()})


def _rows(lm: LanguageModel, settings: Settings, say: Say) -> Stored:
    """Activations of one layer: of the residual stream, of the neurons, and of what these write."""
    layer = lm.n_layers // 2 if settings.layer is None else settings.layer
    texts = list(read_documents(settings.text))[: settings.n_texts] if settings.text else reference_texts(settings.n_texts)
    if len({text.labels.get(settings.label) for text in texts} - {None}) < 2:
        raise InputError(f"the {len(texts)} texts have fewer than two values of the label {settings.label!r}; choose another --label")
    say(f"reading {len(texts)} texts through {lm.name} at layer {layer}")
    sites = [Site(kind, layer) for kind in ("resid_post", "mlp_act", "mlp_out")]
    return Stored(harvest(lm, texts, sites, out=Path(settings.out) / "acts"), *sites)


def _fits(lm: LanguageModel, stored: Stored, settings: Settings, say: Say) -> dict[str, Decomposition]:
    """All methods, each kept in the folder; those that are there are read."""
    found: dict[str, Decomposition] = {}
    folder = Path(settings.out) / "fits"
    _refuse_others(folder, settings, stored)
    budget = Budget(settings.n_atoms, settings.n_active, settings.label)
    for name, recipe in RECIPES.items():
        seeds = range(settings.seed, settings.seed + (settings.n_seeds if recipe.is_random else 1))
        for seed in seeds:
            label = name if len(seeds) == 1 else f"{name}-s{seed}"
            place = folder / label
            if not place.exists():
                say(f"fitting {label}")
                recipe.make(lm, stored, budget, seed).save(place)
            found[label] = load_fit(place)
            if (made_with := found[label].provenance.get("seed", seed)) != seed:
                raise MismatchError(f"'{place}' was fitted with seed {made_with}, not {seed}; choose another --out")
    return found


def _refuse_others(folder: Path, settings: Settings, stored: Stored) -> None:
    """Raise where a folder holds fits that were made otherwise."""
    same = {name: getattr(settings, name) for name in ("n_atoms", "n_active", "label")} | {"rows": plain(stored.stream[0].record)}
    told = folder / "settings.json"
    if told.exists() and json.loads(told.read_text()) != same:
        raise MismatchError(f"'{folder}' holds fits of another budget, label or text; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(told, json.dumps(same, indent=1).encode())


def _das(model: Model, one: Asked, stored: Stored, settings: Settings) -> dict[str, Estimate]:
    """What a subspace reaches that is learnt for each variable of a task; where, is chosen by training pairs that are held back."""
    assert one.task is not None
    method = DAS(rank=settings.n_active)
    return dict(localization.run_method(method, model, stored.stream_site, one.task, name="das", config=one.config).estimates)
