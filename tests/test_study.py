"""The statistics of votes on hand-worked tables, closed forms and planted effects.  .venv/bin/python -m pytest tests/test_study.py"""

import json

import numpy as np
import pytest
from conftest import inside, one_line
from scipy import special, stats

from datagen.files import UserError, canonical, sha256, write_json, write_jsonl
from eval import study, studyreport, surface
from eval.studyfile import Careless

COUNTS = ("characters", "words", "emoji", "bold", "lists", "headings")


def vote(rater="r1", question="q1", won=1.0, **more) -> dict:
    """A joined main vote; the tuned answer is side a and stands left."""
    row = {
        "rater": rater,
        "item": f"tiny {question}",
        "question": question,
        "pair": "tiny",
        "kind": "main",
        "position": 1,
        "seconds": 5.0,
        "seconds_client": 5.0,
        "tuned_won": won,
    }
    row |= {"tuned_left": True, "label": {1.0: "a", 0.0: "b", 0.5: "tie"}[won], "gold_right": None, "repeat_same": None}
    return row | {"points": None, "style": dict.fromkeys(study.STYLE, 0.0), "questionnaire": {"native": "yes"}} | more


def many(seed=1, raters=30, each=12, questions=60, logit=1.0, length=0.0, mean_length=0.0, side=0.0, sd=0.0) -> list[dict]:
    """Votes with a planted effect of the model, of length (its differences spread around mean_length) and of the left side."""
    rng = np.random.default_rng(seed)
    d, tuned_is_a = np.clip(rng.normal(mean_length, 0.3, questions), -0.95, 0.95), rng.random(questions) < 0.5
    rows = []
    for r in range(raters):
        own = sd * rng.normal()
        for i, q in enumerate(rng.permutation(questions)[:each]):
            left = bool(rng.random() < 0.5)
            won = float(rng.random() < special.expit(logit + own + length * d[q] + side * (left - 0.5)))
            style = dict.fromkeys(study.STYLE, 0.0) | {"length": float(d[q])}
            rows.append(
                vote(
                    f"r{r}", f"q{q}", won, tuned_left=left, label="a" if tuned_is_a[q] == won else "b", position=i + 1, seconds=4 + float(rng.exponential(3)), style=style
                )
            )
    return rows


# ---------------------------------------------------------------- shares


def test_with_one_vote_a_rater_the_interval_is_that_of_independent_votes():
    y = np.r_[np.ones(80), np.zeros(20)]
    found = study.share(y, np.arange(100))
    half = stats.t.ppf(0.975, 99) * np.sqrt(0.8 * 0.2 / 99) / (0.8 * 0.2)  # the delta rule on the logit
    assert found["interval"] == pytest.approx(special.expit(special.logit(0.8) + np.array([-half, half])))
    assert (found["value"], found["n"], found["raters"], found["effective raters"]) == (0.8, 100, 100, pytest.approx(100))
    assert found["design effect"] == pytest.approx(100 / 99)


def test_raters_who_always_repeat_themselves_count_once_each():
    rater = np.repeat(np.arange(20), 10)
    y = (rater < 14).astype(float)
    once, repeated = study.share(y[::10], np.arange(20)), study.share(y, rater)
    assert repeated["interval"] == pytest.approx(once["interval"]) and repeated["p"] == pytest.approx(once["p"])
    assert repeated["design effect"] == pytest.approx(200 / 19)
    assert study.by_rater_alone(y, rater) == pytest.approx(once["interval"])


def test_where_all_raters_are_alike_the_interval_is_wilsons_with_raters_for_votes():
    found = study.share(np.ones(40), np.repeat(np.arange(8), 5))
    assert (found["interval"], found["alike"]) == (list(surface.wilson(8, 8)), True)
    assert found["p"] == 2 * 0.5**8
    assert study.share(np.array([1.0, 0, 1]), np.zeros(3))["interval"] == list(surface.wilson(2 / 3, 1))


