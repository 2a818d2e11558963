"""armillary verify PATH: are the bytes the ones that were written?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from armillary.app.cli.options import Command
from armillary.app.cli.paths import existing
from armillary.app.cli.screen import Screen
from armillary.errors import CorruptFileError, InputError


@click.command("verify", cls=Command, short_help="Check every checksum of a store, an artifact or a whole run.")
@click.argument("path")
def command(screen: Screen, path: str) -> None:
    """Check every checksum below PATH: a store of activations, a fit, or a run folder with several of them."""
    checked = list(check(existing(path, "file or folder")))
    if not checked:
        raise InputError(f"nothing in '{path}' has checksums: name a folder written by armillary harvest, fit or demo")
    damaged = [entry["damage"] for entry in checked if entry["damage"]]
    if damaged:
        raise CorruptFileError(f"{len(damaged)} of {len(checked)} damaged: {'; '.join(damaged)}")
    lines = [f"{entry['path']}: {entry['kind']}, {entry['bytes']:,} bytes{_state(entry)}" for entry in checked]
    screen.answer({"checked": checked}, *lines, "all checksums are right")


def check(root: Path) -> Iterator[dict[str, Any]]:
    """One entry per store, artifact and run record at or below `root`: path, kind, bytes, whether it is complete, and the damage or ""."""
    for record in sorted([*root.rglob("manifest.json"), *root.rglob("run.json")]):
        kind, verify = _kind(record)
        if verify is None:
            continue
        entry = {"path": str(record.parent), "kind": kind, "bytes": 0, "is_complete": True, "damage": ""}
        try:
            yield entry | verify(record.parent)
        except CorruptFileError as error:
            yield entry | {"damage": str(error)}


def _kind(record: Path) -> tuple[str, Any]:
    """What the record is of, and how that is verified; None for another program's."""
    try:
        data = json.loads(record.read_text())
    except ValueError:  # whose it is can only be told by what lies beside it
        data = (
            {"kind": "demo"} if record.name == "run.json" else {"value": None} if (record.parent / "weights.safetensors").is_file() else {}
        )
    told = data if isinstance(data, dict) else {}
    if record.name == "run.json":
        return "run", _verify_run if told.get("kind") == "demo" else None
    if "value" in told:
        return "artifact", _verify_artifact
    from armillary.core.store.manifest import KIND

    return "store", _verify_store if told.get("kind") == KIND or (record.parent / "shards").is_dir() else None


def _verify_store(folder: Path) -> dict[str, Any]:
    from armillary.core import activations

    store = activations.open(folder)
    return {"bytes": store.verify(), "is_complete": store.is_complete}


def _verify_artifact(folder: Path) -> dict[str, Any]:
    from armillary.core.artifact import read_manifest

    return {"bytes": _compare(folder, read_manifest(folder)["sha256"])}


def _verify_run(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "run.json").read_text())
    except ValueError:
        raise CorruptFileError(f"{folder / 'run.json'} is not valid JSON; it was cut short or edited") from None
    return {"bytes": _compare(folder, record.get("sha256", {})), "is_complete": record.get("state") == "done"}


def _compare(folder: Path, expected: dict[str, str]) -> int:
    """The bytes read; every file named must have its checksum."""
    from armillary.core.artifact import file_sha256

    for name, checksum in expected.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != checksum:
            raise CorruptFileError(f"{folder / name} is missing or its checksum differs")
    return sum((folder / name).stat().st_size for name in expected)


def _state(entry: dict[str, Any]) -> str:
    return "" if entry["is_complete"] else ", not finished"
