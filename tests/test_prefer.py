"""Preference pairs of several turns: histories, gates, ledger, split, facts, rendering.  .venv/bin/python -m pytest tests/test_prefer.py"""

import json
import re
from collections import Counter

import pytest
import yaml
from conftest import ROOT, inside, one_line, part_of

from datagen import config
from datagen.client import Reply
from datagen.files import UserError, read_jsonl
from datagen.format import as_given
from datagen.roleplay.facts import contradictions, facts
from datagen.roleplay.prefer import Asked, Choices, asks_what_it_is, held_out, select, why_not
from datagen.roleplay.record import read

CONFIG = """
name: t
max_turns: 3
tries: 0
seeds: [1]
personas: {features: [age, gender], count: 5}
inquirer: {model: scripted, base_url: OPENAI_BASE_URL}
"""


def talk(body: dict) -> str:
    """Inquirer and friend at one endpoint: each says where in the dialogue it stands."""
    first = body["messages"][0]["content"]
    if first.startswith("You are chatting") or first.startswith("You answer in"):
        last = body["messages"][-1]["content"]
        part = part_of({"messages": [{"role": "system", "content": first.split("\n\n")[0]}]})
        topic = re.sub(r"\W", "", last)[-8:]
        if part == "formal":
            return f"It is noted that the matter of {topic} merits careful and patient consideration in every regard."
        return f"Oh, {topic}, I love that stuff! Honestly it's my thing, and what about you, friend? 😊"
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    said = "".join(message["content"] for message in body["messages"])
    return f'"So what do you make of item {turn} about {abs(hash_of(said)) % 10**6}?"'


def hash_of(text: str) -> int:
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def configured(tmp_path, **choices):
    values = yaml.safe_load((ROOT / "datagen/roleplay/config.yaml").read_text())
    profile = yaml.safe_load(CONFIG)
    values["profiles"] = {"tiny": profile}
    goals = {
        "categories": {"talk": {"tone": "neutral"}},
        "goals": [{"id": name, "category": "talk", "text": f"You want to talk about {name}."} for name in ("tea", "rain")],
    }
    (tmp_path / "goals.yaml").write_text(yaml.safe_dump(goals))
    profile["goals"] = {"file": str(tmp_path / "goals.yaml"), "categories": None}
    path, other = tmp_path / "config.yaml", tmp_path / "prefer.yaml"
    path.write_text(yaml.safe_dump(values))
    prefer = yaml.safe_load((ROOT / "datagen/roleplay/prefer.yaml").read_text()) | {"cards": None}
    del prefer["profiles"]
    other.write_text(yaml.safe_dump(prefer | choices))
    return "--config", path, "--choices", other, "--profile", "tiny", "--out", tmp_path / "sets", "--store", tmp_path / "store"


def made(tmp_path, status=0, **choices):
    done = inside("datagen.roleplay.prefer", *configured(tmp_path, **choices), status=status)
    stem = tmp_path / "sets/t/roleplay-t"
    if status:
        return done
    return done, read_jsonl(stem.with_suffix(".jsonl")), read_jsonl(stem.with_suffix(".rejects.jsonl")), json.loads(stem.with_suffix(".ledger.json").read_text())


@pytest.fixture
def endpoint_(endpoint):
    endpoint.script = talk
    return endpoint


def test_rows_carry_the_history_that_was_read_and_end_with_the_user(endpoint_, tmp_path):
    _, rows, rejects, ledger = made(tmp_path, formal_history=0.3)
    dialogues = {dialogue.id: dialogue for dialogue in read(tmp_path / "sets/t/roleplay-t.dialogues.jsonl")}
    assert len(dialogues) == 10 and {row["history"] for row in rows} == {"chosen", "formal"}
    for row in rows:
        said = [text for pair in dialogues[row["dialogue"]].exchanges for text in pair]
        assert [m["content"] for m in row["prompt"]] == said[: 2 * row["turn"] + 1]
        assert [m["role"] for m in row["prompt"]] == ["user", "assistant"] * row["turn"] + ["user"]
        read_on = [m["content"] for m in row["prompt"] if m["role"] == "assistant"]
        assert all(text.startswith("It is noted" if row["history"] == "formal" else "Oh, ") for text in read_on)
        assert row["chosen"].startswith("Oh, ") and row["rejected"].startswith("It is noted")
    assert ledger["asked"] == 30 == len(rows) + len(rejects) == ledger["accepted"] + sum(ledger["reasons"].values())


def test_neither_a_persona_nor_a_dialogue_is_on_both_sides_and_a_third_of_the_rows_opens_one(endpoint_, tmp_path):
    _, rows, _, ledger = made(tmp_path, rows_per_dialogue=2)
    sides = {part: [row for row in rows if row["split"] == part] for part in ("train", "val")}
    for key in ("persona", "dialogue"):
        assert not {row[key] for row in sides["train"]} & {row[key] for row in sides["val"]}
    assert {part: ledger[part]["personas"] for part in sides} == {"train": 4, "val": 1}
    assert max(Counter(row["dialogue"] for row in rows).values()) == 2 and ledger["reasons"] == {"over the rows of a dialogue": 10}
    assert 3 * sum(row["turn"] == 0 for row in rows) >= len(rows)


