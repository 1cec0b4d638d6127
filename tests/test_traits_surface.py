"""The surface traits: each one's value on a small text, what is missing, and what changes their fingerprint.  .venv/bin/python -m pytest tests/test_traits_surface.py"""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import inside, one_line

from datagen.files import UserError, write_jsonl
from eval import traits


def said(*turns):
    """A dialogue in which W says these."""
    return "\n".join(f"I: so\nW: {turn}" for turn in turns)


EXACT = [
    ("turn-words", "one two three", math.log(4)),
    ("turn-longest", said("one two", "one two three"), math.log(4)),
    ("turn-shortest", said("one two", "one two three"), math.log(3)),
    ("turn-spread", said("one", "one two three"), math.log(2)),
    ("turn-unevenness", said("one", "one two three"), 0.5),
    ("one-word-turns", said("no", "two words"), 0.5),
    ("short-turns", said("no", "four words are here"), 0.5),
    ("sentence-words", "One two. Three four five six.", math.log(4)),
    ("sentence-spread", "One two. Three four five six.", math.log(2)),
    ("turn-sentences", "One two. Three four five six.", math.log(2)),
    ("all-lowercase", said("hi there", "Hi"), 0.5),
    ("capital-start", said("hi there", "Hi"), 0.5),
    ("case-mixed", said("Hi", "no", "no way", "so"), 0.75),
    ("small-i", "i think i am I", 40.0),
    ("shouts", "NO WAY that is GOOD", 40.0),
    ("ends-stop", said("Yes.", "yes"), 0.5),
    ("ends-exclamation", said("Yes!", "yes"), 0.5),
    ("ends-question", said('"Yes?"', "yes"), 0.5),
    ("ends-bare", said("Yes.", "yes"), 0.5),
    ("ends-mixed", said("Yes.", "yes"), 1.0),
    ("asks", said("Why? I see.", "no"), 0.5),
    ("asks-back", said("good, and you?", "you see"), 0.5),
    ("commas", "a, b, c d", 50.0),
    ("exclamations", "a! b!", 100.0),
    ("ellipses", said("well.. ok", "well. ok"), 0.5),
    ("dashes", said("well - ok", "well-known"), 0.5),
    ("apostrophes", "don't say it’s so", 50.0),
    ("bare-contractions", "dont say thats it", 50.0),
    ("shorthand", "idk u know it", 50.0),
    ("laughs", said("hahaha ok", "no"), 0.5),
    ("elongations", said("sooo good", "too good"), 0.5),
    ("pictures", said("ok :)", "ok 😀", "10:30", "ok"), 0.5),
    ("markdown", said("1. one", "one **two**", "one", "two"), 0.5),
    ("digits", said("at 5", "at five"), 0.5),
    ("corrects-itself", said("*they", "oops", "fine", "so"), 0.5),
    ("hedges", "maybe i guess so", 50.0),
    ("fillers", "just like that one", 50.0),
    ("first-person", "I see my dog", 50.0),
    ("second-person", "you see your dog", 50.0),
    ("shared-person", "we see our dog", 50.0),
    ("articles", "The dog saw a cat near me today", 25.0),
    ("joins", "one and two but", 50.0),
    ("common-words", "the zebra", 50.0),
    ("word-length", "ab abcd", 3.0),
    ("long-words", "elephant dog", 50.0),
    ("variety", "a b a b", 1.0),
    ("repeats-itself", said("no", "No"), 0.5),
    ("opens-with-answer", said("Yes, it is", "it is"), 0.5),
    ("opens-with-reaction", said("Wow, nice", "it is"), 0.5),
    ("courtesy", "thanks a lot please", 50.0),
    ("formal", "furthermore it is beneficial", 50.0),
    ("speaks-as-ai", said("As an AI, I see", "I see"), 0.5),
    ("talks-of-machines", said("a robot", "a dog"), 0.5),
]


def value(name, text, context=None):
    kind = "dialogue" if text.startswith("I: ") else "reply"
    return traits.values(traits.counted(kind, text, context))[traits.IDS.index(name)]


