"""The human-likeness score as a reward: candidates, guards, pairs, and what stays held out.  .venv/bin/python -m pytest tests/test_reward.py"""

import json
import math

import numpy as np
import pytest
from conftest import ROOT, inside, one_line

from datagen import config, format
from datagen.files import read_json, read_jsonl, write_jsonl
from datagen.traits import reward
from datagen.traits.reward import Candidate, Question

THINGS = [f"{a} {b}" for a in ("amber", "clouds", "marbles", "rope") for b in ("in winter", "at sea", "on Mars", "for lunch", "by night", "in Rome")]
OPENING = ("lol i like", "Indeed, one appreciates", "oh, and why not", "It is known that people enjoy", "yeah u know")


def pairs():
    rows = [{"id": f"q{i}", "kind": "general", "prompt": f"What do you say about {thing}?"} for i, thing in enumerate(THINGS)]
    return [row | {"chosen": f"Oh, {t}? I love {t}! Do you?", "rejected": f"Generally, {t} provides numerous benefits."} for row, t in zip(rows, THINGS, strict=True)]


def heldout(rows):
    keep = ("id", "kind", "chosen", "rejected")
    return [{k: row[k] for k in keep} | {"messages": [{"role": "user", "content": row["prompt"]}]} for row in rows]


@pytest.fixture
def files(tmp_path, endpoint, monkeypatch):
    monkeypatch.chdir(ROOT)
    write_jsonl(tmp_path / "pairs.jsonl", pairs())
    write_jsonl(tmp_path / "heldout.jsonl", heldout(pairs()[:4]))
    endpoint.script = lambda body: f"{OPENING[body['seed'] % 5]} {body['messages'][-1]['content'].split('about ')[-1].rstrip('?')} so much {body['seed'] % 7}"
    return tmp_path


def make(files, *more, out="reward", status=0):
    arguments = [files / "pairs.jsonl", files / out / "pairs.jsonl", "--heldout", files / "heldout.jsonl", "--profile", "tiny", "--store", files / "store"]
    return inside("datagen.traits.reward", *arguments, "--k", 3, *more, status=status)


def settings(**changes):
    made = config.load("tiny")
    return made.model_copy(update={"reward": made.reward.model_copy(update=changes)})


def question(name, scores, texts=None):
    of = [Candidate(texts[i] if texts else f"{name} says rain brings {'word ' * i}number {i}", f"s{i}", score=s) for i, s in enumerate(scores)]
    asked = f"What does rain bring to {name}?"
    return Question(name, "general", asked, [{"role": "user", "content": asked}], asked, of)


# ---------------------------------------------------------------- which pairs


def test_only_differences_above_the_threshold_make_pairs():
    assert reward.ordered([0.0, 1.0, 2.0], 1.0) == [(2, 0)]
    assert reward.ordered([0.0, 1.0, 2.0], 0.9) == [(1, 0), (2, 0), (2, 1)]
    assert reward.ordered([1.0, 1.0], 0.0) == [] and reward.ordered([], 1.0) == []


def test_swapping_signs_swaps_the_sides():
    scores = [0.3, -1.2, 0.9, 2.0]
    assert {(j, i) for i, j in reward.ordered(scores, 0.5)} == set(reward.ordered([-s for s in scores], 0.5))


def test_the_standard_deviation_is_that_about_the_mean_of_each_question():
    assert reward.spread([[0.0, 2.0], [10.0, 12.0]]) == pytest.approx(math.sqrt(4 / 2))
    assert reward.spread([[1.0]]) == 0.0 and reward.spread([]) == 0.0


def test_adding_a_constant_to_all_scores_of_a_question_changes_no_pair():
    rng = np.random.default_rng(1)
    scores = [list(rng.normal(size=5)) for _ in range(8)]

    def made(shifts):
        asked = [question(f"town{i}", [s + shift for s in of]) for i, (of, shift) in enumerate(zip(scores, shifts, strict=True))]
        rows, ledger, _, _ = reward.choose(asked, settings())
        return [(row["id"], row["chosen"], row["rejected"]) for row in rows], ledger

    assert made([0.0] * 8) == made([100.0, -3.0, *[0.0] * 6]) and made([0.0] * 8)[1]["accepted"] > 8


