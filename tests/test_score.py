"""Scores of texts, explained, and of two sides, compared; and the second scorer.  .venv/bin/python -m pytest tests/test_score.py"""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, inside, one_line

from datagen.files import UserError, read_json, read_jsonl, sha256, write_json, write_jsonl
from datagen.traits import contrast
from eval import likeness, score, second, traits

EVIL = "<script>alert(1)</script> http://evil.example"


def answers(n=24):
    return [
        {
            "id": f"a{i}",
            "kind": "general",
            "messages": [{"role": "user", "content": f"What about rain number {i}?"}],
            "base": f"Generally, rain number {i} is beneficial. Furthermore, it provides water.",
            "tuned": f"oh i love rain number {i} lol" + ("?" if i % 3 else f" {EVIL}"),
        }
        for i in range(n)
    ]


def pairs(n=60):
    opening = ("Oh, honestly", "haha well", "Yeah", "hm, i guess")
    return [
        {
            "id": f"p{i}",
            "prompt": f"What about thing number {i}?",
            "chosen": f"{opening[i % 4]}, thing {i} is fun to me!",
            "rejected": f"Thing {i} is considered useful in general.",
        }
        for i in range(n)
    ]


@pytest.fixture
def file(tmp_path):
    write_jsonl(tmp_path / "answers.jsonl", answers())
    return tmp_path / "answers.jsonl"


@pytest.fixture
def few(tmp_path):
    """Too few rows for a comparison, and so for a figure."""
    write_jsonl(tmp_path / "few.jsonl", answers(3))
    return tmp_path / "few.jsonl"


def test_what_the_traits_add_sums_to_the_score(few):
    found = score.report(few)
    model = likeness.load(ROOT / "eval/weights/turn.json")
    rows = read_jsonl(few.with_name("few-likeness.jsonl"))
    assert [(row["id"], row["side"]) for row in rows] == [(f"a{i}", side) for i in range(3) for side in ("tuned", "base")]
    assert all(row["raw"] == pytest.approx(sum(row["adds"].values()) + model.intercept, abs=1e-2) for row in rows)
    assert all(row["z"] == pytest.approx((row["raw"] - model.centre) / model.spread) for row in rows)
    assert "compared" not in found and found["mean"]["base"]["n"] == 3 and found["sha256"] == sha256(few.read_bytes())
    assert not few.with_name("few-likeness.html").exists()


@pytest.mark.slow
def test_a_comparison_adds_up_and_swapping_the_sides_negates_it():
    model = likeness.load(ROOT / "eval/weights/turn.json")
    rows = [{"context": row["messages"][0]["content"]} | row for row in answers()]
    one, two = (score.matrix(model, rows, side, "reply") for side in ("tuned", "base"))
    there, back = score.compare(model, one, two), score.compare(model, two, one)
    assert there["difference"]["value"] == pytest.approx(-back["difference"]["value"]) and there["difference"]["low"] == pytest.approx(
        -back["difference"]["high"], abs=0.05
    )
    assert there["higher"]["value"] == pytest.approx(1 - back["higher"]["value"])
    assert sum(row["adds"]["value"] for row in there["traits"]) == pytest.approx(there["difference"]["value"])
    assert there["length"]["value"] + there["rest"]["value"] == pytest.approx(there["difference"]["value"])
    assert there["difference"]["value"] == pytest.approx(there["means"][0] - there["means"][1])
    same = score.compare(model, one, one)
    assert same["higher"]["value"] == 0.5 and same["difference"] == {"value": 0, "low": 0, "high": 0, "n": 24} and same["plain"]["n"] == 0


def test_estimates_of_columns_are_means_over_what_is_known():
    rng = np.random.default_rng(4)
    columns = np.column_stack([rng.normal(1, 2, 300), np.full(300, 0.1), np.where(rng.random(300) < 0.5, np.nan, rng.normal(size=300))])
    one, two, three = score.estimates(columns)
    assert one["value"] == pytest.approx(columns[:, 0].mean()) and (one["low"], one["high"]) == pytest.approx(
        tuple(score.estimate(columns[:, 0])[key] for key in ("low", "high")), abs=0.03
    )
    assert two == {"value": pytest.approx(0.1), "low": pytest.approx(0.1), "high": pytest.approx(0.1), "n": 300}
    assert three["n"] == (~np.isnan(columns[:, 2])).sum() and three["value"] == pytest.approx(np.nanmean(columns[:, 2]))


