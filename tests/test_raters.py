"""Simulated raters: they decide as planted, vote through the page, and are told apart from people.  .venv/bin/python -m pytest tests/test_raters.py"""

import asyncio
import contextlib
import copy
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, inside, one_line
from test_votes import fixed_clock, make, store_clock  # noqa: F401  (fixtures)
from test_votes import settings as read_settings

from datagen.files import UserError, read_json, read_jsonl, sha256, write_json, write_jsonl
from eval import raters, study, votes
from eval.raters import Rater, Session, Vote, decide, expit, gold_chance, make_raters
from eval.studyfile import Careless
from eval.vote import KEYS, SAID, ballot_html, paragraph
from eval.votes import choices, read_events

settings = functools.cache(read_settings)  # reads a file
RULE = Careless(gold_failed=2, median_seconds=0)
FAIR = Rater(0, 0.0, 0.0, 0.0, False)


def sides(a="tuned", kind="main", tuned=300, base=100):
    style = {"words": 1, "emoji": 0, "bold": 0, "lists": 0, "headings": 0}
    names = {"tuned": "base", "base": "tuned", "human": "machine", "machine": "human"}
    count = {"tuned": tuned, "base": base, "human": 1, "machine": 1}
    return {"kind": kind, "a": a, "b": names[a], "style": {"a": style | {"characters": count[a]}, "b": style | {"characters": count[names[a]]}}}


def share(rater, left_is="a", n=2500, a="tuned", **changes):
    """Of n items: how often the tuned answer is chosen in votes that are no tie, and how often there is a tie."""
    cast = Counter(decide(rater, settings(**changes), f"item {i}", sides(a), left_is, 1) for i in range(n))
    tuned = "left" if left_is == a[0].replace("t", "a") else "right"
    return cast[tuned] / (n - cast["tie"]), cast["tie"] / n


# ---------------------------------------------------------------- the rule


def test_the_chance_is_that_of_taste_length_and_side():
    rater = Rater(0, 0.3, 2.0, 0.8, False)
    assert rater.chance(0.5, True) == expit(0.3 + 1.0 + 0.4) and rater.chance(0.5, False) == expit(0.3 + 1.0 - 0.4)
    assert replace(rater, careless=True).chance(0.5, True) == 0.5


@pytest.mark.parametrize("left_is", ["a", "b"])
def test_votes_follow_the_chance_and_the_ties(left_is):
    rater = Rater(3, 0.5, 1.0, 0.6, False)
    tuned, ties = share(rater, left_is)
    assert tuned == pytest.approx(rater.chance(0.5, left_is == "a"), abs=0.03) and ties == pytest.approx(raters.TIES, abs=0.02)
    assert share(rater, left_is, ties=False)[1] == 0


def test_a_liking_for_length_and_for_the_left_moves_votes_and_their_absence_does_not():
    assert share(FAIR)[0] == pytest.approx(0.5, abs=0.03)
    assert share(replace(FAIR, length=2.0))[0] > 0.7  # tuned answers are longer here
    assert share(replace(FAIR, side=2.0), "a")[0] > 0.7 and share(replace(FAIR, side=2.0), "b")[0] < 0.3


def test_length_is_the_difference_that_the_report_uses_tuned_less_base():
    assert raters.longer(sides("tuned")) == raters.longer(sides("base")) == 0.5
    assert raters.longer(sides("base", tuned=100, base=300)) == -0.5


