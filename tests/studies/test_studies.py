"""The table of studies."""

from __future__ import annotations

import pytest

import armillary as arm
from armillary import studies
from armillary.errors import UnknownNameError


def test_a_study_is_an_attribute_of_its_package() -> None:
    assert arm.studies.fidelity is studies.load("fidelity")
    assert "fidelity" in dir(studies)


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown study 'fidelty'\. Did you mean 'fidelity'"):
        studies.load("fidelty")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = studies.nothing