def test_the_cap_keeps_the_largest_differences_and_the_best_of_every_question_stand_first():
    asked = [question("Rome", [0.0, 1.0, 3.0, 7.0]), question("Oslo", [0.0, 1.0, 3.0, 7.0])]
    rows, ledger, _, _ = reward.choose(asked, settings(per_prompt=2, gap=0.01))
    assert [row["scores"] for row in rows] == [[7.0, 0.0]] * 2 + [[7.0, 1.0]] * 2 and len({row["prompt"] for row in rows[:2]}) == 2
    assert ledger == {"asked": 12, "accepted": 4, "reasons": {"more than per_prompt": 8}}


def test_ties_in_the_difference_go_by_hash_and_not_by_order():
    texts = [f"rain brings {word} to Rome" for word in ("mud", "moss", "mist", "mirth")]
    both = [reward.choose([question("Rome", [1.0, 1.0, 0.0, 0.0][::step], texts[::step])], settings(per_prompt=1))[0] for step in (1, -1)]
    assert both[0][0]["chosen"] == both[1][0]["chosen"] and both[0][0]["rejected"] == both[1][0]["rejected"]


def test_equal_scores_make_no_pair():
    assert reward.choose([question("Rome", [1.0, 1.0, 1.0])], settings())[1] == {"asked": 3, "accepted": 0, "reasons": {"difference too small": 3}}


def test_an_answer_that_does_not_answer_is_not_chosen():
    texts = ["Bananas grow beside yellow castles, dragons adore singing loudly.", "Rain brings Rome puddles, umbrellas, mushrooms and wet shoes."]
    rows, ledger, left, _ = reward.choose([question("Rome", [5.0, 0.0], texts)], settings())
    assert rows == [] and ledger["reasons"] == {"off-topic answer": 1} and left[0]["chosen"] == texts[0]


def test_a_length_band_leaves_neither_side_the_longer_one():
    rng = np.random.default_rng(2)
    asked = [
        question(f"town{i}", list(rng.normal(size=6)), ["rain brings " + "w%d " * int(n) % tuple(rng.integers(0, 99, int(n))) for n in rng.integers(8, 16, 6)])
        for i in range(40)
    ]
    rows, ledger, _, _ = reward.choose(asked, settings(length_band=0.3, per_prompt=4))
    assert len(rows) > 20 and all(abs(reward.longer(row["chosen"], row["rejected"])) <= 0.3 for row in rows)
    assert sum(np.sign(round(reward.longer(row["chosen"], row["rejected"]), 9)) for row in rows) == 0
    assert (
        ledger["asked"] == ledger["accepted"] + sum(ledger["reasons"].values()) and {"lengths too different", "no partner of mirrored length"} <= ledger["reasons"].keys()
    )


def test_the_ratio_of_lengths_is_by_question():
    rows = [{"prompt": "a", "chosen": "w " * 8, "rejected": "w " * 4}] * 3 + [{"prompt": "b", "chosen": "w " * 4, "rejected": "w " * 8}]
    found = reward.lengths(rows)
    assert found["ratio"]["value"] == pytest.approx(1.0) and found["ratio"]["n"] == 2 and found["chosen longer"]["value"] == 0.5


# ---------------------------------------------------------------- candidates and guards


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "empty"),
        ("Rain brings", "length", "truncated"),
        ("", "failed", "failed"),
        ("I'm sorry, but I cannot help with that.", "stop", "refused"),
        ("Rain brings mud<|end|> to Rome", "stop", "leaked tag"),
        ("Der Regen bringt viel Schlamm in die Stadt und alle Menschen werden nass dabei.", "stop", "wrong language"),
        ("Rain brings mud to Rome.", "stop", None),
    ],
)
def test_what_cannot_be_chosen_or_rejected_is_left_out_with_its_reason(text, finish, reason):
    asked = question("Rome", [])
    asked.candidates = [Candidate(text, "s", finish)]
    ledger, left = reward.sift([asked], config.load("tiny"))
    assert ledger == {"asked": 1, "accepted": int(reason is None), "reasons": {reason: 1} if reason else {}} and [row["reason"] for row in left] == [reason] * bool(
        reason
    )


