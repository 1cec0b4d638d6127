"""The collection of natural dialogues: every message once, nothing lost.  .venv/bin/python -m pytest tests/test_collect.py"""

import json
import os
import random
import threading
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen.files import UserError, read_jsonl, write_text
from datagen.roleplay.personas import Choice, choose
from datagen.roleplay.record import Response, read
from eval import collect, collectstore, detectdesign, votes
from eval.collectstore import CollectStore, View, write
from eval.votes import Refused

VALUES = yaml.safe_load((ROOT / "eval/collection.yaml").read_text())
FORM = {"adult": "yes", "age": "25-to-34-year-old", "race": "I would rather not say", "gender": "woman", "education": "holds a Master's degree"}
FORM |= {"native_english": "is not a native speaker of English"}
IDS = [f"{i:032x}" for i in range(50)]


def answer(text="Well.", **changes):
    return Response(**{"raw": text, "text": text, "repeats_strict": False, "repeats": False, "finish": "stop", "usage": {}, "seed": 1, "dropped": 0} | changes)


def ask(name, exchanges, text, turn):
    return answer(f"{turn}: {text} ({len(exchanges)} before)"), "a-model"


clock = [1_800_000_000.0]


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    """(file, design): that of the repository, without password and quiz."""
    path, was = tmp_path_factory.mktemp("design") / "collection.yaml", Path.cwd()
    write_text(path, yaml.safe_dump(VALUES | {"quiz": [], "password_env": None, "per_rater": 3}, sort_keys=False))
    os.chdir(ROOT)  # it names files of the repository
    try:
        study = collectstore.load(path)
        assert study.file and study.rules
    finally:
        os.chdir(was)
    return path, study


@pytest.fixture
def study(design, monkeypatch):
    monkeypatch.chdir(ROOT)
    return design[1]


@pytest.fixture
def make(tmp_path, study, monkeypatch):
    """Opens the store; a second call opens it anew, the first one's process being dead."""
    monkeypatch.setattr(votes, "LIMITS", dict.fromkeys(votes.LIMITS, 100_000))
    clock[0], opened = 1_800_000_000.0, []
    folder, _, _ = collectstore.freeze(study, tmp_path / "out")

    def open_store():
        if opened:
            opened[-1].held.close()
        opened.append(CollectStore(folder, study, clock=lambda: clock[0], rng=random.Random(1)))
        return opened[-1]

    yield open_store
    for store in opened:
        store.db.close()
        store.log.close()
        store.held.close()


def join(store, **changes):
    rater = store.join()
    store.answer(rater, FORM | changes)
    return rater


def chat(store, rater, n=2, reached=True):
    """A whole chat of n turns; the view before it ends."""
    token = store.next(rater).token
    for turn in range(n):
        clock[0] += 10
        assert store.say(rater, token, turn, IDS[turn], f"message {turn}") == "ok" == store.reply(rater, token, ask)
    view = store.next(rater)
    assert store.end(rater, token, reached) == "ok"
    return view


# ---------------------------------------------------------------- the form


def test_the_form_asks_for_the_features_of_personas_and_everything_can_be_left_unsaid(study):
    asks = {one.key: one.options for one in study.questionnaire}
    assert list(asks) == ["adult", "age", "race", "gender", "education", "native_english"]
    assert asks["gender"] == ["woman", "man", "nonbinary person", collectstore.RATHER_NOT]


def test_a_feature_that_personas_do_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    write_text(tmp_path / "c.yaml", yaml.safe_dump(VALUES | {"persona": {"height": "How tall?"}}))
    with pytest.raises(UserError, match="has no feature 'height'; it has age, race"):
        collectstore.load(tmp_path / "c.yaml")


def test_what_was_left_unsaid_is_no_part_of_the_persona(make, study):
    store = make()
    chat(store, join(store))
    [made] = read(store.folder / "dialogues.jsonl")
    assert made.persona.features == {"age": "25-34", "gender": "female", "education": "master", "native_english": "not-native"}
    assert made.persona.text == "a 25-to-34-year-old woman who holds a Master's degree and is not a native speaker of English"


# ---------------------------------------------------------------- chats


def test_a_chat_is_shown_as_it_was_said_and_ends_with_the_next_goal(make):
    store = make()
    rater = join(store)
    first = store.next(rater)
    assert isinstance(first, View) and first.turns == [] and (first.position, first.total) == (1, 3)
    view = chat(store, rater)
    assert view.turns == [("message 0", "0: message 0 (0 before)"), ("message 1", "1: message 1 (1 before)")]
    second = store.next(rater)
    assert second.position == 2 and second.goal != first.goal and second.turns == []
    chat(store, rater)
    chat(store, rater, reached=False)
    assert store.next(rater) is None and [one.end_reason for one in read(store.folder / "dialogues.jsonl")] == ["finished", "finished", "given_up"]


