"""Trees of features: who is above whom, what neurons they share, and what other programs read."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from armillary.core.dictionary import Dictionary
from armillary.core.tree import FeatureTree, by_overlap, overlap
from armillary.errors import CorruptFileError, InputError, OutputExistsError, ShapeError
from neurons import shared


def written(thing: object) -> str:
    """What the terminal shows."""
    from rich.console import Console

    console = Console(width=120, record=True, file=StringIO())
    console.print(thing)
    return console.export_text()


def atoms() -> torch.Tensor:
    """Monday and Tuesday share neurons 0 and 1, Saturday and Sunday 5 and 6, all four neuron 9; the last shares nothing."""
    supports = [[0, 1, 2, 9], [0, 1, 3, 9], [5, 6, 7, 9], [5, 6, 8, 9], [10, 11]]
    out = torch.zeros(5, 12)
    for row, neurons in zip(out, supports, strict=True):
        row[neurons] = torch.arange(1.0, 1 + len(neurons))
    return out


DAYS = ("Monday", "Tuesday", "Saturday", "Sunday", "comma")


def days() -> FeatureTree:
    return by_overlap(Dictionary.of_directions(atoms()), names=DAYS)


def layered() -> FeatureTree:
    """Three features, two nodes above them and one on top; feature 1 goes into both, more into node 4."""
    vectors = torch.eye(6)
    child, parent = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([3, 3, 4, 4, 5, 5])
    height = torch.tensor([0.0, 0, 0, 1, 1, 2])
    return FeatureTree(vectors, 3, height, child, parent, torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 1.0]), record={"is_layered": True})


def test_features_that_share_neurons_are_joined_first() -> None:
    tree = days()
    weekday, weekend = tree.above[0], tree.above[2]
    assert weekday == tree.above[1] != weekend == tree.above[3]
    assert tree.above[weekday] == tree.above[weekend] == tree.roots[0]
    assert tree.above[4] is None and tree.leaves(tree.roots[0]) == [0, 1, 2, 3]
    assert tree.path(0) == [0, weekday, tree.roots[0]] and tree.siblings(0) == [1]


def test_cores_and_exclusive_neurons() -> None:
    tree = days()
    weekday = tree.above[0]
    assert weekday is not None
    assert tree.core(0).tolist() == [0, 1, 2, 9]
    assert tree.core(weekday).tolist() == [0, 1, 9]
    assert tree.core(tree.roots[0]).tolist() == [9]
    assert tree.core(tree.roots[0], quorum=0.5).tolist() == [0, 1, 5, 6, 9]
    assert tree.exclusive(0).tolist() == [2]
    assert tree.exclusive(weekday).tolist() == [0, 1]
    assert tree.exclusive(4).tolist() == [10, 11]


def test_overlap_is_the_jaccard_index() -> None:
    found = overlap(atoms())
    oracle = 1 - pdist((atoms() != 0).numpy(), "jaccard")
    np.testing.assert_allclose(found.numpy()[np.triu_indices(5, 1)], oracle)
    assert overlap(torch.zeros(2, 3)).tolist() == [[0, 0], [0, 0]]


def test_a_cut_by_distance_is_scipys() -> None:
    data = shared(50, 200, groups=4, siblings=5)
    tree = by_overlap(Dictionary.of_directions(data.atoms), within=1.0)
    table = linkage(pdist((data.atoms != 0).numpy(), "jaccard"), "average")
    for height in (0.5, 0.7, 0.85, 0.97):
        assert adjusted_rand_score(tree.cut(height), fcluster(table, height, "distance")) > 0.9
    assert adjusted_rand_score(tree.cut(0.85), data.group) == 1


def test_shuffled_neurons_join_nothing() -> None:
    """The control: with as many neurons each, but drawn at random, no tree is left."""
    from armillary.core.selection import shuffle

    data = shared(50, 400, groups=4, siblings=5)
    assert by_overlap(Dictionary.of_directions(shuffle(data.atoms, 0)), within=0.85).roots == []


def test_the_merge_path_of_a_token() -> None:
    tree = days()
    codes = torch.tensor([0.1, 2.0, 0.0, 0.0, 0.0])
    assert next(tree.name(node) for node, _ in tree.merge_path(codes)) == "Tuesday"
    assert [node for node, _ in tree.merge_path(codes)] == tree.path(1)
    assert tree.merge_path(torch.zeros(5)) == []
    with pytest.raises(ShapeError, match=r"codes of one token are \[5\]"):
        tree.merge_path(torch.zeros(4))


def test_the_merge_path_of_levels_adds_up_what_flows_into_a_node() -> None:
    tree = layered()
    assert tree.merge_path(torch.tensor([1.5, 1.0, 0.0])) == [(0, 1.5), (3, 2.0), (5, 4.0)]
    assert tree.merge_path(torch.tensor([0.0, 1.0, 0.0])) == [(1, 1.0), (4, 2.0), (5, 2.5)]
    assert tree.above[1] == 4 and tree.below[3] == [0] and tree.below[4] == [1, 2]


def test_nodes_that_no_feature_is_below_are_no_roots() -> None:
    vectors, height = torch.eye(5), torch.tensor([0.0, 0, 1, 1, 2])
    tree = FeatureTree(vectors, 2, height, torch.tensor([0, 1, 3]), torch.tensor([2, 2, 4]), torch.ones(3))
    assert tree.roots == [2]
    assert "node 3" not in written(tree) and "3" not in tree.figure()["data"][0]["ids"]


def test_numbers_of_a_tree() -> None:
    assert days().statistics() == {
        "n_features": 5, "n_nodes": 8, "n_roots": 1, "depth": 2, "mean_depth": 8 / 5, "branching": 2, "shallow": 0, "alone": 1 / 5,
    }  # fmt: skip


@pytest.mark.parametrize("make", [days, layered])
def test_json_comes_back_as_it_was(make: type, tmp_path: Path) -> None:
    tree = make()
    back = FeatureTree.read(tree.save(tmp_path / "tree.json"))
    assert torch.equal(back.vectors, tree.vectors) and torch.equal(back.height, tree.height)
    assert torch.equal(back.child, tree.child) and torch.equal(back.parent, tree.parent) and torch.equal(back.weight, tree.weight)
    assert [back.name(i) for i in range(len(back.vectors))] == [tree.name(i) for i in range(len(tree.vectors))]
    assert back.record == tree.record and back.n_leaves == tree.n_leaves


def test_newick_is_nested_with_lengths(tmp_path: Path) -> None:
    tree = days()
    text = tree.save(tmp_path / "tree.nwk").read_text()
    low, high = (float(tree.height[node]) for node in (tree.above[0], tree.roots[0]))
    assert text.startswith("(comma:") and "((Monday:" in text and text.endswith(";") and text.count("(") == text.count(")") == 4
    assert f"Monday:{low:.6g}" in text and "'node 7':0" in text and f"comma:{high:.6g}" in text


def test_newick_of_a_deep_tree_needs_no_recursion(tmp_path: Path) -> None:
    n = 3000
    child = torch.tensor([0, 1, *(i for k in range(1, n) for i in (n + 1 + k - 1, k + 1))])
    parent = torch.arange(n).repeat_interleave(2) + n + 1
    height = torch.cat([torch.zeros(n + 1), torch.arange(1.0, n + 1)])
    tree = FeatureTree(torch.ones(2 * n + 1, 1), n + 1, height, child, parent, torch.ones(2 * n))
    assert tree.save(tmp_path / "deep.nwk").read_text().count("(") == n


def test_graphml_has_every_node_and_edge(tmp_path: Path) -> None:
    tree = days().named(["<a> & b", *DAYS[1:]])
    graph = Xml.parse(tree.save(tmp_path / "tree.graphml")).getroot()
    space = "{http://graphml.graphdrawing.org/xmlns}"
    names = [node.find(f"{space}data[@key='name']").text for node in graph.iter(f"{space}node")]  # type: ignore[union-attr]
    assert names[0] == "<a> & b" and len(names) == 8
    assert len(list(graph.iter(f"{space}edge"))) == len(tree.child)


def test_it_draws_itself(tmp_path: Path) -> None:
    tree = days()
    text = written(tree)
    assert "Monday" in text and "3 neurons in common" in text and "1 feature without a parent" in text
    trace = tree.figure()["data"][0]
    assert trace["values"][0] == 5 and len(trace["ids"]) == 9 == len(set(trace["ids"]))
    assert set(trace["parents"]) - {""} <= set(trace["ids"])
    assert "Monday" in tree.save(tmp_path / "tree.html").read_text()
    assert "icicle" in tree._repr_html_()


def test_what_cannot_be_a_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two features with entries that are 0"):
        by_overlap(Dictionary.of_directions(torch.ones(3, 4)))
    with pytest.raises(InputError, match=r"an edge leads to a node outside 0\.\.2"):
        FeatureTree(torch.eye(3), 2, torch.tensor([0.0, 0, 1]), torch.tensor([0]), torch.tensor([3]), torch.ones(1))
    with pytest.raises(InputError, match="an edge leads down"):
        FeatureTree(torch.eye(3), 2, torch.tensor([0.0, 0, 1]), torch.tensor([2]), torch.tensor([0]), torch.ones(1))
    with pytest.raises(ShapeError, match="need as many heights"):
        FeatureTree(torch.eye(3), 2, torch.zeros(2), torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    for child, parent, height in (([0, 1], [1, 0], [0.0, 0, 0]), ([0], [0], [0.0, 0, 1])):
        with pytest.raises(InputError, match="as high and of a larger number"):
            FeatureTree(torch.eye(3), 2, torch.tensor(height), torch.tensor(child), torch.tensor(parent), torch.ones(len(child)))
    for weight in (-2.0, float("nan")):
        with pytest.raises(InputError, match="finite and not below 0"):
            FeatureTree(torch.eye(3), 2, torch.tensor([0.0, 0, 1]), torch.tensor([0]), torch.tensor([2]), torch.tensor([weight]))
    with pytest.raises(InputError, match="of 3 nodes 1 to 3 are leaves, got 4"):
        FeatureTree(torch.eye(3), 4, torch.zeros(3), *(torch.zeros(0, dtype=torch.int64),) * 2, torch.zeros(0))
    tree = days()
    for quorum in (0, 1.5, -1):
        with pytest.raises(InputError, match="quorum is a share"):
            tree.core(8 - 1, quorum)
    with pytest.raises(InputError, match="node 8 is out of range"):
        tree.core(8)
    with pytest.raises(InputError, match=r"try 'tree.html'"):
        tree.save(tmp_path / "tree.svg")
    tree.save(tmp_path / "tree.nwk")
    with pytest.raises(OutputExistsError):
        tree.save(tmp_path / "tree.nwk")
    (tmp_path / "bad.json").write_text(json.dumps({"nodes": []}))
    with pytest.raises(CorruptFileError, match="is not the JSON of a tree"):
        FeatureTree.read(tmp_path / "bad.json")
