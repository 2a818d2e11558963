"""Artifacts: a folder with manifest.json and weights.safetensors (and log.jsonl). Hashed, written atomically, never a pickle.

Frozen dataclasses of tensors, numbers, texts and other such values are taken apart into JSON and named tensors; `CLASSES` is the only
way back to a class, so a file can name nothing that is not listed here.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from armillary.core.rows import tensor_sha256
from armillary.errors import CorruptFileError, DiskFullError, InputError, MismatchError, OutputExistsError, nearest

if TYPE_CHECKING:
    from armillary.core.decomposition import Decomposition

#: Raised when the layout changes in a way that older readers cannot follow.
SCHEMA = 1
MANIFEST, WEIGHTS, LOG = "manifest.json", "weights.safetensors", "log.jsonl"

#: The classes an artifact may hold, and the modules they live in.
CLASSES: dict[str, str] = {
    "AbsTopKEncoder": "armillary.methods.sae.encoders",
    "CarriedEncoder": "armillary.core.encoders",
    "Decomposition": "armillary.core.decomposition",
    "Dictionary": "armillary.core.dictionary",
    "Gate": "armillary.methods.mfa.gate",
    "GatedEncoder": "armillary.methods.sae.encoders",
    "GradientPursuitEncoder": "armillary.core.pursuit",
    "LinearEncoder": "armillary.core.encoders",
    "MFAEncoder": "armillary.methods.mfa.encoder",
    "MappedEncoder": "armillary.core.encoders",
    "MatchingPursuitEncoder": "armillary.core.pursuit",
    "Mixture": "armillary.methods.mfa.mixture",
    "NNLSEncoder": "armillary.core.nnls",
    "NearestEncoder": "armillary.core.encoders",
    "NormalisedEncoder": "armillary.methods.sae.encoders",
    "NullEncoder": "armillary.core.encoders",
    "OrthogonalPursuitEncoder": "armillary.core.pursuit",
    "Site": "armillary.core.site",
    "Source": "armillary.core.site",
    "SubsetEncoder": "armillary.core.encoders",
    "ThresholdEncoder": "armillary.methods.sae.encoders",
    "TopKEncoder": "armillary.methods.sae.encoders",
}


def save(value: Any, path: str | os.PathLike[str], *, log: list[dict[str, Any]] | None = None) -> Path:
    """Write a value of one of `CLASSES` as a folder that appears whole or not at all.

    Args:
        value: for instance a Decomposition.
        path: a folder that does not exist yet or is empty.
        log: lines for log.jsonl, such as the training curve.

    Raises:
        OutputExistsError: the folder holds something already.
        DiskFullError: nothing is left behind in that case.
    """
    with appearing(Path(path)) as scratch:
        _write_folder(scratch, value, log or [])
    return Path(path)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target`; it takes the target's place whole at the end, or vanishes after an error.

    Raises:
        OutputExistsError: the target holds something already.
        DiskFullError: nothing is left behind in that case.
    """
    refuse_existing(target)
    scratch = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        with writing(scratch):
            scratch.mkdir(parents=True)
            yield scratch
            if target.exists():
                target.rmdir()
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_folder(folder: Path, value: Any, log: list[dict[str, Any]]) -> None:
    tensors: dict[str, Tensor] = {}
    tree = take_apart(value, tensors)
    safetensors.torch.save_file(_ready(tensors), folder / WEIGHTS)
    manifest = {"schema": SCHEMA, "value": tree, "sha256": {WEIGHTS: file_sha256(folder / WEIGHTS)}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if log:
        (folder / LOG).write_text("".join(json.dumps(line) + "\n" for line in log))


def load(path: str | os.PathLike[str]) -> Decomposition:
    """Read what `save` wrote, bit for bit.

    Raises:
        InputError: the folder does not exist or holds no artifact.
        CorruptFileError: the weights are not the bytes that were written.
        MismatchError: a schema newer than this version knows.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != manifest["sha256"][WEIGHTS]:
        raise CorruptFileError(f"{weights} is missing or its checksum differs from the manifest's; fit again or restore the file")
    value: Decomposition = put_together(manifest["value"], _aligned(safetensors.torch.load_file(weights)))
    return value


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact folder, its schema checked."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"no artifact at '{folder}'{_near_path(folder)}: expected a folder with {MANIFEST}")
    try:
        manifest: dict[str, Any] = dict(json.loads((folder / MANIFEST).read_text()))
    except (ValueError, TypeError):
        raise CorruptFileError(f"{folder / MANIFEST} is not valid JSON; it was cut short or edited") from None
    if manifest.get("schema", 0) > SCHEMA:
        raise MismatchError(f"'{folder}' has schema {manifest['schema']}, this version reads up to {SCHEMA}; upgrade armillary")
    if "value" not in manifest:
        raise MismatchError(f"'{folder}' is not a fitted decomposition; a folder written by `armillary fit` or `fit.save` is needed")
    return manifest


def _near_path(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings, n=1)
    return f" (did you mean '{path.parent / close[0]}'?)" if close else ""


# ---------------------------------------------------------------- values to JSON and tensors, and back


def take_apart(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """JSON of a value; its tensors go into `tensors` under dotted names.

    A tensor that is held twice, such as the atoms that an encoder shares with its dictionary, is kept once.
    """
    if isinstance(value, Tensor):
        return {"tensor": _hold(value.detach(), tensors, name)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        if kind not in CLASSES:
            raise InputError(f"{kind} cannot be saved: it is not in armillary.core.artifact.CLASSES")
        fields = {f.name: take_apart(getattr(value, f.name), tensors, f"{name}.{f.name}".lstrip(".")) for f in dataclasses.fields(value)}
        return {"class": kind, "fields": fields}
    if isinstance(value, Mapping):
        return {"map": {str(key): take_apart(item, tensors, f"{name}.{key}".lstrip(".")) for key, item in value.items()}}
    if isinstance(value, tuple | list):
        return {"list": [take_apart(item, tensors, f"{name}.{i}".lstrip(".")) for i, item in enumerate(value)]}
    if isinstance(value, np.generic):
        return value.item()
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(
            f"{name or 'a value'} is a {type(value).__name__}, which a file here cannot hold; use numbers, texts, lists or tensors"
        )
    return value


def sha256_of(value: Any) -> str:
    """A hash of all that would be written of a value: its tensors and its plain fields."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(take_apart(value, tensors), sort_keys=True, default=str)
    return hashlib.sha256("".join([tree, *(tensor_sha256(tensor) for tensor in tensors.values())]).encode()).hexdigest()


def _hold(value: Tensor, tensors: dict[str, Tensor], name: str) -> str:
    """The name under which `tensors` keeps the value."""
    for known, other in tensors.items():
        if _is_same(value, other):
            return known
    while name in tensors:  # {"a.b": x, "a": {"b": y}}
        name += "_"
    tensors[name] = value
    return name


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory read the same way."""
    return (a.device, a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.device, b.data_ptr(), b.dtype, b.shape, b.stride())


def _ready(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors in host memory that share no storage, as safetensors wants them; copied only where they are not."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.cpu().contiguous()
        storage = flat.untyped_storage()
        is_whole = storage.nbytes() == flat.nbytes and storage.data_ptr() not in taken
        taken.add(storage.data_ptr())
        found[name] = flat if is_whole else flat.clone()
    return found


def put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `take_apart`; lists come back as tuples."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "map" in tree:
        return {key: put_together(item, tensors) for key, item in tree["map"].items()}
    if "list" in tree:
        return tuple(put_together(item, tensors) for item in tree["list"])
    if tree["class"] not in CLASSES:
        raise MismatchError(f"the artifact holds a {tree['class']!r}, which this version does not know; upgrade armillary")
    kind = getattr(importlib.import_module(CLASSES[tree["class"]]), tree["class"])
    return kind(**{key: put_together(item, tensors) for key, item in tree["fields"].items()})


# ---------------------------------------------------------------- files


class writing:
    """Context in which a full disk becomes a `DiskFullError` that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # safetensors gives the system's error number in its text only.
        told = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        number = int(told[1]) if told else error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(f"the disk is full: '{self.path}' could not be written; what was finished before is intact") from None


def new_file(path: str | os.PathLike[str], what: str, endings: Iterable[str]) -> Path:
    """A file that can be written: one of these endings, and not there yet.

    Raises:
        InputError: another ending.
        OutputExistsError: the file exists.
    """
    target, known = Path(path), list(endings)
    if target.suffix not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        raise InputError(f"{what} is written as {names}, got {target.name!r}; try {target.with_suffix('.html').name!r}")
    refuse_existing(target)
    return target


def refuse_existing(path: Path) -> None:
    """Raise `OutputExistsError` where `path` is a file or a folder that is not empty."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        stem, suffix = (path.stem, path.suffix) if path.is_file() else (path.name, "")
        fresh = next(found for i in range(2, 10_000) if not (found := path.with_name(f"{stem}-{i}{suffix}")).exists())
        raise OutputExistsError(f"output '{path}' exists and is not empty; nothing was overwritten. Try --out '{fresh}'")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and survives a power cut once this returns."""
    with replacing(path) as scratch:
        scratch.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch path beside `path`; what is written there takes the path's place at the end, or vanishes after an error."""
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            yield scratch
            with open(scratch, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(scratch, path)
            _flush_names(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """Write the folder's list of names to the disk, and with it all renames before; not every system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that lie in memory as torch's own tensors do; those of a file begin at odd places, where matrix products round otherwise."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


#: A consumer's state: tensors, and anything JSON can hold.
State = Mapping[str, Any]


def write_state(path: Path, state: State) -> None:
    """One atomic file with a consumer's (nested) state; JSON lies in the header, tensors behind it."""
    tensors: dict[str, Tensor] = {}
    tree = take_apart(state, tensors)
    if not tensors:
        tensors["_"] = torch.zeros(0)
    with replacing(path) as scratch:
        safetensors.torch.save_file(_ready(tensors), scratch, metadata={"tree": json.dumps(tree)})


def read_state(path: Path) -> dict[str, Any]:
    """The inverse of `write_state`.

    Raises:
        CorruptFileError: the file is cut short or is something else.
    """
    try:
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()["tree"])
            state: dict[str, Any] = put_together(tree, _aligned({name: file.get_tensor(name) for name in file.keys()}))  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"checkpoint {path} cannot be read ({error}); delete it to start again") from None
    return state
