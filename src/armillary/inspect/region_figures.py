"""Pictures of regions, as plain plotly JSON {"data", "layout"}.

region_map     all regions of a mixture in a plane: weight, breadth, overlap
region_space   one region's tokens inside its subspace
waterfall      one row taken apart step by step, by several fits
save           any of them as a page of its own, or as JSON
"""

from __future__ import annotations

from armillary.inspect.drawing import save
from armillary.inspect.region_map import region_map
from armillary.inspect.region_space import region_space
from armillary.inspect.waterfall import waterfall

__all__ = ["region_map", "region_space", "save", "waterfall"]
