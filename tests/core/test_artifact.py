"""Artifacts: bit for bit what was saved, in another process too; damage, other versions and full disks are named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from armillary.core import artifact
from armillary.core.artifact import (
    CLASSES,
    LOG,
    MANIFEST,
    WEIGHTS,
    load,
    put_together,
    read_state,
    refuse_existing,
    save,
    take_apart,
    write_atomic,
    write_state,
)
from armillary.core.decomposition import Decomposition
from armillary.errors import CorruptFileError, DiskFullError, InputError, MismatchError, OutputExistsError
from core_fits import FITS, linear, rows, sparse


def tensors_of(fit: Decomposition) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    take_apart(fit, found)
    return found


def same(one: Decomposition, other: Decomposition) -> bool:
    mine, theirs = tensors_of(one), tensors_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a new process, with the tests' folder importable."""
    prelude = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", FITS)
def test_saved_and_loaded_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    fit = FITS[name]()
    back = load(fit.save(tmp_path / "fit"))
    assert type(back.encoder) is type(fit.encoder)
    assert same(fit, back)
    assert (back.inputs, back.targets, back.dictionary.base_rule) == (fit.inputs, fit.targets, fit.dictionary.base_rule)
    assert torch.equal(back.reconstruct(rows()), fit.reconstruct(rows()))


@pytest.mark.parametrize("change", [lambda fit: fit.subset([1, 0]), lambda fit: fit.rotate(torch.eye(6, dtype=torch.float64))])
def test_wrapped_encoders_are_kept(change: Any, tmp_path: Path) -> None:
    fit = change(sparse())
    assert torch.equal(load(fit.save(tmp_path / "fit")).reconstruct(rows()), fit.reconstruct(rows()))


@pytest.mark.slow
def test_a_new_process_reads_the_same_bits(tmp_path: Path) -> None:
    for name, make in FITS.items():
        make().save(tmp_path / name)
    code = """
        import torch, sys
        from pathlib import Path
        from core_fits import FITS, rows
        import armillary
        torch.set_num_threads(1)
        for name, make in FITS.items():
            back = armillary.load(Path(sys.argv[1], name))
            assert torch.equal(back.dictionary.atoms, make().dictionary.atoms), name
            assert torch.equal(back.reconstruct(rows()), make().reconstruct(rows())), name
        print("same")
    """
    done = run_python(code, tmp_path)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    fit = linear().to(dtype=dtype)
    assert load(fit.save(tmp_path / "fit")).dictionary.atoms.dtype == dtype


def test_atoms_that_the_encoder_shares_are_stored_once(tmp_path: Path) -> None:
    back = load(sparse().save(tmp_path / "fit"))
    assert back.encoder.dictionary.atoms is back.dictionary.atoms  # type: ignore[attr-defined]
    stored = safetensors.torch.load_file(tmp_path / "fit" / WEIGHTS)
    assert sorted(stored) == ["dictionary.atoms", "dictionary.base", "dictionary.group", "dictionary.role"]