def test_ties_are_half_a_vote_and_the_exact_test_leaves_them_out():
    found = study.selection([vote(f"r{i}", f"q{i}", won) for i, won in enumerate([1.0] * 9 + [0.0] + [0.5] * 10)])
    assert (found["value"], found["wins"], found["ties"], found["n"]) == (0.7, 9, 10, 20)
    assert found["wilson"] == list(surface.wilson(14, 20))
    assert found["exact p"] == pytest.approx(22 / 1024)  # 2 (1 + 10) / 2^10
    low, high = found["exact"][1:]
    assert (stats.binom.sf(8, 10, low), stats.binom.cdf(9, 10, high)) == (pytest.approx(0.025), pytest.approx(0.025))  # Clopper and Pearson


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order():
    assert study.holm([0.04, 0.01, None, 0.03]) == [pytest.approx(0.06), pytest.approx(0.03), None, pytest.approx(0.06)]


def test_the_paper_beside_ours_has_the_intervals_that_its_counts_allow():
    llama, qwen, nemo = study.paper()
    assert [(row["wins"], row["n"]) for row in (llama, qwen, nemo)] == [(598, 667), (597, 667), (531, 667)]
    assert llama["wilson"]["1.0"] == pytest.approx([0.871, 0.917], abs=5e-4)
    assert nemo["exact"] == pytest.approx([0.763, 0.826], abs=5e-4)
    widths = [np.diff(llama["wilson"][str(effect)])[0] for effect in study.DESIGN_EFFECTS]
    assert widths[1] / widths[0] == pytest.approx(1.5**0.5, rel=0.01) and widths[2] / widths[0] == pytest.approx(3.5**0.5, rel=0.02)


# ---------------------------------------------------------------- explanations


def test_style_control_removes_a_planted_length_effect_and_does_not_centre():
    found = study.style(many(raters=150, each=20, questions=400, logit=0.0, length=3.0, mean_length=0.4))
    assert found["raw"]["share"][1] > 0.65
    assert found["controlled"]["logit"][1] < 0 < found["controlled"]["logit"][2]  # centred, it would be 3 x 0.4
    [length] = [row for row in found["measures"] if row["measure"] == "length"]
    assert length["effect"][1] < 3.0 < length["effect"][2]
    assert found["difference"][1] > 0.8 and found["left"][1] < 0 < found["left"][2] < 0.5


def test_style_control_keeps_a_models_effect_that_length_does_not_explain():
    found = study.style(many(raters=150, each=20, questions=400, logit=1.0, length=0.0, mean_length=0.4))
    assert found["controlled"]["logit"][1] < 1.0 < found["controlled"]["logit"][2]
    assert 0.75 < found["left"][1] < 1 < found["left"][2] < 1.25


def test_measures_that_never_differ_are_left_out_and_extrapolation_is_said():
    rows = many(mean_length=0.9)
    found = study.style(rows)
    assert "bold (never differs)" in found["notes"][0] and [row["effect"] is None for row in found["measures"]] == [False, True, True, True, True]
    assert any(note.startswith("length: mostly extrapolated") for note in found["notes"])
    for row in rows:
        row["style"] = row["style"] | {"emoji": 1.0}
    assert "emoji (always differs by the same" in study.style(rows)["notes"][0]
    assert study.style([row | {"tuned_won": float(i % 2)} for i, row in enumerate(rows)])["left"] is None


def test_differences_are_relative_and_zero_where_neither_has_any():
    counts = lambda *values: dict(zip(COUNTS, values, strict=True))  # noqa: E731
    assert study.differences(counts(300, 0, 2, 0, 0, 1), counts(100, 0, 0, 0, 3, 1)) == {"length": 0.5, "bold": 0, "lists": -1, "headings": 0, "emoji": 1}


def test_a_side_bias_is_seen_and_the_model_does_not_get_it():
    found = study.sides(many(raters=100, each=20, logit=0.5, side=2.0))
    assert found["left"]["interval"][0] > 0.6
    assert found["effect"][1] < 2.0 < found["effect"][2]
    assert found["level"][1] < special.expit(0.5) < found["level"][2]


