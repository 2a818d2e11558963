"""A tree of features drawn: in the terminal, and as branches that open when they are clicked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.tree import Tree

    from armillary.core.tree import FeatureTree

#: Roots, children and levels drawn in the terminal; what is left out is counted.
ROOTS, CHILDREN, DEPTH = 12, 12, 6


def terminal(tree: FeatureTree) -> Tree:
    """The tree for a terminal: widest branches first."""
    from rich.tree import Tree

    numbers = tree.statistics()
    title = f"{tree!r}: {numbers['n_roots']:.0f} roots, depth {numbers['depth']:.0f}, branching {numbers['branching']:.3g}"
    drawn = Tree(f"[bold]{title}[/]", guide_style="dim")
    for root in tree.roots[:ROOTS]:
        _add(drawn, tree, root, DEPTH)
    if len(tree.roots) > ROOTS:
        drawn.add(f"[dim]{len(tree.roots) - ROOTS} more roots[/]")
    if numbers["alone"]:
        drawn.add(f"[dim]{_features(round(numbers['alone'] * tree.n_leaves))} without a parent[/]")
    return drawn


def _add(drawn: Tree, tree: FeatureTree, node: int, depth: int) -> None:
    from rich.markup import escape

    branch = drawn.add(f"{escape(tree.name(node))} [dim]{_about(tree, node)}[/]")
    children = [child for child in tree.below[node] if tree.leaves(child)]
    if children and depth == 1:
        branch.add(f"[dim]{_features(len(tree.leaves(node)))} below[/]")
        return
    for child in children[:CHILDREN]:
        _add(branch, tree, child, depth - 1)
    if len(children) > CHILDREN:
        branch.add(f"[dim]{len(children) - CHILDREN} more[/]")


def _about(tree: FeatureTree, node: int) -> str:
    """A few words on a node."""
    core = len(tree.core(node))
    if not tree.below[node]:
        return f"{core} neurons, {len(tree.exclusive(node))} its own"
    return f"{_features(len(tree.leaves(node)))}, {core} neurons in common, height {float(tree.height[node]):.2g}"


def _features(n: int) -> str:
    return f"{n} feature{'s' * (n != 1)}"


def icicle(tree: FeatureTree) -> dict[str, Any]:
    """The tree as plotly JSON: each branch as wide as the features below it, opened by a click."""
    everything = "all features"
    nodes = [node for node in range(len(tree.vectors)) if tree.leaves(node)]
    parents = [tree.above[node] for node in nodes]
    trace = {
        "type": "icicle",
        "ids": ["root", *(str(node) for node in nodes)],
        "labels": [everything, *(tree.name(node) for node in nodes)],
        "parents": ["", *("root" if parent is None else str(parent) for parent in parents)],
        "values": [tree.n_leaves, *(len(tree.leaves(node)) for node in nodes)],
        "text": [f"{tree.n_leaves} features", *(_about(tree, node) for node in nodes)],
        "branchvalues": "total",
        "hovertemplate": "%{label}<br>%{text}<extra></extra>",
        "textinfo": "label",
        "maxdepth": DEPTH,
        "tiling": {"orientation": "v"},
    }
    return {"data": [trace], "layout": {"title": {"text": repr(tree)}, "margin": {"t": 60, "l": 8, "r": 8, "b": 8}}}


def page(tree: FeatureTree) -> str:
    """A page of its own."""
    from armillary.core.html import page as whole
    from armillary.core.html.page import section
    from armillary.core.html.parts import facts, figure, paragraph

    lead = paragraph("Click a branch to open it, and the bar above it to go back.")
    drawn = section("The tree", figure(icicle(tree), title=repr(tree)))
    told = {key: value for key, value in tree.record.items() if key != "fit"}
    return whole(repr(tree), [drawn, section("Numbers", facts({**tree.statistics(), **told}))], lead=lead)