def test_views_and_strided_tensors_are_stored_as_they_read(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    state = {"a": shared[:6], "b": shared[3:9], "c": shared.reshape(3, 4).T, "d": shared[:6]}
    write_state(tmp_path / "state", state)
    back = read_state(tmp_path / "state")
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_folder_holds_a_manifest_weights_and_the_log_and_no_pickle(tmp_path: Path) -> None:
    linear().save(tmp_path / "fit", log=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    assert sorted(path.name for path in (tmp_path / "fit").iterdir()) == [LOG, MANIFEST, WEIGHTS]
    assert [json.loads(line)["loss"] for line in (tmp_path / "fit" / LOG).read_text().splitlines()] == [0.5, 0.25]
    manifest = json.loads((tmp_path / "fit" / MANIFEST).read_text())
    assert manifest["schema"] == artifact.SCHEMA
    assert manifest["sha256"][WEIGHTS] == artifact.file_sha256(tmp_path / "fit" / WEIGHTS)


@pytest.mark.parametrize("name", [name for name, module in CLASSES.items() if module.startswith("armillary.core")])
def test_every_listed_class_lives_where_the_list_says(name: str) -> None:
    module = __import__(CLASSES[name], fromlist=[name])
    assert getattr(module, name).__name__ == name


# ---------------------------------------------------------------- values


def test_values_come_back_with_lists_as_tuples() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": torch.ones(2), "d": ()}, 7: "seven"}
    tensors: dict[str, torch.Tensor] = {}
    back = put_together(json.loads(json.dumps(take_apart(value, tensors))), tensors)
    assert back["a"] == (1, 2.5, None, True, "x")
    assert back["7"] == "seven"
    assert torch.equal(back["b"]["c"], torch.ones(2))


def test_dotted_keys_do_not_run_into_each_other() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    back = put_together(take_apart(value, tensors), tensors)
    assert (float(back["a.b"]), float(back["a"]["b"])) == (0.0, 1.0)


def test_numpy_numbers_are_numbers_and_other_objects_are_refused_by_name() -> None:
    assert take_apart({"n": np.int64(3), "x": np.float32(0.5)}, {}) == {"map": {"n": 3, "x": 0.5}}
    with pytest.raises(InputError, match="Path, which a file here cannot hold"):
        take_apart({"a": [Path("x")]}, {})


def test_a_class_that_is_not_listed_is_neither_saved_nor_loaded(tmp_path: Path) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Stranger:
        x: int

    with pytest.raises(InputError, match="Stranger cannot be saved"):
        save(Stranger(1), tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MismatchError, match="'Popen', which this version does not know"):
        put_together({"class": "Popen", "fields": {}}, {})


# ---------------------------------------------------------------- damage


def test_a_flipped_byte_is_found_and_the_file_named(tmp_path: Path) -> None:
    folder = linear().save(tmp_path / "fit")
    weights = folder / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptFileError, match=re.escape(str(weights))):
        load(folder)


def test_missing_weights_and_broken_manifests_are_named(tmp_path: Path) -> None:
    folder = linear().save(tmp_path / "fit")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CorruptFileError, match=WEIGHTS):
        load(folder)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(CorruptFileError, match="is not valid JSON"):
        load(folder)


def test_a_newer_schema_asks_for_an_upgrade_even_if_nothing_else_is_as_it_was(tmp_path: Path) -> None:
    folder = linear().save(tmp_path / "fit")
    (folder / MANIFEST).write_text(json.dumps({"schema": artifact.SCHEMA + 1, "contents": {}}))
    with pytest.raises(MismatchError, match="has schema 2, this version reads up to 1; upgrade armillary"):
        load(folder)


def test_a_folder_of_something_else_is_not_taken_for_a_fit(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"schema": 1, "rows": 3}))
    with pytest.raises(MismatchError, match="is not a fitted decomposition"):
        load(tmp_path)


def test_a_missing_folder_is_answered_with_the_nearest(tmp_path: Path) -> None:
    linear().save(tmp_path / "topk-sae")
    with pytest.raises(InputError, match=re.escape(f"did you mean '{tmp_path / 'topk-sae'}'?")):
        load(tmp_path / "topksae")
    with pytest.raises(InputError, match="no artifact at"):
        load(tmp_path / "no" / "such")


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_checkpoint_cut_short_is_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, {"x": torch.ones(5)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptFileError, match=r"state cannot be read .*delete it to start again"):
        read_state(path)


# ---------------------------------------------------------------- nothing is overwritten


def test_nothing_is_overwritten_and_a_free_name_is_offered(tmp_path: Path) -> None:
    folder = linear().save(tmp_path / "fit")
    before = (folder / MANIFEST).read_bytes()
    (tmp_path / "fit-2").mkdir()
    with pytest.raises(OutputExistsError) as caught:
        sparse().save(folder)
    expected = f"output '{folder}' exists and is not empty; nothing was overwritten. Try --out '{tmp_path / 'fit-3'}'"
    assert str(caught.value) == expected
    assert (folder / MANIFEST).read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="file-2"):
        refuse_existing(tmp_path / "file")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    assert same(load(linear().save(tmp_path / "fit")), linear())


def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskFullError, match="the disk is full"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_failures_keep_their_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no" / "such", b"x")


def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """A limit on file sizes is the nearest thing to a full disk that needs no rights."""
    code = """
        import resource, sys, torch
        from pathlib import Path
        from armillary.core.artifact import save, write_state, write_atomic
        from armillary.core.dictionary import Dictionary
        from armillary.errors import DiskFullError
        folder = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        big = Dictionary.of_directions(torch.zeros(100, 100))
        for write in (lambda: save(big, folder / "fit"), lambda: write_state(folder / "state", {"x": big.atoms}),
                      lambda: write_atomic(folder / "file", bytes(10_000))):
            try:
                write()
            except DiskFullError as error:
                print(error.exit_code, "what was finished before is intact" in str(error), str(folder) in str(error))
    """
    done = run_python(code, tmp_path)
    assert done.stdout == "1 True True\n" * 3, done.stderr
    assert list(tmp_path.iterdir()) == []
