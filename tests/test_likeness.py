"""Learning the human-likeness score, and the file of its weights.  .venv/bin/python -m pytest tests/test_likeness.py"""

import json
import random

import numpy as np
import pytest
from conftest import ROOT, inside, one_line

from datagen.files import UserError, canonical, sha256, write_jsonl
from eval import likeness
from eval.likeness import Judge, Texts

JUDGE = Judge("synthetic", "places 1 to 4", None)
TRUE = {"a": 2.0, "b": -1.2, "c": 0.6, "d": 0.0}


def synthetic(n=600, seed=3, weights=TRUE, flip=False):
    """n pairs rated by a judge whose ratings are of known weight: of two texts, the one that a draw by the true logit calls a person's, against one that it does not."""
    rng = np.random.default_rng(seed)
    true, sides = np.array(list(weights.values())), {0: [], 1: []}
    while min(map(len, sides.values())) < n:
        x = rng.integers(1, 6, len(true)).astype(float)
        sides[int(rng.random() < 1 / (1 + np.exp(-((x - 3) / np.sqrt(2)) @ true)))].append(x)
    pairs = [(sides[1][i], sides[0][i]) for i in range(n)]
    if flip:
        pairs = [pair[::-1] if rng.random() < 0.5 else pair for pair in pairs]
    x = np.array([row for pair in pairs for row in pair])
    return Texts(tuple(weights), x, np.tile([1, 0], n), np.repeat(np.arange(n), 2), np.arange(n), np.array([""] * n), "dialogue", JUDGE)


def games(n=24, seed=5, **more):
    """Games of which people type in small letters and ask, and the AI in whole sentences; not without exceptions."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        person = [rng.choice(["yeah idk", "lol no", "why do u ask?", "Maybe later."]) + f" {i}" for _ in range(3)]
        model = [rng.choice(["That is a good point.", "I would say so, indeed.", "maybe, who knows?", "Interesting!"]) + f" {i}" for _ in range(3)]
        human, ai = ("\n".join(f"I: so?\nW: {turn}" for turn in said) for said in (person, model))
        rows.append({"game_id": f"g{i}", "human": human, "ai": ai, "ai_model": ("x", "y")[i % 2]} | more)
    return rows


def rated(n=24, **change):
    rows = games(n)
    for i, row in enumerate(rows):
        row["ratings"] = {"judge": "synthetic", "human": [1 + i % 5, 4, None], "ai": [5, 2, 1 + i % 3]}
    rows[7]["ratings"] |= change
    return rows


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights that was fitted on games, by turns; bootstraps left out."""
    monkeypatch.setattr(likeness, "stability", lambda *_: {})
    write_jsonl(tmp_path / "games.jsonl", games())
    data = likeness.texts(str(tmp_path / "games.jsonl"))
    likeness.save(tmp_path / "w.json", str(tmp_path / "games.jsonl"), data, likeness.fit(data), {})
    return tmp_path / "w.json"


def rewritten(path, change, sign=True):
    """Changes a file of weights, and signs it anew, as somebody might who means it."""
    value = json.loads(path.read_text())
    change(value)
    if sign:
        value.pop("sha256")
        value |= {"sha256": sha256(canonical(value))}
    path.write_text(json.dumps(value))
    return path


# ---------------------------------------------------------------- the fit


def test_known_weights_are_recovered_in_sign_and_order():
    found = dict(zip(TRUE, likeness.fit(synthetic()).weight, strict=True))
    assert found["a"] > -found["b"] > found["c"] > 0.1 and found["b"] < 0 and abs(found["d"]) < 0.1


def test_shuffled_labels_pick_the_person_half_of_the_time():
    data = synthetic(flip=True)
    assert abs(likeness.measures(likeness.cross_validated(data, likeness.fitted, 2), data.group)["pairwise"]["value"] - 0.5) <= 0.05
    data = synthetic()
    assert likeness.measures(likeness.cross_validated(data, likeness.fitted, 1), data.group)["pairwise"]["value"] > 0.85


def test_the_order_of_the_traits_changes_no_score():
    data = synthetic(100)
    order = [2, 0, 3, 1]
    other = Texts(tuple(data.ids[i] for i in order), data.x[:, order], data.y, data.pair, data.group, data.source, data.unit, data.judge).only(data.ids)
    assert other.ids == data.ids and np.allclose(likeness.fit(other).raw(other.x), likeness.fit(data).raw(data.x), rtol=0, atol=1e-12)


def test_the_order_of_a_weight_file_changes_no_score(weights):
    data = likeness.texts(str(weights.with_name("games.jsonl")))
    before = likeness.load(weights).raw(data.x)
    value = json.loads(weights.read_text())
    weights.write_text(json.dumps(value | {"traits": dict(reversed(value["traits"].items()))}))
    assert np.array_equal(likeness.load(weights).raw(data.x), before) and np.allclose(before, likeness.fit(data).raw(data.x))


