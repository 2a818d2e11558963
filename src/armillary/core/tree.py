"""FeatureTree: how the features of a dictionary are put together, level by level.

Nodes 0..F-1 are the features themselves, the leaves; every further node stands for several nodes below it. An edge has a weight >= 0. A
node may have several parents; where one is needed it is the one of largest weight.

Letters: M nodes, F leaves, E edges, D width (neurons).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.artifact import new_file, write_atomic
from armillary.core.dictionary import Dictionary
from armillary.errors import InputError, ShapeError

#: Share of the leaves below a node that have a neuron in common for it to be of the node's core.
QUORUM = 0.8
#: A join above this share of the next one's height is drawn as one with it.
TIE = 0.97


@final
@dataclass(frozen=True)
class FeatureTree:
    """Features and what they are put together to.

    Args:
        vectors: [M, D] of every node; the leaves' are the features' atoms.
        n_leaves: F.
        height: [M] 0 for leaves; a level's number, or the distance at which a node's children were joined.
        child, parent: [E] the nodes of each edge.
        weight: [E] >= 0.
        names: of the nodes; their numbers where left out.
        record: how it was made, such as the error of each level.
        is_layered: whether heights are levels, of which every path up to a root has one node each.

    Raises:
        ShapeError: not as many heights or names as nodes, or not one parent and weight per edge.
        InputError: an edge to a node that is not there, or down; a weight below 0 or not finite; more leaves than nodes.
    """

    vectors: Tensor
    n_leaves: int
    height: Tensor
    child: Tensor
    parent: Tensor
    weight: Tensor
    names: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    is_layered: bool = False

    def __post_init__(self) -> None:
        n = len(self.vectors)
        if len(self.height) != n or (self.names and len(self.names) != n):
            raise ShapeError(f"{n} nodes need as many heights and names, got {len(self.height)} and {len(self.names)}")
        if not len(self.child) == len(self.parent) == len(self.weight):
            raise ShapeError(
                f"edges need a child, a parent and a weight each, got {len(self.child)}, {len(self.parent)}, {len(self.weight)}"
            )
        if len(self.child) and (
            int(torch.maximum(self.child, self.parent).max()) >= n or int(torch.minimum(self.child, self.parent).min()) < 0
        ):
            raise InputError(f"an edge leads to a node outside 0..{n - 1}")
        if not 0 < self.n_leaves <= n:
            raise InputError(f"of {n} nodes 1 to {n} are leaves, got {self.n_leaves}")
        below, above = self.height[self.child], self.height[self.parent]
        # Among nodes of one height numbers rise, so that no path leads back to where it began.
        if bool(((below > above) | ((below == above) & (self.child >= self.parent))).any()):
            raise InputError("an edge leads down: a parent must be higher than its child, or as high and of a larger number")
        if not bool(((self.weight >= 0) & self.weight.isfinite()).all()):
            raise InputError(f"weights of edges are finite and not below 0, got {float(self.weight.min()):g}")

    def __repr__(self) -> str:
        return f"FeatureTree({self.n_leaves:,} features, {len(self.vectors) - self.n_leaves:,} nodes above them)"

    # ------------------------------------------------------------ who is where

    @cached_property
    def above(self) -> list[int | None]:
        """[M] the parent of largest weight of each node, None for a root."""
        best: list[int | None] = [None] * len(self.vectors)
        weight = [-1.0] * len(best)
        for child, parent, value in zip(self.child.tolist(), self.parent.tolist(), self.weight.tolist(), strict=True):
            if value > weight[child]:
                best[child], weight[child] = parent, value
        return best

    @cached_property
    def below(self) -> list[list[int]]:
        """[M] the nodes whose parent of largest weight this one is, those of largest weight first."""
        found: list[list[int]] = [[] for _ in self.above]
        for child, parent in enumerate(self.above):
            if parent is not None:
                found[parent].append(child)
        return [sorted(children, key=lambda child: -self._weights.get((child, parent), 0.0)) for parent, children in enumerate(found)]

    @cached_property
    def _weights(self) -> dict[tuple[int, int], float]:
        edges = zip(self.child.tolist(), self.parent.tolist(), self.weight.tolist(), strict=True)
        return {(child, parent): weight for child, parent, weight in edges}

    @cached_property
    def roots(self) -> list[int]:
        """Nodes without a parent that stand for at least two leaves, the widest first."""
        roots = [node for node, parent in enumerate(self.above) if parent is None and len(self.leaves(node)) > 1]
        return sorted(roots, key=lambda node: -len(self.leaves(node)))

    def leaves(self, node: int) -> list[int]:
        """The features below a node; of a leaf itself."""
        self._check(node)
        found, left = [], [node]
        while left:
            here = left.pop()
            found += [here] if here < self.n_leaves else []
            left += self.below[here]
        return sorted(found)

    def siblings(self, node: int) -> list[int]:
        """The other children of a node's parent."""
        self._check(node)
        parent = self.above[node]
        return [] if parent is None else [other for other in self.below[parent] if other != node]

    def path(self, node: int) -> list[int]:
        """A node and its parents, up to the root."""
        self._check(node)
        found = [node]
        while (parent := self.above[found[-1]]) is not None:
            found.append(parent)
        return found

    def merge_path(self, codes: Tensor) -> list[tuple[int, float]]:
        """The strongest node of every height for a token, from its codes [F] up.

        A node's strength is the sum over its edges of weight times the child's strength.

        Returns:
            (node, strength) from the leaves up; empty where no code is above 0.
        """
        if codes.shape != (self.n_leaves,):
            raise ShapeError(f"codes of one token are [{self.n_leaves}], got {list(codes.shape)}")
        strength = codes.new_zeros(len(self.vectors))
        strength[: self.n_leaves] = codes.clamp_min(0)
        for edge in self.height[self.parent].argsort(stable=True).tolist():
            strength[self.parent[edge]] += self.weight[edge].to(strength) * strength[self.child[edge]]
        best = int(strength[: self.n_leaves].argmax())
        if float(strength[best]) <= 0:
            return []
        if not self.is_layered:
            return [(node, float(strength[node])) for node in self.path(best)]
        levels = [int(level) for level in sorted(set(self.height.tolist()))]
        tops = [int(torch.where(self.height == level, strength, -1.0).argmax()) for level in levels]
        return [(node, float(strength[node])) for node in tops if float(strength[node]) > 0]

    # ------------------------------------------------------------ neurons

    @cached_property
    def supports(self) -> Tensor:
        """[F, D] bool: the neurons of each feature."""
        return self.vectors[: self.n_leaves] != 0

    def core(self, node: int, quorum: float = QUORUM) -> Tensor:
        """The neurons that at least a share `quorum` of the features below a node have in common; of a feature, its own.

        Raises:
            InputError: there is no such node, or the quorum is not a share above 0.
        """
        if not 0 < quorum <= 1:
            raise InputError(f"quorum is a share of the features, above 0 and up to 1, got {quorum}")
        share = self.supports[self.leaves(node)].double().mean(0)
        return (share >= quorum - 1e-9).logical_and(share > 0).nonzero().flatten()

    def exclusive(self, node: int) -> Tensor:
        """The neurons of a node's core that no feature below any of its siblings has."""
        others = [leaf for sibling in self.siblings(node) for leaf in self.leaves(sibling)]
        mine = self.core(node)
        return mine[~self.supports[others][:, mine].any(0)] if others else mine

    # ------------------------------------------------------------ numbers and cuts

    def statistics(self) -> dict[str, float]:
        """Depth, branching and how shallow the tree is, over nodes that have children."""
        inner = [node for node, children in enumerate(self.below) if children]
        depths = [len(self.path(leaf)) - 1 for leaf in range(self.n_leaves)]
        joined = [depth for depth in depths if depth]
        return {
            "n_features": self.n_leaves,
            "n_nodes": len(self.vectors),
            "n_roots": len(self.roots),
            "depth": max(depths, default=0),
            "mean_depth": sum(depths) / max(len(depths), 1),
            "branching": sum(len(self.below[node]) for node in inner) / max(len(inner), 1),
            "shallow": sum(depth == 1 for depth in joined) / max(len(joined), 1),
            "alone": sum(depth == 0 for depth in depths) / max(len(depths), 1),
        }

    def cut(self, height: float) -> NDArray[np.int64]:
        """[F] a group's number for every feature: features are together whose paths meet at this height or below."""
        tops = []
        for leaf in range(self.n_leaves):
            reached = [node for node in self.path(leaf) if float(self.height[node]) <= height]
            tops.append(reached[-1])
        return np.unique(np.array(tops, dtype=np.int64), return_inverse=True)[1].astype(np.int64)

    def named(self, names: Sequence[str]) -> FeatureTree:
        """The same tree with names for its features, or for all of its nodes."""
        if len(names) not in (self.n_leaves, len(self.vectors)):
            raise InputError(f"names are of the {self.n_leaves} features or of all {len(self.vectors)} nodes, got {len(names)}")
        return replace(self, names=(*names, *(self.name(node) for node in range(len(names), len(self.vectors)))))

    def name(self, node: int) -> str:
        """What a node is called."""
        if self.names:
            return self.names[node]
        return f"feature {node}" if node < self.n_leaves else f"node {node}"

    def _check(self, node: int) -> None:
        if not 0 <= node < len(self.vectors):
            raise InputError(f"node {node} is out of range: there are {len(self.vectors)} (0 to {len(self.vectors) - 1})")

    # ------------------------------------------------------------ drawing and writing

    def __rich__(self) -> Any:
        from armillary.core.tree_drawing import terminal

        return terminal(self)

    def _repr_html_(self) -> str:
        from armillary.core.html import fragment
        from armillary.core.html.parts import figure

        return fragment(figure(self.figure(), title=repr(self)))

    def figure(self) -> dict[str, Any]:
        """The tree as plotly JSON: branches that open when they are clicked."""
        from armillary.core.tree_drawing import icicle

        return icicle(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .json (with the neurons of each node, as `read` reads it back), .graphml, .nwk, or .html, a page of its own.

        Raises:
            InputError: another extension.
            OutputExistsError: the file exists.
        """
        from armillary.core.tree_files import writers

        target = new_file(path, "a tree", writers())
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, writers()[target.suffix](self).encode())
        return target

    @staticmethod
    def read(path: str | os.PathLike[str]) -> FeatureTree:
        """A tree from its .json.

        Raises:
            CorruptFileError: the file is something else.
        """
        from armillary.core import tree_files

        return tree_files.read_json(Path(path))


# ---------------------------------------------------------------- from the bottom up


def by_overlap(dictionary: Dictionary, *, within: float = 0.95, names: Sequence[str] = ()) -> FeatureTree:
    """A tree of features that share neurons, from the bottom up.

    Average linkage (Sokal and Michener 1958) of 1 - Jaccard index of their supports. The height of a node is the mean distance of the
    features on its sides; joins at nearly the same height are one node.

    Args:
        dictionary: of directions with entries that are 0.
        within: features further apart are not joined; two that share no neuron by more than chance are at nearly 1.
        names: of the features.

    Raises:
        InputError: an atom has no zeros, so that all share all neurons, or there are fewer than two features.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    atoms = dictionary.directions().detach().cpu().float()
    if len(atoms) < 2 or bool((atoms != 0).all()):
        shape = list(atoms.shape)
        raise InputError(f"a tree of shared neurons needs at least two features with entries that are 0, got atoms {shape}")
    distance = (1 - overlap(atoms)).fill_diagonal_(0)
    joined = linkage(squareform(distance.numpy(), checks=False), method="average")
    tree = _of_linkage(atoms, joined[joined[:, 2] <= within], within)
    return tree.named(list(names)) if names else tree


def overlap(atoms: Tensor) -> Tensor:
    """[F, F] Jaccard index of the supports of atoms [F, D], float64; 0 for two without any."""
    on = (atoms != 0).double()
    both, size = on @ on.T, on.sum(1)
    return both / (size[:, None] + size - both).clamp_min(1)


def _of_linkage(atoms: Tensor, joined: NDArray[np.float64], within: float) -> FeatureTree:
    """scipy's table of joins (two nodes, height, number of features) as a tree; a node's vector is the mean of its features'."""
    n = len(atoms)
    children: dict[int, list[int]] = {}
    height = dict.fromkeys(range(n), 0.0)
    for i, (left, right, distance, _) in enumerate(joined):
        node, height[n + i] = n + i, float(distance)
        children[node] = []
        for side in (int(left), int(right)):
            # A join at nearly this height is part of this one.
            children[node] += children.pop(side) if side >= n and height[side] >= TIE * distance else [side]
    number = {old: new for new, old in enumerate([*range(n), *children])}
    edges = [(number[child], number[node], 1 - min(1.0, height[node])) for node, below in children.items() for child in below]
    child, parent = (torch.tensor([edge[end] for edge in edges], dtype=torch.int64) for end in (0, 1))
    weight = torch.tensor([edge[2] for edge in edges], dtype=torch.float32)
    heights = torch.tensor([height[old] for old in number], dtype=torch.float32)
    vectors = torch.cat([atoms, atoms.new_zeros(len(children), atoms.shape[1])])
    tree = FeatureTree(vectors, n, heights, child, parent, weight, record={"within": within})
    for node in range(n, len(vectors)):
        vectors[node] = atoms[tree.leaves(node)].mean(0)
    return tree
