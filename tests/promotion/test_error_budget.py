"""All comparisons on a test set share one error budget."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError
from hip_mri.promotion.error_budget import (
    count_looks_left,
    find_alpha,
    plan_comparison,
    read_comparisons,
    record_comparison,
    record_outcome,
)
from hip_mri.storage import write_json
from tests.small_runs import TEST_SET

SETTINGS = ReleaseSettings(num_looks=4)


def record(workspace, test_set, champion, challenger, given):
    comparison = plan_comparison(workspace, test_set, champion, challenger, given)
    record_comparison(workspace, comparison)
    return comparison


def compare(workspace, count, given=SETTINGS, test_set=TEST_SET, first=0):
    return [
        record(workspace, test_set, "champion", f"challenger {number}", given) for number in range(first, first + count)
    ]


@settings(max_examples=60, deadline=None, database=None)
@given(st.floats(1e-6, 0.5), st.integers(1, 10_000), st.sampled_from(["even", "falling"]))
def test_all_comparisons_together_stay_within_the_budget(budget, num_looks, spending):
    given_settings = ReleaseSettings(error_budget=budget, num_looks=num_looks, spending=spending)
    alphas = [find_alpha(number, given_settings) for number in range(1, num_looks + 100)]
    assert math.fsum(alphas) <= budget * (1 + 1e-12)
    assert alphas == sorted(alphas, reverse=True)
    assert (alphas[-1] == 0) == (spending == "even")


def test_an_even_budget_is_shared_and_ends():
    assert [find_alpha(number, SETTINGS) for number in (1, 2, 4, 5)] == [0.0125, 0.0125, 0.0125, 0]


def test_a_falling_budget_gives_the_first_comparisons_most():
    falling = ReleaseSettings(spending="falling")
    assert find_alpha(1, falling) == pytest.approx(0.05 * 6 / math.pi**2)
    assert find_alpha(10, falling) == pytest.approx(find_alpha(1, falling) / 100)
    assert [
        number for number in range(1, 25) if find_alpha(number, falling) > find_alpha(number, ReleaseSettings())
    ] == [
        1,
        2,
        3,
    ]


def test_comparisons_are_counted_by_test_set(workspace):
    assert [comparison.number for comparison in compare(workspace, 2)] == [1, 2]
    assert [comparison.number for comparison in compare(workspace, 1, test_set="cd" * 32)] == [1]
    assert [comparison.number for comparison in compare(workspace, 1, first=2)] == [3]
    assert [(comparison.test_set_sha256, comparison.number) for comparison in read_comparisons(workspace)] == [
        (TEST_SET, 1), (TEST_SET, 2), (TEST_SET, 3), ("cd" * 32, 1)
    ]  # fmt: skip


def test_the_same_comparison_is_recorded_once(workspace):
    comparisons = compare(workspace, 2)
    assert compare(workspace, 2, ReleaseSettings(error_budget=0.5)) == comparisons
    turned = record(workspace, TEST_SET, "challenger 0", "champion", SETTINGS)
    assert turned.number == 3


def test_a_plan_spends_nothing_and_a_stale_one_is_refused(workspace):
    stale = plan_comparison(workspace, TEST_SET, "champion", "challenger 7", SETTINGS)
    assert read_comparisons(workspace) == []
    compare(workspace, 1)
    with pytest.raises(ReleaseError, match=r"ledger\.json .* 1 "):
        record_comparison(workspace, stale)


def test_after_the_last_comparison_nothing_is_left(workspace):
    assert [comparison.alpha for comparison in compare(workspace, 6)] == pytest.approx(
        [0.0125] * 4 + [0] * 2, abs=1e-15
    )


def test_other_settings_cannot_overdraw_what_is_left(workspace):
    compare(workspace, 3)
    generous = ReleaseSettings(num_looks=10, spending="falling")
    later = [comparison.alpha for comparison in compare(workspace, 200, generous, first=3)]
    assert math.fsum(later) <= 0.0125 + 1e-12
    (tight,) = compare(workspace, 1, ReleaseSettings(error_budget=0.01), first=300)
    assert tight.alpha == 0


@pytest.mark.parametrize(("before", "given", "left"), [
    (ReleaseSettings(num_looks=24), ReleaseSettings(num_looks=24), 21),
    (ReleaseSettings(spending="falling"), ReleaseSettings(num_looks=24), 5),  # 17 % are left: four parts and a smaller
    (ReleaseSettings(num_looks=3), ReleaseSettings(num_looks=24), 0),
    (ReleaseSettings(num_looks=24), ReleaseSettings(num_looks=2), 0),
    (ReleaseSettings(num_looks=24), ReleaseSettings(spending="falling"), None),
])  # fmt: skip
def test_comparisons_that_are_left_share_what_earlier_ones_left(workspace, before, given, left):
    assert count_looks_left(compare(workspace, 3, before), given) == left
    later = [it.alpha for it in compare(workspace, 30, given, first=3)]
    assert left is None or sum(alpha > 1e-9 for alpha in later) == left


def test_an_outcome_is_noted_and_costs_nothing(workspace):
    first, second = compare(workspace, 2)
    record_outcome(workspace, second, is_promoted=True)
    record_outcome(workspace, first, is_promoted=False)
    assert [comparison.is_promoted for comparison in read_comparisons(workspace)] == [False, True]
    assert compare(workspace, 1, first=2)[0].number == 3


@pytest.mark.parametrize("content", [[], {TEST_SET: [{"number": 1}]}, {TEST_SET: 3}])
def test_a_ledger_that_was_changed_by_hand_is_refused(workspace, content):
    write_json(workspace.ledger_file, content)
    with pytest.raises(ReleaseError, match=r"ledger\.json"):
        compare(workspace, 1)


def test_the_ledger_names_models_and_test_set_by_hash(workspace):
    compare(workspace, 1)
    (entry,) = json.loads(workspace.ledger_file.read_text())[TEST_SET]
    assert (entry["champion_sha256"], entry["challenger_sha256"]) == ("champion", "challenger 0")