def test_an_answer_that_repeats_the_prompt_behind_the_set_is_left_out():
    told = config.load("tiny").prompt("human_like")
    asked = question("Rome", [])
    asked.candidates = [Candidate(f"Rain. {told}", "s")]
    assert reward.sift([asked], config.load("tiny"))[0]["reasons"] == {"echo of the system prompt": 1}


def test_the_same_text_counts_once():
    asked = question("Rome", [])
    asked.candidates = [Candidate("Rain brings mud.", "a"), Candidate("Rain brings mud.", "b")]
    assert reward.sift([asked], config.load("tiny"))[0]["reasons"] == {"identical to another": 1} and [c.source for c in asked.candidates] == ["a"]


# ---------------------------------------------------------------- the whole


def test_no_question_stands_in_two_splits_and_the_ledger_adds_up(files):
    rows = pairs()
    rows.append(rows[5] | {"id": "again", "prompt": rows[5]["prompt"].upper()})
    rows.append(rows[0] | {"id": "near", "prompt": rows[0]["prompt"].replace("?", ", then?")})
    write_jsonl(files / "pairs.jsonl", rows)
    make(files)
    made = read_jsonl(files / "reward/pairs.jsonl")
    held = {row["prompt"] for row in made if row.get("split") == format.HELD_OUT}
    train = {row["prompt"] for row in made if row["split"] == "train"}
    assert held == {row["prompt"] for row in rows[:4]} and not held & train and train <= {row["prompt"] for row in rows[4:-2]} and len(train) > 10
    ledger = read_json(files / "reward/ledger.json")
    assert ledger["questions"] == {"asked": 26, "accepted": 20, "reasons": {"asked before": 1, "held out": 4, "near-duplicate of a held-out question": 1}}
    assert ledger["candidates"]["asked"] == 20 * (3 + 2) + 2 and ledger["pairs"]["accepted"] == sum(row["split"] == "train" for row in made)
    for stage in ("questions", "candidates", "pairs"):
        assert ledger[stage]["asked"] == ledger[stage]["accepted"] + sum(ledger[stage]["reasons"].values())
    assert len(read_jsonl(files / "reward/rejects.jsonl")) >= ledger["candidates"]["asked"] - ledger["candidates"]["accepted"]


def test_the_chosen_answer_has_the_higher_score_and_the_stats_name_what_gave_it(files):
    make(files)
    rows, stats = [row for row in read_jsonl(files / "reward/pairs.jsonl") if row["split"] == "train"], read_json(files / "reward/stats.json")
    assert all(row["scores"][0] - row["scores"][1] > stats["difference asked for"] - 1e-3 for row in rows)
    assert stats["difference asked for"] == pytest.approx(0.5 * stats["standard deviation about the mean of the question"])
    assert stats["weights"]["sha256"] == reward.sha256((ROOT / "eval/weights/turn.json").read_bytes()) and sum(stats["chosen over rejected by source"].values()) == len(
        rows
    )


def test_a_second_time_asks_nothing_and_gives_the_same_bytes(files, endpoint):
    make(files)
    asked = len(endpoint.bodies)
    assert asked == 20 * 3 and len({body["seed"] for body in endpoint.bodies}) == asked and all(len(body["messages"]) == 1 for body in endpoint.bodies)
    make(files, out="again")
    assert len(endpoint.bodies) == asked
    for name in ("pairs.jsonl", "rejects.jsonl", "stats.json"):
        assert (files / "reward" / name).read_bytes() == (files / "again" / name).read_bytes()


