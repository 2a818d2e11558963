"""Targeted and SideBySide: which columns are read and rebuilt, several fits from one pass, and rows of several places as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.method import fit_many
from armillary.core.rows import Batch, IndexedRows, Rows, TensorRows
from armillary.core.side_by_side import SideBySide
from armillary.core.targeted import Targeted
from armillary.errors import InputError, MismatchError, ShapeError, UnknownNameError

N, D = 600, 6
SMALL: dict[str, Any] = {"n_features": 16, "k": 3, "n_steps": 30, "batch_size": 128}


def draw(n: int = N, d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("targeted") / "acts"
    return arm.harvest(arm.LanguageModel("arm-tiny"), arm.reference_texts(20), ["mlp_in.1", "mlp_out.1", "resid_post.2"], out=folder)


def test_sites_are_named_by_spelling_number_or_themselves(acts: Any) -> None:
    rows = acts[["mlp_in.1", "mlp_out.1", "resid_post.2"]]
    wanted = (0,), (1,)
    for inputs, targets in (("mlp_in.1", "mlp_out.1"), (0, 1), (arm.Site("mlp_in", 1), arm.Site("mlp_out", 1))):
        task = Targeted.of(rows, inputs=inputs, targets=targets)
        assert (task.inputs, task.targets) == wanted and not task.is_own
    assert Targeted.of(rows, inputs=["resid_post.2", "mlp_in.1"]).inputs == (2, 0)
    assert Targeted.of(rows, inputs="mlp_in.1").is_own


@pytest.mark.parametrize("wanted, error", [("mlp_in.2", UnknownNameError), (3, InputError), ([], InputError)])
def test_a_site_that_is_not_there_is_refused(acts: Any, wanted: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Targeted.of(acts[["mlp_in.1", "mlp_out.1"]], inputs=wanted)


def test_a_transcoder_reads_one_site_and_rebuilds_the_other(acts: Any) -> None:
    rows = acts[["mlp_out.1", "mlp_in.1"]]
    task = Targeted.of(rows, inputs="mlp_in.1", targets="mlp_out.1")
    fit = arm.TopKSAE(**SMALL).fit(task)
    (read, d_in), (built, d) = fit.inputs[0], fit.targets[0]
    assert read is not None and built is not None
    assert (str(read.site), d_in, str(built.site), d) == ("mlp_in.1", 128, "mlp_out.1", 128)
    both = torch.cat([batch.x for batch in rows.batches(4096)]).float()
    alone = arm.TopKSAE(**SMALL).fit(Targeted.pair(both[:, 128:], both[:, :128]))
    assert torch.equal(fit.dictionary.atoms, alone.dictionary.atoms)
    report = arm.studies.fidelity.run(arm.Subject(fit, rows=rows))
    assert report["fvu"].value is not None and report["fvu"].value < 1


def test_a_linear_map_needs_no_latents_with_a_skip_connection() -> None:
    x = draw()
    y = x @ draw(D, 4, seed=1) + 3
    fit = arm.TopKSAE(**{**SMALL, "n_steps": 400, "lr": 1e-2}, skip=True).fit(Targeted.pair(x, y))
    without = arm.TopKSAE(**{**SMALL, "n_steps": 400, "lr": 1e-2}).fit(Targeted.pair(x, y))
    error = [float((y - f.reconstruct(x)).square().sum() / (y - y.mean(0)).square().sum()) for f in (fit, without)]
    assert error[0] < 0.01 < error[1]
    codes = fit.encode(x)
    assert codes.base.shape == (N, 1 + D), "a coefficient for the bias and the row itself"
    torch.testing.assert_close(fit.decode(codes), fit.part(codes, range(16)) + fit.base(codes))


def test_scale_and_shift_of_either_side_change_nothing() -> None:
    x, method = draw(), arm.BatchTopKSAE(**SMALL)
    y = (x @ draw(D, 4, seed=1)).relu()
    one, other = method.fit(Targeted.pair(x, y)), method.fit(Targeted.pair(8 * x + 2, 32 * y - 5))
    torch.testing.assert_close(other.reconstruct(8 * x + 2), 32 * one.reconstruct(x) - 5, rtol=1e-3, atol=1e-3)


def test_a_fit_with_a_target_can_be_gone_on_with_and_resumed(tmp_path: Path) -> None:
    x = draw()
    task = Targeted.pair(x, (x @ draw(D, 4, seed=1)).relu())
    for kind in (arm.TopKSAE, arm.BatchTopKSAE):
        method = kind(**SMALL, skip=True)
        first = method.fit(task)
        assert method.fit(task, start=first).provenance["final"]["fvu"] < first.provenance["final"]["fvu"]
    gated = arm.GatedSAE(n_features=16, l0=3, n_steps=100, batch_size=128)
    first = gated.fit(task)
    again = arm.GatedSAE(n_features=16, l0=3, n_steps=1, batch_size=128, lr=1e-9).fit(task, start=first)
    torch.testing.assert_close(again.reconstruct(x), first.reconstruct(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [arm.JumpReLUSAE, arm.ReLUSAE, arm.GatedSAE])
def test_a_start_is_the_same_function(kind: Any) -> None:
    """A step of next to no length from a fit gives that fit, through both changes of coordinates."""
    x = draw() * 3 + 7
    first = kind(n_features=16, l0=3, n_steps=60, batch_size=128).fit(x)
    again = kind(n_features=16, l0=3, n_steps=1, batch_size=128, lr=1e-9).fit(x, start=first)
    torch.testing.assert_close(again.encode(x).dense(), first.encode(x).dense(), rtol=1e-3, atol=1e-3)


def test_only_autoencoders_have_targets_and_only_targets_have_skips() -> None:
    x = draw()
    with pytest.raises(InputError, match="PCA rebuilds what it reads"):
        arm.PCA(n_components=2).fit(Targeted.pair(x, x.clone()))
    with pytest.raises(InputError, match="'skip' of TopKSAE needs rows with a target"):
        arm.TopKSAE(**SMALL, skip=True).fit(x)


# ---------------------------------------------------------------- several fits from one pass


def test_every_site_gets_the_fit_it_would_get_alone(acts: Any) -> None:
    rows = acts[["mlp_out.1", "resid_post.2"]]
    methods = [arm.TopKSAE(**SMALL), arm.PCA(n_components=3)]
    fits = fit_many(methods, [Targeted.of(rows, inputs="resid_post.2"), Targeted.of(rows, inputs="mlp_out.1")])
    for fit, method, site in zip(fits, methods, ("resid_post.2", "mlp_out.1"), strict=True):
        alone = method.fit(acts[site])
        assert str(fit.site) == site
        assert torch.equal(fit.dictionary.atoms, alone.dictionary.atoms)


def test_one_targeted_per_method_and_of_the_same_rows() -> None:
    one, other = SideBySide(draw(), draw()), SideBySide(draw(), draw())
    for data in ([Targeted.of(one, inputs=0)], [Targeted.of(one, inputs=0), Targeted.of(other, inputs=1)]):
        with pytest.raises(InputError, match="2 methods need 2 Targeted of the same rows"):
            fit_many([arm.PCA(n_components=1), arm.PCA(n_components=1)], data)


# ---------------------------------------------------------------- side by side


def test_rows_of_several_places_are_one() -> None:
    x, y = draw(), draw(d=4, seed=1).bfloat16()
    both = SideBySide(x, y)
    assert isinstance(both, IndexedRows)
    assert [d for _, d in both.layout] == [D, 4] and both.n_rows == N
    assert len({source for source, _ in both.layout}) == 2, "unnamed parts can be told apart"
    for batch in both.batches(100, seed=3, epoch=1):
        wanted = torch.cat([x[batch.row], y[batch.row].float()], dim=1)
        assert torch.equal(batch.x, wanted) and torch.equal(both.read(batch.row), wanted)


def test_a_crosscoder_over_models_finds_what_they_share() -> None:
    """Twelve parts: four in both models, four in one, four in the other, whose rows are a hundred times as long."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.linalg.qr(torch.randn(2, 16, 12, generator=generator))[0].mT  # [2, 12, 16]
    z = (torch.rand(8000, 12, generator=generator) < 0.12) * (1 + torch.rand(8000, 12, generator=generator))
    in_one, in_other = torch.arange(12) < 8, torch.arange(12) >= 4
    rows = SideBySide((z * in_one) @ parts[0], 100 * (z * in_other) @ parts[1])
    fit = arm.BatchTopKSAE(n_features=24, k=2, n_steps=600, batch_size=512, lr=2e-2).fit(rows)
    shares, codes = arm.inspect.site_shares(fit), fit.encode(rows.read(np.arange(8000)))
    correlation = torch.corrcoef(torch.cat([z.T, codes.dense().T]))[:12, 12:].nan_to_num()
    best = correlation.argmax(1)
    assert correlation.max(1).values.min() > 0.85
    assert shares[best[:4], 0].min() > 0.95 and shares[best[8:], 1].min() > 0.95
    assert (shares[best[4:8], 0] - 0.5).abs().max() < 0.15, "a hundredfold scale of one model does not matter"


