"""What the pictures of regions show equals brute force over regions, rows and contributions."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from armillary.core.artifact import read_state, write_state
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import PRIORITIES, Permutation, TensorRows
from armillary.errors import InputError, OutputExistsError, ShapeError
from armillary.inspect.drawing import apart, in_context, save, token_text, word_so_far
from armillary.inspect.members import MemberSearch, members
from armillary.inspect.overlaps import overlaps, spreads_of
from armillary.inspect.region_figures import region_map, region_space, waterfall
from armillary.inspect.waterfall import Step, steps
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from core_fits import FITS, fit_of
from toys import RESID, SideBySide, ToyLM, identity_fit, random_sae, toy_texts

D, K, R = 6, 5, 3


def made(mixture: Mixture, rows: TensorRows) -> Decomposition:
    dictionary = Dictionary.of_regions(mixture.centroids, mixture.loadings)
    return Decomposition(dictionary, MFAEncoder(mixture), rows.layout, rows.layout)


@pytest.fixture(scope="module")
def rows() -> TensorRows:
    """Rows drawn from `mixture`, in the places of letters."""
    model = ToyLM()
    tokens = model.tokenize(toy_texts(60))
    m, g = mixture(), torch.Generator().manual_seed(1)
    region = torch.multinomial(m.log_weight.exp(), tokens.n_rows, replacement=True, generator=g)
    z = torch.randn(len(region), R, generator=g, dtype=torch.float64)
    noise = torch.randn(len(region), D, generator=g, dtype=torch.float64) * m.noise.sqrt()
    x = m.centroids[region] + torch.einsum("nr,nrd->nd", z, m.loadings[region]) + noise
    return TensorRows(x, source=model.source(RESID), tokens=tokens)


def mixture() -> Mixture:
    g = torch.Generator().manual_seed(0)
    weight = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05], dtype=torch.float64)
    centroids = 3 * torch.randn(K, D, generator=g, dtype=torch.float64)
    loadings = torch.randn(K, R, D, generator=g, dtype=torch.float64)
    return Mixture(weight.log(), centroids, loadings, torch.full((1, D), 0.3, dtype=torch.float64))


@pytest.fixture(scope="module")
def fit(rows: TensorRows) -> Decomposition:
    return made(mixture(), rows)


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in figure["data"] if one.get("name") == name)


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=float), np.asarray(expected, dtype=float), atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------- members and overlaps


def brute_members(fit: Decomposition, rows: TensorRows, region: int, n: int, seed: int) -> list[int]:
    own = np.flatnonzero(fit.encoder.regions(rows.x).numpy() == region)
    return sorted(own[np.argsort(Permutation(PRIORITIES, seed)(own))][:n].tolist())


@pytest.mark.parametrize("batch_size", [7, 4096])
def test_members_equal_brute_force(fit: Decomposition, rows: TensorRows, batch_size: int) -> None:
    found = members(fit, rows, 10, seed=3, batch_size=batch_size)
    for region in range(K):
        assert found.of(region).tolist() == brute_members(fit, rows, region, 10, 3)
        assert found.of(region, 4).tolist() == brute_members(fit, rows, region, 4, 3)
        assert found.number(region) == int((fit.encoder.regions(rows.x) == region).sum())


def test_special_tokens_are_no_members(fit: Decomposition, rows: TensorRows) -> None:
    tokens = rows.tokens
    is_special = np.zeros(len(tokens), bool)
    is_special[tokens.rows[::2]] = True
    found = members(fit, TensorRows(rows.x, tokens=replace(tokens, is_special=is_special)), 1000)
    drawn = np.concatenate([found.of(region) for region in range(K)])
    assert sorted(drawn.tolist()) == list(range(1, rows.n_rows, 2))


def test_members_of_parts_of_the_rows_come_together(fit: Decomposition, rows: TensorRows, tmp_path: Path) -> None:
    settings = {"regions": [3, 0], "batch_size": 50, "seed": 2}
    parts = [MemberSearch(fit, rows, 6, **settings) for _ in range(2)]
    for i, batch in enumerate(rows.batches(50)):
        parts[i % 2].update(batch)
    write_state(tmp_path / "state", dict(parts[0].state()))
    parts[0].merge([read_state(tmp_path / "state"), parts[1].state()])
    whole = members(fit, rows, 6, **settings)
    np.testing.assert_array_equal(parts[0].finish().row, whole.row)
    np.testing.assert_array_equal(parts[0].finish().n_members, whole.n_members)


def test_overlaps_of_all_with_all_where_candidates_are_many(fit: Decomposition) -> None:
    found = overlaps(fit)
    one, other = torch.triu_indices(K, K, 1)
    expected = fit.encoder.overlap(one, other)
    pairs = dict(zip(zip(one.tolist(), other.tolist(), strict=True), expected.tolist(), strict=True))
    close([pairs.pop(pair) for pair in zip(found.one.tolist(), found.other.tolist(), strict=True)], found.coefficient)
    assert not pairs and (found.coefficient.diff() <= 0).all()
    for region in range(K):
        near = found.of(region)
        assert sorted(other for other, _ in near) == [other for other in range(K) if other != region]
        assert all(a >= b for (_, a), (_, b) in pairwise(near))


def test_candidates_are_the_regions_of_nearest_centroid(fit: Decomposition) -> None:
    found = overlaps(fit, n_candidates=1, regions=[2])
    away = torch.cdist(fit.encoder.mixture.centroids[2:3], fit.encoder.mixture.centroids)[0]
    away[2] = torch.inf
    assert [other for other, _ in found.of(2)] == [int(away.argmin())]


def test_centroids_and_spreads_do_not_depend_on_the_order_of_atoms(fit: Decomposition) -> None:
    turned = torch.randperm(len(fit.dictionary.atoms), generator=torch.Generator().manual_seed(0))
    mixed = replace(fit.dictionary, **{name: getattr(fit.dictionary, name)[turned] for name in ("atoms", "group", "role")})
    m = fit.encoder.mixture
    close(mixed.directions(), m.centroids)
    close(spreads_of(mixed), [float((w.T @ w).trace().sqrt()) for w in m.loadings])


# ---------------------------------------------------------------- the map


def test_the_map_places_centroids_by_their_weighted_principal_axes(fit: Decomposition) -> None:
    points = trace(region_map(fit), "regions")
    m, weight = fit.encoder.mixture, fit.encoder.weights
    away = m.centroids - weight @ m.centroids
    value, axes = np.linalg.eigh((away.T * weight @ away).numpy())
    for name, k in (("x", -1), ("y", -2)):
        expected = away.numpy() @ axes[:, k]
        close(points[name], expected * np.sign(expected[np.abs(expected).argmax()]))
    layout = region_map(fit)["layout"]
    assert f"({value[-1] / value.sum():.0%} of" in layout["xaxis"]["title"]["text"]
    assert f"({value[-2] / value.sum():.0%} of" in layout["yaxis"]["title"]["text"]


def test_fewer_regions_than_columns_and_more_give_one_plane(rows: TensorRows) -> None:
    m = mixture()
    wide = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0][:D]  # [D, 12]
    loadings, noise = m.loadings[:, :, :4] @ wide[:4], m.noise[:, :1].expand(1, 12)
    far = made(Mixture(m.log_weight, m.centroids @ wide, loadings, noise), TensorRows(torch.zeros(3, 12)))
    narrow = trace(region_map(made(m, rows)), "regions")
    for name in ("x", "y"):
        close(trace(region_map(far), "regions")[name], narrow[name])


def test_sizes_are_weights_and_colours_are_breadths(fit: Decomposition) -> None:
    marker = trace(region_map(fit), "regions")["marker"]
    close(np.square(marker["size"]) / marker["size"][0] ** 2, fit.encoder.weights / 0.4)
    close(marker["color"], [np.log(np.sqrt((w.numpy() ** 2).sum())) for w in fit.encoder.mixture.loadings])
    given = trace(region_map(fit, breadth=[5, 1, 2, 3, 4], breadth_name="entropy"), "regions")
    assert given["marker"]["color"] == [5, 1, 2, 3, 4] and "entropy 5" in given["text"][0]
    assert given["marker"]["colorbar"]["title"]["text"] == "entropy"


@pytest.mark.parametrize("n_links", [0, 1, 2])
def test_lines_join_the_regions_that_overlap_most(fit: Decomposition, n_links: int) -> None:
    figure = region_map(fit, n_links=n_links)
    points = trace(figure, "regions")
    place = {(x, y): region for region, (x, y) in enumerate(zip(points["x"], points["y"], strict=True))}
    found = set()
    for one in figure["data"]:
        if one.get("mode") == "lines":
            for i in range(0, len(one["x"]), 3):
                ends = [place[one["x"][i + end], one["y"][i + end]] for end in (0, 1)]
                power = int(one["name"].split("<sup>")[1].split("<")[0])
                found.add((min(ends), max(ends)))
                assert 10.0**power <= float(fit.encoder.overlap(torch.tensor(ends[:1]), torch.tensor(ends[1:]))[0]) < 10.0 ** (power + 3)
                assert one["x"][i + 2] is None
    expected = set()
    for region in range(K):
        others = torch.tensor([other for other in range(K) if other != region])
        size = fit.encoder.overlap(torch.full_like(others, region), others)
        for other, much in sorted(zip(others.tolist(), size.tolist(), strict=True), key=lambda pair: -pair[1])[:n_links]:
            expected |= {(min(region, other), max(region, other))} if much >= 1e-9 else set()
    assert found == expected and (len(found) > 0) == (n_links > 0)


def test_regions_are_named_by_their_tokens(fit: Decomposition, rows: TensorRows) -> None:
    points = trace(region_map(fit, rows=rows, n_drawn=8, seed=1), "regions")
    labels = region_map(fit, rows=rows, n_drawn=8, seed=1)["data"][-1]["text"]
    for region in range(K):
        drawn = [rows.tokens.text(int(rows.tokens.rows[row])) for row in brute_members(fit, rows, region, 8, 1)]
        counts = sorted(((drawn.count(one), one) for one in set(drawn)), key=lambda pair: (-pair[0], pair[1]))
        assert f"tokens {', '.join(f'{one} ({n})' for n, one in counts[:5])}" in points["text"][region]
        assert f"weight {float(fit.encoder.weights[region]):.2%}" in points["text"][region]
        assert not [one for one in labels if one.startswith(f"{region} ")] or f"{region} {counts[0][1]}" in labels
    assert f"0 {points['text'][0].split('tokens ')[1][0]}" in labels, "the heaviest region has a label"


def test_what_has_no_map(fit: Decomposition, rows: TensorRows) -> None:
    with pytest.raises(InputError, match="is no mixture: it has no regions"):
        region_map(FITS["linear"]())
    with pytest.raises(ShapeError, match="2 breadths for 5 regions"):
        region_map(fit, breadth=[1, 2])
    with pytest.raises(InputError, match="no text"):
        region_map(fit, rows=TensorRows(rows.x))
    m = mixture()
    with pytest.raises(InputError, match="at least two regions"):
        region_map(made(Mixture(m.log_weight[:1], m.centroids[:1], m.loadings[:1], m.noise), rows))


# ---------------------------------------------------------------- a region from the inside


@pytest.mark.parametrize("axes", [(0, 1), (2, 0), (1, 0, 2)])
def test_members_lie_at_their_posterior_coordinates(fit: Decomposition, rows: TensorRows, axes: tuple[int, ...]) -> None:
    figure = region_space(fit, rows, 1, axes=axes, n=30, n_neighbors=2, seed=4)
    near = [other for other, _ in overlaps(fit).of(1)][:2]
    for region, n in ((1, 30), (near[0], 15), (near[1], 15)):
        drawn = brute_members(fit, rows, region, n, 4)
        z = fit.encoder.posterior(rows.x[drawn], torch.full((len(drawn),), 1))
        found = trace(figure, f"region {region}")
        close(np.stack([found[name] for name in "xyz"[: len(axes)]], axis=1), z[:, list(axes)])
        for row, text in zip(drawn, found["text"], strict=True):
            away = float((fit.encoder.distance(rows.x[[row]], torch.tensor([1])) / D).sqrt()[0])
            assert text.startswith(in_context(rows.tokens, row, 10, 4))
            assert f"region {region}, row {row}<br>" in text and f"distance to region 1: {away:.2f}" in text
    assert len([one for one in figure["data"] if str(one.get("name")).startswith("region")]) == 3


def test_all_members_are_shown_where_there_are_few(fit: Decomposition, rows: TensorRows) -> None:
    found = trace(region_space(fit, rows, 4, n=1000, n_neighbors=0), "region 4")
    assert len(found["x"]) == int((fit.encoder.regions(rows.x) == 4).sum())


def test_rings_are_one_and_two_standard_deviations(fit: Decomposition, rows: TensorRows) -> None:
    flat, solid = region_space(fit, rows, 0), region_space(fit, rows, 0, axes=(0, 1, 2))
    assert [(ring["x0"], ring["x1"], ring["y0"], ring["y1"]) for ring in flat["layout"]["shapes"]] == [(-1, 1, -1, 1), (-2, 2, -2, 2)]
    assert flat["layout"]["yaxis"]["scaleanchor"] == "x" and solid["layout"]["scene"]["aspectmode"] == "cube"
    circles = [one for one in solid["data"] if one["mode"] == "lines"]
    radii = [np.linalg.norm([one[name] for name in "xyz"], axis=0) for one in circles]
    close(radii, np.repeat([1, 2], 3)[:, None] * np.ones(61))
    inside = np.abs([trace(flat, "region 0")[name] for name in "xy"]).max()
    assert flat["layout"]["xaxis"]["range"][1] >= inside


def test_labels_are_tokens_of_the_points_they_stand_at(fit: Decomposition, rows: TensorRows) -> None:
    figure = region_space(fit, rows, 0, n=50, n_labels=7)
    points, labels = trace(figure, "region 0"), figure["data"][-1]
    drawn = brute_members(fit, rows, 0, 50, 0)
    assert len(labels["text"]) == 7
    for x, y, text in zip(labels["x"], labels["y"], labels["text"], strict=True):
        assert text == word_so_far(rows.tokens, drawn[points["x"].index(x)]) and points["y"][points["x"].index(x)] == y
    far = np.hypot(points["x"], points["y"])
    assert np.hypot(labels["x"][0], labels["y"][0]) == pytest.approx(far.max())


def test_rows_without_text_are_shown_without(fit: Decomposition, rows: TensorRows) -> None:
    figure = region_space(fit, TensorRows(rows.x), 0)
    assert not [one for one in figure["data"] if "text" in one["mode"]]
    assert trace(figure, "region 0")["text"][0].startswith("region 0, row ")


@pytest.mark.parametrize(
    ("region", "settings", "message"),
    [
        (5, {}, r"region 5 is out of range: there are 5 \(0 to 4\)"),
        (-1, {}, "region -1 is out of range"),
        (0, {"axes": (0, 3)}, r"axis 3 is out of range: region 0 has 3 loadings \(0 to 2\)"),
        (0, {"axes": (1, 1)}, r"two or three different axes are shown, got \[1, 1\]"),
        (0, {"axes": (1,)}, "two or three different axes"),
        (0, {"n": 0}, "at least one row per region"),
    ],
)
def test_what_is_refused(fit: Decomposition, rows: TensorRows, region: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        region_space(fit, rows, region, **settings)


def test_regions_without_members_and_rows_that_come_once_are_refused(fit: Decomposition, rows: TensorRows) -> None:
    own = fit.encoder.regions(rows.x) == 4
    with pytest.raises(InputError, match="region 4 has no member"):
        region_space(fit, TensorRows(rows.x[~own]), 4)
    with pytest.raises(InputError, match="SideBySide cannot do"):
        region_space(fit, SideBySide(rows), 0)
    with pytest.raises(InputError, match="is no mixture"):
        region_space(identity_fit(rows), rows, 0)


# ---------------------------------------------------------------- the waterfall


def brute_left(fit: Decomposition, x: Tensor, atoms: list[int]) -> list[float]:
    """What is left after the base and after each of some atoms."""
    codes = fit.encode(x[None])
    value, left = codes.dense()[0], x - fit.base(codes)[0]
    found = [float(left.square().sum() / x.square().sum())]
    for atom in atoms:
        left = left - value[atom] * fit.dictionary.atoms[atom]
        found.append(float(left.square().sum() / x.square().sum()))
    return found


def test_directions_are_added_from_the_largest_down(rows: TensorRows) -> None:
    fit, x = random_sae(rows, k=5), rows.x[3]
    found = steps(fit, x)
    value = fit.encode(x[None]).dense()[0]
    size = (value[:, None] * fit.dictionary.atoms).square().sum(1)
    order = [int(atom) for atom in size.argsort(descending=True) if value[atom] != 0]
    assert [step.name for step in found] == ["base", *(f"feature {atom}" for atom in order), "residual"]
    close([step.left for step in found[:-1]], brute_left(fit, x, order))
    close([step.share for step in found[1:-1]], size[order] / x.square().sum())
    close([step.coefficient for step in found[1:-1]], value[order])
    assert found[-1].left == pytest.approx(0, abs=1e-15)
    assert found[-1].share == pytest.approx(float((x - fit.reconstruct(x[None])[0]).square().sum() / x.square().sum()))


def test_a_regions_centroid_comes_before_its_loadings(fit: Decomposition, rows: TensorRows) -> None:
    hard = replace(fit, encoder=replace(fit.encoder, how="hard"))
    x = rows.x[8]
    region = int(fit.encoder.regions(x[None])[0])
    part = (fit.encoder.posterior(x[None], torch.tensor([region]))[0][:, None] * fit.encoder.mixture.loadings[region]).square().sum(1)
    loadings = part.argsort(descending=True).tolist()
    found = steps(hard, x)
    assert [step.name for step in found] == [f"region {region}: {of}" for of in ("centroid", *(f"loading {j}" for j in loadings))] + [
        "residual"
    ]
    assert [step.short for step in found[:2]] == [f"region {region}", f"{region}: loading {loadings[0]}"]
    atoms = [region * (1 + R) + j for j in (0, *(1 + j for j in loadings))]
    close([step.left for step in found[:-1]], brute_left(hard, x, atoms)[1:])


def test_features_come_whole_by_what_they_add_together(rows: TensorRows) -> None:
    """The larger region has the smaller centroid."""
    g = torch.eye(D, dtype=torch.float64)
    dictionary = Dictionary.of_regions(torch.stack([2 * g[0], g[1]]), torch.stack([0.1 * g[2:3], 5 * g[3:4]]))
    m = Mixture(
        torch.tensor([0.5, 0.5]).double().log(), dictionary.atoms[::2], dictionary.atoms[1::2, None], torch.full((1, D), 9.0).double()
    )
    fit = Decomposition(dictionary, MFAEncoder(m), rows.layout, rows.layout)
    found = [step.name for step in steps(fit, 2 * g[0] + g[1] + 4 * g[3])]
    assert found[:2] == ["region 1: centroid", "region 1: loading 0"] and found[2] == "region 0: centroid"


@pytest.mark.parametrize("n_steps", [1, 3])
def test_what_is_not_shown_one_by_one_is_added_together(rows: TensorRows, n_steps: int) -> None:
    fit, x = random_sae(rows, k=5), rows.x[3]
    whole, short = steps(fit, x), steps(fit, x, n_steps=n_steps)
    assert short[: 1 + n_steps] == whole[: 1 + n_steps]
    assert (short[-2].name, short[-2].short) == (f"{5 - n_steps} more contributions", f"{5 - n_steps} more")
    close([step.left for step in short[-2:]], [step.left for step in whole[-2:]], 1e-12)


def test_what_adds_next_to_nothing_is_added_together(fit: Decomposition, rows: TensorRows) -> None:
    found = next(found for x in rows.x if len(found := steps(fit, x, n_steps=100)) == 1 + R + 2)  # centroid, loadings, rest, residual
    assert found[-2].name == f"{(K - 1) * (1 + R)} more contributions" and found[-2].share < 1e-3


def test_bars_hang_from_what_was_left_to_what_is_left(fit: Decomposition, rows: TensorRows) -> None:
    fits, x = {"regions": fit, "sae": random_sae(rows, k=5)}, rows.x[3]
    figure = waterfall(fits, x)
    for i, (name, one) in enumerate(fits.items()):
        line, bars = (part for part in figure["data"] if part["name"] == name)
        expected: list[Step] = steps(one, x)
        before, after = [1.0, *(step.left for step in expected[:-1])], [step.left for step in expected]
        close(line["y"], before)
        close(bars["base"], after)
        close(np.add(bars["base"], bars["y"]), before)
        assert bars["marker"]["pattern"]["shape"] == ["/" if b > a else "" for a, b in zip(before, after, strict=True)]
        ticks = figure["layout"][bars["xaxis"].replace("x", "xaxis")]
        assert bars["xaxis"] == f"x{i + 2}" and ticks["ticktext"] == [step.short for step in expected]
        assert figure["layout"][f"yaxis{i + 2}"]["title"]["text"] == name
        assert expected[0].name in bars["hovertext"][0] and f"left after it {after[0]:.2%}" in bars["hovertext"][0]
    assert any("/" in bars["marker"]["pattern"]["shape"] for bars in figure["data"] if bars["type"] == "bar"), "no step that raises it"
    domains = [figure["layout"][f"yaxis{i}"]["domain"] for i in ("", 2, 3)]
    assert all(low > high for (low, _), (_, high) in pairwise(domains)) and domains[-1][0] >= 0


def test_what_cannot_be_taken_apart(fit: Decomposition, rows: TensorRows) -> None:
    with pytest.raises(InputError, match="at least one fit"):
        waterfall({}, rows.x[0])
    with pytest.raises(InputError, match="the row is 0"):
        waterfall({"a": fit}, torch.zeros(D, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"one row \[D\] is taken apart, got \[2, 6\]"):
        waterfall({"a": fit}, rows.x[:2])
    with pytest.raises(ShapeError, match="encodes rows"):
        waterfall({"a": fit}, rows.x[0, :4])
    with pytest.raises(InputError, match="n_steps must be at least 1"):
        waterfall({"a": fit}, rows.x[0], n_steps=0)
    other = fit_of(Dictionary.of_directions(torch.ones(4, 3, dtype=torch.float64)), FITS["linear"]().encoder)
    with pytest.raises(InputError, match="something else than it reads"):
        waterfall({"a": other}, rows.x[0])


# ---------------------------------------------------------------- text, labels and files


def test_labels_keep_their_distance_and_cover_few_points() -> None:
    points = np.random.default_rng(0).random((300, 2))
    size = np.ptp(points, axis=0)
    kept, sides = apart(points, n=25, width=0.1, height=0.05)
    assert kept[0] == 0 and len(kept) == len(sides) == 25
    centre = points[kept] / size + [[0, 0.04 if side == "top center" else -0.04] for side in sides]
    gap = np.abs(centre[:, None] - centre)
    assert ((gap[..., 0] >= 0.1) | (gap[..., 1] >= 0.05))[~np.eye(25, dtype=bool)].all()
    crowd = np.array([[0.5, 0.5], [0.5, 0.54], [0.0, 0.0], [1.0, 1.0]])
    assert apart(crowd, n=1)[1] == ["bottom center"] and apart(crowd[[0, 2, 3]], n=1)[1] == ["top center"]
    assert apart(np.zeros((3, 2)), n=3)[0] == [0, 1], "above and below one place"
    assert apart(np.zeros((0, 2)), n=3) == ([], [])


def test_tokens_as_text() -> None:
    assert [token_text(one) for one in (" the", "\n", " ", "", "<b>")] == ["the", "↵", "␣", "∅", "&lt;b&gt;"]
    tokens = ToyLM().tokenize(["abcdefghijkabc"])
    assert word_so_far(tokens, 2) == "ab<b>c</b>" and word_so_far(tokens, 13) == "…fghijkab<b>c</b>"
    assert in_context(tokens, 2, 1, 3) == "b<b>c</b>def"


def test_figures_are_written_as_a_page_or_as_json(fit: Decomposition, tmp_path: Path) -> None:
    figure = region_map(fit)
    page = save(figure, tmp_path / "new" / "map.html", title="The <map>", lead="What is seen.", facts={"seed": 7}).read_text()
    assert "The &lt;map&gt;" in page and "What is seen." in page and "<dd>7</dd>" in page and "Plotly" in page
    assert json.loads(save(figure, tmp_path / "map.json", title="").read_text()) == json.loads(json.dumps(figure))
    with pytest.raises(OutputExistsError):
        save(figure, tmp_path / "map.json", title="")
    with pytest.raises(InputError, match=r"written as \.html or \.json"):
        save(figure, tmp_path / "map.svg", title="")


def test_plotly_takes_the_figures(fit: Decomposition, rows: TensorRows) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    figures = [
        region_map(fit, rows=rows),
        region_space(fit, rows, 0),
        region_space(fit, rows, 0, axes=(0, 1, 2)),
        waterfall({"a": fit, "b": random_sae(rows)}, rows.x[0]),
    ]
    for figure in figures:
        go.Figure(json.loads(json.dumps(figure)))  # refuses unknown properties
