"""harvest and LiveRows: the right tokens, the same bytes after every interruption, and the same rows without a store."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary.core.activations as store
from armillary.core.rows import Rows, TensorRows
from armillary.core.site import Site
from armillary.core.texts import TextFiles
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError, MismatchError, NonFiniteError, OutputExistsError, TextError, UnknownNameError
from armillary.lm.capture import length_batches
from armillary.lm.harvest import LiveRows, harvest
from armillary.lm.packing import Packing, windows
from fake_lm import BOS, EOS, FakeLM
from support import tiny_lm

SITES = ["resid_post.-1", "mlp_act.0"]
TEXTS = [Document("abcdefghij" * (1 + i % 7), f"doc{i}", {"i": str(i)}) for i in range(24)]
SMALL: dict[str, Any] = {"shard_rows": 100, "batch_tokens": 64}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def naive_rows(lm: FakeLM, texts: list[Document], site: Site, **settings: Any) -> Tensor:
    """Every window of every document on its own, in order."""
    packing = Packing(**{"context": 16, "stride": 16} | settings)
    found = []
    for number, document in enumerate(texts):
        cut = windows(lm.tokenize([document]), number, packing)
        for one in cut.batches(1):
            found.append(lm.capture(one, [site])[site][0][torch.from_numpy(one.is_row)])
    return torch.cat(found)


# ---------------------------------------------------------------- windows


def cut(text: str, *, suffix: bool = False, **settings: Any) -> list[tuple[str, str]]:
    """Windows as (all tokens, rows among them), with ^ and $ for special tokens."""
    packing = Packing(**{"context": 6, "stride": 6} | settings)
    tokens = windows(FakeLM(suffix=suffix).tokenize([text]), 3, packing)
    letters = np.array([{BOS: "^", EOS: "$"}.get(i, chr(i) if i < BOS else "") for i in tokens.ids])
    return [
        ("".join(letters[a:b]), "".join(letters[a:b][tokens.is_row[a:b]]))
        for a, b in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)
    ]


def test_short_texts_are_one_window() -> None:
    assert cut("abc") == [("^abc", "abc")] and cut("abcde") == [("^abcde", "abcde")]


def test_long_texts_are_split_and_every_window_gets_the_special_tokens() -> None:
    assert cut("abcdefgh") == [("^abcde", "abcde"), ("^fgh", "fgh")]
    assert cut("abcdefgh", suffix=True) == [("^abcd$", "abcd"), ("^efgh$", "efgh")]


def test_overlapping_windows_count_every_token_once() -> None:
    found = cut("abcdefghij", stride=4)
    assert found == [("^abcde", "abcde"), ("^defgh", "fgh"), ("^ghij", "ij")]
    for n in range(1, 40):
        for stride in (2, 3, 4, 5, 6):
            rows = "".join(rows for _, rows in cut("".join(chr(97 + i % 26) for i in range(n)), stride=stride))
            assert rows == "".join(chr(97 + i % 26) for i in range(n)), f"n={n}, stride={stride}"


def test_special_tokens_and_first_positions_are_excluded_on_request() -> None:
    assert cut("abcdefgh", suffix=True, exclude_special=False) == [("^abcd$", "^abcd$"), ("^efgh$", "^efgh$")]
    assert cut("abcdefgh", exclude_first=3) == [("^abcde", "cde"), ("^fgh", "h")]


def test_windows_know_position_document_and_bytes() -> None:
    tokens = windows(FakeLM().tokenize(["abcdefgh"]), 3, Packing(6, 6))
    assert tokens.position.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3] and set(tokens.document[tokens.is_row]) == {3}
    assert tokens.document[0] == tokens.document[6] == -1 and tokens.span[7].tolist() == [5, 6]


def test_a_special_token_spelled_out_in_the_text_is_no_prefix() -> None:
    tokens = FakeLM().tokenize(["abc"])
    spelled = Tokens(
        tokens.ids, tokens.starts, tokens.document, tokens.position, tokens.span, np.array([True, True, False, False]), tokens.is_row
    )
    found = windows(spelled, 0, Packing(3, 3))
    assert found.ids.tolist() == [BOS, 97, 98, BOS, 99], "only the leading token without bytes is repeated"


@pytest.mark.parametrize(("settings", "complaint"), [
    ({"context": 0}, "context must be at least 1, got 0"),
    ({"stride": 7}, "stride must be at most the context, 6, got 7"),
    ({"exclude_first": 6}, "exclude_first must be from 0 to 5"),
    ({"context": 1, "stride": 1}, "no room beside 1 special tokens"),
    ({"stride": 1}, "no room beside 1 special tokens"),
    ({"shard_rows": 0}, "shard_rows must be at least 1"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        cut("abcdefgh", **settings)


def test_batches_are_of_similar_length_and_within_their_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    groups = list(length_batches(lengths, 128))
    assert sorted(np.concatenate(groups)) == list(range(200))
    assert all(lengths[group].max() * len(group) <= 128 for group in groups)
    padded = sum(lengths[group].max() * len(group) for group in groups)
    assert padded < 1.05 * lengths.sum()


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("settings", [{}, {"stride": 9}, {"exclude_first": 2}, {"exclude_special": False}])
def test_rows_are_those_of_each_window_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    lm = FakeLM(context=16)
    found = harvest(lm, TEXTS, SITES, out=tmp_path / "s", dtype="fp32", **SMALL, **settings)
    assert len(found.manifest.shards) > 5 and all(shard.n_rows <= 100 for shard in found.manifest.shards)
    for site in (Site("resid_post", 1), Site("mlp_act", 0)):
        (batch,) = found[site].batches(10**6)
        assert torch.equal(batch.x, naive_rows(lm, TEXTS, site, **settings))
    found.verify()


def test_tokens_lead_back_to_the_text(tmp_path: Path) -> None:
    found = harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    tokens = found.tokens
    assert list(tokens.documents) == TEXTS
    assert "".join(tokens.text(token) for token in tokens.rows) == "".join(document.text for document in TEXTS)
    assert (tokens.document[tokens.rows] == np.repeat(np.arange(24), [len(document.text) for document in TEXTS])).all()
    assert (tokens.position < 16).all() and (tokens.position[tokens.starts[:-1]] == 0).all()


def test_the_policy_is_recorded(tmp_path: Path) -> None:
    manifest = harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "s", exclude_first=1, stride=10, **SMALL).manifest
    assert manifest.policy == {
        "context": 16, "stride": 10, "exclude_special": True, "exclude_first": 1, "batch_tokens": 64, "shard_rows": 100, "n_tokens": None,
    }  # fmt: skip
    assert [(entry.site, entry.width) for entry in manifest.sites] == [("resid_post.1", 8), ("mlp_act.0", 12)]
    assert manifest.model.revision == "seed0" and len(manifest.model.tokenizer) == 64 and manifest.versions["torch"] and manifest.complete


def test_the_context_is_the_models_capped(tmp_path: Path) -> None:
    for context, expected in ((16, 16), (4096, 512), (None, 512)):
        found = harvest(FakeLM(context=context), TEXTS[:2], SITES, out=tmp_path / str(context))
        assert found.manifest.policy["context"] == expected
    with pytest.raises(InputError, match="context must be at most the model's, 16, got 17; use --context 16"):
        harvest(FakeLM(context=16), TEXTS, SITES, out=tmp_path / "s", context=17)


def test_forward_passes_are_well_filled(tmp_path: Path) -> None:
    lm = FakeLM()
    harvest(lm, TEXTS, SITES, out=tmp_path / "s", batch_tokens=256, shard_rows=10_000)
    real, padded = np.sum(lm.calls, axis=0)
    assert padded < 1.2 * real and len(lm.calls) < 8


@pytest.mark.parametrize("n_tokens", [1, 99, 100, 101, 250])
def test_it_stops_after_so_many_rows(tmp_path: Path, n_tokens: int) -> None:
    whole = harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "whole", dtype="fp32", **SMALL)
    part = harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "part", dtype="fp32", n_tokens=n_tokens, **SMALL)
    assert part.n_rows == part.tokens.n_rows == n_tokens and part.is_complete
    assert torch.equal(next(part[SITES[0]].batches(1000)).x, next(whole[SITES[0]].batches(n_tokens)).x)
    before = contents(part.path)
    harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "part", dtype="fp32", n_tokens=n_tokens, **SMALL)
    assert contents(part.path) == before


def test_a_stream_is_read_no_further_than_needed(tmp_path: Path) -> None:
    def endless() -> Iterator[Document]:
        number = 0
        while True:
            yield Document(f"text number {number} " * 2000)
            number += 1

    assert harvest(FakeLM(), endless(), SITES, out=tmp_path / "s", n_tokens=5000, shard_rows=1000).n_rows == 5000


def test_text_files_and_their_errors_are_counted(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_bytes(b"fine")
    (texts / "b.txt").write_bytes(b"not \xff")
    found = harvest(FakeLM(), TextFiles([str(texts)], on_error="skip"), SITES, out=tmp_path / "s")
    assert found.manifest.skipped == {"skipped": 1, "replaced": 0} and [d.text for d in found.documents] == ["fine"]


def test_a_store_can_lie_at_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    kept = harvest(FakeLM(), TEXTS, SITES, out="memory://bucket/acts", **SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    found = store.open("memory://bucket/acts")
    assert found.path != kept.path and contents(found.path) == contents(kept.path)
    (found.path / "tokens.safetensors").unlink()
    store.open("memory://bucket/acts").verify()
    with pytest.raises(InputError, match="no activations"):
        store.open("memory://bucket/nothing")
    with pytest.raises(MismatchError, match="dtype"):
        harvest(FakeLM(), TEXTS, SITES, out="memory://bucket/acts", dtype="fp32", **SMALL)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """Python's and numpy's memory at its peak, for 8,000 and for 40,000 rows."""
    peaks = []
    for n in (8_000, 8_000, 40_000):
        stream = (Document("abcdefghij" * 20) for _ in range(10**6))
        tracemalloc.start()
        harvest(FakeLM(), stream, "resid_post.0", out=tmp_path / f"{len(peaks)}", n_tokens=n, shard_rows=2000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.25 * peaks[1]


@pytest.mark.parametrize("arch", ["gpt2", "llama", "bert"])
def test_real_models_are_harvested(tmp_path: Path, arch: str) -> None:
    """Each window's rows are the model's own for that window alone, to rounding; the rows' bytes make up the texts."""
    lm, texts = tiny_lm(arch), ["The cat sat on the mat. " * k for k in range(1, 12)] + ["Naïve café: 数 and 🙂!"]
    found = harvest(lm, texts, ["resid_post.-1", "mlp_act.0"], out=tmp_path / "s", dtype="fp32", shard_rows=200)
    tokens, x = found.tokens, next(found["resid_post.-1"].batches(10**6)).x
    assert b"".join(tokens.documents[tokens.document[t]].data[slice(*tokens.span[t])] for t in tokens.rows).decode() == "".join(texts)
    for window in tokens.batches(1):
        n = window.n_rows
        alone = lm.capture(window, ["resid_post.-1"])["resid_post.-1"][0][torch.from_numpy(window.is_row)]
        torch.testing.assert_close(x[:n], alone, rtol=1e-4, atol=1e-4)
        x = x[n:]
    assert len(x) == 0
    live = LiveRows(lm, texts, "mlp_act.0", shard_rows=200)
    assert torch.equal(next(live.batches(10**6)).x, next(found["mlp_act.0"].batches(10**6)).x)


