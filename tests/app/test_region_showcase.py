"""`armillary inspect` of a mixture's regions, and the lines a region is shown in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from armillary.app.region_showcase import Neighbor, ShownRegion
from armillary.inspect import RegionWindows, Window

Run = Any


@pytest.fixture(scope="module")
def mixture(run: Run, acts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("regions") / "mfa"
    answer = run("fit", "mfa", acts, "--site", "resid_post.1", "--out", out, "--n-regions", 5, "--rank", 2)
    assert answer.code == 0, answer.err
    return out


def test_inspect_shows_every_group_of_the_regions_that_were_named(run: Run, mixture: Path) -> None:
    answer = run("inspect", mixture, 1, 3)
    assert answer.code == 0, answer.err
    for title in (
        "Region 1:",
        "Region 3:",
        "most likely",
        "most responsible",
        "at the border",
        "drawn",
        "axis 0 +",
        "axis 1 -",
        "promotes",
    ):
        assert title in answer.out
    assert "Region 2:" not in answer.out and "Feature" not in answer.out


def test_inspect_of_regions_as_json_has_the_features_and_the_regions(run: Run, mixture: Path) -> None:
    answer = run("inspect", mixture, 3, "--contexts", 5, "--sampled", 2, "--promoted", 3, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["features"][0]["feature"] == 3
    (region,) = answer.json["regions"]
    assert region["region"] == region["contexts"]["region"] == 3
    found = region["contexts"]
    assert (len(found["likelihood"]), len(found["drawn"]), len(found["low"]), len(found["high"][1])) == (5, 2, 2, 3)
    assert len(found["neighbors"]) == len(found["border"])
    assert sorted(near["region"] for near in region["neighbors"]) == [0, 1, 2, 4]
    assert region["share"] == pytest.approx(region["n_members"] / sum_of_members(run, mixture))
    assert len(region["effects"]["centroid"]["promoted"]) == 3 and len(region["effects"]["axes"]) == 2


def sum_of_members(run: Run, mixture: Path) -> int:
    answer = run("inspect", mixture, *range(5), "--no-logits", "--json")
    assert all(region["effects"] is None and region["no_effect"] for region in answer.json["regions"])
    return sum(region["n_members"] for region in answer.json["regions"])


def test_without_a_name_and_for_other_fits_nothing_changes(run: Run, mixture: Path, sae: Path) -> None:
    for arguments in ((mixture,), (sae, 0)):
        answer = run("inspect", *arguments, "--json")
        assert answer.code == 0, answer.err
        assert "regions" not in answer.json


def shown(**fields: Any) -> ShownRegion:
    one = Window(0, -3.5, ("the", " cat", "\n", " sat"), (0.9, 0.1, None, 0.6), 1)
    other = Window(1, 0.25, ("a", " very", " long", " dog"), (0.0, 0.0, 0.0, 1.0), 3)
    windows = RegionWindows(4, (one,), (one, other), (other,), (9,), (), ((one,),), ((other,),))
    return replace(ShownRegion(4, 0.5, 0.25, 1200, ((" cat", 7),), windows, (Neighbor(9, 0.125, ((" dog", 2),)),), None), **fields)


def lines(region: ShownRegion, width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(region)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_rows_stand_in_one_column_and_say_what_they_were_ranked_by() -> None:
    text = lines(shown())
    assert text[0] == "Region 4: 1,200 members (25.00% of tokens), weight 50.00%"
    rows = [line for line in text if "«" in line]
    assert len(rows) == 6 and len({line.index("«") for line in rows}) == 1
    assert rows[0].split("the")[0].strip() == "-3.5" and rows[0].rstrip().endswith("the« cat»↵ sat")
    border = text[next(i for i, line in enumerate(text) if "at the border" in line) + 1]
    assert border.split()[:2] == ["0.25", "9"]
    assert any("overlaps" in line and "9  by 0.12" in line and "' dog' 2" in line for line in text)
    assert not any("drawn" in line for line in text)


def test_a_region_that_stands_alone_says_so_and_narrow_lines_are_cut() -> None:
    alone = shown()
    far = replace(alone.contexts, border=(replace(alone.contexts.border[0], value=1e-9),))
    assert any("no token is shared with another region by 1% or more" in line for line in lines(replace(alone, contexts=far)))
    narrow = lines(shown(), width=28)
    assert len([line for line in narrow if "«" in line]) == 6
    assert all(len(line) <= 28 for line in narrow if "«" in line)
    assert lines(shown(), width=8)