def test_what_cannot_lie_side_by_side_is_refused(acts: Any, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="equally many, got 600, 10"):
        SideBySide(draw(), draw(10))
    with pytest.raises(InputError, match="got 1 part"):
        SideBySide(draw())

    class Stream:
        layout, n_rows, tokens, record = ((None, 3),), None, None, {}

        def batches(self, size: int, **order: Any) -> Iterator[Batch]:
            yield from ()

    assert isinstance(Stream(), Rows)
    with pytest.raises(InputError, match="is a stream"):
        SideBySide(draw(), Stream())
    other = arm.harvest(arm.LanguageModel("arm-tiny"), arm.reference_texts(21)[1:], ["mlp_in.1"], out=tmp_path / "acts")["mlp_in.1"]
    n = min(other.n_rows, acts["mlp_in.1"].n_rows)

    class First(TensorRows):
        """The first n rows of a store, with its tokens."""

        def __init__(self, rows: Any) -> None:
            super().__init__(rows.read(np.arange(n)))
            places = rows.tokens.rows[:n]
            self._cut = rows.tokens
            self._places = places

        @property
        def tokens(self) -> Any:
            class Cut:
                rows, document, span = self._places, self._cut.document, self._cut.span

            return Cut

    with pytest.raises(MismatchError, match="different tokens"):
        SideBySide(First(acts["mlp_in.1"]), First(other))


def test_ids_without_text_are_compared_themselves() -> None:
    one, other = (arm.Tokens.of_ids([ids]) for ids in ([1, 2, 3], [7, 8, 9]))

    class Known(TensorRows):
        def __init__(self, tokens: Any) -> None:
            super().__init__(torch.zeros(3, 2))
            self.known = tokens

        @property
        def tokens(self) -> Any:
            return self.known

    assert SideBySide(Known(one), Known(arm.Tokens.of_ids([[1, 2, 3]]))).n_rows == 3
    with pytest.raises(MismatchError, match="different tokens"):
        SideBySide(Known(one), Known(other))


def test_numbers_of_stretches_may_be_numpys(acts: Any) -> None:
    rows = acts[["mlp_in.1", "mlp_out.1"]]
    task = Targeted.of(rows, inputs=np.int64(0), targets=np.int64(1))
    assert (task.inputs, task.targets) == ((0,), (1,))
    with pytest.raises(InputError, match="got True"):
        Targeted.of(rows, inputs=True)


def test_one_site_has_no_shares() -> None:
    with pytest.raises(InputError, match="writes to one site"):
        arm.inspect.site_shares(arm.TopKSAE(**SMALL).fit(draw()))