def test_without_ties_or_variance_the_mixed_model_says_so():
    rows = many(sd=1.0, questions=300)
    found = study.mixed(rows, study.selection(rows)["value"])
    assert "no intercept for questions" in found["note"] and found["sds"]["rater"] > 0.3
    assert found["typical"][0] > found["over all"][0] and abs(found["changes"]) < 0.03
    assert "question" in study.mixed(many(questions=30), 0.7)["sds"]
    assert study.mixed([vote("r1"), vote("r2")], 1.0)["typical"] is None


# ---------------------------------------------------------------- five points


def five_votes(points, **more) -> list[dict]:
    won = {True: 1.0, False: 0.0}
    return [vote(f"r{i}", f"q{i}", 0.5 if p == 0 else won[p > 0], points=p, **more) for i, p in enumerate(points)]


def test_the_mean_of_five_points_is_that_of_independent_votes_with_one_vote_a_rater():
    points = [2] * 30 + [1] * 30 + [0] * 15 + [-1] * 15 + [-2] * 10
    found = study.five(five_votes(points))
    assert (found["mean"]["value"], found["n"]) == (0.55, 100) and found["counts"] == {"2": 30, "1": 30, "0": 15, "-1": 15, "-2": 10}
    moved = (0.55 + 2) / 4
    half = stats.t.ppf(0.975, 99) * (np.std(points, ddof=1) / 4 / 10) / (moved * (1 - moved))  # the delta rule on the logit of the scale moved to 0 to 1
    assert found["mean"]["interval"] == pytest.approx(4 * special.expit(special.logit(moved) + np.array([-half, half])) - 2)
    assert found["dichotomised"][0] == pytest.approx(special.logit(0.675), abs=2e-3)  # the prior pulls by less than this


def test_where_all_votes_are_on_one_point_the_interval_stays_within_the_scale_and_there_is_no_mixed_model():
    found = study.five(five_votes([2] * 12))
    assert found["mean"]["interval"] == pytest.approx([4 * x - 2 for x in surface.wilson(12, 12)]) and found["typical"] is None
    assert "3 raters" in found["note"]
    nothing = study.five(five_votes([0] * 12))
    assert (nothing["mean"]["value"], nothing["location"], nothing["note"]) == (0.0, None, "no vote is for either side")


def test_votes_without_points_have_no_such_table_and_mirrored_votes_a_mirrored_result():
    assert study.five([vote()]) is None
    points = [2, 2, 1, 1, 1, 0, -1, -2, 1, 2] * 6
    one, other = study.five(five_votes(points)), study.five(five_votes([-p for p in points]))
    assert other["location"] == pytest.approx([-one["location"][0], -one["location"][2], -one["location"][1]], abs=1e-5)
    assert other["mean"]["interval"] == pytest.approx([-x for x in one["mean"]["interval"][::-1]])


def test_the_location_of_planted_points_is_found_and_a_typical_raters_is_further_out():
    rng = np.random.default_rng(1)
    rows, own, hard = [], 1.2 * rng.normal(size=60), 0.8 * rng.normal(size=100)
    for r in range(60):
        for q in rng.permutation(100)[:20]:
            p = int(np.searchsorted([-1.8, -0.5, 0.5, 1.8], 1.0 + own[r] + hard[q] + rng.logistic())) - 2
            rows.append(vote(f"r{r}", f"q{q}", 0.5 if p == 0 else float(p > 0), points=p))
    found = study.five(rows)
    assert found["typical"][1] < 1.0 < found["typical"][2] and found["note"] is None
    assert found["sds"] == {"rater": pytest.approx(own.std(), abs=0.2), "question": pytest.approx(hard.std(), abs=0.2)}
    assert 0 < found["location"][1] < 1.0 / np.sqrt(1 + 0.346 * (1.2**2 + 0.8**2)) < found["location"][2] and found["location"][0] < found["typical"][0]
    assert found["mean"]["interval"][0] > 0 and found["mean"]["p"] < 0.05


# ---------------------------------------------------------------- Bradley and Terry


