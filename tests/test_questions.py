"""Lists of questions as models really send them.  .venv/bin/python -m pytest tests/test_questions.py"""

import json
from collections import Counter

import pytest
from conftest import one_line, play, run

from datagen.near import Near
from datagen.questions import parse_list, strip_marks

WANTED = ["What do you cook on Sundays?", "Why is the sky blue?"]


@pytest.mark.parametrize(
    "reply",
    [
        "1. What do you cook on Sundays?\n2. Why is the sky blue?",
        "1) What do you cook on Sundays?\n2) Why is the sky blue?",
        "**1.** What do you cook on Sundays?\n**2.** Why is the sky blue?",
        "- What do you cook on Sundays?\n* Why is the sky blue?",
        "• What do you cook on Sundays?\n\n• Why is the sky blue?",
        "Here are 2 questions:\n\n1. What do you cook on Sundays?\n2. Why is the sky blue?\n\nLet me know if you want more!",
        "1. **Cooking** What do you cook on Sundays?\n2. **Nature:** Why is the sky blue?",
        '1. "What do you cook on Sundays?"\n2. “Why is the sky blue?”',
        "1. **What do you cook on Sundays?**\n2. **Why is the sky blue?**",
        "1. What do you cook\n   on Sundays?\n2. Why is the sky blue?",
        "What do you cook on Sundays?\nWhy is the sky blue?",
        "  1.  What do you cook on Sundays?  \n  2.  Why is the sky blue?  ",
        "Q1: What do you cook on Sundays?\nQ2: Why is the sky blue?",
    ],
)
def test_every_usual_list_gives_the_bare_questions(reply):
    assert parse_list(reply, "stop")[0] == WANTED


def test_the_cut_off_last_item_is_dropped_and_counted():
    questions, dropped = parse_list("1. What do you cook on Sundays?\n2. Why is the sky blue? And wh", "length")
    assert questions == WANTED[:1] and dropped == [("Why is the sky blue? And wh", "cut off")]


def test_items_that_ask_nothing_are_dropped_and_counted():
    questions, dropped = parse_list("1. Cooking\n2. Why is the sky blue?\n3. Why?", "stop")
    assert questions == WANTED[1:] and dropped == [("Cooking", "not a question"), ("Why?", "not a question")]


def test_an_empty_reply_gives_nothing():
    assert parse_list("", "stop") == ([], [])


@pytest.mark.parametrize(
    ("item", "question"),
    [
        ("**Bucket list** What's something you've always wanted to try?", "What's something you've always wanted to try?"),
        ("**Bucket list:** What's next?", "What's next?"),
        ("*Memories* - What was your first pet?", "What was your first pet?"),
        ("**What is art?** I never know.", "What is art? I never know."),
        ("Do you **really** like it?", "Do you really like it?"),
    ],
)
def test_headings_and_bold_are_stripped(item, question):
    assert strip_marks(item) == question


def test_near_duplicates_are_found_and_different_questions_are_not():
    near = Near(0.7)
    near.add("What's the best meal you have ever cooked at home for your friends?")
    assert near.matches("Whats the best meal you have ever cooked at home for friends?") == [0]
    assert near.matches("What's the best book you have ever read at home?") == []


def test_near_finds_exactly_what_comparing_all_with_all_finds():
    import random

    rng = random.Random(0)
    words = [f"w{i}" for i in range(12)]
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(300)]
    texts += [" ".join(w for w in text.split() if rng.random() < 0.9) for text in texts]
    near, everything = Near(0.6), []
    from datagen.near import features

    for text in texts:
        mine = features(text)
        assert near.matches(text) == [i for i, other in enumerate(everything) if len(mine & other) >= 0.6 * len(mine | other)]
        near.add(text)
        everything.append(mine)


def test_the_wanted_number_of_distinct_questions_is_collected(endpoint, tmp_path):
    endpoint.script = play
    run("datagen.questions", tmp_path / "questions.jsonl", "--profile", "tiny", "--store", tmp_path / "store")
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").open()]
    held = [json.loads(line) for line in (tmp_path / "questions.heldout.jsonl").open()]
    rejects = [json.loads(line) for line in (tmp_path / "questions.rejects.jsonl").open()]
    assert Counter(row["kind"] for row in rows) == {"conversational": 210, "general": 210}
    assert Counter(row["kind"] for row in held) == {"conversational": 20, "general": 20}
    assert len({row["text"] for row in [*rows, *held]}) == 460
    ledger = json.loads((tmp_path / "questions.ledger.json").read_text())
    assert ledger["accepted"] == 420 and ledger["held out"] == 40 and ledger["asked"] == 460 + len(rejects)
    assert ledger["reasons"] == Counter(row["reason"] for row in rejects)


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_writes_the_same_bytes(endpoint, tmp_path):
    endpoint.script = play
    arguments = ("datagen.questions", tmp_path / "questions.jsonl", "--profile", "tiny", "--store", tmp_path / "store")
    run(*arguments)
    first, asked = (tmp_path / "questions.jsonl").read_bytes(), len(endpoint.bodies)
    run(*arguments)
    assert (tmp_path / "questions.jsonl").read_bytes() == first and len(endpoint.bodies) == asked


def test_a_model_that_repeats_itself_does_not_hold_the_run_forever(endpoint, tmp_path):
    endpoint.script = lambda body: "1. What do you cook on Sundays?"
    done = run("datagen.questions", tmp_path / "questions.jsonl", "--profile", "tiny", "--store", tmp_path / "store")
    assert "5 rounds brought nothing new" in done.stderr and "0 questions in" in done.stdout and "1 more held out" in done.stdout


def test_own_questions_are_taken_from_a_file_without_any_endpoint(tmp_path):
    (tmp_path / "mine.txt").write_text("**Food** What do you cook on Sundays?\n\nWhy is the sky blue?\nWhy is the sky blue?\n")
    run("datagen.questions", tmp_path / "questions.jsonl", "--profile", "tiny", "--from", tmp_path / "mine.txt")
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").open()]
    assert sorted(row["text"] for row in rows) == WANTED and {row["kind"] for row in rows} == {"given"}


def test_a_missing_file_of_questions_is_one_line(tmp_path):
    done = run("datagen.questions", tmp_path / "questions.jsonl", "--profile", "tiny", "--from", tmp_path / "none.txt", status=1)
    assert "none.txt: there is no such file" in one_line(done)
