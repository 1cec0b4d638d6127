"""Does the chatbot treat users alike: planted differences are found, none is made up.  .venv/bin/python -m pytest tests/test_fairness.py"""

import itertools

import numpy as np
import pytest

from eval import fairness
from eval.fairness import MEASURES, Row, holm, interval, measure, tables

AGES, NATIVE = ("young", "middle", "old"), ("native", "not-native")


def simulated(rng, shift=0.0, personas=24, goals=5, spread=3.0, noise=8.0) -> list[Row]:
    """A row per persona and goal: personas differ by `spread`, goals by a lot, and the old get `shift` words more."""
    made = []
    options = list(itertools.islice(itertools.cycle(itertools.product(AGES, NATIVE)), personas))
    for number, (age, native) in enumerate(options):
        own = rng.normal(0, spread)
        for goal in range(goals):
            words = 50 + 20 * goal + own + (shift if age == "old" else 0) + rng.normal(0, noise)
            values = {name: float(rng.random() < 0.3) if share else rng.normal() for name, share in MEASURES.items()} | {"words per answer": words}
            made.append(Row(f"p{number}", {"age": age, "native": native}, f"g{goal}", tuple(values.values())))
    return made


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(fairness, "DRAWS", 499)


def test_a_planted_difference_is_found_where_it_was_planted_and_nowhere_else():
    found = measure(simulated(np.random.default_rng(1), shift=16))
    p = {(feature, name): value["holm"] for feature, each in found["features"].items() for name, value in each["p"].items()}
    assert [key for key, value in p.items() if value < 0.05] == [("age", "words per answer")] and found["tests"] == 16
    old, young = (found["features"]["age"]["options"][age]["words per answer"] for age in ("old", "young"))
    assert old["interval"][0] > young["interval"][1] and 12 < old["value"] - young["value"] < 20


def test_without_a_difference_one_set_in_twenty_shows_one(few_draws):
    """Family-wise error by Holm over 16 tests of 30 sets: 5 % expects 1.5; 6 or more have a probability of 0.3 %."""
    rng = np.random.default_rng(2)
    wrong = sum(any(p["holm"] < 0.05 for each in measure(simulated(rng))["features"].values() for p in each["p"].values()) for _ in range(30))
    assert wrong <= 5


def test_the_intervals_over_personas_hold_the_true_mean_in_95_of_100_sets(few_draws):
    """Dialogues of a persona are alike here: an interval over dialogues would hold it in about 75 of 100."""
    rng, held, naive = np.random.default_rng(3), 0, 0
    for _ in range(120):
        rows = simulated(rng, personas=12, spread=8, noise=2)
        value = interval(np.array([np.mean([row.values[2] for row in rows if row.persona == f"p{n}"]) for n in range(12)]), False, len(rows))
        every = interval(np.array([row.values[2] - 20 * int(row.goal[1]) + 40 for row in rows]), False, len(rows))
        held += value["interval"][0] <= 90 <= value["interval"][1]
        naive += every["interval"][0] <= 90 <= every["interval"][1]
    assert 107 <= held <= 119 and naive < 100


def test_personas_are_compared_at_equal_goals(few_draws):
    """The old only ever had the goal with long answers: that is no difference between users."""
    rows = [row for row in simulated(np.random.default_rng(4)) if (row.features["age"] == "old") == (row.goal == "g4") or row.goal == "g3"]
    assert measure(rows)["features"]["age"]["p"]["words per answer"]["holm"] > 0.05


def test_with_few_personas_intervals_are_marked_and_nothing_is_tested(few_draws):
    found = measure(simulated(np.random.default_rng(5), personas=3))
    text = str(tables("t", found | {"weights": "w"}))
    assert found["tests"] == 0 and found["features"]["age"]["p"] is None and found["features"]["age"]["options"]["young"]["by"] == "dialogues"
    assert "young †" in text and "not tested" in text and "cannot be told from who they are otherwise" in text


def test_a_share_that_never_varies_has_wilsons_interval():
    assert interval(np.zeros(6), True, 30)["interval"] == pytest.approx([0, 0.1135], abs=1e-4) and interval(np.array([np.nan]), True, 3) is None
    assert interval(np.array([1.0, 0.98, 1.02]), True, 30, constant=True)["interval"] == pytest.approx([0.8865, 1], abs=1e-4)


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_dialogues_that_stray_are_counted():
    """The first opens off its goal and gets two answers of which one has nothing to do with the question; the second is to the point."""
    from types import SimpleNamespace

    from eval.roleplay import astray, unrelated

    goal = SimpleNamespace(text="You want to plan a long hike alone.")
    off = SimpleNamespace(goal=goal, exchanges=[("My bread burned. Why?", "Ovens burn bread."), ("Would a hike suit me?", "Trains run on rails.")])
    on = SimpleNamespace(goal=goal, exchanges=[("A hike it will be. Which boots?", "Light boots.")])
    assert [astray(d) for d in (off, on, SimpleNamespace(goal=goal, exchanges=[]))] == [(1, 1), (0, 1), (0, 0)]
    assert [unrelated(d) for d in (off, on)] == [(1, 2), (0, 1)]