def test_one_text_is_explained_in_words(few):
    done = inside("eval.score", few, "--text", "a1")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("a1 (tuned): ") and re.match(r"score [+-]\d+\.\d\d \(logit; z [+-]", lines[1])
    model = likeness.load(ROOT / "eval/weights/turn.json")
    x = score.counted(model, "reply", answers()[1]["tuned"], answers()[1]["messages"][0]["content"])
    assert f"score {float(model.raw(x[None])[0]):+.2f}" in lines[1]
    best = int(np.argmax(model.contributions(x[None])[0]))
    assert any(line.startswith(f"  for a person: {traits.BY_ID[model.ids[best]].definition}: {x[best]:.2f}") for line in lines)
    assert "has no text with the id 'zz'; the first is 'a0'" in one_line(inside("eval.score", few, "--text", "zz", status=1))
    assert not few.with_name("few-likeness.json").exists()


def test_weights_of_dialogues_refuse_a_reply(few):
    done = inside("eval.score", few, "--weights", ROOT / "eval/weights/dialogue.json", status=1)
    assert "these weights were learnt from whole dialogues, and this text is one reply" in one_line(done)


def test_a_dialogue_by_weights_of_turns_is_the_mean_of_its_turns():
    model = likeness.load(ROOT / "eval/weights/turn.json")
    whole = score.counted(model, "dialogue", "I: hi\nW: Hello there.\nI: so?\nW: lol no", None)
    one, two = (score.counted(model, "reply", text, asked) for text, asked in (("Hello there.", "hi"), ("lol no", "so?")))
    known = ~np.isnan(whole)
    assert np.allclose(whole[known], ((one + two) / 2)[known]) and known.sum() > 40


def test_a_higher_score_needs_both_sides_and_texts(tmp_path):
    for row, words in (({"base": "a", "tuned": 3}, "base and tuned are texts"), ({"text": " "}, "text is missing, empty or no text"), ({"some": 1}, "the column")):
        write_jsonl(tmp_path / "bad.jsonl", [row])
        assert words in one_line(inside("eval.score", tmp_path / "bad.jsonl", status=1))
    (tmp_path / "bad.jsonl").write_text("")
    assert "holds no rows" in one_line(inside("eval.score", tmp_path / "bad.jsonl", status=1))


