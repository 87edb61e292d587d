"""What helped, by how much, how sure: against arithmetic by hand, scipy, and simulated sweeps."""

import io
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from detmix.sweep.outcome import FINISHED, Outcome
from detmix.sweep.plan import Plan
from detmix.sweep.results import _picture
from detmix.sweep.statistics import compare_arms, compare_levels, luck, paired_gain
from detmix.sweep.tables import in_a_line, result_tables

from .conftest import ROOT


def outcome(ap, ap50):
    return Outcome(FINISHED, 1.0, {"AP": ap, "AP50": ap50}, "host", [])


def test_a_run_that_failed_is_told_by_its_last_error():
    advice = "  python tools/train.py fit --resume"
    for lines, told in (
        (
            ["Traceback:", "FloatingPointError: the loss is not finite at epoch 0", "Go on with", advice],
            "FloatingPoint",
        ),
        (["torch.OutOfMemoryError: CUDA out of memory", advice], "torch.OutOfMemoryError"),
        (["usage: train.py", "error: data.root: no such folder"], "error: data.root"),
        (["Something else", advice], advice),
        (['error: Parser key "lr":', "  Expected a float. Got x", advice], 'error: Parser key "lr": Expected a float'),
        (["KeyError: 'a'", "During handling of the above exception, ...", "zipfile.BadZipFile: no"], "zipfile.BadZip"),
        (["ValueError: a", "During handling of the above exception, ...", "AssertionError"], "AssertionError"),
        ([], "no output"),
    ):
        line = in_a_line("pair", 0, Outcome("crashed", 36.0, {}, "host", lines), ("AP50", "AP"))
        assert line.startswith(f"pair, seed 0: crashed after 0:00:36: {told}")


def test_gain_of_three_seeds_by_hand():
    gain = paired_gain({0: 0.01, 1: 0.02, 2: 0.03})
    assert gain.mean == pytest.approx(0.02)
    half = 4.302653 * 0.01 / 3**0.5  # t of two degrees of freedom, standard deviation 0.01
    assert gain.t == pytest.approx((0.02 - half, 0.02 + half), abs=1e-7)
    assert not gain.clear
    assert gain.bootstrap is None  # it would be the range: all three alike in 1 of 27 resamples, at either end
    assert gain.range == (pytest.approx(0.01), pytest.approx(0.03))


def test_gain_of_six_seeds_has_an_interval_by_bootstrap_inside_the_range():
    differences = np.random.default_rng(0).normal(0.01, 0.02, 6)
    gain = paired_gain(dict(enumerate(differences)))
    wanted = scipy.stats.bootstrap([differences], np.mean, method="percentile", rng=1).confidence_interval
    assert gain.bootstrap == pytest.approx((wanted.low, wanted.high), abs=5e-4)
    assert gain.range[0] < gain.bootstrap[0] < gain.bootstrap[1] < gain.range[1]


def test_from_six_seeds_on_and_not_before_there_is_an_interval_by_bootstrap():
    differences = np.random.default_rng(0).normal(0.01, 0.02, 6)
    found = [paired_gain(dict(enumerate(differences[:count]))).bootstrap is not None for count in range(1, 7)]
    assert found == [False] * 5 + [True]


def test_the_others_are_compared_among_themselves():
    values = {"plain": {0: 0.5, 1: 0.6}, "a": {0: 0.52, 1: 0.61, 2: 0.9}, "b": {0: 0.55, 1: 0.65}, "c": {3: 0.1}}
    pairs = compare_levels("arm", "AP", values, "plain").pairs
    assert list(pairs) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs["b", "a"].differences == {0: pytest.approx(0.03), 1: pytest.approx(0.04)}
    assert pairs["c", "a"] is None
    assert list(compare_levels("arm", "AP", values, "b").pairs)[0] == ("a", "plain")
    many = {str(number): {0: 0.1, 1: 0.2} for number in range(10)}
    assert compare_levels("arm", "AP", many, "0").pairs == {}


