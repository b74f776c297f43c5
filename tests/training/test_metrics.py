"""Metrics against plain definitions and worked examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.training import metrics

TOKENS = st.lists(st.sampled_from("abcd"), max_size=90)


def slow_edit_distance(first, second):
    """The textbook table."""
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(second, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@given(TOKENS, TOKENS)
def test_edit_distance_equals_the_textbook_table(first, second):
    assert metrics.edit_distance(first, second) == slow_edit_distance(first, second)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("flaw", "lawn", 2)],
)
def test_edit_distance_examples(first, second, distance):
    assert metrics.edit_distance(first, second) == distance


def test_token_error_rate_divides_all_errors_by_all_tokens_wanted():
    predicted = [["a", "b"], ["x"], []]
    wanted = [["a", "c"], ["x", "y", "z"], ["q"]]
    assert metrics.token_error_rate(predicted, wanted) == (1 + 2 + 1) / 6
    assert metrics.exact_match(predicted, wanted) == 0.0
    assert metrics.exact_match([("a",), ["b"]], [["a"], ["c"]]) == 0.5


def test_the_closest_reference_counts():
    chosen = metrics.best_references([["a", "b"], ["c"]], [[["x", "y"], ["a", "c"]], [["c"]]])
    assert chosen == [["a", "c"], ["c"]]


def test_classification_report_worked_by_hand():
    wanted = [0, 0, 0, 1, 1, 2]
    predicted = [0, 0, 1, 1, 0, 0]
    report = metrics.classification_report(predicted, wanted, ["x", "y", "z"])
    assert report["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert report["accuracy"] == pytest.approx(3 / 6)
    assert report["n"] == 6
    assert report["labels"] == ["x", "y", "z"]
    assert report["per_class"]["x"] == pytest.approx(
        {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3}
    )
    assert report["per_class"]["z"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert report["macro_f1"] == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)


def test_macro_f1_leaves_out_classes_that_never_occur():
    confusion = metrics.confusion_matrix([0, 1], [0, 1], 3)
    assert metrics.macro_f1(confusion) == 1.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_confusion_matrix_counts_every_pair(pairs):
    wanted, predicted = zip(*pairs, strict=True)
    counted = np.zeros((4, 4), dtype=int)
    for w, p in pairs:
        counted[w, p] += 1
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, wanted, 4), counted)


def test_majority_baseline_is_chosen_on_the_training_rows():
    assert metrics.majority_baseline([1, 1, 0], [0, 0, 0, 1]) == 0.25


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(gp.ShapeError, match=r"\(2,\) and \(3,\)"):
        metrics.accuracy([1, 2], [1, 2, 3])
    with pytest.raises(gp.DataError, match="no rows"):
        metrics.accuracy([], [])
    with pytest.raises(gp.DataError, match=r"wanted class 3 in row 1"):
        metrics.confusion_matrix([0, 0], [0, 3], 3)
    with pytest.raises(gp.ShapeError, match="1 predictions for 2 rows"):
        metrics.token_error_rate([["a"]], [["a"], ["b"]])
