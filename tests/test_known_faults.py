"""The faults that were found in published evaluation code, and the tests that would fail if one of them were ours.

The code that is meant: SAEBench, SAELens 6.18, CausalAbstraction (April 2025), delphi and axbench, as they were read in 2026. A test that
is renamed or deleted is missed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "armillary"

FAULTS = {
    "explained variance that predicting the mean does not bring to 0": (
        "studies/quality/test_fidelity.py::test_predicting_the_mean_explains_nothing",
        "studies/quality/test_fidelity.py::test_predicting_zero_on_shifted_rows_is_worse_than_the_mean",
        "studies/quality/test_fidelity.py::test_scale_of_rows_and_fit_together_changes_nothing",
    ),
    "an error that depends on the size of batches": (
        "studies/quality/test_fidelity.py::test_batch_size_changes_nothing",
        "studies/quality/test_fidelity.py::test_order_of_documents_changes_no_value",
    ),
    "probes whose training is stopped where the test is best": (
        "studies/quality/test_probing.py::test_what_is_chosen_does_not_change_with_the_test_documents",
        "studies/quality/test_probing.py::test_columns_and_principal_axes_do_not_look_at_held_out_documents",
    ),
    "cause and isolate told apart by the first token of the answers": (
        "studies/causal/test_localization.py::test_pairs_are_counted_by_label_even_where_the_answer_stays",
        "core/test_prompted.py::test_every_token_of_an_answer_counts_not_the_first_and_not_a_part",
        "tasks/test_entities.py::test_doing_nothing_and_taking_everything_get_half_each",
    ),
    "train and test that share entities and templates": (
        "tasks/test_entities.py::test_train_and_test_share_neither_entities_nor_templates",
        "studies/causal/test_localization.py::test_what_is_held_back_is_in_no_pair_that_is_learnt_from",
    ),
    "a last partial batch that is dropped, or batches after the first": (
        "studies/causal/test_localization.py::test_no_result_depends_on_batches_and_the_last_one_counts",
        "core/test_prompted.py::test_answers_do_not_depend_on_the_batch",
    ),
    "answers that count as right where they hold the right one": (
        "core/test_prompted.py::test_every_token_of_an_answer_counts_not_the_first_and_not_a_part",
        "core/test_prompted.py::test_answers_of_a_real_tokenizer_are_what_greedy_decoding_writes",
    ),
    "a judge whose last group of texts is lost, and whose failures are counted as 0": (
        "studies/quality/test_labels.py::test_the_last_partial_group_is_never_lost",
        "studies/quality/test_labels.py::test_nonsense_and_refusals_are_missing_and_said",
        "studies/quality/test_labels.py::test_what_fails_is_left_out_and_not_counted_as_wrong",
        "studies/quality/test_labels.py::test_wrong_marks_are_as_many_and_on_silent_tokens",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_tests(fault: str) -> None:
    for place in FAULTS[fault]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


def calls() -> list[tuple[str, ast.Call, str]]:
    """(file, call, name) of all calls of a name with dots in the package."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((str(path.relative_to(SOURCE)), node, ast.unparse(node.func)))
    return found


def test_no_seed_is_set_for_everyone() -> None:
    """delphi and SAEBench seed the whole process, so that results depend on what else draws; here everything draws from its own."""
    seeds = {"random.seed", "np.random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all"}
    found = {file for file, _, name in calls() if name in seeds} - {"lm/reference/train.py"}  # a script of its own, no part of the library
    for file in found:  # what is drawn while a model is built puts the state back
        assert "torch.random.fork_rng(" in (SOURCE / file).read_text(encoding="utf-8"), file


def test_no_file_may_run_code() -> None:
    """axbench and SAEBench read pickles as they come."""
    assert not [file for file, _, name in calls() if name in {"pickle.load", "pickle.loads", "joblib.load", "pickle.dump"}]
    for file, call, name in calls():
        if name == "torch.load":
            assert any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in call.keywords), file
