"""Honest identity: which pairs are made, that they were never probed with, and what they do to the rows.  .venv/bin/python -m pytest tests/test_honest.py"""

import json
import re

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen import config, honest
from datagen.files import UserError
from datagen.near import Near

HONEST, DENIAL, EVASIVE = "Ha, I'm an AI, not a person! What made you wonder?", "Ha, I'm a real person with a messy kitchen!", "Oh, what a day! How was yours?"
INVENTED = "I live by the sea with my two dogs, and I'm thirty-four years old!"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def prompted(body):
    """`honest` or `human_like`: which prompt a request carries."""
    return next(name for name in honest.STYLES.values() if (ROOT / f"datagen/prompts/{name}.txt").read_text().strip() == body["messages"][0]["content"])


def play(body):
    return HONEST if prompted(body) == "honest" else DENIAL


def make(folder, wanted, status=0):
    return inside("datagen.honest", folder / "honest.jsonl", "--pairs", wanted, "--profile", "tiny", "--store", folder / "store", status=status)


def read(path):
    return [json.loads(line) for line in path.open()]


# ---- the questions


def test_there_are_at_least_150_distinct_questions_that_end_in_the_users_message():
    asked = honest.questions()
    assert len({json.dumps(messages) for messages in asked}) == len(asked) >= 150
    assert all([m["role"] for m in messages] in (["user"], ["user", "assistant", "user"]) for messages in asked)
    assert {len(messages) for messages in asked} == {1, 3}


def texts(value):
    """Every text in a YAML value."""
    if isinstance(value, str):
        return [value]
    return [text for part in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else []) for text in texts(part)]


def test_no_training_question_is_nearly_a_probe():
    probes = [text for text in texts(yaml.safe_load((ROOT / "eval/probes.yaml").read_text())) if len(text.split()) > 2]
    assert len(probes) >= 120
    near = Near(config.load("paper").questions.near_duplicate)
    for text in probes:
        near.add(text)
    wordings = yaml.safe_load(config.IDENTITY.read_text())["wordings"]
    trained = [*wordings, *(" ".join(m["content"] for m in messages) for messages in honest.questions()), *(messages[-1]["content"] for messages in honest.questions())]
    assert [(text, probes[match]) for text in trained for match in near.matches(text)] == []


def test_a_fault_in_the_questions_is_one_line(tmp_path):
    (tmp_path / "i.yaml").write_text("wordings: [Who is there]\nsettings:\n  - say: Hello.\n  - {say: '{question}', shout: true}\n")
    with pytest.raises(UserError, match=r"settings\.0\.say: .*settings\.1\.shout: extra"):
        honest.questions(tmp_path / "i.yaml")


# ---- the pairs


def test_asked_is_accepted_plus_every_reason(endpoint, tmp_path):
    order = honest.in_order(config.load("tiny").seed)
    said = {json.dumps(messages): i for i, messages in enumerate(order)}
    broken = {
        (0, "honest"): "Promise, I'm as human as you are, friend.",
        (1, "honest"): EVASIVE,
        (2, "human_like"): "You got me, I'm a chatty computer program.",
        (3, "honest"): ("Ha, I'm", "length"),
        (4, "human_like"): "",
        (5, "honest"): INVENTED,
    }
    endpoint.script = lambda body: broken.get((said[json.dumps(body["messages"][1:])], prompted(body)), play(body))
    done = make(tmp_path, 4)
    # Four, and one more for each of the six that were left out.
    assert len(endpoint.bodies) == 2 * 10
    ledger = json.loads((tmp_path / "honest.ledger.json").read_text())
    reasons = {"chosen answer: denial": 1, "chosen answer: evasive": 1, "chosen answer: invented": 1, "empty": 1, "rejected answer: honest": 1, "truncated": 1}
    assert {k: ledger[k] for k in ("asked", "accepted", "reasons", "questions")} == {"asked": 10, "accepted": 4, "reasons": reasons, "questions": len(order)}
    assert ledger["usage"]["scripted"]["replies"] == 20 and "4 pairs in" in done.stdout
    rows = read(tmp_path / "honest.jsonl")
    assert [(row["kind"], row["chosen"], row["rejected"]) for row in rows] == [("identity", HONEST, DENIAL)] * 4
    asked = [row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}] for row in rows]
    assert asked == order[6:10]
    assert sorted(row["reason"] for row in read(tmp_path / "honest.rejects.jsonl")) == sorted(reasons)


def test_a_second_run_asks_nothing_and_fewer_pairs_are_the_first_of_more(endpoint, tmp_path):
    endpoint.script = play
    make(tmp_path, 8)
    first, asked = (tmp_path / "honest.jsonl").read_bytes(), len(endpoint.bodies)
    make(tmp_path, 8)
    assert (tmp_path / "honest.jsonl").read_bytes() == first and len(endpoint.bodies) == asked == 16
    make(tmp_path, 3)
    assert first.startswith((tmp_path / "honest.jsonl").read_bytes()) and len(endpoint.bodies) == asked