def test_two_models_differ_by_the_logit_of_their_share():
    games = [("t", "b", 1.0)] * 15 + [("t", "b", 0.0)] * 4 + [("b", "t", 0.5)] * 2
    found = study.bradley_terry(games, np.arange(21))
    strength = {row["model"]: row["strength"] for row in found["models"]}
    assert strength["t"] - strength["b"] == pytest.approx(np.log(16 / 5)) and strength["t"] == pytest.approx(-strength["b"])
    assert [row["n"] for row in found["models"]] == [21, 21]


def test_three_models_are_ranked_through_the_one_they_share():
    # 3 to 1 and 1 to 3 against the shared base: the tuned models stand log 9 apart, though they never met.
    games = [("x", "base", 1.0)] * 30 + [("x", "base", 0.0)] * 10 + [("y", "base", 1.0)] * 10 + [("y", "base", 0.0)] * 30
    found = study.bradley_terry(games, np.arange(80) % 40)
    strength = {row["model"]: row["strength"] for row in found["models"]}
    assert [row["model"] for row in found["models"]] == ["x", "base", "y"]
    assert strength["x"] - strength["y"] == pytest.approx(np.log(9)) and sum(strength.values()) == pytest.approx(0, abs=1e-9)
    for row in found["models"]:
        assert row["interval"][0] < row["strength"] < row["interval"][1]


def test_models_that_were_never_compared_are_refused_with_the_parts():
    games = [("x", "b", 1.0), ("x", "b", 0.0), ("y", "c", 1.0), ("y", "c", 0.0)]
    with pytest.raises(UserError, match=r"never compared with each other: b, x; c, y$"):
        study.bradley_terry(games, np.arange(4))


def test_a_model_that_always_wins_has_no_finite_strength():
    with pytest.raises(UserError, match="won or lost every vote"):
        study.bradley_terry([("x", "b", 1.0)] * 5, np.arange(5))


def test_runs_of_one_base_are_ranked_together_also_at_equal_style():
    rows = [row | {"pair": "tiny+beta-0.5", "item": "beta " + row["item"]} for row in many(2, logit=0.5)] + many(3, logit=1.5, length=1.0)
    found = study.ranking(rows)
    assert {row["model"] for row in found["models"]} == {"tiny", "tiny+beta-0.5", "tiny (base)"} == set(found["controlled"])
    assert sum(value[0] for value in found["controlled"].values()) == pytest.approx(0)
    assert "never compared" in study.ranking(rows[:360] + [row | {"pair": "other"} for row in rows[360:]])["note"]


# ---------------------------------------------------------------- agreement


def one(counts) -> dict[str, float]:
    counts = np.array(counts, float)
    return {name: float(value[0]) for name, value in study.agreed(counts, np.ones((1, len(counts)))).items()}


def test_agreement_of_a_hand_computed_table():
    # Two raters, four items: aa, ab, bb, bb. Coincidences: a-a 2, b-b 4, a-b and b-a 1 each; n = 8.
    found = one([[2, 0], [1, 1], [0, 2], [0, 2]])
    assert found["raw"] == 3 / 4
    assert found["alpha"] == pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)))  # 1 - observed / expected disagreement = 8/15
    assert found["ac1"] == pytest.approx((3 / 4 - 15 / 32) / (1 - 15 / 32))  # chance: 2 (3/8) (5/8)


def test_agreement_with_unequal_numbers_of_raters_and_a_third_label():
    # Items abc (3 votes, none agree) and aa: coincidences a-a 2; a-b, a-c, b-c and back 1/2 each; n_a 3, n_b 1, n_c 1.
    found = one([[1, 1, 1], [2, 0, 0]])
    assert found["alpha"] == pytest.approx(1 - (3 / 5) / (2 * (3 + 3 + 1) / (5 * 4)))
    assert found["raw"] == 0.5


def test_alpha_is_one_where_all_agree_on_both_labels_and_unknown_with_one_label():
    assert one([[3, 0], [0, 3], [2, 0]])["alpha"] == 1
    assert np.isnan(one([[3, 0], [2, 0]])["alpha"])