def test_an_arm_that_lost_seeds_says_so():
    values = {"plain": {0: 0.5, 1: 0.6, 2: 0.7}, "a": {0: 0.5, 2: 0.9}, "b": {}}
    failed = {"plain": {}, "a": {1: "diverged"}, "b": {0: "diverged", 1: "killed", 2: "diverged"}}
    comparison = compare_levels("arm", "AP50", values, "plain", failed)
    assert [level.losses for level in comparison.levels] == [
        "",
        "2 of 3 seeds, 1 diverged",
        "0 of 3 seeds, 2 diverged, 1 killed",
    ]
    assert comparison.in_words().endswith(
        "What failed is not in these numbers: a has 2 of 3 seeds, 1 diverged; b has 0 of 3 seeds, 2 diverged, 1 killed."
    )


def test_a_factor_one_of_whose_values_fails_everywhere_is_not_taken_for_arms():
    factors = {"data.mixup": ("null", "{}"), "model.lr": ("0.002", "1e30")}
    arms = {
        f"{mixup} {lr}": {"data.mixup": mixup, "model.lr": lr} for mixup in ("null", "{}") for lr in factors["model.lr"]
    }
    plan = Plan(ROOT / "configs/quickstart.yaml", arms, 2, "null 0.002", factors)
    states = {
        (arm, seed): Outcome("diverged", 1.0, {}, "host", []) if "1e30" in arm else outcome(0.1 * seed, 0.2 * seed)
        for arm in arms
        for seed in range(2)
    }
    by_arm, by_mixup, by_lr = compare_arms(plan, states)[:3]
    assert "No arm has finished" not in by_arm.in_words()
    for one, baseline in ((by_mixup, "mixup=null"), (by_lr, "lr=0.002")):
        assert one.in_words().startswith(f"{baseline} and no other value share a seed: one counts for a value that")
        assert not one.resampled
    assert not any(level.values for level in by_mixup.levels)
    assert _picture(by_mixup) == ""
    assert _picture(by_lr).startswith("data:image/svg+xml")


def test_names_stay_whole_beside_arms_that_lost_seeds_on_a_terminal_of_80_columns():
    values = {"plain": dict.fromkeys(range(3), 0.5), "weighted": {0: 0.5, 2: 0.9}, "pair": {0: 0.55, 1: 0.65}}
    failed = {"weighted": {1: "out of memory"}, "pair": {2: "diverged"}}
    console = Console(width=80, file=io.StringIO())
    console.print(*result_tables([compare_levels("arm", "AP50", values, "plain", failed)]))
    shown = console.file.getvalue()
    assert "weighted" in shown
    assert "2 of 3" in shown
    assert "…" not in shown


def test_the_others_stay_whole_however_many_arms_there_are_on_a_terminal_of_80_columns():
    values = {f"arm number {n}": {0: 0.5 + n / 100, 1: 0.6, 2: 0.5} for n in range(7)}
    comparison = compare_levels("arm", "AP50", values, "arm number 0")
    console = Console(width=80, file=io.StringIO())
    console.print(*result_tables([comparison]))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert shown.count("arm number 6") >= 1 + 5  # beside the baseline, and each of the others
    for (later, earlier), gain in comparison.pairs.items():
        assert re.search(rf"{later} +{earlier} +{re.escape(f'{100 * gain.mean:+.1f}')} ", shown)


def test_luck_counts_all_differences_that_are_shown():
    values = {name: {0: 0.5, 1: 0.6} for name in ("plain", "a", "b", "c")} | {"one": {0: 0.5}}
    comparisons = [compare_levels("arm", measure, values, "plain") for measure in ("AP50", "AP")]
    assert "of the 12 that are shown, luck alone makes one or more exclude zero in up to 46% of such" in luck(
        comparisons
    )
    assert luck([compare_levels("arm", "AP", {"plain": {0: 0.5, 1: 0.6}, "a": {0: 0.5, 1: 0.6}}, "plain")]) == ""


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9, unique=True))
def test_t_interval_is_scipys(differences):
    gain = paired_gain(dict(enumerate(differences)))
    with np.errstate(all="ignore"):
        wanted = scipy.stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert gain.t == pytest.approx((wanted.low, wanted.high), rel=1e-6, abs=1e-9)
    assert gain.range == (min(differences), max(differences))
    if gain.bootstrap is not None:
        assert min(differences) - 1e-9 <= gain.bootstrap[0] <= gain.bootstrap[1] <= max(differences) + 1e-9