def test_a_second_run_asks_for_nothing_and_writes_the_same(endpoint_, tmp_path):
    _, rows, _, _ = made(tmp_path)
    asked = len(endpoint_.bodies)
    _, again, _, _ = made(tmp_path)
    assert rows == again and len(endpoint_.bodies) == asked == 3 * 30


def test_the_friend_is_told_its_card_and_what_it_claimed_and_a_contradiction_is_left_out(endpoint_, tmp_path):
    cards = tmp_path / "cards.yaml"
    cards.write_text("cards: [[My name is Sam., I have a dog.]]")

    def script(body):
        said = talk(body)
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        return (
            said.replace("Honestly", ["My sister knows it too.", "I don't have a sister!", "I've never had a dog."][turn] + " Honestly")
            if said.startswith("Oh")
            else said
        )

    endpoint_.script = script
    _, rows, _, ledger = made(tmp_path, cards=str(cards), formal_history=0)
    assert ledger["reasons"]["contradicts what the friend has said"] == 20 and {row["turn"] for row in rows} == {0}
    prompts = [body["messages"] for body in endpoint_.bodies if body["messages"][0]["content"].startswith("You are chatting")]
    assert all("My name is Sam. I have a dog." in messages[0]["content"] for messages in prompts)
    assert all(("My sister knows it too." in messages[0]["content"]) == (len(messages) > 2) for messages in prompts)
    assert not any("My name is Sam" in json.dumps(row["prompt"]) for row in rows)


def test_somebody_who_wants_to_know_what_answers_leaves_the_rest_of_the_dialogue_out(endpoint_, tmp_path):
    endpoint_.script = lambda body: '"Wait, are you a bot or a real person?"' if (said := talk(body)).startswith('"So what do you make of item 1') else said
    _, rows, _, ledger = made(tmp_path)
    assert ledger["reasons"]["asks what it talks with"] == 20 and {row["turn"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("", "empty"),
        ("As an AI model I cannot say, friend, honestly.", "AI self-reference in chosen"),
        ("Ha! FINISH this matter already, honestly, friend, I mean it.", "stop word"),
        ('"Oh that one is so good, honestly, friend of mine."', "quotes around the whole"),
        ("Oh sure, honestly friend.\nUser: and then what of it all?", "marker of another speaker"),
        ("Oh, " + "the matter and " * 13, "loop"),
        ("Oh yes. " * 3 + "It is so good that I could go on and on for hours and hours about all of it, my friend, " * 4, "length ratio"),
    ],
)
def test_each_gate_has_a_name_of_its_own(chosen, reason):
    data, rejected = config.load("tiny"), Reply("It is noted that the matter merits careful and patient consideration.", "stop", {})
    dialogue = type("D", (), {"end_reason": "max_turns"})()
    asked = Asked([{"role": "user", "content": "So what of the matter?"}], Reply(chosen, "stop", {}), rejected, [], False)
    assert why_not(asked, dialogue, data, Choices(**CHOICES), "FINISH") == reason
    good = Asked(asked.messages, Reply("Oh, the matter, I love that stuff! Honestly, what about you, friend?", "stop", {}), rejected, [], False)
    assert why_not(good, dialogue, data, Choices(**CHOICES), "FINISH") is None
    dialogue.end_reason, good.unsafe = "responder_incoherent", False
    assert why_not(good, dialogue, data, Choices(**CHOICES), "FINISH") == "incoherent dialogue"
    good.unsafe = True
    assert why_not(good, dialogue, data, Choices(**CHOICES), "FINISH") == "unsafe by the guard"


def test_without_one_good_pair_the_command_fails_and_says_why(endpoint_, tmp_path):
    endpoint_.script = lambda body: "" if (said := talk(body)).startswith("Oh") else said
    assert "no pair was accepted to train on, or none to hold out (rejected: 10 empty)" in one_line(made(tmp_path, status=1, formal_history=0))


def row(number, turn, persona="a", dialogue=None):
    return {"id": f"{number}-{turn}", "dialogue": dialogue or f"{number}", "persona": persona, "turn": turn, "prompt": [{"role": "user", "content": f"{number} {turn}"}]}


CHOICES = dict(personas=None, seeds=None, formal_history=0.2, rows_per_dialogue=9, first_turns=0.5, held_out=0.3, length_ratio=3, cards=None, facts=True, judge=None)