def test_models_labels_bring_alpha_down_and_blind_labels_do_not():
    rng = np.random.default_rng(1)
    rows = []
    for q in range(200):
        a = rng.random() < 0.5
        for r in range(3):
            won = float(rng.random() < 0.9)
            rows.append(vote(f"r{r}", f"q{q}", won, label="a" if a == bool(won) else "b"))
    found = study.agreement(rows)
    assert (found["items"], found["votes"]) == (200, 600)
    assert abs(found["alpha models"][0]) < 0.1 and found["alpha blind"][0] == pytest.approx(0.64, abs=0.07)  # 1 - 4 (0.9) (0.1)
    for name in ("alpha blind", "alpha models", "raw", "ac1"):
        assert found[name][1] < found[name][0] < found[name][2]


def test_items_with_one_vote_say_nothing_of_agreement():
    assert study.agreement([vote("r1", "q1"), vote("r2", "q2")])["alpha blind"] is None


# ---------------------------------------------------------------- raters


def gold(rater: str, right: bool, **more) -> dict:
    return vote(rater, kind="gold", gold_right=right, tuned_won=None, tuned_left=None, **more)


def test_two_failed_golds_or_haste_make_a_rater_careless_and_one_does_not():
    rows = [vote(r, f"q{i}", 1.0) for r in ("good", "bad", "once") for i in range(3)] + [vote("hasty", "q1", seconds_client=0.3)]
    rows += [gold("good", True), gold("bad", False), gold("bad", False), gold("once", False), gold("once", True)]
    rows += [vote("once", kind="repeat", repeat_same=False)]
    found = study.attention(rows, Careless(gold_failed=2, median_seconds=0.8))
    assert {row["rater"]: row["careless"] for row in found} == {
        "bad": "2 gold pairs failed",
        "hasty": "median time 0.3 s, below 0.8 s",
        "once": None,
        "good": None,
    }
    assert not any(row["careless"] for row in study.attention(rows, Careless(gold_failed=None, median_seconds=0)))
    assert [row["careless"] for row in study.attention(rows, Careless(gold_failed=1, median_seconds=0)) if row["rater"] == "once"] == ["1 gold pairs failed"]
    assert [(row["votes"], row["gold failed"], row["gold"], row["repeats changed"]) for row in found if row["rater"] == "once"] == [(3, 1, 2, 1)]


def test_leaving_raters_out_gives_their_effect_with_an_interval():
    rows = many(raters=40, logit=2.0) + [row | {"rater": "coin " + row["rater"]} for row in many(2, raters=10, logit=0.0)]
    found = study.without(rows, {f"coin r{i}" for i in range(10)})
    assert found["left out"] == 10 and found["n"] == 480
    assert found["value"] == pytest.approx(np.mean([row["tuned_won"] for row in rows[:480]]))
    value, low, high = found["difference"]
    assert value == pytest.approx(found["value"] - np.mean([row["tuned_won"] for row in rows])) and 0 < low < value < high
    assert study.without(rows, set())["difference"] == [0, 0, 0]
    assert study.without(rows[:12], {"r0"}) is None


def test_the_most_influential_rater_is_the_one_whose_absence_moves_the_share_most():
    rows = [vote("a", f"q{i}", 1.0) for i in range(4)] + [vote("b", f"q{i}", 0.0) for i in range(2)] + [vote("c", "q1", 1.0)]
    found = study.one_left_out(rows)
    assert (found["most"], found["votes"], found["own"]) == ("a", 4, 1.0)
    assert (found["low"], found["high"], found["without"]) == (pytest.approx(1 / 3), 1.0, pytest.approx(1 / 3))
    assert study.one_left_out(rows[:4]) is None


def test_subgroups_split_by_each_answer():
    rows = [vote(f"r{i}", f"q{i}", float(i % 4 > 0), questionnaire={"native": "yes" if i < 8 else "no"} | ({"age": "18 to 24"} if i else {})) for i in range(20)]
    found = {(row["key"], row["answer"]): (row["n"], row["value"]) for row in study.subgroups(rows)}
    assert found == {("native", "yes"): (8, 0.75), ("native", "no"): (12, 0.75), ("age", "18 to 24"): (19, 15 / 19), ("age", "no answer"): (1, 0.0)}


