"""plan: the estimate agrees with what a harvest then takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from armillary.errors import InputError, UnknownNameError
from armillary.lm import plan as module
from armillary.lm.harvest import harvest
from armillary.lm.plan import Plan, human, plan
from fake_lm import FakeLM

SITES = ["resid_post.1", "mlp_act.0"]


def drawn(value: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(value)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8"])
def test_the_disk_is_about_what_a_harvest_takes(tmp_path: Path, dtype: str) -> None:
    texts = ["Some English words, one after the other, and so on. " * 20] * 40
    estimate = plan(FakeLM(context=128), SITES, n_tokens=40_000, dtype=dtype, out=tmp_path)
    harvest(FakeLM(context=128), texts, SITES, out=tmp_path / "s", dtype=dtype, n_tokens=40_000)
    taken = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.*"))
    assert taken == pytest.approx(estimate.disk_bytes, rel=0.1)


def test_the_time_comes_from_a_measured_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    estimate = plan(FakeLM(context=64, seconds=0.01), SITES, n_tokens=64_000, batch_tokens=640, out=tmp_path)
    assert estimate.tokens_per_second == pytest.approx(640 / 0.01)
    assert estimate.seconds == pytest.approx(64_000 / estimate.tokens_per_second)
    overlapping = plan(FakeLM(context=64), SITES, n_tokens=64_000, stride=32, out=tmp_path)
    assert overlapping.seconds == pytest.approx(2 * 64_000 / overlapping.tokens_per_second)


def test_a_slow_model_is_warmed_up_on_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP_SECONDS", 0.02)
    lm = FakeLM(context=64, seconds=0.05)
    plan(lm, SITES, n_tokens=1000, out=tmp_path)
    assert max(tokens for tokens, _ in lm.calls) == 64


def test_memory_does_not_depend_on_the_number_of_tokens(tmp_path: Path) -> None:
    few, many = (plan(FakeLM(), SITES, n_tokens=n, out=tmp_path, shard_rows=1000).memory_bytes for n in (10**5, 10**12))
    assert many == pytest.approx(few, rel=0.05)


def test_a_plan_says_what_does_not_suffice(tmp_path: Path) -> None:
    good = plan(FakeLM(), SITES, n_tokens=1000, out=tmp_path)
    assert good.fits and not good.shortages and "1,000 rows" in str(good) and "time" in drawn(good)
    huge = plan(FakeLM(), SITES, n_tokens=10**14, out=tmp_path / "not" / "there")
    assert not huge.fits and "disk: " in huge.shortages[0] and "--dtype int8" in drawn(huge).replace("\n", " ")


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n_tokens must be at least 1, got 0"):
        plan(FakeLM(), SITES, n_tokens=0, out=tmp_path)
    with pytest.raises(UnknownNameError, match="unknown dtype 'x'"):
        plan(FakeLM(), SITES, n_tokens=1, dtype="x", out=tmp_path)
    with pytest.raises(InputError, match="context must be at most"):
        plan(FakeLM(), SITES, n_tokens=1, context=99, out=tmp_path)


def test_sizes_are_readable() -> None:
    assert [human(size) for size in (12, 1500, 2.5e6, 3e9, 4.2e12, 5e15)] == ["12 B", "1.5 kB", "2.5 MB", "3.0 GB", "4.2 TB", "5,000.0 TB"]


def test_a_plan_is_a_value(tmp_path: Path) -> None:
    assert isinstance(plan(FakeLM(), "mlp_act.0", n_tokens=10, out=tmp_path), Plan)
