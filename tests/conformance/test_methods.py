"""What every method promises. The methods and their rows are in `cases`; a new one needs a line there and nothing here."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from armillary.core.activations import open as open_store
from armillary.core.decomposition import Decomposition
from armillary.core.method import Method, fit_many
from armillary.core.rows import Rows, TensorRows
from armillary.core.site import Site
from armillary.core.store.manifest import Cursor, Manifest, ModelEntry
from armillary.core.store.shards import encode
from armillary.core.store.writer import ShardData, StoreWriter, site_entries
from armillary.core.tokens import Document, Tokens
from armillary.errors import ArmillaryError, InputError, MismatchError, NonFiniteError, TooFewRowsError
from armillary.methods import METHODS, load
from conformance.cases import CASES, Case, N, Stream, fvu, same_bits, tensors

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
WORKER = Path(__file__).parent / "worker.py"


@pytest.fixture(scope="module")
def fits() -> dict[str, Decomposition]:
    """One plain fit per case, to compare others with."""
    return {case.name: case.fit() for case in CASES}


def run_workers(*commands: tuple[object, ...]) -> list[str]:
    """What the worker prints for each of the commands, all of them at once."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, str(WORKER), *map(str, command)], **pipes) for command in commands]
    ended = [worker.communicate(timeout=300) for worker in workers]
    assert not any(worker.returncode for worker in workers), [problems for _, problems in ended]
    return [printed for printed, _ in ended]


def test_every_method_has_a_case() -> None:
    assert {load(name) for name in METHODS} == {type(case.method) for case in CASES}


# ---------------------------------------------------------------- the same rows, wherever they come from


def stored(x: Tensor, folder: Path, dtype: str) -> Rows:
    """A store of one site that holds x, in two shards."""
    site = Site("resid_post", 0)
    entry = ModelEntry(name="m", revision="r", n_layers=1, dtype="float32", tokenizer="t")
    header = Manifest(model=entry, sites=site_entries({site: x.shape[1]}), dtype=dtype, policy={}, versions={})
    writer = StoreWriter.begin(folder, header, resume=False)
    for number, part in enumerate(x.split(5000)):
        place = np.arange(len(part))
        flags = np.zeros(len(part), bool)
        tokens = Tokens(place, np.array([0, len(part)]), np.full(len(part), number), place, np.stack([place, place + 1], 1), flags, ~flags)
        writer.commit(ShardData({site: encode(part, dtype)}, tokens, [Document("x" * len(part))], Cursor(document=number + 1), str(number)))
    writer.finish({})
    return open_store(folder)[site]


@every_method
def test_a_tensor_an_array_a_store_and_a_stream_give_the_same_bits(case: Case, fits: dict[str, Decomposition], tmp_path: Path) -> None:
    places: dict[str, object] = {
        "array": case.x.numpy(),
        "rows": TensorRows(case.x),
        "store": stored(case.x, tmp_path / "fp32", "fp32"),
        "stream": Stream.of(case.x),
    }
    if case.method.needs == "rows":
        places["stream of unknown length"] = Stream.of(case.x, is_counted=False)
    for name, rows in places.items():
        assert same_bits(tensors(case.fit(rows)), tensors(fits[case.name])), name


@every_method
def test_a_half_precision_store_gives_the_bits_of_rounded_rows(case: Case, tmp_path: Path) -> None:
    fit = case.fit(stored(case.x, tmp_path / "bf16", "bf16"))
    assert same_bits(tensors(fit), tensors(case.fit(case.x.bfloat16())))
    assert fit.site == Site("resid_post", 0) and fit.provenance["n_rows"] == N


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_accepted(case: Case, dtype: torch.dtype, fits: dict[str, Decomposition]) -> None:
    fit = case.fit(case.x.to(dtype))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in tensors(fit).values())
    assert case.score(fit, case.data) > case.enough - 0.01
    assert fvu(fit, case.x) == pytest.approx(fvu(fits[case.name], case.x), abs=2e-3)
    assert fit.encode(case.x[:5].to(dtype)).value.dtype == torch.float32


