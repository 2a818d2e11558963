"""A tree of features as text that other programs read: JSON, GraphML and Newick."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

import torch

from armillary.errors import CorruptFileError

if TYPE_CHECKING:
    from armillary.core.tree import FeatureTree

#: Version of the JSON form.
SCHEMA = 1
GRAPHML = "http://graphml.graphdrawing.org/xmlns"


def writers() -> dict[str, Callable[[FeatureTree], str]]:
    """The endings a tree can be written under, and what writes it."""
    from armillary.core.tree_drawing import page

    return {".html": page, ".json": json_text, ".graphml": graphml, ".nwk": newick}


def edges(tree: FeatureTree) -> Iterator[tuple[int, int, float]]:
    """(child, parent, weight)."""
    return zip(tree.child.tolist(), tree.parent.tolist(), tree.weight.tolist(), strict=True)


# ---------------------------------------------------------------- JSON


def as_json(tree: FeatureTree) -> dict[str, Any]:
    """Everything about a tree as plain JSON; of vectors the entries that are not 0."""
    return {
        "schema": SCHEMA,
        "d": tree.vectors.shape[1],
        "n_features": tree.n_leaves,
        "nodes": [_node(tree, i) for i in range(len(tree.vectors))],
        "edges": [{"child": child, "parent": parent, "weight": weight} for child, parent, weight in edges(tree)],
        "record": dict(tree.record),
        "is_layered": tree.is_layered,
    }


def _node(tree: FeatureTree, i: int) -> dict[str, Any]:
    neurons = tree.vectors[i].nonzero().flatten()
    weights = tree.vectors[i][neurons].tolist()
    return {"id": i, "name": tree.name(i), "height": float(tree.height[i]), "neurons": neurons.tolist(), "weights": weights}


def json_text(tree: FeatureTree) -> str:
    return json.dumps(as_json(tree), indent=1, allow_nan=False)


def read_json(path: Path) -> FeatureTree:
    """A tree from a file that `json_text` wrote.

    Raises:
        CorruptFileError: the file is something else.
    """
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not the JSON of a tree ({type(error).__name__}: {error})") from None


def from_json(data: Mapping[str, Any]) -> FeatureTree:
    """The inverse of `as_json`."""
    from armillary.core.tree import FeatureTree

    nodes = data["nodes"]
    vectors = torch.zeros(len(nodes), data["d"])
    for row, node in zip(vectors, nodes, strict=True):
        row[torch.tensor(node["neurons"], dtype=torch.int64)] = torch.tensor(node["weights"], dtype=row.dtype)
    child, parent = (torch.tensor([edge[end] for edge in data["edges"]], dtype=torch.int64) for end in ("child", "parent"))
    weight = torch.tensor([edge["weight"] for edge in data["edges"]], dtype=torch.float32)
    height = torch.tensor([node["height"] for node in nodes], dtype=torch.float32)
    names = tuple(node["name"] for node in nodes)
    return FeatureTree(vectors, data["n_features"], height, child, parent, weight, names, dict(data["record"]), bool(data["is_layered"]))


# ---------------------------------------------------------------- GraphML and Newick


def graphml(tree: FeatureTree) -> str:
    """GraphML, as networkx, Gephi and yEd read it; edges lead from parent to child."""
    root = Xml.Element("graphml", xmlns=GRAPHML)
    for name, of, kind in (("name", "node", "string"), ("height", "node", "double"), ("weight", "edge", "double")):
        Xml.SubElement(root, "key", {"id": name, "for": of, "attr.name": name, "attr.type": kind})
    graph = Xml.SubElement(root, "graph", edgedefault="directed")
    for i in range(len(tree.vectors)):
        node = Xml.SubElement(graph, "node", id=f"n{i}")
        Xml.SubElement(node, "data", key="name").text = tree.name(i)
        Xml.SubElement(node, "data", key="height").text = repr(float(tree.height[i]))
    for child, parent, weight in edges(tree):
        edge = Xml.SubElement(graph, "edge", source=f"n{parent}", target=f"n{child}")
        Xml.SubElement(edge, "data", key="weight").text = repr(weight)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode")


def newick(tree: FeatureTree) -> str:
    """Newick: lengths are differences of height. Several roots, and features without a parent, hang on one root of their own."""
    tops = [node for node, parent in enumerate(tree.above) if parent is None]
    highest = float(tree.height.max()) if len(tops) > 1 else None
    branches = [_branch(tree, node, highest) for node in tops]
    return f"({','.join(branches)});" if len(tops) > 1 else f"{branches[0]};"


def _branch(tree: FeatureTree, top: int, above: float | None) -> str:
    """One branch, put together from the leaves up, so that no tree is too deep for it."""
    text: dict[int, str] = {}
    left = [(top, False)]
    while left:
        node, is_ready = left.pop()
        if not is_ready:
            left += [(node, True), *((child, False) for child in tree.below[node])]
            continue
        parent = tree.above[node]
        height = above if node == top or parent is None else float(tree.height[parent])
        length = "" if height is None else f":{max(0.0, height - float(tree.height[node])):.6g}"
        inside = f"({','.join(text.pop(child) for child in tree.below[node])})" if tree.below[node] else ""
        text[node] = f"{inside}{_label(tree.name(node))}{length}"
    return text[top]


def _label(name: str) -> str:
    """A name as Newick holds it."""
    return name if name.replace("_", "").isalnum() and "_" not in name else "'" + name.replace("'", "''") + "'"
