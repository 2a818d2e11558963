"""Subject: what a study may ask for, and what it answers when that is missing."""

from __future__ import annotations

import pytest
import torch

from armillary.core.rows import TensorRows
from armillary.core.study import Subject, as_subjects
from armillary.errors import CapabilityError, InputError
from core_fits import linear
from toys import ToyLM


def test_one_or_several_of_anything_become_subjects() -> None:
    fit = linear()
    named = Subject(fit, name="mine")
    assert as_subjects(fit) == [Subject(fit)]
    assert as_subjects(named) == [named]
    assert as_subjects([fit.dictionary, named, fit]) == [Subject(fit.dictionary), named, Subject(fit)]
    assert as_subjects((fit,)) == [Subject(fit)]
    with pytest.raises(InputError, match="at least one subject"):
        as_subjects([])


def test_a_subject_is_called_by_its_name_or_by_what_it_is() -> None:
    assert Subject(linear(), name="mine").label == "mine"
    assert Subject(linear()).label == "ByHand(4 features at resid_post.0, width 6)"


def test_what_is_there_is_given() -> None:
    rows, model = TensorRows(torch.ones(3, 6)), ToyLM()
    subject = Subject(linear(), rows=rows, model=model)
    assert subject.fit() is subject.what
    assert subject.require_rows() is rows
    assert subject.require_model(logits=True) is model


def test_what_is_missing_is_asked_for_with_the_way_to_give_it() -> None:
    subject = Subject(linear().dictionary, name="mine")
    with pytest.raises(InputError, match="needs a fit with an encoder, got a bare Dictionary"):
        subject.fit()
    with pytest.raises(InputError, match=r"Subject\(mine, rows=...\), or --acts"):
        subject.require_rows()
    with pytest.raises(InputError, match=r"Subject\(mine, model=...\), or --model"):
        subject.require_model()
    with pytest.raises(CapabilityError, match="'toy' \\(an encoder\\) does not have"):
        Subject(linear(), model=ToyLM(has_logits=False)).require_model(logits=True)
