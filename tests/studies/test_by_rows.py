"""Subjects that read the same rows are measured together, and come back in their own order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from armillary.core.dictionary import Dictionary
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies.by_rows import by_rows
from armillary.studies.provenance import of_study
from armillary.studies.quality.concepts import Config
from toys import identity_fit

ROWS, OTHER = TensorRows(torch.zeros(4, 2).double()), TensorRows(torch.ones(5, 2).double())
FIT = identity_fit(ROWS)
SUBJECTS = [Subject(FIT, rows=rows, name=name) for rows, name in ((ROWS, "a"), (OTHER, "b"), (ROWS, "c"))]


def test_each_rows_object_is_asked_once_and_answers_keep_the_order_of_the_subjects() -> None:
    asked = []

    def names(group: Sequence[Subject]) -> list[str]:
        asked.append([one.name for one in group])
        assert not torch.is_grad_enabled()
        return [one.name for one in group]

    assert by_rows(SUBJECTS, names) == ["a", "b", "c"]
    assert asked == [["a", "c"], ["b"]]
    assert torch.is_grad_enabled()


def test_nothing_is_read_where_a_subject_lacks_its_rows_or_its_encoder() -> None:
    def never(group: Sequence[Subject]) -> list[None]:
        raise AssertionError(group)

    with pytest.raises(InputError, match=r"pass Subject\(d, rows="):
        by_rows([*SUBJECTS, Subject(FIT, name="d")], never)
    with pytest.raises(InputError, match="needs a fit with an encoder"):
        by_rows([*SUBJECTS, Subject(Dictionary.of_directions(torch.eye(2)), rows=ROWS)], never)


def test_an_answer_that_leaves_subjects_out_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        by_rows(SUBJECTS, lambda group: [None])


def test_provenance_names_the_study_its_settings_and_what_it_read() -> None:
    found = of_study("concepts", SUBJECTS[1], OTHER, Config(n_draws=7))
    assert found["study"] == "concepts" and found["settings"]["n_draws"] == 7
    assert found["rows"]["n_rows"] == 5 and "torch" in found["versions"]
    assert found["subject"] == FIT.provenance