def test_a_message_is_on_disk_before_it_is_confirmed_and_sending_it_twice_is_sending_it_once(make):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    assert [store.say(rater, token, 0, IDS[0], "hello") for _ in range(3)] == ["ok"] * 3
    events = [event for event in votes.read_events(store.folder) if event["type"] == "said"]
    assert [event["text"] for event in events] == ["hello"]
    store = make()  # killed
    assert store.next(rater).turns == [("hello", None)]
    assert store.reply(rater, token, ask) == "ok" and store.reply(rater, token, ask) == "ok"
    store = make()
    assert store.next(rater).turns == [("hello", "0: hello (0 before)")] and store.next(rater).token == token


def test_a_second_tab_cannot_write_into_a_chat_that_has_gone_on(make):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    assert store.say(rater, token, 0, IDS[0], "one") == "ok"
    assert store.say(rater, token, 0, IDS[1], "two") == "elsewhere" == store.say(rater, token, 1, IDS[1], "while it is awaited")
    store.reply(rater, token, ask)
    assert store.say(rater, token, 0, IDS[1], "two") == "elsewhere" and store.say(rater, token, 1, IDS[1], "two") == "ok"
    assert store.say(rater, "0" * 32, 0, IDS[2], "x") == "unknown" == store.say(join(store), token, 2, IDS[2], "another's")