# ---------------------------------------------------------------- interruptions


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """The model fails at every forward pass in turn; each time the run goes on a little further."""
    expected = contents(harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "whole", **SMALL).path)
    settings, lives = {"out": tmp_path / "s", **SMALL}, 0
    for allowed in (1, 3, 2, 7, 5, 100):
        lm = Failing(allowed)
        try:
            harvest(lm, TEXTS, SITES, **settings)
        except Failing.Now:
            lives += 1
    assert lives >= 3 and contents(tmp_path / "s") == expected


class Failing(FakeLM):
    """A model that works a few times."""

    class Now(Exception):
        pass

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self.allowed = allowed

    def capture(self, *args: Any, **settings: Any) -> dict[Site, Tensor]:
        self.allowed -= 1
        if self.allowed < 0:
            raise Failing.Now
        return super().capture(*args, **settings)


KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from fake_lm import FakeLM
from armillary.lm.harvest import harvest

def run(out):
    child = os.fork()
    if child == 0:
        texts = ["abcdefghij" * (1 + i % 7) for i in range(80)]
        harvest(FakeLM(seconds=0.002), texts, ["resid_post.1", "mlp_act.0"], out=out, shard_rows=60, batch_tokens=64)
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(run(sys.argv[2] + "/whole"), 0)[1] == 0
whole = time.monotonic() - began  # a life lasts a small share of this, however quick the machine is
rng, kills, status = random.Random(0), 0, 1
while status != 0:
    child = run(sys.argv[2] + "/killed")
    if kills < 12:
        time.sleep(rng.uniform(0.02, 0.15) * whole)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kills += status == signal.SIGKILL