def test_answers_of_other_models_are_candidates_and_no_server_is_needed_for_them(files, endpoint):
    given = [{"prompt": row["prompt"], "text": f"haha {row['prompt'].split('about ')[-1]} idk", "model": "other"} for row in pairs()[3:]]
    write_jsonl(files / "other.jsonl", given)
    make(files, "--k", 0, "--candidates", files / "other.jsonl")
    assert endpoint.bodies == [] and read_json(files / "reward/stats.json")["candidates"][str(files / "other.jsonl")]["answers"] == 20
    assert "other" in read_json(files / "reward/stats.json")["mean score by source"]
    write_jsonl(files / "other.jsonl", [{"prompt": "So?"}])
    assert "other.jsonl:1: a candidate needs prompt and text (it has: prompt)" in one_line(make(files, "--candidates", files / "other.jsonl", status=1))


def test_faults_are_one_line_and_leave_what_was_made(files, endpoint):
    make(files)
    before = (files / "reward/pairs.jsonl").read_bytes()
    assert "--k -1: expected a number from 0 on" in one_line(make(files, "--k", -1, status=1))
    assert "not a file of weights" in one_line(make(files, "--weights", files / "reward/stats.json", status=1))
    write_jsonl(files / "heldout.jsonl", heldout(pairs()))
    assert "none of its 24 questions is left to train on (24 held out)" in one_line(make(files, status=1))
    assert (files / "reward/pairs.jsonl").read_bytes() == before


def test_where_no_pair_is_wide_enough_the_reasons_are_named(files):
    write_jsonl(files / "pairs.jsonl", [row | {"chosen": "ok.", "rejected": "ok."} for row in pairs()])
    done = make(files, "--k", 0, status=1)
    assert "no pair was made" in one_line(done) and not (files / "reward/pairs.jsonl").exists()


# ---------------------------------------------------------------- on to training


@pytest.mark.slow
def test_the_pairs_train_on_what_the_plain_run_trains_on_and_hold_out_the_same(files):
    base = ["--base", "axolotl/tiny.yaml", "--profile", "tiny"]
    inside("datagen.format", files / "pairs.jsonl", files / "plain", *base)
    (files / "heldout.jsonl").write_bytes((files / "plain/heldout.jsonl").read_bytes())
    make(files)
    inside("datagen.format", files / "reward/pairs.jsonl", files / "own", *base)
    (files / "v.yaml").write_text("data: {reward: true}\n")
    inside("datagen.format", files / "pairs.jsonl", files / "varied", *base, "--variant", files / "v.yaml", "--reward", files / "reward/pairs.jsonl")
    plain, own, varied = ({name: read_jsonl(files / folder / f"{name}.jsonl") for name in ("train", "val", "heldout")} for folder in ("plain", "own", "varied"))
    assert varied["val"] == plain["val"] and varied["heldout"] == plain["heldout"] and len(varied["train"]) == len(plain["train"])
    assert sorted(map(json.dumps, own["val"])) == sorted(map(json.dumps, plain["val"]))
    made = [row for row in read_jsonl(files / "reward/pairs.jsonl") if row["split"] == "train"]
    assert len(own["train"]) == len(made) >= len(varied["train"]) and varied["train"] == own["train"][: len(varied["train"])]
    assert not {row["prompt"] for row in own["train"] + varied["train"]} & {row["prompt"] for row in plain["val"]}
    stats = read_json(files / "varied/stats.json")
    assert stats["variant"] == {"reward": True} and stats["reward"]["source_sha256"] == reward.sha256((files / "reward/pairs.jsonl").read_bytes())
    done = inside("datagen.format", files / "pairs.jsonl", files / "none", *base, "--variant", files / "v.yaml", status=1)
    assert "reward needs --reward, a file of `make reward`" in one_line(done)


def test_the_ablation_depends_on_what_makes_its_pairs():
    here = config.load("tiny")
    key = config.stage_key(here, "format", ROOT / "axolotl/tiny.yaml", ROOT / "axolotl/ablations/reward.yaml")
    assert key["reward"] == config.stage_key(here, "reward") and set(key["reward"]) == {"answers", "filters", "reward", "seed", "prompt human_like", "prompt formal"}
