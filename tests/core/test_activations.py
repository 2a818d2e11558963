"""Reading an activation store: the same bits as a tensor, flat memory, and damage that is named."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import rich
import torch
from safetensors.torch import load_file
from torch import Tensor

import armillary.core.activations as store
from armillary.core.activations import Harvest
from armillary.core.rows import Rows, TensorRows
from armillary.core.site import Site
from armillary.core.store.manifest import Cursor, Manifest, ModelEntry
from armillary.core.store.shards import encode
from armillary.core.store.writer import ShardData, StoreWriter, site_entries
from armillary.core.tokens import Document, Tokens
from armillary.errors import CorruptFileError, InputError, MismatchError, UnknownNameError

A, B = Site("resid_post", 1), Site("mlp_act", 0)
SIZES = (50, 1, 37, 64)
N = sum(SIZES)


def values(d: int, seed: int = 0) -> Tensor:
    return torch.randn(N, d, generator=torch.Generator().manual_seed(seed)) * 3


def shard_tokens(first: int, n: int, number: int) -> Tokens:
    """One window over document `number`: a special token and `n` rows."""
    place = np.arange(n + 1)
    is_special = place == 0
    span = np.stack([np.maximum(place - 1, 0), place], axis=1)
    return Tokens(first + place, np.array([0, n + 1]), np.where(is_special, -1, number), place, span, is_special, ~is_special)


def build(folder: Path, dtype: str = "bf16", *, finish: bool = True, model: str = "m") -> Harvest:
    entry = ModelEntry(name=model, revision="r", n_layers=2, dtype="float32", tokenizer="t")
    header = Manifest(model=entry, sites=site_entries({A: 6, B: 10}), dtype=dtype, policy={"context": 65}, versions={})
    writer = StoreWriter.begin(folder, header, resume=True)
    a, b, start = values(6), values(10, 1), 0
    for number, n in enumerate(SIZES):
        rows = {A: encode(a[start : start + n], dtype), B: encode(b[start : start + n], dtype)}
        document = Document("z" * n + "ü", f"doc{number}", {"kind": "k"})
        writer.commit(ShardData(rows, shard_tokens(start, n, number), [document], Cursor(document=number + 1), f"hash{number}"))
        start += n
    if finish:
        writer.finish({"skipped": 0, "replaced": 0})
    return store.open(folder)


@pytest.fixture(scope="module")
def harvest(tmp_path_factory: pytest.TempPathFactory) -> Harvest:
    return build(tmp_path_factory.mktemp("stores") / "bf16")


# ---------------------------------------------------------------- what comes back


TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.mark.parametrize("dtype", TORCH)
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    rows = build(tmp_path / "s", dtype)[A]
    (whole,) = rows.batches(N)
    assert whole.x.dtype == TORCH[dtype] and torch.equal(whole.x, values(6).to(TORCH[dtype])) and (whole.row == np.arange(N)).all()


def test_int8_keeps_a_scale_per_row(tmp_path: Path) -> None:
    rows = build(tmp_path / "s", "int8")[A]
    (whole,) = rows.batches(N)
    x = values(6)
    assert whole.x.dtype == torch.float32
    assert ((whole.x - x).abs() <= x.abs().amax(1, keepdim=True) / 127 / 2 + 1e-6).all(), "half a step of 1/127 of the row's largest"
    zero = encode(torch.zeros(2, 3), "int8")
    assert not zero["rows"].any() and not zero["scale"].any()


def test_int8_and_bf16_lose_as_much_as_they_should() -> None:
    """Gaussian rows: per-row int8 costs about 5.5e-5 of the variance, bf16 2.8e-6."""
    x = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    stored = encode(x, "int8")
    int8 = (stored["rows"].float() * stored["scale"][:, None] - x).square().mean() / x.var()
    bf16 = (encode(x, "bf16")["rows"].float() - x).square().mean() / x.var()
    assert 2e-5 < int8 < 1.2e-4 and 1e-6 < bf16 < 5e-6


@pytest.mark.parametrize(
    "settings",
    [{}, {"seed": 0}, {"seed": 3, "epoch": 2}, {"seed": 3, "skip": 4}, {"rank": 1, "world": 3}, {"seed": 1, "rank": 2, "world": 3}],
)
@pytest.mark.parametrize("size", [1000, 152, 151, 16, 7])
def test_batches_are_those_of_a_tensor(harvest: Harvest, settings: dict[str, int], size: int) -> None:
    stored, held = harvest[A], TensorRows(values(6).bfloat16())
    pairs = list(zip(stored.batches(size, **settings), held.batches(size, **settings), strict=True))
    assert len(pairs) == -(-N // size) - settings.get("skip", 0) or not pairs
    for one, other in pairs:
        assert torch.equal(one.x, other.x) and (one.row == other.row).all()


def test_small_reads_give_the_same_batches(harvest: Harvest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows are fetched together is no part of the order."""
    expected = [batch.x for batch in harvest[A].batches(8, seed=2)]
    monkeypatch.setattr(store, "GROUP_BYTES", 100)
    assert all(torch.equal(one.x, other) for one, other in zip(harvest[A].batches(8, seed=2), expected, strict=True))


