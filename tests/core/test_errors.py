"""The tree of errors is the one that is drawn, and messages name the nearest fix."""

from __future__ import annotations

import inspect
import re

import pytest

from armillary import errors
from armillary.errors import ArmillaryError, InputError, UnknownNameError, missing_extra, nearest, unknown

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, ArmillaryError)}


def drawn() -> dict[str, str]:
    """{class: its parent} as the module's docstring draws them."""
    parents = {"ArmillaryError": ""}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        found = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            parents[found[2]] = path[depth - 1] if depth else "ArmillaryError"
    return parents


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == {name: "" if kind is ArmillaryError else kind.__bases__[0].__name__ for name, kind in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_exit_codes_say_whose_fault_it_is(name: str) -> None:
    kind = CLASSES[name]
    assert kind.exit_code == (2 if issubclass(kind, InputError) else 1)
    assert issubclass(kind, ValueError) == issubclass(kind, InputError)
    assert kind.__doc__


def test_nearest_ignores_case_and_knows_when_nothing_is_near() -> None:
    assert nearest("TOPKSAE", ["ReLUSAE", "TopKSAE", "PCA"])[0] == "TopKSAE"
    assert nearest("n_feature", ["n_features", "share", "inner"]) == ["n_features"]
    assert nearest("zzz", ["TopKSAE", "PCA"]) == []
    assert nearest("", []) == []


def test_unknown_names_the_value_the_nearest_and_all_if_few() -> None:
    error = unknown("method", "kmean", ["pca", "kmeans", "ica"])
    assert isinstance(error, UnknownNameError)
    assert str(error) == "unknown method 'kmean'. Did you mean 'kmeans'? Known: ica, kmeans, pca."


def test_unknown_does_not_list_hundreds() -> None:
    message = str(unknown("feature", "xyzzy", [f"name{i}" for i in range(100)]))
    assert message == "unknown feature 'xyzzy'."


def test_missing_extra_says_what_to_run() -> None:
    assert str(missing_extra("umap", "maps", "drawing a map")) == (
        "drawing a map needs 'umap', which is not installed. Run: pip install 'armillary[maps]'"
    )