def test_swapping_the_sides_negates_the_pair():
    data = synthetic(80)
    swapped = Texts(data.ids, data.x, 1 - data.y, data.pair, data.group, data.source, data.unit, data.judge)
    raw = likeness.fit(data).raw(data.x)
    one, other = likeness.by_side(data, raw), likeness.by_side(swapped, raw)
    assert np.array_equal(one[:, 0] - one[:, 1], -(other[:, 0] - other[:, 1]))
    assert np.allclose(likeness.fit(swapped).weight, -likeness.fit(data).weight, atol=1e-3)


def test_pairwise_accuracy_is_exact_and_a_tie_counts_half():
    sides = np.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, -1.0]]])
    found = likeness.measures(sides, np.arange(4))
    assert found["pairwise"]["value"] == 2.5 / 4 and found["pairwise"]["n"] == 4
    assert found["accuracy"]["value"] == (0.5 + 0 + 0.5 + 1) / 4  # a score of 0 is neither
    assert likeness.measures(sides, np.array([0, 0, 0, 1]))["pairwise"]["value"] == (0.5 + 1) / 2  # groups count, not pairs


def test_folds_never_split_a_group():
    group = np.repeat(np.arange(30), 3)
    for seed in range(3):
        fold = likeness.folds(group, seed)
        assert all(len(set(fold[group == g])) == 1 for g in range(30)) and set(fold) == set(range(likeness.FOLDS))


def test_a_side_weighs_the_same_however_many_turns_it_has():
    data = synthetic(40)
    rows = np.r_[np.arange(80), np.repeat([0, 5], 7)]  # the same texts, some eight times
    more = Texts(data.ids, data.x[rows], data.y[rows], data.pair[rows], data.group, data.source, "turn", data.judge)
    assert np.allclose(likeness.by_side(more, more.x[:, 0]), likeness.by_side(data, data.x[:, 0]))
    share = 1 / np.bincount(more.pair * 2 + more.y)[more.pair * 2 + more.y]
    assert share.sum() == pytest.approx(80)


def test_contributions_sum_to_the_score_and_what_is_missing_adds_nothing():
    model = likeness.fit(synthetic(60))
    x = np.array([[5.0, 1.0, np.nan, 3.0], [np.nan] * 4, [99.0, 1.0, 1.0, 1.0]])
    adds = model.contributions(x)
    assert np.allclose(adds.sum(axis=1) + model.intercept, model.raw(x)) and adds[0, 2] == 0 and model.raw(x)[1] == model.intercept
    assert model.raw(x)[2] == model.raw(np.array([[5.0, 1.0, 1.0, 1.0]]))[0]  # beyond what was seen counts as the outermost


# ---------------------------------------------------------------- reading


def test_missing_ratings_stay_missing(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", rated())
    data = likeness.texts(str(tmp_path / "r.jsonl"))
    assert data.rated == ["place-01", "place-02", "place-03"] and data.ids == tuple(sorted(data.ids))
    third = data.x[:, data.ids.index("place-03")]
    assert np.isnan(third[data.y == 1]).all() and not np.isnan(third[data.y == 0]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"human": [0, 4, 1]}, "row 8: ratings are whole numbers from 1 to 5, or null; got '0'"),
        ({"human": [6, 4, 1]}, "row 8: ratings are whole numbers from 1 to 5, or null; got '6'"),
        ({"ai": ["4", 4, 1]}, "row 8: ratings are whole numbers from 1 to 5, or null; got '4'"),
        ({"ai": [True, 4, 1]}, "row 8: ratings are whole numbers from 1 to 5, or null; got 'True'"),
        ({"ai": [2.5, 4, 1]}, "row 8: ratings are whole numbers from 1 to 5, or null; got '2.5'"),
        ({"human": [1, 4]}, "row 8: 2 ratings of human, elsewhere 3"),
        ({"judge": "another"}, "row 8 was rated by another, the rows before it by synthetic"),
        ({"ai": None}, "row 8: ratings are {judge, human: "),
    ],
)
def test_bad_ratings_are_one_line_that_names_the_row(change, words, tmp_path):
    write_jsonl(tmp_path / "r.jsonl", rated(**change))
    assert words in one_line(inside("eval.likeness", tmp_path / "r.jsonl", status=1))


def test_a_row_without_ratings_among_others_is_named(tmp_path):
    rows = rated()
    rows[4].pop("ratings")
    write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(UserError, match="row 5 has no ratings, and others have"):
        likeness.texts(str(tmp_path / "r.jsonl"))


def test_games_and_replies_in_one_file_are_one_line(tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [*games(2), {"prompt": "So?", "chosen": "yes", "rejected": "no"}])
    assert "holds both games and replies" in one_line(inside("eval.likeness", tmp_path / "m.jsonl", status=1))


def test_too_few_groups_are_one_line(tmp_path):
    write_jsonl(tmp_path / "g.jsonl", games(9))
    assert "9 groups are too few to learn from; at least 10 are needed" in one_line(inside("eval.likeness", tmp_path / "g.jsonl", status=1))


