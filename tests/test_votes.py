"""The store of votes: each counted once, whatever happens.  .venv/bin/python -m pytest tests/test_votes.py"""

import json
import os
import random
import shutil
import sqlite3
import threading
from collections import Counter, defaultdict

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen.files import UserError, write_jsonl
from eval import votes
from eval.studyfile import Study
from eval.votes import Refused, Store, export, read_events

ITEMS, PAIRS = 20, 2


def settings(**changes):
    """The study of the repository, small and without waiting."""
    values = yaml.safe_load((ROOT / "eval/study.yaml").read_text())
    values |= {"quiz": [], "questionnaire": [], "quotas": {}, "minimum_seconds": 0, "per_rater": 10, "gold_every": 5, "votes_per_item": 3, "common": 0.2}
    return Study(**values | changes)


def items(n=ITEMS, pairs=PAIRS, golds=4):
    main = [{"item": f"i{q}.{p}", "question_id": f"q{q}", "pair": f"pair{p}", "kind": "main", "expected": None} for p in range(pairs) for q in range(n)]
    gold = [{"item": f"g{k}", "question_id": f"gold{k}", "pair": "gold", "kind": "gold", "expected": "ab"[k % 2]} for k in range(golds)]
    texts = [{"question": f"Question {row['question_id']}?", "text_a": f"a of {row['item']}", "text_b": f"b of {row['item']}"} for row in main + gold]
    return [row | text for row, text in zip(main + gold, texts, strict=True)]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Opens the store of a folder; a second call opens it anew, the first one's process being dead."""
    for name in ("STUDY_PASSWORD", "STUDY_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(votes, "LIMITS", dict.fromkeys(votes.LIMITS, 100_000))
    opened = []

    def open_store(folder=tmp_path / "study", rows=None, kill=True, **changes):
        if opened and kill:
            opened[-1].held.close()  # as the end of its process would; nothing is closed, no transaction ended
        if not folder.is_dir():
            folder.mkdir()
            write_jsonl(folder / "items.jsonl", rows or items())
        store = Store(folder, settings(**changes), clock=lambda: store_clock[0], rng=random.Random(1))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.db.close()
        store.log.close()
        store.held.close()


store_clock = [1_800_000_000.0]


@pytest.fixture(autouse=True)
def fixed_clock():
    store_clock[0] = 1_800_000_000.0


def vote_all(store, rater, n=10**6, choice="left"):
    """Casts up to n votes; the ballots."""
    cast = []
    while len(cast) < n and (ballot := store.next(rater)):
        store_clock[0] += 1
        assert store.cast(rater, ballot.token, choice) == "ok"
        cast.append(ballot)
    return cast


def state(store):
    """All that a study knows, as plain rows."""
    return {table: sorted(map(tuple, store.db.execute(f"SELECT * FROM {table}")), key=repr) for table in ("item", "rater", "assignment", "vote")}


def rows_of(store, where="1"):
    return [
        dict(row) for row in store.db.execute(f"SELECT a.*, v.chosen, v.choice FROM assignment a LEFT JOIN vote v USING(token) WHERE {where} ORDER BY a.rater, position")
    ]


# ---------------------------------------------------------------- who gets what


def test_a_rater_never_sees_a_question_twice_but_for_the_repeat_whose_sides_are_swapped(make):
    store = make()
    for rater in [store.join() for _ in range(8)]:
        vote_all(store, rater)
        mine = rows_of(store, f"a.rater = '{rater}'")
        once = [row["question_id"] for row in mine if row["kind"] != "repeat"]
        assert len(once) == len(set(once)) == 12 and [row["position"] for row in mine] == list(range(1, 14))
        (repeat,) = [row for row in mine if row["kind"] == "repeat"]
        source = next(row for row in mine if row["token"] == repeat["source"])
        assert source["item"] == repeat["item"] and source["left_is"] != repeat["left_is"] and repeat["position"] - source["position"] >= 3


def test_the_cap_counts_items_and_golds_and_repeats_come_on_top(make):
    store = make()
    for rater in [store.join() for _ in range(6)]:
        ballots = vote_all(store, rater)
        kinds = [row["kind"] for row in rows_of(store, f"a.rater = '{rater}'")]
        assert Counter(kinds) == {"main": 10, "gold": 2, "repeat": 1}
        assert [ballot.total for ballot in ballots] == [13] * 13 and [ballot.position for ballot in ballots] == list(range(1, 14))
        first = kinds.index("gold")
        assert kinds[: first + 1].count("main") <= 5 < 5 + kinds[first + 1 :].count("gold") * 5 <= 10  # one in each five items
        assert store.next(rater) is None and store.stage(rater) == "vote"


def test_votes_are_spread_evenly_and_sides_are_balanced_within_one(make):
    store = make(rows=items(40, 1), common=0.0)  # with several pairs, a rater's own questions can stand in the way
    for k in range(9):
        vote_all(store, store.join(), n=3 + 5 * k % 11)
        table = store.db.execute("SELECT n, n_left_a FROM item WHERE kind = 'main'").fetchall()
        assert max(row["n"] for row in table) - min(row["n"] for row in table) <= 1
        assert all(abs(2 * row["n_left_a"] - row["n"]) <= 1 for row in table)


def test_a_rater_sees_all_pairs_and_both_sides_equally_often(make):
    store = make(common=0.0)
    rater = store.join()
    vote_all(store, rater)
    mine = rows_of(store, f"a.rater = '{rater}' AND a.kind = 'main'")
    assert Counter(row["pair"] for row in mine) == {"pair0": 5, "pair1": 5}
    assert 4 <= Counter(row["left_is"] for row in mine)["a"] <= 6  # the golds between them count, too


def test_all_items_get_their_votes_and_no_more(make):
    store = make()
    while vote_all(store, store.join()):
        pass
    assert {row["n"] for row in store.db.execute("SELECT n FROM item WHERE kind = 'main'")} == {3}
    assert votes.counts(store.db)["main votes"] == 3 * ITEMS * PAIRS


def test_the_common_items_are_finished_first_by_several_raters(make):
    store = make(votes_per_item=4, common=0.2)
    assert len(store.common) == 8
    for _ in range(8):
        vote_all(store, store.join())
    votes_of = {row["item"]: row["n"] for row in store.db.execute("SELECT item, n FROM item WHERE kind = 'main'")}
    common = sorted(votes_of[item] for item in store.common)
    assert sum(common) == 8 * 2 and common.count(4) >= 3  # a fifth of each rater's ten, heaped
    others = [n for item, n in votes_of.items() if item not in store.common]
    assert max(others) <= 3


def test_two_raters_at_once_are_not_given_more_ballots_of_an_item_than_it_wants(make):
    store = make(rows=items(1, 1, 2), votes_per_item=2)
    raters = [store.join() for _ in range(3)]
    ballots = [store.next(rater) for rater in raters]
    assert [ballot is not None for ballot in ballots] == [True, True, False]
    assert {ballot.left for ballot in ballots[:2]} == {"a of i0.0", "b of i0.0"}
    store_clock[0] += 15 * 60 + 1  # the reservations lapse
    assert store.next(raters[2]).question == "Question q0?"


# ---------------------------------------------------------------- each vote once


def test_a_vote_counts_once_and_each_outcome_has_its_name(make):
    store = make(minimum_seconds=0.8)
    rater, other = store.join(), store.join()
    ballot = store.next(rater)
    store_clock[0] += 0.7
    assert store.cast(rater, ballot.token, "left") == "too_fast"
    store_clock[0] += 0.2
    assert store.cast(other, ballot.token, "left") == "unknown" and store.cast(rater, "no such token", "left") == "unknown"
    assert store.cast(rater, ballot.token, "left", 1.25, "stack", "touch") == "ok"
    assert store.cast(rater, ballot.token, "right") == "duplicate"
    late = store.next(rater)
    store_clock[0] += 15 * 60
    assert store.cast(rater, late.token, "left") == "expired" and store.cast(rater, late.token, "left") == "expired"
    (row,) = [dict(row) for row in store.db.execute("SELECT * FROM vote")]
    assert (row["choice"], row["seconds_server"], row["seconds_client"], row["layout"], row["input"]) == ("left", 0.9, 1.25, "stack", "touch")


def test_two_tabs_show_one_ballot_and_the_later_vote_is_a_duplicate(make):
    store = make()
    rater = store.join()
    tabs = [store.next(rater), store.next(rater)]
    assert tabs[0] == tabs[1]
    assert [store.cast(rater, tab.token, choice) for tab, choice in zip(tabs, ("left", "right"), strict=True)] == ["ok", "duplicate"]
    assert store.next(rater).position == 2 and store.db.execute("SELECT choice FROM vote").fetchone()[0] == "left"


def test_a_choice_that_the_study_does_not_have_is_an_error_and_nonsense_of_the_browser_is_not_kept(make):
    store = make(ties=False)
    rater = store.join()
    ballot = store.next(rater)
    for choice in ("tie", 0, 2, "a", None):
        with pytest.raises(ValueError, match="no choice of this study"):
            store.cast(rater, ballot.token, choice)
    assert store.cast(rater, ballot.token, "right", float("nan"), "<b>", "thought") == "ok"
    assert tuple(store.db.execute("SELECT seconds_client, layout, input FROM vote").fetchone()) == (None, None, None)


@pytest.mark.parametrize(("choice", "left_is", "wins"), [("left", "a", "a"), ("right", "a", "b"), ("tie", "a", None), (-2, "b", "b"), (1, "b", "a"), (0, "b", None)])
def test_the_side_chosen_becomes_the_answer_chosen(choice, left_is, wins):
    assert votes.chosen(choice, left_is) == wins


def test_the_database_itself_refuses_what_would_count_twice(make):
    store = make()
    rater = store.join()
    (ballot,) = vote_all(store, rater, 1)
    store.next(rater)
    row = dict(store.db.execute("SELECT * FROM assignment WHERE token = ?", [ballot.token]).fetchone())
    vote = dict(store.db.execute("SELECT * FROM vote").fetchone())
    another = row | {"token": "x", "position": 99}
    for table, values in [
        ("vote", vote),
        ("vote", vote | {"token": "nobody's"}),
        ("assignment", another | {"state": "open"}),
        ("assignment", another | {"state": "voted"}),
        ("assignment", another | {"question_id": "new", "state": "open"}),  # a second open one
        ("assignment", another | {"question_id": "new", "position": 1}),
        ("assignment", another | {"kind": "repeat"}),
        ("assignment", another | {"rater": "nobody", "question_id": "new"}),
    ]:
        with pytest.raises(sqlite3.IntegrityError):
            votes.insert(store.db, table, **values)


def test_twenty_threads_with_twenty_votes_each_are_counted_exactly_once(make):
    store = make(rows=items(60, 3, 4), per_rater=17)  # 17 items, 3 golds and a repeat: 21 ballots
    acknowledged, failures = defaultdict(list), []

    def session():
        try:
            rater = store.join()
            for _ in range(20):
                ballot = store.next(rater)
                outcomes = Counter()
                twice = [threading.Thread(target=lambda t=ballot.token, o=outcomes: o.update([store.cast(rater, t, "left")])) for _ in range(2)]
                for thread in twice:
                    thread.start()
                for thread in twice:
                    thread.join()
                assert outcomes == {"ok": 1, "duplicate": 1}
                acknowledged[rater].append(ballot.token)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=session) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(acknowledged) == 20
    confirmed = {token for tokens in acknowledged.values() for token in tokens}
    assert len(confirmed) == 400 and {row["token"] for row in store.db.execute("SELECT token FROM vote")} == confirmed
    assert Counter(event["token"] for event in read_events(store.folder) if event["type"] == "vote") == Counter(confirmed)