def test_one_seed_gives_no_interval_and_says_so():
    comparison = compare_levels("arm", "AP50", {"plain": {0: 0.5}, "mixed": {0: 0.52}}, "plain")
    assert comparison.levels[1].gain.t is None
    assert "mixed, +2.0 points on one seed, which says nothing about how sure that is" in comparison.in_words()


def test_the_interval_covers_the_truth_in_19_of_20_sweeps():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = paired_gain(dict(enumerate(rng.normal(0.01, 0.02, 3)))).t
        covered += low <= 0.01 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_only_seeds_that_both_have_are_compared():
    values = {"plain": {0: 0.5, 1: 0.6, 2: 0.7}, "mixed": {1: 0.62, 2: 0.71, 3: 0.1}}
    plain, mixed = compare_levels("arm", "AP", values, "plain").levels
    assert plain.gain is None
    assert mixed.gain.differences == {1: pytest.approx(0.02), 2: pytest.approx(0.01)}
    nothing = compare_levels("arm", "AP", {"plain": {}, "mixed": {0: 0.5}}, "plain")
    assert nothing.levels[1].gain is None
    assert nothing.in_words() == "No arm has finished a seed that plain has finished too."


def test_the_sentence_tells_what_helped_what_hurt_and_what_is_unclear():
    steady = {seed: 0.5 + 0.01 * seed for seed in range(3)}
    shift = {
        name: {seed: value + by + 0.001 * seed for seed, value in steady.items()}
        for name, by in (("good", 0.02), ("bad", -0.03))
    }
    unclear = {seed: value + (-0.05, 0.0, 0.07)[seed] for seed, value in steady.items()}
    words = compare_levels("arm", "AP50", {"plain": steady, **shift, "unclear": unclear}, "plain").in_words()
    assert words.startswith("Against plain, in AP50, good helped: +2.1 points (3 seeds, 95 % interval +1.9 to +2.3)")
    assert "bad hurt: -2.9 points" in words
    assert words.endswith("Nothing else differs clearly.")
    words = compare_levels("arm", "AP50", {"plain": steady, "unclear": unclear}, "plain").in_words()
    assert words == (
        "Nothing differs clearly from plain in AP50: the most is unclear, "
        "+0.7 points (3 seeds, 95 % interval -14.3 to +15.6)."
    )


def test_a_factor_is_the_mean_over_the_others_of_seeds_that_all_have():
    factors = {"data.mixup.alpha": ("0", "1"), "model.objective": ("weighted", "pair")}
    arms = {
        f"{alpha}{objective}": {"data.mixup.alpha": alpha, "model.objective": objective}
        for alpha in factors["data.mixup.alpha"]
        for objective in factors["model.objective"]
    }
    plan = Plan(ROOT / "configs/quickstart.yaml", arms, 2, "0weighted", factors)
    states = {(arm, 0): outcome(0.1 * place, 0.2 * place) for place, arm in enumerate(arms)}
    states |= {("0weighted", 1): outcome(0.9, 0.9), ("0pair", 1): "running"}
    states["1pair", 1] = Outcome("diverged", 1.0, {}, "host", [])
    comparisons = {(one.factor, one.measure): one for one in compare_arms(plan, states)}
    assert set(comparisons) == {(key, measure) for key in ("arm", *factors) for measure in ("AP", "AP50")}
    alpha = comparisons["data.mixup.alpha", "AP"]
    assert alpha.baseline == "alpha=0"
    assert [level.values for level in alpha.levels] == [{0: pytest.approx(0.05)}, {0: pytest.approx(0.25)}]
    assert [level.losses for level in alpha.levels] == ["", "1 of 2 seeds, 1 diverged"]
    objective = comparisons["model.objective", "AP50"]
    assert [level.values[0] for level in objective.levels] == [pytest.approx(0.2), pytest.approx(0.4)]
