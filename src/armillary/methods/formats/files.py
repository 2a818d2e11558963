"""Files of other tools: found on disk or on the Hub, read without running anything, and complaints that name the file and the key."""

from __future__ import annotations

import json
import math
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from armillary.errors import CorruptFileError, InputError, MissingExtraError, nearest

HUB = "hf://"


def located(path: str | Path) -> Path:
    """A path that exists: as given, or, for hf://owner/repo/folder[@revision], the copy in the Hub's cache, downloaded if it is missing.

    Raises:
        InputError: there is nothing at the path; the nearest names beside it are given.
    """
    if str(path).startswith(HUB):
        return _from_hub(str(path).removeprefix(HUB))
    found = Path(path)
    if not found.exists():
        beside = [entry.name for entry in found.parent.iterdir()] if found.parent.is_dir() else []
        close = nearest(found.name, beside, n=1)
        raise InputError(f"no checkpoint at '{found}'{f'; did you mean {str(found.with_name(close[0]))!r}?' if close else ''}")
    return found


def _from_hub(address: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("hf:// addresses need huggingface_hub; pip install huggingface_hub") from None
    address, _, revision = address.partition("@")
    parts = address.strip("/").split("/")
    if len(parts) < 2:
        raise InputError(f"'{HUB}{address}' names no repository; write {HUB}owner/repository/folder")
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    above = ["/".join(parts[2:end]) for end in range(2, len(parts))]  # settings may lie in the folders around
    beside = [f"{place}/config.*".lstrip("/") for place in above] + [f"{above[-1]}/W_dec_*".lstrip("/")] if inside else []
    patterns = [inside, f"{inside}/*", f"{inside}/**", *beside] if inside else None
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # what the Hub's own errors are, all of them
        raise InputError(f"repository {repository} could not be fetched from the Hub ({str(error).splitlines()[0]})") from None
    if not (folder / inside).exists():
        raise InputError(f"repository {repository} holds no '{inside}'")
    return folder / inside


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CorruptFileError: the file is missing, cut short, or holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise CorruptFileError(f"{path} should hold a JSON object, but holds a {type(found).__name__}")
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; see `read_json`."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CorruptFileError(f"{path} cannot be read as YAML ({error})") from None
    if not isinstance(found, dict):
        raise CorruptFileError(f"{path} should hold a YAML mapping, but holds a {type(found).__name__}")
    return found


def need(config: Any, key: str, path: Path) -> Any:
    """A setting that has to be there.

    Raises:
        CorruptFileError: it is not, or what should hold it is no mapping.
    """
    if not isinstance(config, Mapping):
        raise CorruptFileError(f"{path} should hold {key!r} in a mapping, but there is {config!r}")
    if key not in config:
        raise CorruptFileError(f"{path} has no {key!r}; it holds {', '.join(sorted(map(str, config))) or 'nothing'}")
    return config[key]


def count(value: Any, key: str, path: Path, most: int | None = None) -> int:
    """A setting that is a whole number from 1, at most `most`; 32.0 is 32.

    Raises:
        CorruptFileError: it is something else.
    """
    found = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if found is None or not math.isfinite(found) or round(found) != found or found < 1 or (most is not None and found > most):
        allowed = "a whole number from 1" + ("" if most is None else f" to {most}")
        raise CorruptFileError(f"{path}: {key!r} is {value!r}, expected {allowed}")
    return int(found)


def positive(value: Any, key: str, path: Path) -> float:
    """A setting or hint that is a finite number above 0.

    Raises:
        CorruptFileError: it is something else.
    """
    found = value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    if not 0 < found < float("inf"):
        raise CorruptFileError(f"{path}: {key!r} is {value!r}, expected a finite number above 0")
    return float(found)


def level(value: Any, key: str, path: Path) -> float:
    """A setting that is a finite number from 0.

    Raises:
        CorruptFileError: it is something else.
    """
    return 0.0 if value == 0 and not isinstance(value, bool) else positive(value, key, path)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one: for what may be missing or null."""
    return value if isinstance(value, Mapping) else {}


class Tensors(Mapping[str, Tensor]):
    """The tensors of one file, by name.

    Args:
        path: the file, for complaints.
        tensors: what it holds.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self._tensors = path, dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @staticmethod
    def read(path: Path) -> Tensors:
        """From .safetensors, .npz, or a .pt or .pth of torch, of which only tensors and plain values are read: code in it never runs.

        Raises:
            CorruptFileError: the file is missing, cut short, not of its kind, or a pickle that holds more than tensors.
        """
        readers: dict[str, Callable[[Path], Any]] = {".safetensors": load_file, ".npz": _read_npz}
        try:
            found = readers.get(path.suffix, _read_torch)(path)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise CorruptFileError(f"{path} holds more than tensors and plain values, and nothing of it was run ({reason})") from None
        except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            raise CorruptFileError(f"{path} cannot be read; it is missing, cut short or of another kind ({error})") from None
        return Tensors(path, {name: tensor for name, tensor in _flat(found) if isinstance(tensor, Tensor)})

    def named(self, names: Mapping[str, str]) -> Tensors:
        """With other names: {theirs: ours}; what is not mentioned keeps its own."""
        return Tensors(self.path, {names.get(name, name): tensor for name, tensor in self._tensors.items()})

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor in float32, of a shape of which None may be anything.

        Raises:
            CorruptFileError: it is missing, has another shape, or is not finite.
        """
        if name not in self._tensors:
            raise CorruptFileError(f"{self.path} has no tensor {name!r}; it holds {', '.join(sorted(self._tensors)) or 'none'}")
        found = self._tensors[name]
        fits = len(shape) == found.ndim and all(want is None or want == have for want, have in zip(shape, found.shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise CorruptFileError(f"{self.path}: tensor {name!r} is {list(found.shape)}, expected [{wanted}]")
        value = found.to(torch.float32)
        if not bool(torch.isfinite(value).all()):
            raise CorruptFileError(f"{self.path}: tensor {name!r} holds NaN or infinity")
        return value.contiguous()

    def number(self, name: str) -> float:
        """A tensor of a single number.

        Raises:
            CorruptFileError: it is missing, holds several, or is not finite.
        """
        return float(self.take(name)) if name in self and self[name].ndim == 0 else float(self.take(name, 1))

    def maybe(self, name: str, *shape: int | None) -> Tensor | None:
        """The same, or None where there is no tensor of that name."""
        return self.take(name, *shape) if name in self._tensors else None


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays = np.load(path, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("it holds a single array without a name")
    with arrays:
        found = {name: arrays[name] for name in arrays.files}
    return {name: torch.from_numpy(array) for name, array in found.items() if array.dtype.kind in "fiub"}


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that are none of torch's, which are refused below
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (struct.error, IndexError, KeyError, TypeError, AttributeError, AssertionError) as error:  # garbled
            raise ValueError(f"its pickle is garbled: {error!r}") from None


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names."""
    if not isinstance(tree, Mapping):
        yield prefix.removesuffix("."), tree
        return
    for name, value in tree.items():
        yield from _flat(value, f"{prefix}{name}.")


def only(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that is in a folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