def test_several_sites_lie_side_by_side(harvest: Harvest) -> None:
    both = harvest[[B, A]]
    assert [(str(source.site), d) for source, d in both.layout if source] == [("mlp_act.0", 10), ("resid_post.1", 6)]
    (batch,) = both.batches(N, seed=5)
    expected = torch.cat([values(10, 1), values(6)], dim=1).bfloat16()
    assert torch.equal(batch.x, expected[torch.from_numpy(batch.row)])


def test_any_spelling_of_a_site_will_do(harvest: Harvest) -> None:
    for key in (A, "resid_post.1", "resid_post.-1", "blocks.1.hook_resid_post"):
        assert harvest[key].layout == harvest[A].layout and key in harvest
    assert list(harvest) == [A, B] and len(harvest) == 2 and set(harvest.keys()) == {A, B} and "resid_post.0" not in harvest


def test_an_absent_site_is_named(harvest: Harvest) -> None:
    with pytest.raises(UnknownNameError, match=r"'mlp_act\.1'.*Did you mean 'mlp_act\.0'"):
        harvest["mlp_act.1"]


def test_stored_rows_are_rows(harvest: Harvest) -> None:
    rows = harvest[A]
    assert isinstance(rows, Rows) and rows.n_rows == N and rows.tokens.n_rows == N
    assert rows.record["dtype"] == "bf16" and rows.record["policy"] == {"context": 65} and rows.record["text_sha256"] == "hash3"
    source = rows.layout[0][0]
    assert source is not None and (source.model, source.revision) == ("m", "r")


def test_rows_can_be_asked_for_by_number(harvest: Harvest) -> None:
    index = np.array([140, 3, 3, 51, 0, 87])
    assert torch.equal(harvest[A].read(index), values(6).bfloat16()[torch.from_numpy(index)])


def test_a_batch_can_be_written_to_without_harm(harvest: Harvest) -> None:
    (batch,) = harvest[A].batches(N)
    batch.x.zero_()
    assert torch.equal(next(harvest[A].batches(N)).x, values(6).bfloat16())
    harvest.verify()


def test_a_store_draws_itself(harvest: Harvest, capsys: pytest.CaptureFixture[str]) -> None:
    rich.print(harvest)
    assert "mlp_act.0" in capsys.readouterr().out and "152 rows of m" in repr(harvest) and "152 x 6" in repr(harvest[A])


# ---------------------------------------------------------------- tokens and texts