@every_method
def test_the_seed_is_the_only_source_of_randomness(case: Case, fits: dict[str, Decomposition]) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state()
    assert same_bits(tensors(case.fit(seed=0)), tensors(fits[case.name]))
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"


# ---------------------------------------------------------------- interruption, ranks, other processes


@every_method
def test_killed_and_resumed_equals_uninterrupted(case: Case, fits: dict[str, Decomposition], tmp_path: Path) -> None:
    """Ctrl-C before some batch, at the beginning, in the middle and at the very end, each in a process of reading of its own."""
    whole = Stream.of(case.x)
    case.fit(whole)
    checkpoint = tmp_path / "checkpoint"
    for at in {1, 2, whole.n_batches // 2, whole.n_batches - 1, whole.n_batches}:
        with pytest.raises(KeyboardInterrupt):
            case.fit(Stream.of(case.x, before=_interrupt_before(at)), checkpoint=checkpoint)
        rest = Stream.of(case.x)
        assert same_bits(tensors(case.fit(rest, checkpoint=checkpoint)), tensors(fits[case.name]))
        assert rest.n_batches == whole.n_batches - at, "nothing is read twice"
        assert not checkpoint.exists()


def _interrupt_before(batch: int) -> Callable[[], None]:
    """Sends SIGINT while batch number `batch`, counted from 1, is being made."""
    seen = [0]

    def before() -> None:
        seen[0] += 1
        if seen[0] == batch:
            signal.raise_signal(signal.SIGINT)

    return before


@every_method
def test_a_checkpoint_serves_no_other_run(case: Case, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        case.fit(Stream.of(case.x, before=_interrupt_before(1)), checkpoint=tmp_path / "c")
    with pytest.raises(MismatchError, match="belongs to"):
        case.fit(seed=1, checkpoint=tmp_path / "c")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits of every case by two processes that share the rows."""
    folder = tmp_path_factory.mktemp("ranks")
    run_workers(("rank", folder, 0, 2), ("rank", folder, 1, 2))
    return folder


@pytest.mark.slow
@every_method
def test_two_ranks_reach_the_objective_of_one(case: Case, fits: dict[str, Decomposition], two_ranks: Path) -> None:
    from armillary.core.artifact import load as load_fit

    first, second = (load_fit(two_ranks / f"{case.name}.{number}") for number in range(2))
    assert same_bits(tensors(first), tensors(second))
    assert fvu(first, case.x) == pytest.approx(fvu(fits[case.name], case.x), abs=1e-5)


@pytest.fixture(scope="module")
def reloaded(fits: dict[str, Decomposition], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a new process found in the saved fits."""
    folder = tmp_path_factory.mktemp("saved")
    for name, fit in fits.items():
        fit.save(folder / name)
    run_workers(("load", folder))
    return folder


@pytest.mark.slow
@every_method
def test_saved_and_loaded_in_a_new_process_is_bit_equal(case: Case, fits: dict[str, Decomposition], reloaded: Path) -> None:
    fit, found = fits[case.name], load_file(reloaded / f"{case.name}.safetensors")
    assert torch.equal(found.pop("codes"), fit.encode(case.x[:100]).dense())
    assert torch.equal(found.pop("reconstruction"), fit.reconstruct(case.x[:100]))
    assert same_bits(found, tensors(fit))


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_rows() -> None:
    """200,000 rows of 64 are 51 MB; no method may hold a third of them, nor may the loop."""
    (printed,) = run_workers(("memory",))
    growth = dict(line.split() for line in printed.splitlines())
    assert growth.keys() == {case.name for case in CASES}
    assert not {name: size for name, size in growth.items() if int(size) > 17e6}


# ---------------------------------------------------------------- the law


@every_method
def test_decoding_is_the_base_plus_all_contributions(case: Case, fits: dict[str, Decomposition]) -> None:
    fit, x = fits[case.name], case.x[:50]
    codes = fit.encode(x)
    parts = fit.contributions(x, range(fit.n_features))
    assert parts.shape == (50, fit.n_features, x.shape[1])
    torch.testing.assert_close(fit.decode(codes), fit.base(codes) + parts.sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.reconstruct(x), fit.decode(codes), rtol=0, atol=0)


@every_method
def test_a_row_is_encoded_by_itself(case: Case, fits: dict[str, Decomposition]) -> None:
    whole = fits[case.name].encode(case.x[:64]).dense()
    torch.testing.assert_close(torch.cat([fits[case.name].encode(row[None]).dense() for row in case.x[:64]]), whole, rtol=1e-5, atol=1e-5)
    assert len(fits[case.name].encode(case.x[:0])) == 0


@every_method
def test_planted_parts_are_recovered(case: Case, fits: dict[str, Decomposition]) -> None:
    assert case.score(fits[case.name], case.data) > case.enough
    assert case.score(case.fit(seed=7), case.data) > case.enough


def scaled(x: Tensor) -> Tensor:
    return x * 37.0


def shifted(x: Tensor) -> Tensor:
    return x + torch.linspace(-4, 4, x.shape[1])


def rotated(x: Tensor) -> Tensor:
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(3)))[0]