def test_times_are_medians_by_position():
    rows = [vote(f"r{r}", f"q{p}", position=p, seconds=10.0 / p + r) for r in range(3) for p in (1, 2, 8)] + [vote(seconds=99.0, kind="repeat")]
    found = {row["positions"]: (row["value"], row["n"]) for row in study.times(rows)}
    assert found == {"all": (6.0, 9), "1 to 5": (8.5, 6), "6 to 10": (2.25, 3)}


# ---------------------------------------------------------------- the folder of a study


def exported(rater: str, item: str, kind: str, left: str, chosen: str | None, **more) -> dict:
    row = dict.fromkeys(study.COLUMNS) | {"rater": rater, "item": item, "question_id": item.split("-")[0], "pair": "tiny", "kind": kind, "left_is": left}
    return row | {"chosen": chosen, "position": 1, "seconds_server": 3.0, "native": "no"} | more


KEY = {
    "q1-tiny": {"a": "base", "b": "tuned", "style": {"a": dict.fromkeys(COUNTS, 1), "b": dict.fromkeys(COUNTS, 3)}},
    "q2-tiny": {"a": "tuned", "b": "base", "style": {"a": dict.fromkeys(COUNTS, 0), "b": dict.fromkeys(COUNTS, 2)}},
}


def test_votes_are_joined_with_the_key():
    rows = [exported("r1", "q1-tiny", "main", "b", "b"), exported("r1", "q2-tiny", "main", "b", None), exported("r1", "g1", "gold", "a", "a", gold_right=True)]
    one, two, gold = study.join(rows, KEY)
    assert (one["tuned_won"], one["tuned_left"], one["label"], one["style"]["length"], one["question"]) == (1.0, True, "b", 0.5, "q1")
    assert (two["tuned_won"], two["tuned_left"], two["label"], two["style"]["bold"]) == (0.5, False, "tie", -1)
    assert (gold["tuned_won"], gold["gold_right"], gold["questionnaire"], gold["seconds_client"]) == (None, True, {"native": "no"}, 3.0)
    with pytest.raises(UserError, match=r"key\.json has no item q9"):
        study.join([exported("r1", "q9", "main", "a", "a")], KEY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place = tmp_path / "out" / "votes" / "pilot"
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for r in range(12):
        for n in range(2):
            chosen = {0: "b", 1: "a"}[n] if rng.random() < 0.7 else {0: "a", 1: "b"}[n]
            rows.append(exported(f"r{r}", f"q{n + 1}-tiny", "main", "ab"[r % 2], chosen, position=n + 1, native="<b>yes|no</b>"))
        rows.append(exported(f"r{r}", "g1", "gold", "a", "a", gold_right=r > 1, position=3))
    write_json(place / "key.json", KEY)
    write_jsonl(place / "items.jsonl", [])
    lock(place)
    monkeypatch.setattr(study, "export", lambda _: rows)
    return place


def lock(place, simulated=False, settings=None) -> None:
    settings = {"careless": {"gold_failed": 2, "median_seconds": 0.8}} if settings is None else settings
    hashes = {f"{name.split('.')[0]}_sha256": sha256((place / name).read_bytes()) for name in ("items.jsonl", "key.json")}
    facts = {"study": "pilot", "simulated": simulated, "questions": {"left out": {"cut off": 2}}}
    write_json(place / "study.lock.json", hashes | facts | {"settings_sha256": sha256(canonical(settings)), "settings": settings})


def test_the_report_names_its_votes_and_shows_answers_inert(folder):
    done = inside("eval.studyreport", folder)
    found = json.loads((folder / "report.json").read_text())
    assert (found["votes"], found["raters"], found["questions"], found["whose"]) == (24, 12, 2, "people's votes")
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "<b>yes" not in page and r"\<b\>yes\|no" in text
    assert "left out before the study: 2 cut off." in page and "left out before the study: 2 cut off." in text
    assert "Five points" not in text  # sides only were asked for
    assert "Simulated" not in page and page.count("data:image/svg+xml") == 3
    assert "89.6 % [87.1, 91.7]" in page and r"89.6 % \[87.1, 91.7\]" in text
    assert f"chosen {100 * found['pairs']['tiny']['selection']['value']:.1f} %" in done.stdout
    assert all(len(line.split(" | ")) == len(block[0].split(" | ")) for block in blocks(text) for line in block)


def blocks(text: str) -> list[list[str]]:
    """The tables of a Markdown text, as lines."""
    found = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    assert len(found) > 8
    return [[line for line in table if not line.startswith("|---")] for table in found]


def test_votes_of_people_are_handed_to_the_judge(folder):
    from eval import judge

    rows = study.joined(folder)
    studyreport.votes_for_judge(folder, rows, False)
    votes = judge.read_votes(folder.parent.parent / "tiny" / "votes.jsonl")
    assert len(votes) == 24 and {question for question, _ in votes} == {"q1", "q2"}
    assert sum(choice == "tuned" for _, choice in votes) == sum(row["tuned_won"] == 1 for row in rows)


def test_a_study_of_five_points_reports_them_from_the_raters_side_to_the_models(folder, monkeypatch):
    rows = study.export(folder)
    for i, row in enumerate(rows):
        if row["kind"] == "main":
            side = -1 if row["chosen"] == row["left_is"] else 1
            row["choice"] = side * (1 + i % 2)
    inside("eval.studyreport", folder)
    found = json.loads((folder / "report.json").read_text())["pairs"]["tiny"]
    won = [row for row in study.joined(folder) if row["tuned_won"] == 1]
    assert won and all(row["points"] > 0 for row in won)
    assert found["five"]["counts"]["2"] + found["five"]["counts"]["1"] == found["selection"]["wins"] == len(won)
    text = (folder / "report.md").read_text()
    assert "## Five points (people's votes)" in text and f"{found['five']['mean']['value']:+.2f}" in text


def test_simulated_raters_are_called_so_in_every_title_and_are_no_people_to_the_judge(folder):
    lock(folder, simulated=True)
    inside("eval.studyreport", folder)
    text = (folder / "report.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith(("#", "!["))]
    assert len(titles) > 12 and all("(simulated raters)" in title for title in titles) and "people's votes" not in text
    assert all("(simulated raters)" in (folder / f"{name}.svg").read_text() for name in ("shares", "raters", "times"))
    assert not (folder.parent.parent / "tiny" / "votes.jsonl").exists()


def test_a_key_that_was_changed_after_the_freeze_is_one_line(folder):
    write_json(folder / "key.json", KEY | {"q3-tiny": {}})
    assert "key.json: is not the file that the study was frozen with" in one_line(inside("eval.studyreport", folder, status=1))


def test_the_report_states_the_frozen_rule_and_gives_the_results_with_and_without(folder):
    inside("eval.studyreport", folder)
    [block] = [block for block in blocks((folder / "report.md").read_text()) if block[0].startswith("| pair | raters | chosen")]
    everybody, without = ([cell.strip() for cell in line.split("|")[1:-1]] for line in block[1:])
    assert (everybody[1], everybody[-2:]) == ("all", ["24", "12"]) and (without[1], without[-2:]) == ("without 0 careless", ["24", "12"])
    rule = {"careless": {"gold_failed": 1, "median_seconds": 0.0}}
    lock(folder, settings=rule)
    result = study.result(folder)
    [table] = [table for table in studyreport.tables(result) if table["title"].startswith("Attention")]
    assert "frozen with the study before its first vote: 1 gold pairs failed or more." in table["notes"][0] and table["rows"][1][1] == "without 2 careless"
    found = result["pairs"]["tiny"]["without careless"]
    assert (found["n"], found["raters"], found["left out"]) == (20, 10, 2)
    lock(folder, settings={})
    with pytest.raises(UserError, match="freezes no rule of who is careless"):
        study.result(folder)


def test_a_study_without_votes_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(study, "export", lambda _: [])
    assert "no vote on a pair of answers yet" in one_line(inside("eval.studyreport", folder, status=1))
