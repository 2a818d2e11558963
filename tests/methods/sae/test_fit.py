"""TopKSAE as a method: it recovers what was planted, is robust, resumes and shares the work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.codes import Codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import Batch, TensorRows, as_rows
from armillary.core.run import drive
from armillary.errors import InputError, NonFiniteError
from armillary.methods.sae.curve import Curve, Sums
from armillary.methods.sae.decoder import FreeRows
from armillary.methods.sae.encoders import TopKEncoder
from armillary.methods.sae.fit import SAEFit, default_lr, default_steps
from armillary.methods.sae.resample import replant
from armillary.methods.sae.step import Sample
from armillary.methods.sae.topk import TopKSAE
from armillary.methods.sae.weights import random_weights

D, M, ACTIVE = 32, 64, 3


def planted(n: int, seed: int = 0, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    """Rows [n, D] of about ACTIVE of M unit directions [M, D] and an offset."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.nn.functional.normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(99)), dim=1)
    on = torch.rand(n, M, generator=generator) < ACTIVE / M
    codes = on * (1 + torch.randn(n, M, generator=generator).abs() / 2)
    noise = 0.02 * torch.randn(n, D, generator=generator)
    return codes @ parts + noise + offset * torch.linspace(-1, 1, D), parts


def fvu(fit: Decomposition, x: Tensor) -> float:
    return float((fit.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


def mmcs(fit: Decomposition, parts: Tensor) -> float:
    """Mean over planted directions of the best cosine among the atoms."""
    return float((parts @ fit.dictionary.atoms.T).max(1).values.mean())


def same_bits(one: Decomposition, other: Decomposition) -> bool:
    a, b = one.encoder, other.encoder
    assert isinstance(a, TopKEncoder) and isinstance(b, TopKEncoder)
    pairs = [(a.W_enc, b.W_enc), (a.b_enc, b.b_enc), (a.center, b.center), (one.dictionary.atoms, other.dictionary.atoms)]
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def fit() -> Decomposition:
    return TopKSAE(n_features=96, k=5, n_steps=300, batch_size=512).fit(planted(8000)[0])


def test_planted_directions_are_recovered(fit: Decomposition) -> None:
    x, parts = planted(2000, seed=1)
    assert mmcs(fit, parts) > 0.97
    assert fvu(fit, x) < 0.11  # what is beyond 5 of the directions of a row stays unexplained


def test_the_fit_reads_raw_rows(fit: Decomposition) -> None:
    x, _ = planted(200, seed=1)
    codes = fit.encode(x)
    assert isinstance(codes, Codes) and codes.index is not None and codes.value.shape == (200, 5)
    torch.testing.assert_close(fit.dictionary.atoms.norm(dim=1), torch.ones(96), rtol=1e-5, atol=1e-5)
    assert codes.value.min() >= 0
    assert (fit.dictionary.base[0] - x.mean(0)).norm() < 0.2 * x.mean(0).norm()


def test_the_curve_is_kept(fit: Decomposition) -> None:
    curve, final = fit.provenance["curve"], fit.provenance["final"]
    assert len(curve) == 100 and curve[-1] == final
    assert [point["step"] for point in curve] == list(range(3, 301, 3))
    assert final["rows"] == 18 * 8000 + 12 * 512  # 16 batches a pass, the last of 320 rows; 18 passes and 12 batches are 300 steps
    assert final["fvu"] < curve[0]["fvu"] / 5 and final["loss"] < curve[0]["loss"] / 5
    assert 0 < final["l0"] <= 5 and 0 <= final["dead"] <= 1
    assert final["fvu"] == pytest.approx(fvu(fit, planted(8000)[0]), rel=0.1)


def test_a_rare_loud_dimension_and_a_large_offset_do_no_harm() -> None:
    x, _ = planted(4000)
    loud = torch.cat([x, 300 + 40 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))], dim=1)
    fit = TopKSAE(n_features=96, k=7, n_steps=300, batch_size=512, lr=2e-2).fit(loud)
    assert fvu(fit, loud) < 0.01
    assert fit.dictionary.base[0, -1] == pytest.approx(300, abs=10)


def test_a_power_of_two_changes_no_bit_of_the_directions() -> None:
    method, x = TopKSAE(n_features=48, k=4, n_steps=40, batch_size=256), planted(1000)[0]
    one, other = method.fit(x), method.fit(x * 1024)
    assert torch.equal(one.dictionary.atoms, other.dictionary.atoms)
    assert torch.equal(one.encode(x).value * 1024, other.encode(x * 1024).value)
    assert other.provenance["final"]["loss"] == one.provenance["final"]["loss"] * 1024**2


