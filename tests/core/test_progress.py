"""Progress: a line that is right, also after a resume, and silence where none is wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from armillary.core import progress as module
from armillary.core.progress import MODE, Bar, duration, progress, tell


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in seconds, which tests move by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    yield now


@pytest.fixture
def plain() -> Iterator[None]:
    token = MODE.set("plain")
    yield
    MODE.reset(token)


def bar(**fields: float) -> Bar:
    return Bar("fitting", fields.get("total"), "rows", fields.get("done", 0), first=fields.get("done", 0), began=100.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_says_how_far_how_fast_and_how_long(clock: list[float]) -> None:
    one = bar(total=1000)
    clock[0] += 10
    one.advance(250, note="loss 0.5")
    assert str(one) == "fitting: 250 of 1,000 rows, 25 rows/s, 30 s left, loss 0.5"


def test_what_an_earlier_run_did_does_not_count_as_speed(clock: list[float]) -> None:
    one = bar(total=1000, done=500)
    clock[0] += 10
    one.advance(100)
    assert str(one) == "fitting: 600 of 1,000 rows, 10 rows/s, 40 s left"


def test_a_stream_of_unknown_length_and_a_bar_without_steps(clock: list[float]) -> None:
    assert str(bar()) == "fitting: 0 rows, 0 rows/s"
    assert str(bar(total=9)) == "fitting: 0 of 9 rows, 0 rows/s"
    one = bar()
    clock[0] += 4
    one.advance(3)
    assert str(one) == "fitting: 3 rows, 0.75 rows/s"


def test_more_than_expected_leaves_no_negative_time(clock: list[float]) -> None:
    one = bar(total=10)
    clock[0] += 1
    one.advance(12)
    assert "0 s left" in str(one)


def test_the_last_note_stays() -> None:
    one = bar()
    one.advance(1, note="loss 1")
    one.advance(1)
    assert one.note == "loss 1"


@pytest.mark.usefixtures("plain")
def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", total=100, unit="rows") as one:
        one.began = one._drawn = clock[0]
        for _ in range(25):
            clock[0] += 1
            one.advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 44 of 100 rows, 4 rows/s, 14 s left",
        "reading: 88 of 100 rows, 4 rows/s, 3 s left",
        "reading: 100 rows in 25 s",
    ]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_elsewhere_it_is_silent(mode: module.Mode, capsys: pytest.CaptureFixture[str]) -> None:
    token = MODE.set(mode)
    with progress("reading", total=2) as one:
        one.advance(2)
    MODE.reset(token)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_draws_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("reading", total=4, unit="rows", done=1) as one:
        one.advance(3, note="loss 0.5")
        assert one.done == 4
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "4/4" in shown


@pytest.mark.usefixtures("plain")
def test_work_that_fails_writes_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="boom"), progress("reading", total=2):
        raise ValueError("boom")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("plain")
def test_a_long_step_tells_where_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    tell("nobody listens")
    with progress("outer", total=5) as outer, progress("inner", total=2):
        tell("iteration 3")
        assert outer.note == ""
    assert "inner: 0 of 2 steps" in (shown := capsys.readouterr().err) and "iteration 3" in shown and "nobody" not in shown