def test_an_attentive_rater_is_right_on_gold_and_a_careless_one_by_luck():
    careless, right = replace(FAIR, careless=True), Counter()
    for i in range(3000):
        human, left_is = ("human", "machine")[i % 2], "ab"[i // 2 % 2]
        expected = "left" if sides(human, "gold")[left_is] == "human" else "right"
        assert decide(FAIR, settings(), f"g{i}", sides(human, "gold"), left_is, 1) == expected
        right[decide(careless, settings(), f"g{i}", sides(human, "gold"), left_is, 1) == expected] += 1
    assert right[True] / 3000 == pytest.approx(gold_chance(careless, settings()), abs=0.03)
    assert gold_chance(careless, settings()) == pytest.approx(1 / 3) and gold_chance(FAIR, settings()) == 1
    assert gold_chance(careless, settings(ties=False)) == 0.5 and gold_chance(careless, settings(scale="five")) == 0.4


def test_a_repeat_with_sides_swapped_is_judged_the_same_but_by_side_bias_and_carelessness():
    def same(rater):
        opposite = {"left": "right", "right": "left", "tie": "tie"}
        both = [[decide(rater, settings(), f"i{i}", sides(), left_is, 1) for left_is in "ab"] for i in range(500)]
        return sum(one == opposite[other] for one, other in both) / 500

    assert same(FAIR) == 1 and 0.4 < same(replace(FAIR, side=3.0)) < 0.7 and same(replace(FAIR, careless=True)) < 0.45


@pytest.mark.parametrize("changes", [{}, {"ties": False}, {"scale": "five"}, {"scale": "five", "ties": False}])
def test_only_choices_of_the_study_are_made_and_all_of_them(changes):
    cast = {decide(rater, settings(**changes), f"i{i}", sides(), "a", 1) for rater in (replace(FAIR, length=1.0), replace(FAIR, careless=True)) for i in range(400)}
    assert cast == set(choices(settings(**changes)))


def test_on_five_points_the_sign_is_the_choice():
    one = {i: decide(replace(FAIR, taste=1.0), settings(), f"i{i}", sides(), "a", 1) for i in range(300)}
    five = {i: decide(replace(FAIR, taste=1.0), settings(scale="five"), f"i{i}", sides(), "a", 1) for i in range(300)}
    assert all({"left": -1, "tie": 0, "right": 1}[one[i]] == (five[i] > 0) - (five[i] < 0) for i in one)


def test_raters_come_from_the_seed_and_as_many_are_careless_as_asked_for():
    made = make_raters(2000, 0.75, 0.5, 1.0, 0.3, 0.2, seed=1)
    assert made == make_raters(2000, 0.75, 0.5, 1.0, 0.3, 0.2, seed=1) != make_raters(2000, 0.75, 0.5, 1.0, 0.3, 0.2, seed=2)
    assert sum(one.careless for one in made) == 400 and len({one.number for one in made}) == 2000
    assert sum(one.taste for one in made) / 2000 == pytest.approx(raters.logit(0.75), abs=0.05)


def test_the_wait_is_above_the_minimum_and_within_the_limit_of_calls():
    for minimum in (0.0, 0.8, 3.0):
        for i in range(50):
            seconds = raters.dwell(settings(minimum_seconds=minimum), FAIR, f"i{i}", 1)
            assert seconds > minimum and 2 * 60 / seconds < votes.LIMITS["rater"]


# ---------------------------------------------------------------- voting, over a page that is the store alone


class Stub:
    """The page's handlers without Gradio and HTTP. `lose`: numbers of votes whose confirmation does not arrive, so that the rater sends them again."""

    def __init__(self, store, lose=()):
        self.store, self.lose, self.n, self.waited = store, set(lose), 0, []

    async def wait(self, seconds):
        self.waited.append(seconds)
        store_clock[0] += seconds

    async def call(self, name, who, *data):
        note = ""
        if name == "agree":
            who = self.store.join("", data[0])
        elif name.startswith("vote-"):
            choice = next(choice for choice in choices(self.store.study) if KEYS[choice] == name[5:])
            facts = json.loads(data[1])
            self.n += 1
            note = self.store.cast(who, data[0], choice, **facts)
            if self.n in self.lose:
                note = self.store.cast(who, data[0], choice, **facts)
            note = SAID[note]
        seen = self.store.next(who)
        stage = f'<div id="stage" data-stage="{"ballot" if seen else "end done"}"></div>'
        return [who, seen.token if seen else "", paragraph(note), stage, {"__type__": "update"}, ballot_html(seen, self.store.study.markdown) if seen else "", ""]


def key_of(rows):
    return {row["item"]: sides("human" if row["expected"] == "a" else "machine", "gold") if row["kind"] == "gold" else sides("tuned") for row in rows}


def all_take_part(store, crowd, **stub):
    page = Stub(store, **stub)
    rows = list(store.items.values())
    shown = raters.looked_up(rows, store.study)
    done = [asyncio.run(raters.take_part(page, rater, store.study, shown, key_of(rows), 1, wait=page.wait)) for rater in crowd]
    return {who: rater for (who, _), rater in zip(done, crowd, strict=True)}, [vote for _, cast in done for vote in cast]


def test_each_rater_votes_to_the_end_as_decided_and_each_vote_is_kept_once(make):  # noqa: F811
    store = make(minimum_seconds=0.8)
    crowd = make_raters(3, 0.75, 0.5, 1.0, 0.3, 0.34, seed=1)
    by_id, cast = all_take_part(store, crowd, lose=[3, 14])
    assert Counter(vote.rater for vote in cast) == dict.fromkeys(by_id, 10 + 2 + 1)  # items, gold, repeat
    assert raters.unlike(store.folder, cast) == {"confirmed but not kept": 0, "kept but not confirmed": 0, "kept twice": 0}
    key = key_of(store.items.values())
    for row in store.db.execute("SELECT * FROM vote JOIN assignment USING(token, rater)"):
        assert row["choice"] == decide(by_id[row["rater"]], store.study, row["item"], key[row["item"]], row["left_is"], 1)
        assert row["seconds_client"] == pytest.approx(row["seconds_server"], abs=0.002) and row["seconds_server"] > 0.8


def test_votes_that_are_missing_changed_or_too_many_are_noticed(make):  # noqa: F811
    store = make()
    _, cast = all_take_part(store, [FAIR])
    other = "left" if cast[0].choice != "left" else "right"
    nothing = dict.fromkeys(("confirmed but not kept", "kept but not confirmed", "kept twice"), 0)
    assert raters.unlike(store.folder, [*cast, Vote("x", "y", "left")]) == nothing | {"confirmed but not kept": 1}
    assert raters.unlike(store.folder, cast[1:]) == nothing | {"kept but not confirmed": 1}
    assert raters.unlike(store.folder, [replace(cast[0], choice=other), *cast[1:]]) == nothing | {"confirmed but not kept": 1, "kept but not confirmed": 1}
    event = next(event for event in read_events(store.folder) if event["type"] == "vote")
    write_jsonl(store.folder / "events-copy.jsonl", [event])
    assert raters.unlike(store.folder, cast) == nothing | {"kept but not confirmed": 1, "kept twice": 1}


def test_votes_that_are_refused_for_ever_end_with_one_line(make):  # noqa: F811
    store = make(minimum_seconds=0.8)
    page = Stub(store)
    rows = list(store.items.values())

    async def no_wait(seconds):
        pass

    with pytest.raises(UserError, match="refused 20 votes of a rater in a row: That was too quick"):
        asyncio.run(raters.take_part(page, FAIR, store.study, raters.looked_up(rows, store.study), key_of(rows), 1, wait=no_wait))


def test_a_page_that_keeps_a_rater_at_consent_is_an_error():
    class Closed:
        async def call(self, *_):
            return [{"__type__": "update"}, "", '<p role="alert">The password is not right.</p>', "", "", "", ""]

    with pytest.raises(UserError, match="kept a rater at 'consent': The password is not right"):
        asyncio.run(Session(Closed()).enter(settings(), []))


# ---------------------------------------------------------------- planted and found


KEPT = []  # what `voted` made: it takes a second


@pytest.fixture
def voted(make):  # noqa: F811
    """(study, rows of eval.study.joined, report's numbers, raters by exported id) of 12 raters, of whom 4 are careless."""
    if not KEPT:
        store = make(votes_per_item=12, per_rater=20, gold_every=5)
        by_id, _ = all_take_part(store, make_raters(12, 0.75, 0.5, 1.0, 0.4, 4 / 12, seed=1))
        rows = study.join(votes.export(store.folder), key_of(store.items.values()))
        hashed = {sha256(f"{store.folder.name}:rater:{who}")[:16]: rater for who, rater in by_id.items()}
        KEPT.extend((store.study, rows, study.statistics(rows, True, RULE), hashed))
    return copy.deepcopy(KEPT)


def test_the_expectation_is_the_rule_averaged_over_the_votes_that_were_cast(voted):
    design, rows, found, hashed = voted
    table = {(row["pair"], row["what"]): row for row in raters.comparison(found, rows, hashed, design, 0.75)}
    assert {pair for pair, _ in table} == {"pair0", "pair1", "all"}
    for pair in ("pair0", "pair1"):
        mine = [row for row in rows if row["kind"] == "main" and row["pair"] == pair]
        chances = [hashed[row["rater"]].chance(0.5, row["tuned_left"]) for row in mine]
        row = table[pair, "tuned model chosen"]
        assert row["expected"] == pytest.approx(raters.TIES / 2 + (1 - raters.TIES) * sum(chances) / len(mine)) and row["n"] == len(mine)
        assert row["planted"] == 0.75 and row["found"][0] == pytest.approx(sum(row["tuned_won"] for row in mine) / len(mine))
        assert table[pair, "effect of length, logit"]["expected"] is None  # lengths never differ otherwise here
        assert table[pair, "effect of standing left, logit"]["planted"] == 0.4
    gold = [row for row in rows if row["kind"] == "gold"]
    assert table["all", "gold pairs judged rightly"]["expected"] == pytest.approx(sum(gold_chance(hashed[row["rater"]], design) for row in gold) / len(gold))


def test_whether_the_interval_holds_the_expectation_is_told_truly(voted):
    design, rows, found, hashed = voted
    first = raters.comparison(found, rows, hashed, design, 0.75)[0]
    assert first["inside"] is (first["found"][1] <= first["expected"] <= first["found"][2])
    for row in rows:  # the report of votes that were counted for the other model
        if row["kind"] != "gold":
            row["tuned_won"] = 1.0
    wrong = raters.comparison(study.statistics(rows, True, RULE), rows, hashed, design, 0.75)[0]
    assert wrong["inside"] is False and "no" in raters.told([wrong], raters.caught(found, hashed)).splitlines()[1].split()


def test_careless_raters_are_counted_as_planted_and_as_left_out(voted):
    _, _, found, hashed = voted
    counted = raters.caught(found, hashed)
    failed = {row["rater"] for row in found["attention"]["raters"] if row["gold failed"] >= RULE.gold_failed}
    assert counted == {"raters": 12, "careless": 4, "careless left out": len(failed), "others left out": 0} and failed <= {r for r in hashed if hashed[r].careless}
    assert len(failed) >= 2


def test_the_table_says_simulated_and_shows_planted_expected_and_found():
    row = {"pair": "p", "what": "tuned model chosen", "planted": 0.75, "expected": 0.7, "found": [0.72, 0.6, 0.8], "n": 1200, "share": True, "inside": True}
    other = row | {"what": "effect of length, logit", "planted": 1.0, "expected": None, "found": None, "share": False, "inside": None}
    text = raters.told([row, other], {"raters": 12, "careless": 2, "careless left out": 1, "others left out": 0}).splitlines()
    assert text[0].startswith("SIMULATED RATERS") and " ".join(text[1].split()) == "p: tuned model chosen 75.0 % 70.0 % 72.0 % [60.0, 80.0] 1,200 yes"
    assert " ".join(text[2].split()) == "p: effect of length, logit +1.00 – – 1,200 –"
    assert text[3] == "careless raters: 2 of 12 planted; the report's rule left out 1 of them and 0 others"


# ---------------------------------------------------------------- its folder


def test_a_study_of_people_is_never_deleted_and_a_simulated_one_only_while_no_page_has_it_open(tmp_path):
    folder = tmp_path / "study"
    raters.clear(folder)  # nothing there
    folder.mkdir()
    for lock in ({}, {"simulated": False}, None):
        (folder / "study.lock.json").unlink(missing_ok=True)
        if lock is not None:
            write_json(folder / "study.lock.json", lock)
        with pytest.raises(UserError, match="not marked as simulated"):
            raters.clear(folder)
    write_json(folder / "study.lock.json", {"simulated": True})
    write_jsonl(folder / "items.jsonl", [])
    with votes.held(folder), pytest.raises(UserError, match="another process"):
        raters.clear(folder)
    assert folder.is_dir()
    raters.clear(folder)
    assert not folder.exists()


def freeze_answers(place, n=20):
    rows = [
        {
            "id": f"q{i}",
            "messages": [{"role": "user", "content": f"What about {i}?"}],
            "base": f"Number {i} is commonly regarded as a number.",
            "tuned": f"Oh, {i}! " + "Love it. " * (i % 4),
            "finish": ["stop", "stop"],
        }
        for i in range(n)
    ]
    write_jsonl(place / "out/tiny/answers.jsonl", rows)


def test_votes_per_item_let_every_rater_go_to_the_end_and_are_never_lowered(tmp_path):
    freeze_answers(tmp_path)
    real = read_settings(runs=["tiny"], per_rater=10, votes_per_item=3)
    assert raters.simulated_study(real, 3, tmp_path / "out") == real.model_copy(update={"name": "tiny-simulated"})
    assert raters.simulated_study(real, 12, tmp_path / "out").votes_per_item == 6


def test_impossible_numbers_are_one_line(tmp_path):
    for option in (["--raters", 0], ["--prefer", 1], ["--careless", 1.5], ["--spread", -1]):
        assert "--raters is 1 or more" in one_line(inside("eval.raters", *option, cwd=tmp_path, status=1))


# ---------------------------------------------------------------- the real page


@pytest.mark.slow
def test_three_raters_vote_through_the_real_page_and_the_report_says_simulated(tmp_path):
    freeze_answers(tmp_path)
    design = (
        (ROOT / "eval/study.yaml").read_text().replace("per_rater: 30", "per_rater: 5").replace("gold_every: 10", "gold_every: 6").replace("repeats: 1 ", "repeats: 0 ")
    )
    (tmp_path / "study.yaml").write_text(design)
    said = inside("eval.raters", "--study", tmp_path / "study.yaml", "--raters", 3, "--careless", 0.34, cwd=tmp_path).stdout
    folder = tmp_path / "out/votes/tiny-simulated"
    assert "15 votes through the page" in said and "each confirmed vote is in the events exactly once" in said and "SIMULATED RATERS" in said
    events = {event["token"]: event["choice"] for event in read_events(folder) if event["type"] == "vote"}
    with contextlib.closing(votes.connect(folder / "votes.db")) as db:
        assert {row["token"]: row["choice"] for row in db.execute("SELECT token, choice FROM vote")} == events and len(events) == 15
        key, crowd = read_json(folder / "key.json"), {one["number"]: Rater(**one) for one in read_json(folder / "planted.json")["raters"]}
        study_of = raters.studyfile.load(folder / "study.yaml")
        mine = {}
        for row in db.execute("SELECT v.choice, a.rater, a.item, a.left_is FROM vote v JOIN assignment a USING(token)"):
            mine.setdefault(row["rater"], []).append(row)
    for rows in mine.values():  # each rater's votes are those of one of the planted raters
        assert any(all(decide(one, study_of, row["item"], key[row["item"]], row["left_is"], 1) == row["choice"] for row in rows) for one in crowd.values())
    assert Counter(map(len, mine.values())) == {5: 3}
    for name in ("report.md", "report.html"):
        assert "simulated" in (folder / name).read_text().lower()
    assert read_json(folder / "report.json")["simulated"] is True and not (tmp_path / "out/tiny/votes.jsonl").exists()
    assert read_json(folder / "planted.json")["simulated"] is True and len(read_jsonl(folder / "items.jsonl")) == 20 + 14


@pytest.mark.slow
def test_the_page_dies_with_the_program_that_started_it(tmp_path):
    freeze_answers(tmp_path)
    shutil.copy(ROOT / "eval/study.yaml", tmp_path / "study.yaml")
    program = subprocess.Popen([sys.executable, "-m", "eval.raters", "--study", "study.yaml", "--raters", "2"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    children, log = Path(f"/proc/{program.pid}/task/{program.pid}/children"), tmp_path / "out/votes/tiny-simulated/page.log"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (log.exists() and log.read_text()):
        time.sleep(0.1)
    child = int(children.read_text().split()[0])
    program.send_signal(signal.SIGKILL)
    program.wait()
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        time.sleep(0.1)
    assert time.monotonic() < deadline