def test_a_game_that_stands_in_both_files_is_left_out_of_the_fit(tmp_path):
    rows, test = games(24), games(12, seed=6)
    for i, row in enumerate(test):
        row["game_id"] = f"t{i}"
    test[0] |= {"human": rows[3]["human"]}  # the same text under another name
    test[1] |= {"game_id": "g5"}
    for name, some in (("fit", rows), ("test", test)):
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    done = inside("eval.likeness", tmp_path / "fit.jsonl", "--test", tmp_path / "test.jsonl")
    assert f"2 pairs of {tmp_path / 'fit.jsonl'} stand in {tmp_path / 'test.jsonl'}, too: left out of the fit" in done.stdout
    assert "fitted on 22 pairs" in done.stdout and done.stdout.splitlines()[-1].startswith("the score (surface): pairwise_accuracy=") and "n=12" in done.stdout
    assert "nothing is left to fit on" in one_line(inside("eval.likeness", tmp_path / "fit.jsonl", "--test", tmp_path / "fit.jsonl", status=1))


def test_a_test_file_may_lack_the_ratings_but_not_have_another_judges(tmp_path):
    other = rated()
    for i, row in enumerate(other):
        row["game_id"], row["human"], row["ai"] = f"o{i}", row["human"] + " o", row["ai"] + " o"
    write_jsonl(tmp_path / "fit.jsonl", rated())
    write_jsonl(tmp_path / "bare.jsonl", [{k: v for k, v in row.items() if k != "ratings"} for row in other])
    for row in other:
        row["ratings"]["judge"] = "another"
    write_jsonl(tmp_path / "other.jsonl", other)
    assert "the score (surface): " in inside("eval.likeness", tmp_path / "fit.jsonl", "--test", tmp_path / "bare.jsonl").stdout.splitlines()[-1]
    assert "weights do not carry over between judges" in one_line(inside("eval.likeness", tmp_path / "fit.jsonl", "--test", tmp_path / "other.jsonl", status=1))


# ---------------------------------------------------------------- the file of weights


def swap(value):
    """The weights of two traits, each on the other's."""
    one, two = sorted(value["traits"].values(), key=lambda row: row["weight"])[:: len(value["traits"]) - 1]
    assert one["weight"] != two["weight"]
    one["weight"], two["weight"] = two["weight"], one["weight"]


@pytest.mark.parametrize(
    ("change", "sign", "words"),
    [
        (swap, False, "was changed after it was written"),
        (lambda v: v["traits"].update({"asks": v["traits"]["commas"], "commas": v["traits"]["asks"]}), False, "was changed after it was written"),
        (
            lambda v: v["traits"].update({"asks": v["traits"]["commas"], "commas": v["traits"]["asks"]}),
            True,
            "fitted on other surface traits than this version counts (asks …)",
        ),
        (lambda v: v["traits"]["asks"].update(weight=9.0), False, "was changed after it was written"),
        (lambda v: v.update(intercept=1.0), False, "was changed after it was written"),
        (lambda v: v.update(surface="0" * 16), True, "fitted on other surface traits"),
        (lambda v: v["traits"].update({"made-up": v["traits"]["asks"]}), True, "has weights of made-up, which no surface trait is called"),
        (lambda v: v.update(form="weights, 0"), True, "not a file of weights"),
    ],
)
def test_a_weight_file_that_was_changed_is_refused_in_one_line(weights, change, sign, words):
    with pytest.raises(UserError) as caught:
        likeness.load(rewritten(weights, change, sign))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_a_judge_are_refused_for_another_judge_rubric_or_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(likeness, "stability", lambda *_: {})
    write_jsonl(tmp_path / "r.jsonl", rated())
    data = likeness.texts(str(tmp_path / "r.jsonl"))
    likeness.save(tmp_path / "w.json", str(tmp_path / "r.jsonl"), data, likeness.fit(data), {})
    known = Judge("synthetic", "places 1 to 3", None)
    assert np.allclose(likeness.load(tmp_path / "w.json", known).raw(data.x), likeness.fit(data).raw(data.x))
    for other in (None, Judge("another", known.rubric, None), Judge(known.name, "another rubric", None), Judge(known.name, known.rubric, "another prompt")):
        with pytest.raises(UserError, match="weights say nothing of other judges"):
            likeness.load(tmp_path / "w.json", other)


def test_the_weights_of_the_repository_are_those_of_this_version():
    for name in ("turn", "dialogue"):
        model = likeness.load(ROOT / f"eval/weights/{name}.json")
        assert model.about["unit"] == name and (model.weight != 0).sum() >= 10 and not model.about["judge"]


@pytest.mark.slow
def test_the_whole_cross_validation_is_printed_and_its_weights_kept(tmp_path):
    write_jsonl(tmp_path / "g.jsonl", games(30))
    done = inside("eval.likeness", tmp_path / "g.jsonl", "--save", tmp_path / "w.json")
    assert "each model left out of the fit (surface): x " in done.stdout and "-> " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("the score (surface): pairwise_accuracy=") and done.stdout.splitlines()[-1].endswith("n=30")
    assert all({"used", "same sign"} <= row.keys() for row in json.loads((tmp_path / "w.json").read_text())["traits"].values() if row["weight"])
