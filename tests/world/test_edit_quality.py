"""What the benchmark edits, what it records, and what it compares: the parts that no table shows to be wrong."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.edit_quality import __main__ as whole, contenders as rows, evidence, methods, signals
from benchmarks.edit_quality.candidates import candidates
from benchmarks.edit_quality.cases import BACKGROUNDS, FIRST_INDEX, KINDS, MASKS, PER_CELL, cases, succeeds
from benchmarks.edit_quality.contenders import KV_LOCK, contenders
from benchmarks.edit_quality.recordings import REFERENCE, file_of, samplings
from benchmarks.edit_quality.runs import ANSWER_TRIP, ROUND_TRIP
from benchmarks.edit_quality.task import Remembering, Sampling
from kvlock_core import RiskSettings, calibrate
from kvlock_diffusers.edit import EditSettings
from toy.classify import NOTHING, Sighting
from toy.scenes import scene

SPLITS = {"validation": 32, "test": 64}

# cases ----------------------------------------------------------------------------------------------------------------


def check_balanced(found, per_cell):
    cells = Counter((case.kind, case.mask, case.background) for case in found)
    assert cells == dict.fromkeys(product(KINDS, MASKS, BACKGROUNDS), per_cell)


@pytest.mark.parametrize("split, count", SPLITS.items())
def test_every_kind_mask_and_background_comes_equally_often(split, count):
    found = cases(split)
    assert len(found) == count and {case.split for case in found} == {split}
    check_balanced(found, PER_CELL[split])


def test_the_balance_checker_bites():
    found = cases("test")
    with pytest.raises(AssertionError):
        check_balanced(found[1:], PER_CELL["test"])
    with pytest.raises(AssertionError):
        check_balanced([replace(found[0], mask="loose"), *found[1:]], PER_CELL["test"])


@pytest.mark.parametrize("split", SPLITS)
def test_no_clip_is_edited_twice_and_none_was_looked_at(split):
    indices = [case.index for case in cases(split)]
    assert len(set(indices)) == len(indices) and min(indices) >= FIRST_INDEX


def test_names_tell_cases_apart():
    names = [case.name for split in SPLITS for case in cases(split)]
    assert len(set(names)) == len(names) == sum(SPLITS.values())


@pytest.mark.parametrize("split", SPLITS)
def test_a_background_is_called_what_it_does(split):
    for case in cases(split):
        clip = scene(split, case.index)
        assert (case.background == "still") == (clip.ball is None and not any(clip.background.pan))


@pytest.mark.parametrize("split", SPLITS)
def test_each_kind_changes_what_it_says(split):
    for case in cases(split):
        told, retold, clip = case.told, case.retold, scene(split, case.index)
        changed = (told.color != retold.color, told.shape != retold.shape)
        assert changed == {"color": (True, False), "shape": (False, True), "removal": (True, True), "addition": (True, True)}[case.kind]
        assert (case.goal.color, case.goal.shape) == (retold.color, retold.shape)
        if case.kind == "removal":
            assert told == clip and (case.goal.color, case.goal.shape) == (None, None)
        if case.kind == "addition":
            assert told == clip.emptied() and (told.color, told.shape) == (None, None) and retold == clip


def test_a_loose_mask_contains_the_tight_one():
    for kind in KINDS:
        case = next(case for case in cases("validation") if case.kind == kind)
        tight, loose = (replace(case, mask=mask).edit_mask() for mask in ("tight", "loose"))
        assert set(tight.unique().tolist()) == {0.0, 1.0}
        assert (loose >= tight).all() and loose.sum() > 1.3 * tight.sum()


def test_success_is_both_as_wanted():
    goal = Sighting("red", "cross")
    assert succeeds(goal, Sighting("red", "cross", share=0.4))
    for seen in (Sighting("blue", "cross"), Sighting("red", "circle"), Sighting("red", None), NOTHING):
        assert not succeeds(goal, seen)
    assert succeeds(NOTHING, NOTHING) and not succeeds(NOTHING, Sighting("red", None))


# the signal -----------------------------------------------------------------------------------------------------------

PAPERS, RATE = signals.FORMS["variance, last 10 (paper)"], signals.FORMS["rate (default)"]
#: Samplings whose levels reach from below 0.25 to above 0.8 early enough for any window.
SAMPLED = (REFERENCE, Sampling(50, 3.0), Sampling(50, 1.0), Sampling(30, 5.0))
SLOPES = (1.0, 2.0, 4.0)


def drift(sampling, slope=1.0):
    """A recording whose prediction moves straight along sigma: mean square change `slope` squared per unit."""
    sigmas = sampling.scheduler().sigmas[:-1].double().numpy()
    start, way = np.random.default_rng(0).normal(size=(2, 3, 7))
    way *= slope / np.sqrt(np.square(way).mean())
    return {"sigmas": sigmas, "x0": start + sigmas[:, None, None] * way, "ratio": np.zeros(len(sigmas)), "apart": np.zeros(0)}


@pytest.fixture(scope="module")
def drifts():
    return signals.Recordings({one: [drift(one, slope) for slope in SLOPES] for one in SAMPLED})


def test_the_rate_of_a_straight_drift_is_the_same_under_every_sampling(drifts):
    for found in signals.medians_at_levels(drifts, RATE).values():
        assert found == pytest.approx([np.square(SLOPES[1])] * len(signals.LEVELS), rel=1e-3)
    assert signals.spread_at_levels(drifts, RATE, lambda one: True) == pytest.approx([1.0] * len(signals.LEVELS), rel=1e-3)


def test_its_variance_is_not(drifts):
    assert min(signals.spread_at_levels(drifts, PAPERS, lambda one: True)) > 1.5
    assert signals.spread_at_levels(drifts, PAPERS, lambda one: one == REFERENCE) == pytest.approx([np.nan] * 4, nan_ok=True)


def test_between_steps_a_signal_is_straight_in_its_logarithm():
    sigmas = np.array([1.0, 0.7, 0.5, 0.3, 0.1])
    found = signals.at_levels({"sigmas": sigmas}, np.exp(3 * sigmas - 1))
    assert found == pytest.approx(np.exp(3 * np.array(signals.LEVELS) - 1))


def test_outside_what_is_known_a_signal_is_not_known():
    sigmas = np.array([1.0, 0.7, 0.5, 0.3, 0.1])
    found = signals.at_levels({"sigmas": sigmas}, np.array([np.nan, 2.0, 2.0, 2.0, 0.0]))
    known = [0.3 <= level <= 0.7 for level in signals.LEVELS]
    assert any(known) and not all(known)
    assert np.isfinite(found).tolist() == known and found[known] == pytest.approx(2.0)
    for values in ([np.nan] * 5, [np.nan, 2.0, np.nan, 0.0, np.inf]):
        assert np.isnan(signals.at_levels({"sigmas": sigmas}, np.array(values))).all()


def test_a_recorded_signal_is_the_trace_of_a_run_that_watched():
    run, values = {"sigmas": np.array([0.9, 0.6, 0.3])}, np.array([np.nan, 4.0, 1.0])
    steps = signals.trace_of(run, values).steps
    assert [(step.step, step.sigma, step.risk) for step in steps] == [(0, 0.9, None), (1, 0.6, 4.0), (2, 0.3, 1.0)]
    assert not any(step.active or step.needs_source or step.alpha for step in steps)


def test_the_suggested_tau_is_what_the_product_suggests(drifts):
    found = signals.suggested_taus(drifts, RATE)
    for one, slope in product(SAMPLED, SLOPES):
        run = drifts.runs[one][SLOPES.index(slope)]
        tau = found[one][SLOPES.index(slope)]
        assert tau == calibrate(signals.trace_of(run, RATE(run)), signals.WHOLE).tau
        assert tau == pytest.approx(2 * slope**2, rel=1e-2)  # alpha is 1/2 where the risk is slope squared
    assert signals.reference_tau(drifts, RATE) == found[REFERENCE][1]


def test_a_run_without_a_signal_suggests_nothing():
    assert np.isnan(signals.suggested_taus(signals.Recordings({REFERENCE: [drift(REFERENCE)]}), signals.same_level)[REFERENCE]).all()


def test_alpha_of_a_step_follows_the_step_before_and_counts_by_its_length():
    recorded = signals.Recordings({REFERENCE: [{"sigmas": np.array([1.0, 0.9, 0.7, 0.3])}]})
    found = signals.mean_alphas(recorded, lambda run: np.array([np.nan, 1.0, 3.0, 100.0]), 4.0)
    assert found[REFERENCE] == pytest.approx([(0.4 * 0.25 + 0.3 * 0.75) / 0.7])


def test_samplings_agree_if_they_rank_clips_alike():
    other, third = SAMPLED[1:3]
    alphas = {REFERENCE: np.array([0.1, 0.5, 0.9]), other: np.array([0.3, 0.4, 0.6]), third: np.array([0.9, 0.5, 0.1])}
    assert signals.agreement(alphas, lambda one: one == other) == pytest.approx(1.0)
    assert signals.agreement(alphas, lambda one: one == third) == pytest.approx(-1.0)
    assert signals.agreement(alphas, lambda one: True) == pytest.approx(0.0)  # the reference itself does not count
    assert np.isnan(signals.agreement(alphas, lambda one: one == REFERENCE))


def test_straight_drifts_agree_by_their_rate(drifts):
    alphas = signals.mean_alphas(drifts, RATE, tau=20.0)
    assert signals.agreement(alphas, lambda one: True) == pytest.approx(1.0)
    for one in SAMPLED:
        assert alphas[one] == pytest.approx(np.square(SLOPES) / 20.0, rel=1e-3)


def test_the_default_form_is_the_products():
    run = drift(REFERENCE) | {"x0": np.random.default_rng(1).normal(size=(20, 3, 7))}
    assert np.array_equal(RATE(run), signals.by_window(RiskSettings())(run), equal_nan=True)
    assert not np.allclose(RATE(run)[1:], PAPERS(run)[1:])


def test_only_cases_that_every_sampling_has_are_read(tmp_path):
    complete, partial = cases("validation")[:2]
    for one in samplings():
        np.savez(file_of(tmp_path, complete, one), sigmas=np.ones(one.steps))
    np.savez(file_of(tmp_path, partial, REFERENCE), sigmas=np.ones(3))
    found = signals.Recordings.read(tmp_path, [complete, partial], samplings())
    assert {one: [len(run["sigmas"]) for run in runs] for one, runs in found.runs.items()} == {one: [one.steps] for one in samplings()}


# the transformer that remembers ---------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A net that says how often it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, latents, t, words, return_dict=True):
        self.calls += 1
        return (latents * t.view(-1, 1) + words.sum(),)


def asked(rows=1, value=1.0, t=2.0, word=3.0):
    return torch.full((rows, 4), value), torch.full((rows,), t), torch.full((rows, 2), word)


def test_a_row_that_was_seen_is_not_computed_again():
    net = Counting()
    remembering = Remembering(net)
    first, again = (remembering(*asked(), return_dict=False)[0] for _ in range(2))
    assert again is first and torch.equal(first, net(*asked())[0]) and net.calls == 1 + 1
    assert remembering.rows == 2


@pytest.mark.parametrize("other", [dict(value=1.5), dict(t=2.5), dict(word=3.5)])
def test_another_latent_level_or_text_is_computed(other):
    net = Counting()
    remembering = Remembering(net)
    remembering(*asked())
    assert torch.equal(remembering(*asked(**other))[0], net(*asked(**other))[0]) and net.calls == 2 + 1


def test_calls_of_several_rows_are_counted_and_never_remembered():
    net = Counting()
    remembering = Remembering(net)
    for _ in range(2):
        remembering(*asked(rows=3))
    remembering(*asked())
    assert net.calls == 3 and remembering.rows == 7


def test_one_that_must_not_remember_computes_everything():
    net = Counting()
    remembering = Remembering(net, remembers=False)
    for _ in range(2):
        remembering(*asked())
    assert net.calls == remembering.rows == 2


# the tables' rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [contenders, candidates])
def test_no_name_comes_twice(make):
    names = [method.name for method in make()]
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize("chosen", [evidence.RIVALS, evidence.SHEET_METHODS, rows.QUICK_METHODS], ids=["rivals", "sheet", "quick"])
def test_whom_the_text_names_takes_part(chosen):
    assert set(chosen) <= {method.name for method in contenders()} and len(set(chosen)) == len(chosen)


def test_the_short_run_has_all_of_its_methods_and_a_picture_shows_each_kind():
    assert sorted(method.name for method in rows.quick_contenders()) == sorted(rows.QUICK_METHODS)
    assert [case.kind for case in whole.pictured()] == list(KINDS)


def told_to_the_engine(monkeypatch, name):
    """Settings and composite that a row of the table runs with."""
    seen = []
    monkeypatch.setattr(methods, "session_run", lambda task, settings, **how: seen.append((settings, how.get("composited", False))))
    next(method for method in contenders() if method.name == name).edit(None)
    return seen[0]


def test_kv_lock_in_the_table_is_the_product_as_it_comes(monkeypatch):
    product_as_it_comes = EditSettings(prompt="")
    assert rows.DEFAULT == product_as_it_comes.session
    assert told_to_the_engine(monkeypatch, KV_LOCK) == (product_as_it_comes.session, product_as_it_comes.composite)


def test_that_comparison_bites(monkeypatch):
    product_as_it_comes = EditSettings(prompt="")
    for name in ("KV-Lock, steady", "KV-Lock, no composite", "paper, full", rows.NO_LOCK):
        assert told_to_the_engine(monkeypatch, name) != (product_as_it_comes.session, product_as_it_comes.composite)


# the committed document ------------------------------------------------------------------------------------------------

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_evidence_is_of_todays_methods_and_of_all_test_clips():
    """Whoever adds a method or changes the cases has to run the benchmark again."""
    runs = json.loads((DOCS / "evidence.json").read_text(encoding="utf-8"))["runs"]
    done = {(run["case"], run["method"]) for run in runs}
    wanted = {(case.name, name) for case in cases("test") for name in (ROUND_TRIP, ANSWER_TRIP, *(m.name for m in contenders()))}
    assert done == wanted and len(runs) == len(wanted)


def test_the_document_shows_every_method_and_every_picture_is_there():
    text = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert all(f"**{m.name}**" in text for m in contenders()) and all(f"| {m.name} |" in text for m in candidates())
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) >= 4 and all((DOCS / name).stat().st_size > 10_000 for name in pictures)
