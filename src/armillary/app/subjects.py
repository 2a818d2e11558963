"""Fits from folders, each with the activations and the model it was made from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armillary.core import activations, artifact
from armillary.core.activations import Harvest, StoredRows
from armillary.core.decomposition import Decomposition
from armillary.core.study import Subject
from armillary.errors import InputError, MismatchError
from armillary.lm import reference

if TYPE_CHECKING:
    from armillary.core.method import Labelled
    from armillary.lm.model import LanguageModel


def subjects(
    fits: Sequence[str],
    needs: Collection[str],
    accepts: Collection[str] = (),
    *,
    acts: str | None = None,
    model: str | None = None,
    remark: Callable[[str], None] = lambda line: None,
) -> list[Subject]:
    """A study's subjects; fits at the same sites of the same store share one rows object, and with it one reading.

    Args:
        fits: folders written by `fit.save`.
        needs: what the study must be given; only that is opened.
        accepts: what it uses where it can be had; `remark` is told where it cannot.
        acts: a store; None for each fit's own, of which rows that were held out are taken where there are any.
        model: a model's name or folder; None for the one of the fits' provenance.

    Raises:
        InputError: something is not there.
        MismatchError: activations or a model that are not the fit's.
    """
    loaded = {Path(path): artifact.load(path) for path in fits}
    lm = _model(loaded, needs, accepts, model, remark)
    rows: dict[Path, StoredRows] = {}
    if "rows" in {*needs, *accepts}:
        shared: dict[str, StoredRows] = {}
        for path, fit in loaded.items():
            own = own_rows(open_store(path, fit, acts), fit)
            own = own if acts else own.unseen_by(fit.provenance)
            rows[path] = shared.setdefault(f"{own.record['store']}: {own.layout} {own.record.get('windows')}", own)
    return [Subject(fit, rows=rows.get(path), model=lm, name=path.name) for path, fit in loaded.items()]


def _model(
    fits: Mapping[Path, Decomposition], needs: Collection[str], accepts: Collection[str], name: str | None, remark: Callable[[str], None]
) -> LanguageModel | None:
    wanted = {"model", "logits"}
    if wanted & set(needs) or (name is not None and wanted & set(accepts)):
        return open_model(fits, name)
    return optional_model(fits, remark) if wanted & set(accepts) else None


def optional_model(fits: Mapping[Path, Decomposition], remark: Callable[[str], None]) -> LanguageModel | None:
    """The fits' model, or None and a remark on why it cannot be had."""
    try:
        return open_model(fits)
    except InputError as error:
        remark(f"note: the model is left out, because {error}")
        return None


def model_name(name: str) -> str:
    """The name a model is loaded and recorded by: a folder's is absolute, so that the record holds from anywhere."""
    return str(Path(name).resolve()) if Path(name).is_dir() and name not in reference.NAMES else name


def open_store(path: Path, fit: Decomposition, acts: str | None = None) -> Harvest:
    """The store a fit was made from: the one named, that of its provenance, or (a run that was moved) the one of that name beside it.

    Raises:
        InputError: there is none.
    """
    if acts is not None:
        return activations.open(acts)
    recorded = fit.provenance.get("store")
    if recorded is None:
        raise InputError(f"'{path}' does not say where its activations lie; name them with --acts")
    place = Path(str(recorded))
    found = next((place for place in (place, path.parent / place.name) if place.is_dir()), None)
    if found is None:
        raise InputError(f"the activations of '{path}' are no longer at '{place}'; name them with --acts")
    return activations.open(found)


def own_rows(store: Harvest, fit: Decomposition) -> StoredRows:
    """The columns of a store that a fit reads or reconstructs.

    Raises:
        MismatchError: the store is of another model.
    """
    sources = list(dict.fromkeys(source for source, _ in (*fit.inputs, *fit.targets) if source is not None))
    theirs = store.manifest.model
    if sources and theirs.revision != sources[0].revision:
        of = f"{theirs.name}@{theirs.revision[:8]}"
        raise MismatchError(f"'{store.path}' is of {of}, the fit is of {sources[0]}; name its activations with --acts")
    return store[[str(source.site) for source in sources] or [str(site) for site in store.sites]]


def open_model(fits: Mapping[Path, Decomposition], name: str | None = None) -> LanguageModel:
    """The model of the fits' provenance, or the one named, which must have the same weights.

    Raises:
        InputError: no name, and none in the provenance.
        MismatchError: other weights than the fits'.
    """
    from armillary.lm.model import LanguageModel

    known = {path: fit.provenance for path, fit in fits.items() if "model" in fit.provenance}
    if name is None and not known:
        raise InputError(f"'{next(iter(fits))}' does not say which model it is of; name it with --model")
    lm = LanguageModel(model_name(name or str(next(iter(known.values()))["model"])))
    for path, made_from in known.items():
        if made_from["revision"] != lm.revision:
            of = f"{made_from['model']}@{str(made_from['revision'])[:8]}"
            raise MismatchError(f"'{path}' is of {of}, not of {lm.name}@{lm.revision[:8]}; name its model with --model")
    return lm


def labelled(rows: StoredRows, label: str) -> Labelled:
    """Rows with their document's label as the class.

    Raises:
        InputError: a document without that label.
    """
    from armillary.core.method import Labelled

    values = []
    for document in rows.tokens.documents:
        if label not in document.labels:
            raise InputError(f"document '{document.name}' has no label {label!r}; it has: {', '.join(document.labels) or 'none'}")
        values.append(document.labels[label])
    return Labelled.of(rows, [values[i] for i in rows.tokens.document[rows.tokens.rows]])
