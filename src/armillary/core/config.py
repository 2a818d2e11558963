"""Config: frozen, validated settings from which the Python signature, the command line and the JSON are made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from armillary.errors import InputError, unknown


class Config(BaseModel):
    """Base of every method's hyper-parameters and every study's settings. Fields carry a description; that is their help text.

    Raises:
        UnknownNameError: a field that does not exist, with the nearest ones.
        InputError: a value that is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _readable(type(self), error) from None


def _readable(config: type[Config], error: ValidationError) -> InputError:
    """The first problem of a validation as one line: which option, which value, what is allowed."""
    problems = error.errors()  # a name that is not known says more than the one it leaves missing
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    if not problem["loc"]:  # of several options together
        return InputError(f"{config.__name__}: {problem['msg'].removeprefix('Value error, ')}")
    option = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return unknown(f"option of {config.__name__}", option, config.model_fields)
    if problem["type"] == "missing":
        return InputError(f"{config.__name__} needs the option {option!r} ({(config.model_fields[option].description or '').rstrip('.')})")
    # Each kind of value that the option takes has its own complaint.
    told = [
        one["msg"].removeprefix("Value error, ").replace("Input should", "should")
        for one in problems
        if one["loc"][:1] == problem["loc"][:1]
    ]
    return InputError(f"option {option!r} of {config.__name__}: {', or '.join(dict.fromkeys(told))}, got {problem['input']!r}")
