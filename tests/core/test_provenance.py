"""Provenance: enough to make the result again."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

import armillary
from armillary.core.provenance import of_rows, versions
from armillary.core.rows import TensorRows
from armillary.core.site import Site, Source


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["armillary"] == armillary.__version__
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__


def test_rows_of_a_known_source_name_model_revision_and_site() -> None:
    rows = TensorRows(torch.ones(3, 2), source=Source("arm-small", "abc", Site("mlp_act", 2)))
    data = {"dtype": "torch.float32", "data_sha256": hashlib.sha256(np.ones((3, 2), np.float32).tobytes()).hexdigest()}
    assert of_rows(rows) == {"n_rows": 3, "model": "arm-small", "revision": "abc", "sites": ["mlp_act.2"], **data}


def test_rows_of_unknown_source_say_what_is_known() -> None:
    found = of_rows(TensorRows(np.ones((3, 2))))
    assert found == {"n_rows": 3, "dtype": "torch.float64", "data_sha256": hashlib.sha256(np.ones((3, 2)).tobytes()).hexdigest()}


def test_the_record_is_plain_json() -> None:
    record = {**versions(), **of_rows(TensorRows(torch.ones(1, 1)))}
    assert json.loads(json.dumps(record)) == record