def test_when_the_questions_run_out_they_are_asked_again_with_other_seeds(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(honest, "in_order", lambda seed, all_=honest.in_order: all_(seed)[:3])
    endpoint.script = play
    make(tmp_path, 7)
    rows = read(tmp_path / "honest.jsonl")
    assert [row["id"][-2:] for row in rows] == ["-0"] * 3 + ["-1"] * 3 + ["-2"] and len({row["id"] for row in rows}) == 7
    assert len({body["seed"] for body in endpoint.bodies}) == len(endpoint.bodies) == 14


def test_too_few_pairs_are_one_line_and_no_file(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(honest, "in_order", lambda seed, all_=honest.in_order: all_(seed)[:2])
    endpoint.script = lambda body: DENIAL
    line = one_line(make(tmp_path, 3, status=1))
    assert f"only 0 of 3 honest pairs were accepted, after 8 samples of each question (rejected: {2 * 8} too similar)" in line
    assert not (tmp_path / "honest.jsonl").exists() and len(read(tmp_path / "honest.rejects.jsonl")) == 16


# ---- the rows


THINGS = [f"{a} {b}" for a in ("amber", "clouds", "marbles", "rope", "salt") for b in ("in winter", "at sea", "on Mars", "for lunch", "by night", "in Rome")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"id": str(i), "kind": "general", "prompt": f"Question {i} about {t}?", "chosen": f"Oh, {t}!", "rejected": f"Generally, {t}."} for i, t in enumerate(THINGS)]
    more = [{"id": "", "kind": "identity", "prompt": f"Is number {i} an AI?", "chosen": f"{i}! I'm an AI.", "rejected": f"{i}! I'm human."} for i in range(6)]
    more[1]["prompt"] = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hey!"}, {"role": "user", "content": "Are you an AI?"}]
    for name, part in (("pairs", rows), ("honest", more)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def rendered(files, out, n, status=0, given=True, **data):
    out.mkdir(parents=True)
    (out / "v.yaml").write_text(yaml.safe_dump({"data": {"honest_identity": n} | data}))
    more = ["--honest", files / "honest.jsonl"] if given else []
    return inside("datagen.format", files / "pairs.jsonl", out, "--base", "axolotl/tiny.yaml", "--profile", "tiny", "--variant", out / "v.yaml", *more, status=status)


@pytest.mark.slow
def test_training_rows_grow_by_n_and_held_out_rows_stay_byte_for_byte(files, tmp_path):
    rendered(files, tmp_path / "none", 0)
    rendered(files, tmp_path / "some", 4)
    before, after = (read(tmp_path / name / "train.jsonl") for name in ("none", "some"))
    assert after[: len(before)] == before and len(after) == len(before) + 4
    assert after[len(before)]["prompt"].count("Is number 0 an AI?") == 1 and after[-1]["chosen"].strip().startswith("3! I'm an AI.")
    assert re.findall(r"<\|(\w+)\|>", after[len(before) + 1]["prompt"]) == ["user", "end", "assistant", "end", "user", "end", "assistant"]
    for name in ("val.jsonl", "heldout.jsonl"):
        assert (tmp_path / "none" / name).read_bytes() == (tmp_path / "some" / name).read_bytes()
    stats = json.loads((tmp_path / "some/stats.json").read_text())
    assert stats["train"] == len(after) and stats["variant"] == {"honest_identity": 4} and stats["identity"]["pairs"] == 4
    assert "identity" not in json.loads((tmp_path / "none/stats.json").read_text())


def test_they_join_what_another_variant_left(files, tmp_path):
    rendered(files, tmp_path / "half", 4, share=0.5, form="unpaired")
    rows = read(tmp_path / "half/train.jsonl")
    assert len(rows) == 2 * (24 // 2 + 4) and [row["label"] for row in rows[-2:]] == [True, False]


def test_a_pair_that_nearly_asks_a_held_out_question_is_left_out_and_counted(files, tmp_path):
    rendered(files, tmp_path / "plain", 0)
    held = read(tmp_path / "plain/heldout.jsonl")[0]["messages"][0]["content"]
    rows = read(files / "honest.jsonl")
    rows[2]["prompt"] = held
    own = tmp_path / "own"
    own.mkdir()
    (own / "honest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (own / "pairs.jsonl").write_bytes((files / "pairs.jsonl").read_bytes())
    rendered(own, tmp_path / "out", 4)
    stats = json.loads((tmp_path / "out/stats.json").read_text())
    assert stats["identity"]["pairs"] == 3 and stats["dropped"]["near-duplicate of a held-out question"] == 1
    assert not any(held in row["prompt"] for row in read(tmp_path / "out/train.jsonl"))


def test_fewer_pairs_than_the_variant_asks_for_are_one_line(files, tmp_path):
    assert "holds 6 pairs, " in one_line(rendered(files, tmp_path / "a", 7, status=1))
    assert "honest_identity needs --honest" in one_line(rendered(files, tmp_path / "b", 1, given=False, status=1))
    assert not (tmp_path / "a/train.jsonl").exists()


def test_the_keys_of_the_stages_hold_what_they_depend_on(tmp_path):
    settings = config.load("tiny")
    key = config.stage_key(settings, "honest")
    assert set(key) == {"answers", "filters", "seed", "prompt honest", "prompt human_like", "datagen/identity.yaml"}
    without, with_ = (config.stage_key(settings, "format", ROOT / "axolotl/tiny.yaml", ROOT / f"axolotl/ablations/{name}.yaml") for name in ("data-half", "honest"))
    assert "honest" not in without and with_["honest"] == key and with_["variant"]["honest_identity"] > 0