# ---------------------------------------------------------------- what is lost when something dies: nothing


def test_a_killed_store_opens_as_it_was_and_the_open_ballot_can_still_be_voted_on(make):
    store = make()
    rater, other = store.join(), store.join()
    vote_all(store, rater, 5)
    vote_all(store, other, 3)
    store.withdraw(store.code(other))
    ballot, before = store.next(rater), state(store)
    again = make()
    assert state(again) == before and again.next(rater) == ballot
    assert again.cast(rater, ballot.token, "tie") == "ok"
    third = make()
    assert third.cast(rater, ballot.token, "left") == "duplicate" and third.next(rater).position == 7


def test_the_database_can_be_deleted_and_events_read_twice_count_once(make):
    store = make()
    raters = [store.join() for _ in range(4)]
    for k, rater in enumerate(raters):
        vote_all(store, rater, 3 + 2 * k)
        store.next(rater)
    before = state(store)
    for path in store.folder.glob("votes.db*"):
        path.unlink()
    (log,) = store.folder.glob("events-*.jsonl")
    shutil.copy(log, log.with_name("events-copy.jsonl"))
    again = make()
    assert state(again) == before
    vote_all(again, raters[0])
    assert len(list(store.folder.glob("events-*.jsonl"))) == 3  # each boot has a file of its own
    assert state(make()) == state(again)


