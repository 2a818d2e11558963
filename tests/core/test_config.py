"""Config: a wrong setting is answered in one line that names it, its value, and what is allowed."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from armillary.core.config import Config
from armillary.errors import InputError, UnknownNameError


class Inner(Config):
    size: int = Field(1, ge=1)
    """Its size."""


class Sample(Config):
    n_features: int = Field(ge=1)
    """How many features."""
    kind: Literal["soft", "hard"] = "soft"
    """Which kind."""
    share: float = Field(0.5, gt=0, lt=1)
    """A share."""
    inner: Inner = Inner()
    """What is inside."""

    @model_validator(mode="after")
    def _check(self) -> Sample:
        if self.kind == "hard" and self.n_features > 10:
            raise ValueError("hard needs at most 10 features")
        return self


def message(**values: object) -> str:
    with pytest.raises(InputError) as caught:
        Sample(**values)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_valid_settings_are_frozen_and_described() -> None:
    settings = Sample(n_features=3)
    assert settings == Sample(n_features=3)
    assert Sample.model_fields["share"].description == "A share."
    with pytest.raises(ValidationError, match="frozen"):
        settings.share = 0.1  # type: ignore[misc]


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    assert "unknown option of Sample 'n_feature'. Did you mean 'n_features'?" in message(n_feature=3)
    with pytest.raises(UnknownNameError):
        Sample(n_features=3, shares=0.1)  # type: ignore[call-arg]


def test_a_missing_option_is_named_with_its_help() -> None:
    assert message() == "Sample needs the option 'n_features' (How many features)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"n_features": 0}, "option 'n_features' of Sample: should be greater than or equal to 1, got 0"),
        ({"n_features": "many"}, "option 'n_features' of Sample: should be a valid integer"),
        ({"n_features": 3, "kind": "sof"}, "option 'kind' of Sample: should be 'soft' or 'hard', got 'sof'"),
        ({"n_features": 3, "share": 1.5}, "option 'share' of Sample: should be less than 1, got 1.5"),
        ({"n_features": 20, "kind": "hard"}, "Sample: hard needs at most 10 features"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values: dict[str, object], expected: str) -> None:
    assert message(**values).startswith(expected)


def test_settings_inside_settings_are_named_by_their_path() -> None:
    assert "inner" in message(n_features=3, inner={"size": 0})
    assert "greater than or equal to 1" in message(n_features=3, inner={"size": 0})
    assert "siz" in message(n_features=3, inner={"siz": 1})


def test_settings_survive_json() -> None:
    settings = Sample(n_features=3, kind="hard", inner=Inner(size=4))
    assert Sample(**settings.model_dump(mode="json")) == settings