@pytest.mark.parametrize("finish", [True, False])
def test_tokens_are_kept_once_for_all_sites(tmp_path: Path, finish: bool) -> None:
    harvest = build(tmp_path / "s", finish=finish)
    tokens = harvest.tokens
    assert harvest.is_complete == finish and harvest[A].tokens is harvest[B].tokens is tokens
    assert len(tokens) == N + 4 and tokens.n_rows == N and tokens.starts.tolist() == [0, 51, 53, 91, 156]
    assert tokens.document[tokens.rows[50]] == 1 and tokens.documents[1].name == "doc1" and tokens.span.dtype == np.int64
    assert tokens.window(51, 2, 1) == "zz" and tokens.is_special[0] and not tokens.is_row[0]
    assert [document.text for document in tokens.documents] == ["z" * n + "ü" for n in SIZES]
    torch.from_numpy(tokens.ids)  # would warn if it could not be written to


def test_texts_are_read_when_they_are_asked_for(harvest: Harvest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_DOCUMENTS_KEPT", 2)
    documents = store.StoredDocuments(harvest.path / "documents.jsonl", np.asarray(harvest.documents._line_end))  # type: ignore[attr-defined]
    assert documents[-1] == Document("z" * 64 + "ü", "doc3", {"kind": "k"}) and documents[1:3] == [documents[1], documents[2]]
    assert len(documents) == 4 and len(documents._recent) == 2
    with pytest.raises(IndexError):
        documents[4]


def test_a_finished_store_has_three_kinds_of_file(harvest: Harvest) -> None:
    names = {path.relative_to(harvest.path).as_posix() for path in harvest.path.rglob("*") if path.is_file()}
    shards = {f"shards/0000{i}.{site}.safetensors" for i in range(4) for site in ("resid_post.1", "mlp_act.0")}
    assert names == {"manifest.json", "tokens.safetensors", "documents.jsonl"} | shards
    assert {entry.name for entry in harvest.manifest.files} == names - {"manifest.json"}


def test_any_safetensors_reader_opens_the_files(harvest: Harvest) -> None:
    assert torch.equal(load_file(harvest.path / "shards/00002.resid_post.1.safetensors")["rows"], values(6)[51:88].bfloat16())
    tokens = load_file(harvest.path / "tokens.safetensors")
    assert tokens["ids"].dtype == torch.int64 and tokens["span"].shape == (N + 4, 2) and tokens["is_row"].sum() == N


# ---------------------------------------------------------------- stores beyond memory


@pytest.fixture
def tight(harvest: Harvest, monkeypatch: pytest.MonkeyPatch) -> Harvest:
    """The store on a machine where it does not fit: blocks of 4 rows (48 bytes), buffers of 36 rows."""
    monkeypatch.setattr(store, "BLOCK_BYTES", 48)
    return store.open(harvest.path, memory_budget=36 * 12 * 4)


def test_a_large_store_is_shuffled_through_a_buffer(tight: Harvest) -> None:
    rows = tight[A]
    assert rows.order == rows.record["order"] == "blocks of 4 rows through a shuffled buffer of 36 rows"
    batches = list(rows.batches(16, seed=1))
    order = np.concatenate([batch.row for batch in batches])
    assert sorted(order) == list(range(N)) and (np.diff(order) == 1).mean() < 0.1
    assert len(np.unique(order[:36] // 4)) == 9, "a buffer holds whole blocks"
    x = values(6).bfloat16()
    assert all(torch.equal(batch.x, x[torch.from_numpy(batch.row)]) for batch in batches)


def test_a_large_store_can_be_skipped_into_and_shared(tight: Harvest) -> None:
    whole = [batch.row for batch in tight[A].batches(16, seed=1, epoch=1)]
    later = [batch.row for batch in tight[A].batches(16, seed=1, epoch=1, skip=4)]
    assert all((one == other).all() for one, other in zip(whole[4:], later, strict=True))
    first, second = ([batch.row for batch in tight[A].batches(16, seed=1, epoch=1, rank=rank, world=2)] for rank in range(2))
    assert all(sorted([*a, *b]) == sorted(row) for a, b, row in zip(first, second, whole, strict=True))


def test_a_large_store_in_stored_order_needs_no_buffer(tight: Harvest) -> None:
    assert np.concatenate([batch.row for batch in tight[A].batches(16)]).tolist() == list(range(N))


def test_a_store_that_fits_says_so(harvest: Harvest) -> None:
    assert harvest[A].order == "permutation of all rows" and harvest.memory_budget > 1 << 28


@pytest.mark.parametrize("seed", [None, 0])
def test_reading_takes_as_much_memory_for_a_large_store_as_for_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """Resident memory, mapped files among it, while 8 MB and 64 MB are read through 1 MB groups."""
    monkeypatch.setattr(store, "GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(store, "MAPPED_BYTES", 1 << 20)
    peaks = [peak_of_reading(wide(tmp_path / str(n), n), seed) for n in (4, 4, 32)]
    assert peaks[2] < max(peaks[1], 0) + (16 << 20)


def wide(folder: Path, n_shards: int) -> Harvest:
    """A store of shards of 2 MB."""
    header = Manifest(
        model=ModelEntry(name="m", revision="r", n_layers=2, dtype="float32", tokenizer="t"),
        sites=site_entries({A: 512}),
        dtype="bf16",
        policy={},
        versions={},
    )
    writer = StoreWriter.begin(folder, header, resume=True)
    rows = {A: encode(torch.ones(2048, 512), "bf16")}
    for number in range(n_shards):
        writer.commit(ShardData(rows, shard_tokens(0, 2048, number), [Document("z")], Cursor(), "h"))
    return store.open(folder)


def peak_of_reading(harvest: Harvest, seed: int | None) -> int:
    process = psutil.Process()
    before, peak = process.memory_info().rss, 0
    for _ in harvest[A].batches(256, seed=seed):
        peak = max(peak, process.memory_info().rss - before)
    return peak


# ---------------------------------------------------------------- the reading thread


def reading_threads() -> int:
    return sum(thread.name == "armillary-prefetch" for thread in threading.enumerate())


def test_the_thread_ends_with_the_pass_and_when_the_reader_stops(harvest: Harvest) -> None:
    list(harvest[A].batches(16))
    assert reading_threads() == 0
    batches = harvest[A].batches(16)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert reading_threads() == 0


def test_bad_sizes_are_refused_at_once(harvest: Harvest) -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        harvest[A].batches(0)


# ---------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, place: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


FILES = ("shards/00002.mlp_act.0.safetensors", "tokens.safetensors", "documents.jsonl")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_truncated_and_missing_files_are_named_on_opening(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    build(tmp_path / "s")
    harm(tmp_path / "s" / name)
    with pytest.raises(CorruptFileError, match=name) as caught:
        store.open(tmp_path / "s")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_named_by_verify(tmp_path: Path, name: str) -> None:
    harvest = build(tmp_path / "s")
    assert harvest.verify() == sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.*") if path.name != "manifest.json")
    flip(tmp_path / "s" / name)
    with pytest.raises(CorruptFileError, match=f"{name} differs"):
        harvest.verify()


def test_damage_after_opening_is_named_while_reading(tmp_path: Path) -> None:
    harvest = build(tmp_path / "s")
    path = tmp_path / "s" / FILES[0]
    flip(path, 0)
    with pytest.raises(CorruptFileError, match=FILES[0]):
        list(harvest[B].batches(16))
    assert reading_threads() == 0
    path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match=FILES[0]):
        list(harvest[B].batches(16, seed=0))
    path.unlink()
    with pytest.raises(CorruptFileError, match=FILES[0]):
        list(harvest[B].batches(16))


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    build(tmp_path / "s")
    truncate(tmp_path / "s" / "manifest.json")
    with pytest.raises(CorruptFileError, match=r"manifest\.json cannot be read"):
        store.open(tmp_path / "s")


@pytest.mark.parametrize(("change", "error", "complaint"), [
    ({"kind": "other"}, MismatchError, "holds no activations"),
    ({"schema_version": 99}, MismatchError, "schema 99, this version reads up to 1; upgrade"),
    ({"dtype": None}, CorruptFileError, "cannot be read"),
])  # fmt: skip
def test_foreign_manifests_are_refused(tmp_path: Path, change: dict[str, object], error: type[Exception], complaint: str) -> None:
    build(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=complaint):
        store.open(tmp_path / "s")


def test_no_store_comes_with_the_nearest_name(tmp_path: Path) -> None:
    build(tmp_path / "acts")
    with pytest.raises(InputError, match=r"no activations at '.*/act' \(did you mean '.*/acts'\?\)"):
        store.open(tmp_path / "act")


# ---------------------------------------------------------------- parts


def test_a_split_falls_between_texts(tmp_path: Path) -> None:
    rows = build(tmp_path / "s", "fp32")[A]
    for share, n in ((0.6, 88), (0.1, 50), (0.99, 88)):
        first, rest = rows.split(share)
        assert (first.n_rows, rest.n_rows) == (n, N - n)
        assert set(first.tokens.document) & set(rest.tokens.document) == {-1}


@pytest.mark.parametrize("seed", [None, 3])
def test_a_part_reads_its_rows_and_no_other(tmp_path: Path, seed: int | None) -> None:
    whole = values(6)
    for part, low in zip(build(tmp_path / "s", "fp32")[A].split(0.6), (0, 88), strict=True):
        seen = list(part.batches(16, seed=seed))
        index = np.concatenate([batch.row for batch in seen])
        assert sorted(index) == list(range(part.n_rows))
        assert torch.equal(torch.cat([batch.x for batch in seen]), whole[low + index])
        assert torch.equal(part.read(np.array([0, part.n_rows - 1])), whole[[low, low + part.n_rows - 1]])
        assert part.record["windows"] == ([0, 3] if low == 0 else [3, 4])
        assert part.tokens.n_rows == part.n_rows


def test_a_part_can_be_split_again(tmp_path: Path) -> None:
    first, _ = build(tmp_path / "s", "fp32")[A].split(0.6)
    one, two = first.split(0.5)
    assert (one.n_rows, two.n_rows) == (50, 38)
    assert torch.equal(two.read(np.arange(38)), values(6)[50:88])


def test_a_single_window_is_not_split(tmp_path: Path) -> None:
    first, _ = build(tmp_path / "s", "fp32")[A].split(0.1)
    with pytest.raises(InputError, match="single window"):
        first.split()
    with pytest.raises(InputError, match=r"share must be between 0 and 1, got 1\.5"):
        first.split(1.5)


def test_indices_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    rows = build(tmp_path / "s")[A]
    for bad in (-1, N):
        with pytest.raises(InputError, match=f"row {bad} is not one of the {N} rows"):
            rows.read(np.array([0, bad]))
    assert rows.read(np.zeros(0, np.int64)).shape == (0, 6)


def test_a_harvest_is_a_mapping(tmp_path: Path) -> None:
    acts = build(tmp_path / "s")
    assert acts.get("nonsense") is None and acts.get("resid_post.1") is acts[A]
    assert "nonsense" not in acts and "resid_post.99" not in acts and "resid_post.1" in acts


def test_a_store_that_was_stopped_before_its_first_shard_is_empty(tmp_path: Path) -> None:
    entry = ModelEntry(name="m", revision="r", n_layers=2, dtype="float32", tokenizer="t")
    header = Manifest(model=entry, sites=site_entries({A: 6}), dtype="bf16", policy={}, versions={})
    StoreWriter.begin(tmp_path / "s", header, resume=True)
    acts = store.open(tmp_path / "s")
    assert (len(acts.tokens), acts.tokens.n_sequences, acts[A].n_rows, list(acts[A].batches(4))) == (0, 0, 0, [])