@pytest.mark.parametrize(("name", "text", "expected"), EXACT, ids=[row[0] for row in EXACT])
def test_the_value_of_a_trait(name, text, expected):
    assert value(name, text) == pytest.approx(expected, abs=1e-12)


def test_every_trait_has_its_value_in_this_file():
    assert [name for name, *_ in EXACT] + ["echo"] == list(traits.IDS) and len(set(traits.IDS)) == len(traits.IDS)


def test_echo_is_the_share_of_words_that_the_other_said():
    assert value("echo", "red dogs run far", "Do dogs run?") == 0.5
    assert value("echo", "I: do dogs run\nW: dogs run\nI: cats\nW: red cats") == 0.75


def test_what_is_not_defined_is_missing_and_not_zero():
    alone = dict(zip(traits.IDS, traits.values(traits.counted("reply", "one two", None)), strict=True))
    assert {name for name, number in alone.items() if math.isnan(number)} == {t.id for t in traits.TRAITS if t.across or t.context}
    assert math.isnan(value("echo", "W: nobody asked\nW: still nobody"))
    with pytest.raises(UserError, match="no line of the one to be judged"):
        traits.counted("dialogue", "I: hello?", None)


def test_the_words_of_the_other_count_for_nothing():
    texts = [f"I: {asked}\nW: ok then\nI: {asked}\nW: fine" for asked in ("HELLO!!! 😀", "hm")]
    assert [value(name, texts[0]) for name in traits.IDS if name != "echo"] == [value(name, texts[1]) for name in traits.IDS if name != "echo"]


@pytest.mark.parametrize("text", ["", "...", "😀", " \n "])
def test_a_reply_without_words_has_values_and_repeats_nothing(text):
    found = dict(zip(traits.IDS, traits.values(traits.counted("reply", text, "so?")), strict=True))
    assert {name for name, number in found.items() if math.isnan(number)} == {"echo"} | {t.id for t in traits.TRAITS if t.across}


def test_every_trait_is_reached_by_the_probes():
    found = np.array([traits.values(traits.counted(*probe)) for probe in traits.PROBES])
    missed = [name for i, name in enumerate(traits.IDS) if len({round(v, 9) for v in found[:, i] if not math.isnan(v)} - {0.0}) == 0]
    assert missed == []


@pytest.mark.parametrize("name", traits.IDS)
def test_the_fingerprint_changes_with_a_definition_and_with_what_the_code_counts(name, monkeypatch):
    before, place = traits.fingerprint(), traits.IDS.index(name)
    for changed in ({"definition": "something else"}, {"of": lambda t, of=traits.TRAITS[place].of: 2 * of(t) + 1}):
        monkeypatch.setattr(traits, "TRAITS", [replace(trait, **changed) if trait.id == name else trait for trait in traits.TRAITS])
        assert traits.fingerprint() != before
        monkeypatch.undo()
    assert traits.fingerprint() == before


def test_separation_is_the_share_of_cross_pairs_with_ties_by_half():
    assert traits.separation(np.array([1.0, 2.0]), np.array([0.0, 2.0])) == (1 + 0 + 1 + 0.5) / 4
    assert traits.separation(np.array([1.0, np.nan]), np.array([0.0])) == 1.0 and math.isnan(traits.separation(np.array([np.nan]), np.array([0.0])))


def test_the_list_and_what_tells_a_set_apart_are_printed(tmp_path):
    assert len(inside("eval.traits").stdout.splitlines()) == len(traits.IDS)
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": f"Question {i}?", "chosen": "ok?", "rejected": "Fine."} for i in range(3)])
    lines = inside("eval.traits", tmp_path / "p.jsonl").stdout.splitlines()
    assert lines[0].startswith("3 pairs of") and any(line.split()[:2] == ["ends-question", "1.000"] for line in lines)
    assert "there is no such file" in one_line(inside("eval.traits", tmp_path / "none.jsonl", status=1))
