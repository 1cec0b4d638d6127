"""The measures that need no judge, on hand-worked texts.  .venv/bin/python -m pytest tests/test_surface.py"""

import numpy as np
import pytest

from eval import surface

FRIEND = "Oh man, I love that! My grandma's soup can't be beaten. What's yours? 😊"
OFFICE = "As an AI language model, I do not have personal preferences. In general, individuals prefer the following:\n\n1. Soup\n2. Bread"


@pytest.mark.parametrize(
    ("measure", "friend", "office"),
    [
        ("words per answer", 13, 21),
        ("speaks of itself as an AI", 0, 1),
        ("contractions per 100 words", 100 * 2 / 13, 0),
        ("first person per 100 words", 100 * 2 / 13, 100 / 21),
        ("ends with a question back", 1, 0),
        ("has an emoji", 1, 0),
        ("has markdown (lists, bold, headings)", 0, 1),
    ],
)
def test_each_measure_counts_what_its_name_says(measure, friend, office):
    [of] = [m.of for m in surface.MEASURES if m.name == measure]
    assert (of(FRIEND), of(OFFICE)) == (pytest.approx(friend), pytest.approx(office))


@pytest.mark.parametrize("text", ["Really?", "Really? 😊", "Really? ❤️", 'He asked "Really?"', "Really?\n"])
def test_a_question_at_the_end_is_seen_behind_emoji_and_quotes(text):
    assert surface.asks_back(text)


@pytest.mark.parametrize("text", ["Rain, said AI Weiwei.", "I'm an airline pilot.", "The machine is old.", "I do not have time."])
def test_people_are_not_taken_for_machines(text):
    assert not surface.AI.search(text)


@pytest.mark.parametrize("text", ["€ 5 · naïve — 東京 ™ → 1️⃣".replace("1️⃣", "1"), "x² ≤ 3"])
def test_letters_and_signs_of_any_script_are_no_emoji(text):
    [of] = [m.of for m in surface.MEASURES if m.name == "has an emoji"]
    assert not of(text)


def test_the_rule_tells_a_friend_from_an_office_and_a_tie_is_no():
    assert surface.friendliness(FRIEND) == 5 and surface.friendliness(OFFICE) == -3
    assert surface.friendlier(FRIEND, OFFICE) and not surface.friendlier(OFFICE, FRIEND) and not surface.friendlier(FRIEND, FRIEND)


@pytest.mark.parametrize(("k", "n", "low", "high"), [(54, 60, 0.7985, 0.9534), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)])
def test_wilson_interval_of_known_shares(k, n, low, high):
    assert surface.wilson(k, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_bootstrap_covers_the_mean_and_is_a_point_for_equal_values():
    values = np.arange(100.0)
    low, high = surface.bootstrap(values)
    assert low < values.mean() < high and (low, high) == surface.bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.05)
    assert surface.bootstrap(np.full(7, 3.0)) == (3.0, 3.0)


def test_differences_are_paired():
    answers = [{"base": "word " * n, "tuned": "word " * (n + 2)} for n in range(5, 60)]
    [row] = [row for row in surface.compare(answers) if row["measure"] == "words per answer"]
    assert row["difference"] == (2.0, 2.0, 2.0) and row["n"] == 55
