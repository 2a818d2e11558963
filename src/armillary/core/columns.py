"""Which columns of some rows a fit reads, and which it reconstructs.

Rows may hold several sites side by side (a transcoder's input and its target). A site is found by its source; rows without known sources
are matched by their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.rows import Layout, width
from armillary.errors import ShapeError

#: An index into the columns of [N, D].
Columns = slice | Tensor


def columns_key(columns: Columns) -> str:
    """Equal for equal columns. (A long tensor's own text leaves its middle out.)"""
    return repr(columns if isinstance(columns, slice) else columns.tolist())


def columns_of(layout: Layout, wanted: Layout) -> Columns | None:
    """The columns of `layout` that hold the sites `wanted`, in that order; None where one is not there or not known."""
    ends = list(accumulate(columns for _, columns in layout))
    stretches = [range(end - columns, end) for end, (_, columns) in zip(ends, layout, strict=True)]
    # The same model and site first; then the same site of another revision or a copy of the model.
    by_site = {source.site: stretch for (source, _), stretch in zip(layout, stretches, strict=True) if source is not None}
    by_source = {source: stretch for (source, _), stretch in zip(layout, stretches, strict=True) if source is not None}
    found = [None if source is None else by_source.get(source, by_site.get(source.site)) for source, _ in wanted]
    places = [place for stretch in found if stretch is not None for place in stretch]
    is_whole = all(stretch is not None and len(stretch) == n for stretch, (_, n) in zip(found, wanted, strict=True))
    return _index(places) if is_whole else None


def columns_for(fit: Decomposition, layout: Layout) -> tuple[Columns, Columns | None]:
    """Columns of the fit's input and of its target in rows laid out as `layout`; no target where the rows do not hold it.

    Raises:
        ShapeError: the rows do not hold what the fit reads.
    """
    n_in, n_out, n = width(fit.inputs), width(fit.targets), width(layout)
    read = columns_of(layout, fit.inputs)
    by_width = read is None and not (_is_known(layout) and _is_known(fit.inputs))
    is_pair = by_width and n == n_in + n_out
    if read is None and not (by_width and n in (n_in, n_in + n_out)):
        raise ShapeError(f"{fit!r} reads {n_in} columns, but the rows hold {_spell(layout)}; harvest {_spell(fit.inputs)} too")
    read = slice(0, n_in) if read is None else read
    if fit.inputs == fit.targets:
        return read, read
    target = columns_of(layout, fit.targets)
    return read, slice(n_in, n) if target is None and is_pair else target


def _is_known(layout: Layout) -> bool:
    return all(source is not None for source, _ in layout)


def _index(places: Sequence[int]) -> Columns:
    """A slice (which copies nothing) where the columns lie side by side."""
    is_run = list(places) == list(range(places[0], places[0] + len(places)))
    return slice(places[0], places[0] + len(places)) if is_run else torch.tensor(places)


def _spell(layout: Layout) -> str:
    return " + ".join(f"{'unnamed' if source is None else source.site} ({columns})" for source, columns in layout)