def test_two_pages_at_once_lose_no_vote_and_the_first_on_a_question_counts(make, tmp_path):
    """As when a Space is rebuilt: the new page begins from a copy while the old one still takes votes."""
    old = make(rows=items(12, 1, 4))
    rater = old.join()
    vote_all(old, rater, 3)
    shutil.copytree(old.folder, tmp_path / "new")
    new = make(folder=tmp_path / "new", kill=False)
    vote_all(old, rater, 5, "left")
    store_clock[0] += 100
    vote_all(new, rater, 8, "right")
    for log in old.folder.glob("events-*.jsonl"):
        shutil.copy(log, new.folder / log.name)
    cast = {event["token"]: event for event in read_events(new.folder) if event["type"] == "vote"}
    assert len(cast) == 3 + 5 + 8
    both = make(folder=new.folder)
    kept = rows_of(both, "a.state = 'voted'")
    questions = {event["question_id"] for event in cast.values() if event["kind"] != "repeat"}
    assert sorted(row["question_id"] for row in kept if row["kind"] != "repeat") == sorted(questions)  # each once
    for row in kept:
        same = [event for event in cast.values() if event["question_id"] == row["question_id"] and (event["kind"] == "repeat") == (row["kind"] == "repeat")]
        assert row["choice"] == min(same, key=lambda event: event["t"])["choice"]
    positions = [row["position"] for row in kept]
    assert len(set(positions)) == len(positions) and state(make(folder=new.folder)) == state(both)