def test_half_precision_rows_are_widened_batch_by_batch() -> None:
    method, x = TopKSAE(n_features=48, k=4, n_steps=20, batch_size=256), planted(1000)[0]
    for dtype in (torch.bfloat16, torch.float16):
        assert same_bits(method.fit(x.to(dtype)), method.fit(x.to(dtype).float()))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_constant_rows_give_a_finite_fit(value: float) -> None:
    x = torch.full((50, 6), value)
    fit = TopKSAE(n_features=8, k=2, n_steps=20, batch_size=16).fit(x)
    torch.testing.assert_close(fit.reconstruct(x), x, rtol=1e-5, atol=1e-5)
    assert fit.encode(x).l0().sum() == 0
    assert fit.provenance["final"]["fvu"] == 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"n_features": 16, "k": 17}, "option 'k' of TopKSAE: must be at most n_features, 16, got 17"),
        ({"n_features": 16, "k": 0}, "'k'"),
        ({"n_features": 0, "k": 1}, "'n_features'"),
        ({"n_features": 16, "k": 2, "batch_size": 0}, "'batch_size'"),
        ({"n_features": 16}, "needs the option 'k'"),
        ({"n_features": 16, "k": 2, "steps": 5}, "n_steps"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TopKSAE(**options)


def test_all_latents_may_fire() -> None:
    fit = TopKSAE(n_features=4, k=4, n_steps=10, batch_size=64).fit(planted(100)[0])
    assert fit.encode(planted(10)[0]).value.shape == (10, 4)


def test_default_lengths() -> None:
    assert default_steps(100_000, 4096) == 1_000
    assert default_steps(4_096_000, 4096) == 10_000
    assert default_steps(10**9, 4096) == 20_000
    assert default_steps(None, 4096) == 5_000
    recipe = TopKSAE(n_features=2**14, k=32).recipe(10**8, 768)
    assert recipe.n_steps == 20_000 and recipe.auxk == 384 and recipe.dead_after == 20_000 * 4096 // 20
    assert TopKSAE(n_features=8, k=2, auxk=0).recipe(100, 768).auxk == 0


def test_default_learning_rates() -> None:
    assert default_lr(2**14, 2048, 1_000) == pytest.approx(2.8e-3)
    assert default_lr(2**12, 2048, 100) == pytest.approx(5.6e-3)
    assert default_lr(2**14, 8192, 1_000) == pytest.approx(5.6e-3)
    assert default_lr(2**14, 2048, 4_000) == pytest.approx(1.4e-3)
    assert default_lr(16, 4096, 1_000) == pytest.approx(2e-2)


# ---------------------------------------------------------------- going on


def test_a_fit_can_go_on_from_a_fit(fit: Decomposition) -> None:
    x, _ = planted(8000)
    method = TopKSAE(n_features=96, k=5, n_steps=20, batch_size=512, lr=1e-3)
    longer = method.fit(x, seed=1, start=fit)
    assert fvu(longer, x) < 1.02 * fvu(fit, x)
    assert fvu(method.fit(x, seed=1), x) > 5 * fvu(fit, x)
    assert torch.linalg.vecdot(longer.dictionary.atoms, fit.dictionary.atoms).min() > 0.9
    with pytest.raises(InputError, match="64 features on rows of width 32 is needed"):
        TopKSAE(n_features=64, k=5).fit(x, start=fit)


class Stopping:
    """Rows whose reading is cut short."""

    def __init__(self, inner: TensorRows, after: int) -> None:
        self.inner, self.left = inner, after
        self.layout, self.n_rows, self.tokens, self.record = inner.layout, inner.n_rows, inner.tokens, inner.record

    def batches(self, size: int, **order: Any) -> Iterator[Batch]:
        for batch in self.inner.batches(size, **order):
            if self.left == 0:
                raise OSError("unplugged")
            self.left -= 1
            yield batch


@pytest.mark.parametrize("after", [1, 4, 5, 11, 24])
def test_cut_short_and_resumed_is_the_same_fit(after: int, tmp_path: Path) -> None:
    """5 batches a pass, the last of 20 rows; dead latents and AuxK among what has to be remembered."""
    method = TopKSAE(n_features=200, k=2, n_steps=25, batch_size=100, dead_after_tokens=20)
    rows = TensorRows(planted(420)[0])

    def consumer() -> SAEFit:
        found = method.consumer(rows, seed=3, start=None)
        assert isinstance(found, SAEFit)
        return found

    whole, cut, resumed = consumer(), consumer(), consumer()
    drive([whole], rows)
    with pytest.raises(OSError, match="unplugged"):
        drive([cut], Stopping(rows, after), checkpoint=tmp_path / "c", every=0.0)
    drive([resumed], rows, checkpoint=tmp_path / "c", every=0.0)
    assert same_bits(resumed.finish(), whole.finish())
    assert resumed.finish().provenance == whole.finish().provenance
    assert whole.finish().provenance["final"]["dead"] > 0


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    method, x = TopKSAE(n_features=48, k=4, n_steps=20, batch_size=256), planted(1000)[0]
    assert same_bits(method.fit(x, seed=1), method.fit(x, seed=1))
    assert not same_bits(method.fit(x, seed=1), method.fit(x, seed=2))


RANK = """
import sys
import torch, torch.distributed as dist
from armillary.methods.sae.topk import TopKSAE
torch.set_num_threads(1)
folder, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=2)
method = TopKSAE(n_features=48, k=2, n_steps=12, batch_size=100, dead_after_tokens=150)
method.fit(torch.load(f"{folder}/x.pt"), seed=3).save(f"{folder}/fit{rank}")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """5 batches a pass; the last has one row, so that the second rank has none of it."""
    from armillary.core.artifact import load

    x = planted(401)[0]
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in ranks:
        _, problems = process.communicate(timeout=300)
        assert process.returncode == 0, problems
    alone = TopKSAE(n_features=48, k=2, n_steps=12, batch_size=100, dead_after_tokens=150).fit(x, seed=3)
    first, second = load(tmp_path / "fit0"), load(tmp_path / "fit1")
    assert same_bits(first, second)
    for name in ("W_enc", "b_enc", "center"):
        torch.testing.assert_close(getattr(first.encoder, name), getattr(alone.encoder, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first.dictionary.atoms, alone.dictionary.atoms, rtol=1e-5, atol=1e-5)
    assert first.provenance["final"] == pytest.approx(alone.provenance["final"], rel=1e-5)


def test_progress_says_how_it_goes() -> None:
    rows = as_rows(planted(200)[0])
    fit = TopKSAE(n_features=48, k=2, n_steps=3, batch_size=100).consumer(rows, seed=0, start=None)
    assert fit.describe() == ""
    drive([fit], rows)
    assert fit.describe().startswith("fvu 0.") and "l0" in fit.describe()


def test_numpy_rows_are_rows() -> None:
    x = planted(200)[0]
    method = TopKSAE(n_features=48, k=2, n_steps=3, batch_size=100)
    assert same_bits(method.fit(np.asarray(x)), method.fit(x))


# ---------------------------------------------------------------- what an earlier fit may be


def alike(one: Decomposition, other: Decomposition, x: Tensor) -> bool:
    return float((one.reconstruct(x) - other.reconstruct(x)).square().sum()) < 1e-3 * float((x - x.mean(0)).square().sum())


def test_atoms_of_any_length_are_gone_on_with(fit: Decomposition) -> None:
    """Five times the atoms and a fifth of the encoder are the same function."""
    x, _ = planted(2000)
    encoder = fit.encoder
    assert isinstance(encoder, TopKEncoder)
    longer = Decomposition(
        Dictionary.of_directions(fit.dictionary.atoms * 5, fit.dictionary.base[0]),
        TopKEncoder(encoder.W_enc / 5, encoder.b_enc / 5, encoder.center, encoder.k),
        fit.inputs,
        fit.targets,
    )
    again = TopKSAE(n_features=96, k=5, n_steps=1, batch_size=512, lr=1e-9).fit(x, start=longer)
    assert alike(again, fit, x)


def test_a_gated_fit_begins_where_a_relu_fit_ended() -> None:
    x, _ = planted(2000)
    sizes = {"n_features": 96, "l0": 5, "batch_size": 512}
    relu = arm.ReLUSAE(**sizes, n_steps=100).fit(x)
    assert alike(arm.GatedSAE(**sizes, n_steps=1, lr=1e-9).fit(x, start=relu), relu, x)


def test_a_start_that_would_lose_something_is_refused(fit: Decomposition) -> None:
    x, _ = planted(2000)
    sizes = {"n_features": 96, "n_steps": 2, "batch_size": 512}
    gated, jump = arm.GatedSAE(l0=5, **sizes).fit(x), arm.JumpReLUSAE(l0=5, **sizes).fit(x)
    with pytest.raises(InputError, match=r"TopKSAE has no place for its .*b_mag"):
        TopKSAE(k=5, **sizes).fit(x, start=gated)
    with pytest.raises(InputError, match="ReLUSAE has no place for its threshold"):
        arm.ReLUSAE(l0=5, **sizes).fit(x, start=jump)
    arm.BatchTopKSAE(k=5, **sizes).fit(x, start=jump)
    with pytest.raises(InputError, match="its encoder is a SubsetEncoder"):
        TopKSAE(n_features=8, k=5, n_steps=2).fit(x, start=fit.subset(range(8)))
    task = arm.Targeted.pair(x, x.clone())
    skipping = TopKSAE(k=5, skip=True, **sizes).fit(task)
    with pytest.raises(InputError, match="skip=True"):
        TopKSAE(k=5, **sizes).fit(task, start=skipping)
    plain = TopKSAE(k=5, **sizes).fit(task)
    assert TopKSAE(k=5, skip=True, **sizes).fit(task, start=plain).dictionary.base_rule == "skip"


def test_a_resampled_latent_can_fire_whatever_the_norms_of_the_living() -> None:
    """Thresholds of free rows count over rows of norm 1, as new ones have."""
    decoder = FreeRows()
    start = random_weights(8, 6, seed=0, norms=(0.4, 0.4)).given({"threshold": torch.full((8,), 0.25)})
    parameters = decoder.begin(start)
    before = decoder.weights(parameters)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    replant(parameters, decoder, torch.tensor([2, 5]), Sample(x, x), x, seed=(0, 1))
    now = decoder.weights(parameters)
    assert before.threshold is not None and now.threshold is not None
    reach = now.W_enc.norm(dim=1) / now.threshold  # [M] of a row of norm 1, in thresholds
    torch.testing.assert_close(reach, (before.W_enc.norm(dim=1) / before.threshold)[:1].expand(8))


def test_a_start_may_be_in_half_precision(fit: Decomposition) -> None:
    x, _ = planted(500)
    TopKSAE(n_features=96, k=5, n_steps=2, batch_size=64).fit(x, start=fit.to(dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", [arm.BatchTopKSAE, arm.MatryoshkaSAE])
def test_a_run_without_bounds_ends_with_an_error(kind: type) -> None:
    """Codes that overflow must not be searched for for ever."""
    with pytest.raises(NonFiniteError, match="diverged"):
        kind(n_features=16, k=2, n_steps=400, batch_size=64, lr=1e30).fit(planted(500)[0])


def test_the_loss_is_in_the_rows_own_units_for_atoms_of_any_length() -> None:
    x, method = planted(1000)[0], arm.ArchetypalSAE(n_features=48, k=4, n_steps=20, batch_size=256)
    one, other = (method.fit(rows).provenance["final"]["loss"] for rows in (x, x * 1024))
    assert other == pytest.approx(one * 1024**2, rel=1e-3)


def test_a_constant_target_that_is_missed_is_not_explained() -> None:
    x = planted(500)[0]
    task = arm.Targeted.pair(x, torch.ones(500, 3))
    assert TopKSAE(n_features=8, k=2, n_steps=1, batch_size=64).fit(task).provenance["final"]["fvu"] in (0.0, 1.0)


def test_an_open_window_of_the_curve_is_gone_on_with_on_any_device() -> None:
    curve, sums = Curve(1000, 1.0), Sums(torch.tensor([4.0, 1.0, 2.0, 8.0], dtype=torch.float64))
    curve.add(1, sums, lambda: 0.0)
    again = Curve(1000, 1.0)
    again.load(curve.state())
    assert again.add(2, Sums(sums.values.to("meta")), lambda: 0.0) is None


def test_equal_rows_are_cut_exactly() -> None:
    """Of thirty equal rows no more codes are kept than are wanted."""
    x = torch.cat([torch.ones(30, 4), torch.eye(4)])
    fit = arm.BatchTopKSAE(n_features=6, k=1, n_steps=3, batch_size=34).fit(x)
    assert fit.provenance["curve"][0]["l0"] <= 1