def test_two_tabs_that_wait_for_one_answer_ask_for_it_once(make):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    store.say(rater, token, 0, IDS[0], "one")
    asked, free = [], threading.Event()

    def slow(*values):
        asked.append(values)
        free.wait(5)
        return ask(*values)

    threads = [threading.Thread(target=store.reply, args=(rater, token, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    free.set()
    for thread in threads:
        thread.join()
    assert len(asked) == 1 and len(store.next(rater).turns) == 1


def test_a_responder_that_fails_loses_nothing(make):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    store.say(rater, token, 0, IDS[0], "one")

    def fails(*_):
        raise collect.Faulty(collect.FAULT)

    with pytest.raises(Refused, match="Your message is saved"):
        store.reply(rater, token, fails)
    assert store.next(rater).turns == [("one", None)] and store.reply(rater, token, ask) == "ok"


def test_the_limit_of_turns_is_that_of_the_simulated_dialogues(make, study):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    for turn in range(study.rules.max_turns):
        assert not store.next(rater).full
        assert store.say(rater, token, turn, IDS[turn], "again") == "ok" == store.reply(rater, token, ask)
    assert study.rules.max_turns == 6 and store.next(rater).full and store.say(rater, token, 6, IDS[6], "again") == "full"
    store.end(rater, token, False)
    [made] = read(store.folder / "dialogues.jsonl")
    assert made.end_reason == "max_turns" and len(made.exchanges) == 6


@pytest.mark.parametrize(("text", "said"), [("", "write something"), (" \n\0 ", "write something"), ("x" * 4001, "4,000 characters; this one has 4,001")])
def test_what_is_no_message_is_refused_in_words(make, text, said):
    store = make()
    rater = join(store)
    with pytest.raises(Refused, match=said):
        store.say(rater, store.next(rater).token, 0, IDS[0], text)


def test_a_goal_is_not_reached_without_an_answer(make):
    store = make()
    rater = join(store)
    token = store.next(rater).token
    store.say(rater, token, 0, IDS[0], "one")
    with pytest.raises(Refused, match="ask the assistant first"):
        store.end(rater, token, True)
    assert store.end(rater, token, False) == "ok" and store.end(rater, token, True) == "unknown"
    [made] = read(store.folder / "dialogues.jsonl")
    assert made.exchanges == [] and made.turns[0].response is None


def test_goals_are_spread_over_people(make):
    store = make()
    for _ in range(3):
        rater = join(store)
        while store.next(rater):
            chat(store, rater, 1)
    made = read(store.folder / "dialogues.jsonl")
    assert len(made) == 9 and len({one.goal.id for one in made}) == 9  # of 20: nobody gets what another had


def test_who_withdraws_is_gone_from_the_dialogues_at_once(make):
    store = make()
    one, other = join(store), join(store)
    chat(store, one)
    chat(store, other)
    assert len(read(store.folder / "dialogues.jsonl")) == 2 and store.withdraw(store.code(one))
    [left] = read(store.folder / "dialogues.jsonl")
    assert left.persona.index == 1 and store.next(one) is None and store.say(one, "x", 0, IDS[0], "x") == "unknown"
    store.close()
    assert votes.erase(store.folder) > 0
    assert not [event for event in votes.read_events(store.folder) if event["type"] in ("said", "replied", "answers") and event["rater"] == one]
    assert [made.id for made in write(store.folder, store.study)] == [left.id]


# ---------------------------------------------------------------- the record


def test_the_people_of_a_collection_are_the_personas_of_its_simulation(make, study):
    store = make()
    for changes in ({}, {"gender": "man"}, {}, {"age": "aged 65 or older"}):
        rater = join(store, **changes)
        while store.next(rater):
            chat(store, rater, 1)
    people = yaml.safe_load((store.folder / "personas.yaml").read_text())
    chosen = choose(Choice(file=study.rules.personas.file, **people))
    made = read(store.folder / "dialogues.jsonl")
    assert {(one.persona.id, one.persona.index, one.persona.text) for one in made} == {(one.id, one.index, one.text) for one in chosen} and len(chosen) == 4
    assert made[0].inquirer.model == "human" and made[0].responder.model == "a-model" and made[0].turns[0].attempts[0].found is None


def test_natural_dialogues_go_straight_into_a_detection_study(make, tmp_path):
    store = make()
    for _ in range(2):
        rater = join(store)
        while store.next(rater):
            chat(store, rater, 1)
    simulated = [json.loads(line) | {"end_reason": "finished"} for line in (store.folder / "dialogues.jsonl").read_text().splitlines()]
    write_text(tmp_path / "m.jsonl", "".join(json.dumps(row) + "\n" for row in simulated))
    values = yaml.safe_load((ROOT / "eval/detection.yaml").read_text())
    values |= {"natural": str(store.folder / "dialogues.jsonl"), "simulated": {"m": str(tmp_path / "m.jsonl")}}
    _, _, facts = detectdesign.build(detectdesign.Detection(**values))
    assert facts["items"] == {"main": 6, "gold": 5} and facts["left out"] == {}


def test_the_dialogues_can_be_written_anew_from_the_events(make, design, tmp_path):
    store = make()
    chat(store, join(store))
    before = (store.folder / "dialogues.jsonl").read_text()
    (store.folder / "dialogues.jsonl").unlink()
    done = inside("eval.collectstore", "--study", design[0], "--dialogues", store.folder)
    assert "1 dialogues; 1 finished" in done.stdout and (store.folder / "dialogues.jsonl").read_text() == before
    assert one_line(inside("eval.collectstore", "--study", design[0], "--dialogues", tmp_path, status=1))


def test_the_organiser_sees_how_many_dialogues_there_are(make, monkeypatch):
    monkeypatch.setenv("STUDY_ADMIN_TOKEN", "x")
    store = make()
    chat(store, join(store))
    found = store.organise("x", "status")
    assert (found["dialogues finished"], found["dialogues given_up"], found["dialogues wanted"]) == (1, 0, 200)


# ---------------------------------------------------------------- the responder


def test_the_responder_is_asked_as_in_simulated_dialogues_and_what_it_said_is_not_asked_for_twice(study, endpoint, tmp_path):
    endpoint.script = lambda body: f"<think>hm</think> Answer to {body['messages'][-1]['content']}"
    responder = collect.Responder(study, tmp_path / "store")
    one = responder.ask("human-x", [("hi", "ho")], "how?", 1)
    assert one[0].text == "Answer to how?" and one[1] == "scripted" and responder.ask("human-x", [("hi", "ho")], "how?", 1) == one
    [body] = endpoint.bodies
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"] and body["max_tokens"] == 128  # no system prompt: the profile says so
    assert responder.ask("human-y", [("hi", "ho")], "how?", 1)[0].seed != one[0].seed and len(endpoint.bodies) == 2
    responder.close()


def test_faults_of_the_endpoint_are_one_line_for_the_person_without_its_address(study, endpoint, tmp_path, capsys):
    responder = collect.Responder(study, tmp_path / "store")
    endpoint.script = lambda body: (400, "nothing for you at http://secret.example")
    with pytest.raises(collect.Faulty) as fault:
        responder.ask("human-x", [], "how?", 0)
    assert str(fault.value) == collect.FAULT and "http" not in collect.FAULT and "nothing for you" in capsys.readouterr().err
    endpoint.script = lambda body: ""
    with pytest.raises(collect.Faulty):
        responder.ask("human-x", [], "how?", 0)
    endpoint.script = lambda body: "There."
    assert responder.ask("human-x", [], "how?", 0)[0].text == "There."  # the empty one is not taken from the store
    responder.close()


# ---------------------------------------------------------------- the page


def test_what_is_shown_does_nothing_and_says_that_the_partner_is_an_ai():
    hostile = "<script>x</script>${y}"
    shown = collect.chat_html(View("t", hostile, [(hostile, hostile), ("last", None)], 1, 2, False), "rendered")
    assert "<script" not in shown and "${" not in shown and shown.count("&lt;script&gt;") == 3
    assert 'data-turns="2" data-waiting="1" data-full="0"' in shown and "Your partner is an AI" in shown


@pytest.mark.parametrize("text", ["", "[]", "null", '{"turn": "0", "id": 1, "text": []}', "{"])
def test_what_the_browser_says_is_taken_only_where_it_makes_sense(text):
    assert collect.facts_of(text) == {}
    assert collect.facts_of('{"turn": 1, "id": "a", "text": "b", "rater": "c"}') == {"turn": 1, "id": "a", "text": "b"}


def test_the_frozen_goals_are_those_of_the_simulated_dialogues(make, study):
    store = make()
    rows = read_jsonl(store.folder / "items.jsonl")
    assert len(rows) == 10 and {row["category"] for row in rows} == {"everyday"} and collectstore.freeze(study, store.folder.parents[1])[2] is False