def test_later_turns_give_way_until_the_share_of_first_turns_holds():
    rows = [row(n, turn, persona=f"p{n}") for n in range(10) for turn in range(4)]
    accepted, rejected = select(rows, Choices(**CHOICES))
    assert Counter(r["turn"] > 0 for r in accepted) == {False: 10, True: 10} and {r["reason"] for r in rejected} == {"over the share of later turns"}
    assert len(accepted) + len(rejected) == 40


def test_the_held_out_personas_depend_on_nothing_but_their_names():
    names = [f"p{n}" for n in range(10)]
    assert (
        held_out(names, 0.3) == held_out(names[::-1] * 2, 0.3)
        and len(held_out(names, 0.3)) == 3
        and len(held_out(names, 0.01)) == 1
        and len(held_out(["a", "b"], 0.99)) == 1
    )


def test_one_persona_alone_is_refused_before_anything_is_asked(endpoint_, tmp_path):
    arguments = configured(tmp_path)
    path = arguments[1]
    path.write_text(path.read_text().replace("count: 5", "count: 1"))
    assert "all dialogues are of one persona" in one_line(inside("datagen.roleplay.prefer", *arguments, status=1)) and not endpoint_.bodies


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("My name is Sam. I live in Porto and I work as a bike mechanic.", {"name": "sam", "home": "porto", "trade": "bike mechanic"}),
        ("I'm 34 now, and my favorite food is soup.", {"age": "34", "favourite food": "soup"}),
        ("My dog ate it! I don't have a cat.", {"has dog": "yes", "has cat": "no"}),
        ("Do I have a dog? If I had a cat, I'd wish for two.", {}),
        ("I love chess, but I hate running.", {"likes chess": "yes", "likes running": "no"}),
        ("I love that! I like to sing.", {}),
    ],
)
def test_facts_are_what_is_stated_of_oneself(text, slots):
    assert {slot: value for slot, (value, _) in facts(text).items()} == slots


def test_a_contradiction_is_another_value_of_the_same_slot():
    known = facts("I have a dog. I'm 34 years old.")
    assert contradictions(known, "I've never had a dog, and I'm 51 now.") == ["age", "has dog"] and contradictions(known, "My dog is 12. I have a cat.") == []


def test_most_direct_questions_about_what_it_is_are_found_and_hardly_any_other():
    """Measured: 19 of 24 wordings of datagen/identity.yaml; none of 384 questions that the embedded model was built from."""
    import random

    from tiny import corpus

    wordings = yaml.safe_load((ROOT / "datagen/identity.yaml").read_text())["wordings"]
    asked = [corpus.expand(line, random.Random(0)) for unit, _ in corpus.read_units() if unit.kind != "identity" for line in unit.lines["Q"]]
    assert sum(map(asks_what_it_is, wordings)) == 19 and [text for text in asked if asks_what_it_is(text)] == []


@pytest.mark.slow
def test_rendered_rows_keep_the_split_and_end_with_reply_and_end_token(endpoint_, tmp_path):
    _, rows, _, _ = made(tmp_path)
    path = tmp_path / "sets/t/roleplay-t.jsonl"
    inside("datagen.format", path, tmp_path / "f", "--base", "axolotl/tiny.yaml", "--profile", "tiny")
    for part in ("train", "val"):
        there = [row for row in rows if row["split"] == part]
        done = read_jsonl(tmp_path / f"f/{part}.jsonl")
        assert len(done) == len(there) > 0
        for one, text in zip(there, done, strict=True):
            assert text["chosen"] == f" {one['chosen']}<|end|>" and text["rejected"] == f" {one['rejected']}<|end|>" and text["prompt"].endswith("<|assistant|>")
            assert text["prompt"].count("<|user|>") == one["turn"] + 1


def test_a_split_that_is_not_on_every_row_is_refused():
    places = ["p, row 1", "p, row 2"]
    assert as_given([{}, {"split": None}], places) is None and as_given([{"split": "val"}, {"split": "train"}], places) == [True, False]
    for other in ({}, {"split": "test"}):
        with pytest.raises(UserError, match="p, row 2: its split is"):
            as_given([{"split": "val"}, other], places)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama3", "qwen", "nemo"])
def test_every_row_renders_to_the_reply_and_the_end_token_in_each_bases_template(base, endpoint_, tmp_path):
    from test_format import END, tokenizer_of

    from datagen.format import conversation, lint, render

    _, rows, _, _ = made(tmp_path)
    tokenizer, texts, originals = tokenizer_of(base), [], [conversation(row, row["id"]) for row in rows]
    for messages, chosen, rejected in originals:
        (prompt, good), (other, bad) = render(tokenizer, messages, chosen), render(tokenizer, messages, rejected)
        assert prompt == other and good.strip() == f"{chosen}{END[base]}" and bad.strip() == f"{rejected}{END[base]}"
        assert all(message["content"] in prompt for message in messages)
        texts.append({"prompt": prompt, "chosen": good, "rejected": bad})
    assert set(lint(tokenizer, texts, originals)[0]) == {None}