print(kills)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLER, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 3, done.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_complete_harvest_runs_no_model(tmp_path: Path) -> None:
    harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    again = harvest(Failing(0), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    assert again.n_rows == sum(len(document.text) for document in TEXTS)


@pytest.mark.parametrize("texts", [TEXTS[1:], TEXTS[:-1], [*TEXTS, Document("more")], [*TEXTS[:-1], Document("other")]])
def test_other_texts_are_refused(tmp_path: Path, texts: list[Document]) -> None:
    harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    before = contents(tmp_path / "s")
    with pytest.raises(MismatchError, match="texts"):
        harvest(FakeLM(), texts, SITES, out=tmp_path / "s", **SMALL)
    assert contents(tmp_path / "s") == before


def test_other_texts_are_refused_when_going_on(tmp_path: Path) -> None:
    with pytest.raises(Failing.Now):
        harvest(Failing(5), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    for texts in (TEXTS[1:], TEXTS[:1]):
        with pytest.raises(MismatchError, match="texts"):
            harvest(FakeLM(), texts, SITES, out=tmp_path / "s", **SMALL)


@pytest.mark.parametrize(("lm", "settings", "complaint"), [
    (FakeLM(1), {}, "model revision"),
    (FakeLM(suffix=True), {}, "model tokenizer"),
    (FakeLM(), {"dtype": "fp32"}, "dtype"),
    (FakeLM(), {"stride": 8}, "stride 16, now asked for 8"),
])  # fmt: skip
def test_another_run_is_refused(tmp_path: Path, lm: FakeLM, settings: dict[str, Any], complaint: str) -> None:
    harvest(FakeLM(), TEXTS, SITES, out=tmp_path / "s", **SMALL)
    with pytest.raises(MismatchError, match=complaint):
        harvest(lm, TEXTS, SITES, out=tmp_path / "s", **SMALL | settings)


def test_another_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        harvest(FakeLM(), TEXTS, SITES, out=tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_are_named(tmp_path: Path, value: float, dtype: str) -> None:
    texts = [Document("good"), Document("ba!d", "b.txt")]
    with pytest.raises(NonFiniteError, match=r"resid_post\.1 is NaN, infinite \(.*: first at row 6, text 1 \(b\.txt\), position 3"):
        harvest(FakeLM(bad="!", bad_value=value), texts, SITES, out=tmp_path / "s", dtype=dtype)


def test_non_finite_activations_of_excluded_tokens_do_no_harm(tmp_path: Path) -> None:
    found = harvest(FakeLM(bad="!"), ["!good"] * 3, SITES, out=tmp_path / "s", exclude_first=2)
    assert torch.isfinite(next(found[SITES[0]].batches(99)).x).all()


def test_what_fp16_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"infinite or too large for fp16 \(use dtype bf16\): first at row 0"):
        harvest(FakeLM(bad="!", bad_value=1e5), ["!"], SITES, out=tmp_path / "s", dtype="fp16")
    harvest(FakeLM(bad="!", bad_value=1e5), ["!"], SITES, out=tmp_path / "s", dtype="bf16")


@pytest.mark.parametrize(("texts", "complaint"), [
    ([], "no text"),
    (["fine", ""], "text 1 is empty"),
    (["\ud83d"], "lone surrogate"),
])  # fmt: skip
def test_texts_that_are_none_are_refused(tmp_path: Path, texts: list[str], complaint: str) -> None:
    with pytest.raises(TextError, match=complaint):
        harvest(FakeLM(), texts, SITES, out=tmp_path / "s")
    assert harvest(FakeLM(), ["fine"], SITES, out=tmp_path / "s").n_rows == 4, "what was begun in vain is not in the way"


@pytest.mark.parametrize(("sites", "settings", "error", "complaint"), [
    ([], {}, InputError, "no site was given"),
    (["resid_post.7"], {}, InputError, "layer 7"),
    (["resid_past.0"], {}, UnknownNameError, "Did you mean"),
    (SITES, {"dtype": "fp8"}, UnknownNameError, "unknown dtype 'fp8'"),
    (SITES, {"on_error": "ignore"}, UnknownNameError, "unknown --on-error 'ignore'"),
    (SITES, {"n_tokens": 0}, InputError, "n_tokens must be at least 1"),
])  # fmt: skip
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, sites: list[str], settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        harvest(FakeLM(), TEXTS, sites, out=tmp_path / "s", **settings)
    assert not (tmp_path / "s").exists()


# ---------------------------------------------------------------- live rows


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> store.Harvest:
    return harvest(FakeLM(), TEXTS, SITES, out=tmp_path_factory.mktemp("live") / "s", **SMALL)


def live(**settings: Any) -> LiveRows:
    return LiveRows(FakeLM(), TEXTS, SITES[0], **{"dtype": "bf16", **SMALL} | settings)


@pytest.mark.parametrize("settings", [{}, {"skip": 3}, {"seed": 4}, {"seed": 4, "epoch": 1, "skip": 5}, {"seed": 1, "rank": 1, "world": 2}])
@pytest.mark.parametrize("size", [64, 1000, 7])
def test_live_rows_are_those_of_a_store(stored: store.Harvest, settings: dict[str, int], size: int) -> None:
    for one, other in zip(live().batches(size, **settings), stored[SITES[0]].batches(size, **settings), strict=True):
        assert torch.equal(one.x, other.x) and (one.row == other.row).all()


def test_live_rows_are_rows(stored: store.Harvest) -> None:
    rows, kept = live(), stored[SITES[0]]
    assert isinstance(rows, Rows) and rows.layout == kept.layout and rows.n_rows == kept.n_rows
    assert rows.tokens is not None and (rows.tokens.ids == kept.tokens.ids).all() and list(rows.tokens.documents) == TEXTS
    assert rows.record["policy"] == kept.record["policy"]


def test_live_rows_of_several_sites_lie_side_by_side(stored: store.Harvest) -> None:
    both = LiveRows(FakeLM(), TEXTS, SITES[::-1], dtype="bf16", **SMALL)
    assert torch.equal(next(both.batches(2000)).x, next(stored[SITES[::-1]].batches(2000)).x)


def test_live_rows_are_shuffled_within_their_buffer() -> None:
    rows = live(buffer_rows=300)
    order = np.concatenate([batch.row for batch in rows.batches(64, seed=3)])
    assert sorted(order) == list(range(rows.n_rows or 0)) and (np.diff(order) == 1).mean() < 0.05
    first = len(order[: np.argmax(order >= 400)])
    assert 280 < first < 420 and set(order[:first]) == set(range(first)), "the first buffer holds whole blocks of about 300 rows"
    again = np.concatenate([batch.row for batch in rows.batches(64, seed=3)])
    later = np.concatenate([batch.row for batch in rows.batches(64, seed=3, epoch=1)])
    assert (order == again).all() and not (order == later).all()


def test_skipped_blocks_are_not_run() -> None:
    lm = FakeLM()
    n = len(list(LiveRows(lm, TEXTS, SITES[0], **SMALL).batches(100)))
    calls = len(lm.calls)
    list(LiveRows(lm, TEXTS, SITES[0], **SMALL).batches(100, skip=n - 1))
    assert len(lm.calls) - calls < calls / 3


def test_a_stream_has_no_known_length(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 20)
    rows = LiveRows(FakeLM(), TextFiles([str(tmp_path)]), SITES[0])
    assert rows.n_rows is None and rows.tokens is None
    for _ in range(2):
        assert sum(len(batch) for batch in rows.batches(50)) == 160, "a stream that can be read again"


def test_live_rows_refuse_what_a_store_refuses() -> None:
    with pytest.raises(NonFiniteError, match="position 1"):
        next(LiveRows(FakeLM(bad="a"), TEXTS, SITES[0]).batches(10))
    with pytest.raises(TextError, match="no rows"):
        _ = LiveRows(FakeLM(), [], SITES[0]).n_rows
    with pytest.raises(InputError, match="at least 1"):
        next(live().batches(0))


def test_live_rows_can_be_fitted_to_in_memory() -> None:
    x = torch.cat([batch.x for batch in live().batches(100)])
    assert TensorRows(x).n_rows == live().n_rows


def test_a_harvest_that_was_stopped_on_its_way_to_the_url_is_sent_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import armillary.lm.harvest as module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "push", stop)
        harvest(FakeLM(), TEXTS, SITES, out="memory://late/acts", **SMALL)
    with pytest.raises(InputError):
        store.pull("memory://late/acts") and store.open("memory://late/nothing")
    harvest(FakeLM(), TEXTS, SITES, out="memory://late/acts", **SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    store.open("memory://late/acts").verify()


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_mirror_that_was_cut_short_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = harvest(FakeLM(), TEXTS, SITES, out="memory://torn/acts", **SMALL)
    (found.path / "tokens.safetensors").write_bytes(b"cut")
    store.open("memory://torn/acts").verify()
    (found.path / "manifest.json").write_text("{")
    store.open("memory://torn/acts").verify()


def test_texts_whose_every_token_is_excluded_give_no_store(tmp_path: Path) -> None:
    for _ in range(2):  # the second time goes on where the first one stopped
        with pytest.raises(TextError, match="no rows"):
            harvest(FakeLM(), ["a", "b"], "resid_post.0", out=tmp_path / "s", context=4, exclude_first=3)


def test_live_rows_refuse_texts_that_can_be_read_once_only() -> None:
    with pytest.raises(InputError, match="read once only"):
        LiveRows(FakeLM(), iter(TEXTS), SITES)