def test_a_vote_without_its_ballot_is_named(make):
    store = make()
    vote_all(store, store.join(), 1)
    (log,) = store.folder.glob("events-*.jsonl")
    log.write_bytes(b"".join(line for line in log.read_bytes().splitlines(True) if b'"served"' not in line))
    with pytest.raises(UserError, match=r"a vote has no ballot \(\w+\): a file events"):
        make()


def test_a_torn_last_line_is_skipped_and_a_broken_line_before_it_is_named(make):
    store = make()
    rater = store.join()
    vote_all(store, rater, 2)
    before = state(store)
    (log,) = store.folder.glob("events-*.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"type":"vote","t":18000')
    assert state(make()) == before
    log.write_bytes(whole.replace(b'"served"', b'"ser\n', 1))
    with pytest.raises(UserError, match=r"events-.*\.jsonl:2: not an event"):
        make()


def test_votes_that_no_events_file_has_are_not_thrown_away_in_silence(make):
    store = make()
    vote_all(store, store.join(), 2)
    (log,) = store.folder.glob("events-*.jsonl")
    log.rename(store.folder / "elsewhere.jsonl")
    with pytest.raises(UserError, match=r"votes\.db: holds 2 vote\(s\) that no events"):
        make()


def test_a_vote_that_could_not_be_written_is_not_confirmed_and_can_be_cast_again(make, monkeypatch):
    store = make()
    rater = store.join()
    ballot, before, real = store.next(rater), state(store), os.fsync
    (log,) = store.folder.glob("events-*.jsonl")
    text, full = log.read_bytes(), [True]

    def fsync(fd):
        if full[0]:
            full[0] = False
            raise OSError(28, "No space left on device")
        return real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        store.cast(rater, ballot.token, "left")
    assert state(store) == before and log.read_bytes() == text
    assert store.cast(rater, ballot.token, "right") == "ok"
    assert make().db.execute("SELECT choice FROM vote").fetchone()[0] == "right"


def test_a_second_process_is_refused_while_a_store_is_open(make):
    store = make()
    with pytest.raises(UserError, match="another process has this study open"):
        make(kill=False)
    with pytest.raises(UserError, match="another process has this study open"):
        votes.erase(store.folder)


def test_an_item_that_was_shown_and_is_gone_is_named(make):
    store = make()
    ballot = vote_all(store, store.join(), 1)[0]
    write_jsonl(store.folder / "items.jsonl", [row for row in items() if row["question"] != ballot.question])
    with pytest.raises(UserError, match=r"items\.jsonl has no item '"):
        make()


# ---------------------------------------------------------------- raters


ASKS = [
    {"key": "age", "text": "How old are you?", "options": ["under 18", "older"], "ends": {"under 18": "Thank you, it ends here."}},
    {"key": "native", "text": "Native?", "options": ["yes", "no"]},
]
QUIZ = [{"question": "What do you judge?", "options": ["this", "that"], "answer": "that"}]


def test_a_rater_goes_from_questions_to_quiz_to_votes_and_comes_back_where_they_were(make):
    store = make(questionnaire=ASKS, quiz=QUIZ)
    assert store.stage(None) == store.stage("nobody") == "consent"
    rater = store.join()
    assert store.stage(rater) == "questions" and store.next(rater) is None
    with pytest.raises(Refused, match="every question"):
        store.answer(rater, {"age": "older", "native": "perhaps"})
    assert store.answer(rater, {"age": "older", "native": "yes"}) == "quiz" and store.answer(rater, {"age": "under 18", "native": "no"}) == "quiz"
    assert not store.quiz(rater, ["this"])
    store = make(questionnaire=ASKS, quiz=QUIZ)
    assert store.stage(rater) == "quiz" and store.quiz(rater, ["that"]) and store.stage(rater) == "vote"
    vote_all(store, rater, 1)
    (row,) = export(store.folder)
    assert (row["age"], row["native"], row["quiz_passed"], row["quiz_tries"]) == ("older", "yes", True, 2)
    other = store.join()
    store.answer(other, {"age": "older", "native": "no"})
    assert [store.quiz(other, ["this"]) for _ in range(2)] == [False, False]
    assert store.stage(other) == "failed" and not store.quiz(other, ["that"]) and store.next(other) is None


def test_of_a_rater_whom_the_questionnaire_turns_away_no_answer_is_kept(make):
    store = make(questionnaire=ASKS)
    rater = store.join()
    assert store.answer(rater, {"age": "under 18", "native": "no"}) == "ended" and store.next(rater) is None
    assert "under 18" not in "".join(path.read_text(errors="replace") for path in store.folder.glob("events-*"))
    assert make(questionnaire=ASKS).stage(rater) == "ended"


def test_a_quota_closes_when_those_admitted_can_fill_it_and_opens_again_when_they_leave(make):
    store = make(questionnaire=ASKS, quotas={"native": {"yes": 0.25}})  # 120 votes planned: 30, three raters with 10
    raters = [store.join() for _ in range(6)]
    stages = [store.answer(rater, {"age": "older", "native": "yes"}) for rater in raters[:4]]
    assert stages == ["vote", "vote", "vote", "ended"]
    assert store.answer(raters[4], {"age": "older", "native": "no"}) == "vote"
    store_clock[0] += 16 * 60  # the three never voted
    assert store.answer(raters[5], {"age": "older", "native": "yes"}) == "vote"


def test_the_password_and_invites_guard_the_study(make, monkeypatch):
    store = make()
    monkeypatch.setenv("STUDY_PASSWORD", "sesame é")
    with pytest.raises(Refused, match="password is not right"):
        store.join(password="sesame")
    assert store.stage(store.join(password="sesame é")) == "vote"
    with pytest.raises(UserError, match="export STUDY_ADMIN_TOKEN"):
        votes.invites(store.folder, store.study, 1)
    monkeypatch.setenv("STUDY_ADMIN_TOKEN", "secret")
    first, second = votes.invites(store.folder, store.study, 2)
    with pytest.raises(Refused, match="not valid"):
        store.join(invite=first[:-1] + ("0" if first[-1] != "0" else "1"))
    rater = store.join(invite=first)
    assert store.join(invite=first) == rater != store.join(invite=second)  # one person, on any device
    assert make().join(invite=first) == rater and first not in (store.folder / "votes.db").read_bytes().decode("latin-1")


def test_the_organiser_needs_the_token(make, monkeypatch):
    store = make()
    rater = store.join()
    with pytest.raises(Refused, match="STUDY_ADMIN_TOKEN is not set"):
        store.organise("", "pause")
    monkeypatch.setenv("STUDY_ADMIN_TOKEN", "secret")
    with pytest.raises(Refused, match="token is not right"):
        store.organise("guess", "pause")
    ballot = store.next(rater)
    assert store.organise("secret", "pause")["paused"] and store.stage(rater) == "paused" and store.next(rater) is None
    assert store.cast(rater, ballot.token, "left") == "ok"  # what was begun counts
    assert make().stage(rater) == "paused"


def test_calls_are_limited_a_minute(make, monkeypatch):
    store = make()
    monkeypatch.setitem(votes.LIMITS, "rater", 4)
    monkeypatch.setitem(votes.LIMITS, "wrong", 3)
    monkeypatch.setenv("STUDY_PASSWORD", "sesame")
    raters = [store.join(password="sesame") for _ in range(2)]
    vote_all(store, raters[0], 2)
    with pytest.raises(Refused, match="wait a minute"):
        store.next(raters[0])
    assert store.next(raters[1])
    messages = []
    for _ in range(4):
        with pytest.raises(Refused) as caught:
            store.join("1.2.3.4", password="guess")
        messages.append(str(caught.value))
    assert messages[:3] == ["The password is not right."] * 3 and "wait" in messages[3]


def test_withdrawing_takes_the_votes_out_and_frees_the_items(make):
    store = make()
    rater, other = store.join(), store.join()
    vote_all(store, rater, 4)
    vote_all(store, other, 2)
    code = store.code(rater)
    assert not store.withdraw("0" * 16) and store.withdraw(f" {code[:8].upper()}-{code[8:]} ") and store.withdraw(code)
    assert store.stage(rater) == "withdrawn" and store.next(rater) is None
    assert len(export(store.folder)) == 2 and store.db.execute("SELECT sum(n) FROM item").fetchone()[0] == 2
    assert votes.counts(store.db)["withdrawn votes"] == 4


def test_without_the_page_a_code_withdraws_and_erasing_leaves_no_vote_of_it(make):
    store = make()
    rater, other = store.join(), store.join()
    vote_all(store, rater, 4)
    vote_all(store, other, 2)
    code = store.code(rater)
    store.close()
    assert "is the withdrawal code of nobody" in one_line(inside("eval.votes", store.folder, "--withdraw", "0", status=1))
    assert "4 withdrawn votes" in inside("eval.votes", store.folder, "--withdraw", code).stdout
    assert "erased 4 votes" in inside("eval.votes", store.folder, "--erase").stdout
    assert Counter(event["rater"] for event in read_events(store.folder) if event["type"] == "vote") == {other: 2}
    again = Store(store.folder, settings(), clock=lambda: store_clock[0])
    assert again.stage(rater) == "withdrawn" and votes.counts(again.db)["main votes"] + votes.counts(again.db)["gold votes"] == 2
    again.close()


# ---------------------------------------------------------------- export


def test_an_export_has_results_and_nothing_that_identifies(make, monkeypatch):
    monkeypatch.setenv("STUDY_ADMIN_TOKEN", "secret")
    store = make(questionnaire=ASKS)
    (invite,) = votes.invites(store.folder, store.study, 1)
    rater = store.join(address="192.0.2.77", invite=invite)
    store.answer(rater, {"age": "older", "native": "no"})
    ballots = []
    while ballot := store.next(rater):
        store_clock[0] += 2
        store.cast(rater, ballot.token, "left" if ballot.left < ballot.right else "right", 1.5, "row", "key")  # always a
        ballots.append(ballot)
    rows = export(store.folder)
    assert [row["position"] for row in rows] == list(range(1, 14)) and len({row["rater"] for row in rows}) == 1
    assert {row["chosen"] for row in rows} == {"a"} and {row["received_at"] for row in rows} == {"2027-01-15"}
    golds = {row["item"]: row["gold_right"] for row in rows if row["kind"] == "gold"}
    assert golds == {item: item in ("g0", "g2") for item in golds} and len(golds) == 2
    (repeat,) = [row for row in rows if row["kind"] == "repeat"]
    assert repeat["repeat_same"] is True and next(row for row in rows if row["vote"] == repeat["repeat_of"])["item"] == repeat["item"]
    text = json.dumps(rows)
    for secret in (rater, invite, invite.split(".")[0], "192.0.2.77", store.code(rater), *(ballot.token for ballot in ballots), "1800000"):
        assert secret not in text
    assert "192.0.2.77" not in "".join(path.read_text() for path in store.folder.glob("events-*")) and "secret" not in text


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_export_is_written_while_the_page_runs(make, tmp_path, suffix):
    store = make()
    vote_all(store, store.join(), 3)
    store.next(store.join())
    out = tmp_path / f"votes{suffix}"
    done = inside("eval.votes", store.folder, "--export", out)
    assert "2 raters who joined" in done.stdout and "3 votes, withdrawn ones left out" in done.stdout
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).to_pylist()
    assert rows == export(store.folder)
    assert "ends in .jsonl or .parquet" in one_line(inside("eval.votes", store.folder, "--export", tmp_path / "votes.csv", status=1))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_raters_do_the_events_rebuild_the_state_and_the_counts_agree(make, seed):
    """Random histories: votes, expiries, second tabs, withdrawals, kills."""
    chance, raters, confirmed, tabs = random.Random(seed), [], {}, []
    store = make(rows=items(8, 2, 3), minimum_seconds=0.5)
    for _ in range(250):
        deed = chance.random()
        store_clock[0] += chance.choice([0.1, 2, 2, 2, 30])
        if deed < 0.08 or not raters:
            raters.append(store.join())
        elif deed < 0.45:
            rater = chance.choice(raters)
            if ballot := store.next(rater):
                tabs.append((rater, ballot.token))
        elif deed < 0.92 and tabs:
            rater, token = chance.choice(tabs[-6:])
            outcome = store.cast(rater, token, chance.choice(["left", "tie", "right"]))
            assert (outcome == "duplicate") == (token in confirmed and confirmed[token]) or outcome == "unknown"
            if outcome == "ok":
                confirmed[token] = True
        elif deed < 0.95:
            store_clock[0] += 16 * 60
        elif deed < 0.97:
            store.withdraw(store.code(chance.choice(raters)))
        else:
            store = make(minimum_seconds=0.5)
    table = state(store)
    assert {row[0] for row in table["vote"]} == set(confirmed) and len(confirmed) > 10
    for row in store.db.execute("SELECT * FROM item"):
        live = [a for a in rows_of(store, f"a.item = '{row['item']}' AND a.kind != 'repeat'") if a["state"] in ("open", "voted")]
        assert (row["n"], row["n_left_a"]) == (len(live), sum(a["left_is"] == "a" for a in live)) and (row["kind"] == "gold" or row["n"] <= 3)
    for row in rows_of(store):  # what only time makes of a ballot is not an event
        if row["state"] == "open" and row["expires_at"] <= store_clock[0]:
            store._expire(row["token"], row["item"])
    table = state(store)
    for path in store.folder.glob("votes.db*"):
        path.unlink()
    assert state(make(minimum_seconds=0.5)) == table
