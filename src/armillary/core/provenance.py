"""Provenance: what a result was made from, as plain JSON."""

from __future__ import annotations

import platform
from typing import Any

from armillary.core.rows import Rows


def versions() -> dict[str, str]:
    """Versions of everything that could change a number."""
    import numpy
    import torch

    from armillary import __version__

    return {"armillary": __version__, "torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version()}


def of_rows(rows: Rows) -> dict[str, Any]:
    """Model, site and size of the rows, and the store's own record of text and token policy where they come from a store."""
    sources = [source for source, _ in rows.layout if source is not None]
    record: dict[str, Any] = {"n_rows": rows.n_rows}
    if sources:
        record |= {"model": sources[0].model, "revision": sources[0].revision, "sites": [str(source.site) for source in sources]}
    return record | dict(rows.record)