def test_texts_alone_are_scored(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", [{"id": i, "text": "ok then", "prompt": "So?"} for i in range(2)])
    assert "mean score of 2 texts" in inside("eval.score", tmp_path / "t.jsonl").stdout
    assert [row["side"] for row in read_jsonl(tmp_path / "t-likeness.jsonl")] == ["text", "text"]


def test_the_difference_at_equal_length_is_the_intercept():
    longer = np.linspace(-1, 1, 50)
    assert score.at_equal_length(0.5 + 2 * longer, longer)["value"] == pytest.approx(0.5)
    assert score.at_equal_length(longer, np.zeros(50)) is None


@pytest.mark.slow
def test_the_report_is_whole_and_loads_nothing_from_anywhere(file, tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", pairs())
    inside("eval.second", tmp_path / "pairs.jsonl", tmp_path / "second.json")
    done = inside("eval.score", file, "--second", tmp_path / "second.json")
    page, text = (file.with_name(f"answers-likeness.{kind}").read_text() for kind in ("html", "md"))
    found = read_json(file.with_name("answers-likeness.json"))
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\((?!["']?data:)""", page) and "<script" not in page
    for part in ("What moved: tuned against base", "A second scorer, which made no pairs", "Is what tells tuned from base what tells people from models?"):
        assert part in page and part in text
    assert {path.suffix for path in tmp_path.glob("answers-likeness.*")} == {".html", ".md", ".json", ".jsonl", ".svg", ".png"}
    assert score.with_interval(found["compared"]["difference"]) in page and f"second scorer ({tmp_path / 'second.json'}): tuned higher in" in done.stdout
    rows = read_jsonl(file.with_name("answers-likeness.jsonl"))
    assert found["second"]["means"][0] == pytest.approx(np.mean([row["second"] for row in rows if row["side"] == "tuned"]))


# ---------------------------------------------------------------- the second scorer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    write_jsonl(folder / "pairs.jsonl", pairs(100))
    held = [
        {"id": row["id"], "kind": "given", "messages": [{"role": "user", "content": row["prompt"]}], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in pairs(30)
    ]
    write_jsonl(folder / "heldout.jsonl", held)
    inside("eval.second", folder / "pairs.jsonl", folder / "second.json", "--heldout", folder / "heldout.jsonl", "--rest", folder / "rest.jsonl")
    return folder


def test_its_half_the_other_half_and_the_held_out_questions_are_disjoint(made):
    everything, rest = {row["prompt"] for row in pairs(100)}, {row["prompt"] for row in read_jsonl(made / "rest.jsonl")}
    held = {row["messages"][0]["content"] for row in read_jsonl(made / "heldout.jsonl")}
    mine = {pair.context for pair in contrast.read(made / "pairs.jsonl") if second.mine(pair)} - held
    assert not mine & rest and not rest & held and mine | rest | held == everything
    assert second.load(made / "second.json")["fitted on"]["pairs"] == len(mine) and min(len(mine), len(rest)) > 20


def test_it_knows_no_case_and_no_surface_trait_and_tells_the_sides_apart(made):
    scorer = second.load(made / "second.json")
    assert all(run == run.lower() for run in scorer["runs"]) and not set(scorer["runs"]) & set(traits.IDS)
    texts = ["Oh, honestly, thing 1 is fun to me!", "Thing 1 is considered useful in general."]
    one, two = second.raw(scorer, texts)
    assert one > 0 > two and np.allclose(second.raw(scorer, [text.upper() for text in texts]), [one, two])
    assert np.allclose(second.raw(scorer, [" ".join([texts[0]] * 3)]), one, atol=0.6)  # three times the words are no three times the score
    assert scorer["worth"]["auc"]["value"] == 1.0 and scorer["worth"]["pairwise"] == {"value": 1.0, "low": pytest.approx(0.8865, abs=1e-4), "high": 1.0, "n": 30}


def test_stored_and_loaded_it_gives_the_same_scores(made):
    train = [pair for pair in contrast.read(made / "pairs.jsonl") if second.mine(pair) and pair.context not in {row["prompt"] for row in pairs(30)}]
    fresh, stored = second.fit(train), second.load(made / "second.json")
    texts = [row["chosen"] for row in pairs(10)]
    assert np.array_equal(second.raw(fresh, texts), second.raw(stored, texts))


def test_a_second_scorer_that_was_changed_or_is_none_is_refused(made, tmp_path):
    value = read_json(made / "second.json")
    write_json(tmp_path / "s.json", value | {"intercept": value["intercept"] + 1})
    with pytest.raises(UserError, match="was changed after it was written"):
        second.load(tmp_path / "s.json")
    with pytest.raises(UserError, match="not a second scorer"):
        second.load(ROOT / "eval/weights/turn.json")


def test_a_set_too_small_for_it_says_so_and_stops_nothing(tmp_path, few):
    write_jsonl(tmp_path / "p.jsonl", pairs(6) * 2)  # ids that stand twice are no fault here, as they are none to `make format`
    assert "second scorer: too few pairs" in inside("eval.second", tmp_path / "p.jsonl", tmp_path / "s.json").stdout
    found = score.report(few, None, tmp_path / "s.json")
    assert found["second"]["reason"].startswith("too few pairs") and "second" not in read_jsonl(few.with_name("few-likeness.jsonl"))[0]


def test_its_worth_is_exact_and_ties_count_half():
    found = second.worth(np.array([1.0, 2.0, 0.0, 3.0]), np.array([0.0, 2.0, 1.0, -1.0]))
    assert found["pairwise"]["value"] == 2.5 / 4 and found["auc"]["value"] == (3 - 0.5 + 3.5 + 1.5 + 4) / 16
    assert json.loads(json.dumps(found)) == found