CHANGES = {"scale": scaled, "shift": shifted, "rotation": rotated}


PROMISED = [pytest.param(case, change, id=f"{case.name}-{change}") for case in CASES for change in sorted(case.method.invariances)]


@pytest.mark.parametrize(("case", "change"), PROMISED)
def test_declared_invariances_hold(case: Case, change: str, fits: dict[str, Decomposition]) -> None:
    """The fit to changed rows reconstructs them as changed reconstructions, with the same features up to order and sign."""
    plain, moved = fits[case.name], case.fit(CHANGES[change](case.x))
    x = case.x[:500]
    wanted, got = CHANGES[change](plain.reconstruct(x)), moved.reconstruct(CHANGES[change](x))
    assert (got - wanted).square().sum() < 1e-4 * (wanted - wanted.mean(0)).square().sum()
    one, other = (fit.dense()[:, fit.dense().std(0) > 0] for fit in (plain.activations(x), moved.activations(CHANGES[change](x))))
    correlation = torch.corrcoef(torch.cat([one, other], dim=1).T)[: one.shape[1], one.shape[1] :].abs()
    assert correlation.max(1).values.min() > 0.99


# ---------------------------------------------------------------- bad rows


def spoilt(x: Tensor, value: float) -> Tensor:
    bad = x.clone()
    bad[N // 2, 3] = value
    return bad


@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_numbers_are_named(case: Case, value: float) -> None:
    with pytest.raises(NonFiniteError, match=f"first at row {N // 2}; leave those tokens out"):
        case.fit(spoilt(case.x, value))


@every_method
def test_no_rows_are_refused(case: Case) -> None:
    with pytest.raises(TooFewRowsError, match="got 0; harvest more text"):
        case.fit(case.x[:0])
    if case.method.needs == "rows":
        with pytest.raises(TooFewRowsError, match="no rows to read"):
            case.fit(Stream.of(case.x[:0], is_counted=False))


HARD: dict[str, Callable[[Tensor], Tensor]] = {
    "one row": lambda x: x[:1],
    "two rows": lambda x: x[:2],
    "constant rows": lambda x: torch.full_like(x[:40], 0.1),
    "zeros": lambda x: torch.zeros_like(x[:40]),
    "one row many times": lambda x: x[:1].repeat(40, 1),
    "fewer rows than dimensions": lambda x: x[:4],
    "one dimension": lambda x: x[:40, :1],
    "tiny": lambda x: x[:40] * 1e-20,
    "huge": lambda x: x[:40] * 1e15,
    "a dimension that dwarfs the others": lambda x: torch.cat([x[:40, :-1], x[:40, -1:] * 1e6], dim=1),
}


@pytest.mark.filterwarnings("ignore::armillary.errors.ArmillaryWarning")  # such as of features that no row uses
@every_method
@pytest.mark.parametrize("kind", HARD)
def test_hard_rows_end_in_a_finite_fit_or_an_error_with_a_fix(case: Case, kind: str) -> None:
    x = HARD[kind](case.x)
    try:
        fit = case.fit(x)
    except ArmillaryError as error:
        assert isinstance(error, InputError) and re.search(r"\d", str(error)) and "\n" not in str(error)
    else:
        assert all(tensor.isfinite().all() for tensor in tensors(fit).values())
        assert fit.encode(x).dense().isfinite().all() and fit.reconstruct(x).isfinite().all()


DEMANDING = [case for case in CASES if case.method.needs == "rows" and case.method.min_rows(case.x.shape[1]) > 1]


@pytest.mark.parametrize("case", DEMANDING, ids=lambda case: case.name)
def test_a_stream_that_turns_out_too_short_is_refused(case: Case) -> None:
    """Its length is known only at its end."""
    needed = case.method.min_rows(case.x.shape[1])
    with pytest.raises(TooFewRowsError, match=f"needs at least {needed} rows, got {needed - 1}"):
        case.fit(Stream.of(case.x[: needed - 1], is_counted=False))


# ---------------------------------------------------------------- one pass for all


def test_fits_to_the_same_rows_share_passes() -> None:
    """PCA, ICA, k-means' sample and a ridge probe all begin with a pass in stored order; only k-means goes on."""
    by_name = {case.name: case for case in CASES}
    classes = by_name["probe"]
    kmeans = by_name["kmeans"].method.model_copy(update={"batch_size": 4096})
    methods: list[Method] = [by_name["pca"].method, by_name["ica"].method, kmeans, by_name["diffmeans"].method, classes.method]
    alone = Stream.of(classes.x)
    kmeans.fit(alone)
    shared = Stream.of(classes.x)
    together = fit_many(methods, classes.given(shared))
    assert shared.n_batches == alone.n_batches
    for method, fit in zip(methods, together, strict=True):
        data = classes.given(classes.x) if method.needs == "labelled" else classes.x
        assert same_bits(tensors(fit), tensors(method.fit(data)))


@pytest.mark.parametrize("at", [5, 25, 40, 60])
def test_shared_fits_are_resumed_together(at: int, tmp_path: Path) -> None:
    """Width 10 also puts tensors at odd places in the checkpoint, which must not show in the bits."""
    by_name = {case.name: case for case in CASES}
    x = by_name["kmeans"].x
    methods = [by_name[name].method for name in ("pca", "kmeans-minibatch", "topk-sae", "kmeans")]
    plain = fit_many(methods, x)
    with pytest.raises(KeyboardInterrupt):
        fit_many(methods, Stream.of(x, before=_interrupt_before(at)), checkpoint=tmp_path / "c")
    resumed = fit_many(methods, Stream.of(x), checkpoint=tmp_path / "c")
    assert all(same_bits(tensors(one), tensors(other)) for one, other in zip(plain, resumed, strict=True))


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("name", METHODS)
def test_every_public_name_is_documented(name: str) -> None:
    kind = load(name)
    module = sys.modules[kind.__module__]
    assert re.search(r"(18|19|20)\d\d", module.__doc__ or ""), "the source is named with its year"
    for field, info in kind.model_fields.items():
        assert info.description, f"{name}: {field} has no help text"
    public = {
        key: value for key, value in vars(module).items() if not key.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    for key, value in public.items():
        assert inspect.getdoc(value), f"{name}: {key}"
        for member, function in inspect.getmembers(value, inspect.isfunction):
            own = inspect.isclass(value) and not member.startswith("_") and member in vars(value)
            assert not own or inspect.getdoc(function), f"{name}: {key}.{member}"


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown method 'kmean'\. Did you mean 'kmeans'"):
        load("kmean")
