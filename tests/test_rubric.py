"""Contrastive sets, proposed statements, rubrics and ratings.  .venv/bin/python -m pytest tests/test_rubric.py"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import judges
import numpy as np
import pytest
from conftest import ROOT, Endpoint, inside, one_line

from datagen import config
from datagen.files import UserError, sha256, write_jsonl
from datagen.traits import ask, cluster, contrast, propose, rate, rubric

SOURCES = ("eliza-2", "gpt-x", "gpt-x", None)


@pytest.fixture(scope="module")
def server():
    """One for all tests: to end one takes half a second."""
    server = Endpoint()
    server.server.socket.listen(64)
    yield server
    server.close()


@pytest.fixture
def endpoint(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    for name in ("JUDGE_BASE_URL", "BUDGET_USD"):
        monkeypatch.delenv(name, raising=False)
    server.bodies.clear()
    server.script = judges.Judge()
    return server


def game(i: int, **more) -> dict:
    row = {
        "game_id": f"g{i}",
        "human": f"I: hi {i}\nW: ok\nand you\nI: fine\nW: cool, {'so ' * i}",
        "ai": f"I: hi {i}\nW: Hello there! Nice to meet you, {'my friend, ' * i}right?",
    }
    return row | ({"ai_model": SOURCES[i % 4]} if SOURCES[i % 4] else {}) | more


def reply(i: int, **more) -> dict:
    return {"prompt": f"What about {i}?", "chosen": f"Eh, {i} is fine 🙂", "rejected": f"The number {i} is an integer."} | more


@pytest.fixture
def games(tmp_path):
    path = tmp_path / "games.jsonl"
    write_jsonl(path, [game(i) for i in range(12)])
    return path


def refused(path, *rows) -> str:
    write_jsonl(path, list(rows))
    with pytest.raises(UserError) as caught:
        contrast.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- contrastive sets


def test_a_game_and_a_preference_row_become_pairs_of_their_kind(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [game(1), reply(2, id=7, ai_model="llama")])
    assert contrast.read(tmp_path / "a.jsonl") == [
        contrast.Pair("g1", "g1", "dialogue", None, game(1)["human"].strip(), game(1)["ai"], "gpt-x"),
        contrast.Pair("7", sha256("what about 2")[:12], "reply", "What about 2?", "Eh, 2 is fine 🙂", "The number 2 is an integer.", "llama"),
    ]


def test_only_the_witness_is_judged_and_a_line_without_a_speaker_goes_on_with_the_turn():
    assert contrast.said("dialogue", "I: a\nW: one\ntwo\nI:\nW: three\nI: W: b\nW:") == ["one\ntwo", "three"]
    assert contrast.said("reply", "W: a\nI: b") == ["W: a\nI: b"]


def test_prompts_that_differ_in_case_and_punctuation_are_one_group(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [reply(1), reply(1, prompt="what ABOUT 1", chosen="No."), reply(2)])
    first, second, third = contrast.read(tmp_path / "a.jsonl")
    assert first.group == second.group != third.group and len({first.id, second.id, third.id}) == 3


def test_ids_are_unique_also_for_equal_rows_and_for_two_models_in_one_game(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [game(1), game(1, ai="I: x\nW: y"), reply(1), reply(1)])
    pairs = contrast.read(tmp_path / "a.jsonl")
    assert [pair.id for pair in pairs[:2]] == ["g1", "g1-2"] and pairs[3].id == f"{pairs[2].id}-2" and pairs[0].group == pairs[1].group == "g1"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([game(1), game(2, ai=None)], "a.jsonl:2: ai is missing"),
        ([game(1, human="Hello\nW: hi")], "a.jsonl:1: human does not begin with a speaker"),
        ([game(1, human="I: hello\nW: ")], "a.jsonl:1: human has no line of the one to be judged"),
        ([game(1, game_id=None)], "a.jsonl:1: game_id is the name"),
        ([game(1, ai_model=3)], "a.jsonl:1: ai_model is a name"),
        ([{"prompt": "a", "chosen": "b"}], "a.jsonl:1: the column rejected is missing"),
        ([reply(1, id="x"), reply(2, id="x")], "a.jsonl:2: the id 'x' stands twice, first at"),
        ([], "holds no rows"),
    ],
)
def test_a_row_that_is_neither_kind_is_named(tmp_path, rows, words):
    assert words in refused(tmp_path / "a.jsonl", *rows)


# ---------------------------------------------------------------- rubrics


def saved(path, change=lambda value: value):
    rubric.save(path, judges.made_rubric())
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))
    return path


def test_our_own_rubric_loads_and_holds_24_traits_of_one_sentence():
    ours = rubric.load(rubric.OURS)
    assert len(ours.traits) == 24 and all(trait.statement.endswith(".") and trait.statement.count(".") == 1 for trait in ours.traits)
    assert "24 traits" in inside("datagen.traits.rubric", rubric.OURS).stdout


def test_the_order_of_traits_in_the_file_changes_nothing(tmp_path):
    turned = rubric.load(saved(tmp_path / "a.json", lambda value: value["traits"].reverse()))
    assert turned == rubric.load(saved(tmp_path / "b.json")) and turned.sha256 == judges.made_rubric().sha256


def test_an_id_is_the_hash_of_its_statement():
    made = rubric.trait("Writes short turns.")
    assert made.id == "t-" + sha256("Writes short turns.")[:6] and made.sha256 == sha256("Writes short turns.")


def first(key, value):
    def change(rubric_):
        rubric_["traits"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first("statement", "Writes long turns."), "an edited statement is a new trait and needs a new rating"),
        (first("id", "t-000000"), "t-000000 does not belong to its statement"),
        (first("sha256", "0" * 64), "does not belong to its statement"),
        (first("weight", 1), "trait 1: unknown key weight"),
        (lambda value: value["traits"].append(value["traits"][0]), "stands twice"),
        (lambda value: value.update(weights=[]), "unknown key weights"),
        (lambda value: value.pop("scale") and None, "scale is missing"),
        (lambda value: value.update(scale=[1, 7]), "expected [1, 5], got [1, 7]"),
        (lambda value: value.update(traits=value["traits"][:1]), "needs at least two traits, got 1"),
        (lambda value: value.update(traits={}), "traits is a list of objects"),
    ],
)
def test_a_rubric_with_a_fault_is_refused_in_one_line(tmp_path, change, words):
    assert words in one_line(inside("datagen.traits.rubric", saved(tmp_path / "rubric.json", change), status=1))


def test_two_ids_exchanged_are_refused(tmp_path):
    def swap(value):
        a, b = value["traits"][:2]
        a["id"], b["id"] = b["id"], a["id"]

    with pytest.raises(UserError, match="does not belong to its statement"):
        rubric.load(saved(tmp_path / "rubric.json", swap))


def test_a_rubric_is_made_of_statements_of_ones_own(tmp_path):
    (tmp_path / "mine.txt").write_text("Writes  short turns.\n\nShouts.\n")
    inside("datagen.traits.rubric", tmp_path / "mine.txt", "--out", tmp_path / "mine/rubric.json")
    made = rubric.load(tmp_path / "mine/rubric.json")
    assert made.name == "mine" and set(made.statements.values()) == {"Writes short turns.", "Shouts."}
    (tmp_path / "mine.txt").write_text("Shouts.\nShouts.\n")
    assert "the same statement stands twice" in one_line(inside("datagen.traits.rubric", tmp_path / "mine.txt", "--out", tmp_path / "x/rubric.json", status=1))


# ---------------------------------------------------------------- one JSON object


@pytest.mark.parametrize("text", ['{"a": 1}', ' \n{"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```'])
def test_a_json_object_may_stand_in_a_fence(text):
    assert ask.one_object(text) == {"a": 1}


@pytest.mark.parametrize("text", ['Sure! {"a": 1}', '{"a": 1} Done.', "[1]", "", "{'a': 1}", '{"a": 1}{"a": 1}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_anything_around_the_object_or_instead_of_it_is_refused(text):
    with pytest.raises(ask.Unusable):
        ask.one_object(text)


def test_what_a_text_holds_is_never_taken_for_a_place_in_the_prompt():
    assert ask.fill('{talk} {traits} {"x": 1}', talk="{traits}", traits="{talk}") == '{traits} {talk} {"x": 1}'


def test_a_prompt_without_its_place_is_named(tmp_path):
    (tmp_path / "traits").mkdir()
    (tmp_path / "traits/rate.txt").write_text("Rate {talk}.")
    settings = config.load("tiny").model_copy(update={"prompts": str(tmp_path)})
    with pytest.raises(UserError, match=r"rate.txt: does not say where \{traits\} goes"):
        ask.prompt(settings, "rate", "talk", "traits")


# ---------------------------------------------------------------- proposing


def shown(body) -> dict[str, str]:
    text = body["messages"][0]["content"]
    return {place: re.search(rf"<talk_{place}>\n(.*)\n</talk_{place}>", text, re.DOTALL)[1] for place in "AB"}


def namer(verdict):
    """A model that names the side for which `verdict` of its talk is true, and always says the same."""

    def script(body):
        human = next((place for place, talk in shown(body).items() if verdict(talk)), "A")
        return json.dumps({"human": human, "statements": ["Writes short turns.", "Leaves out full stops.", f"Says {len(shown(body)['A'])} things."]})

    return script


def proposed(games, status=0, profile="tiny"):
    done = inside("datagen.traits.propose", games, games.with_name("statements.jsonl"), "--profile", profile, "--store", games.with_name("store"), status=status)
    return done if status else (json.loads(games.with_name("statements.json").read_text()), [json.loads(x) for x in games.with_name("statements.jsonl").open()])


def test_the_accuracy_of_verdicts_is_exact_over_all_and_by_source(games, endpoint):
    wrong = ("hi 0\n", "hi 2\n", "hi 3\n")  # of eliza-2, gpt-x and no named source
    endpoint.script = namer(lambda talk: ("W: ok" in talk) != any(x in talk for x in wrong))
    summary, rows = proposed(games)
    verdicts = summary["verdicts"]
    assert (verdicts["right"]["value"], verdicts["right"]["n"]) == (9 / 12, 12) and verdicts["right"]["interval"][0] < 0.75 < verdicts["right"]["interval"][1]
    assert {s: (round(v["value"], 4), v["n"]) for s, v in verdicts["by source"].items()} == {"eliza-2": (0.6667, 3), "gpt-x": (0.8333, 6), "not named": (0.6667, 3)}
    assert len(rows) == 36 and sum(row["right"] for row in rows) == 27 and len({row["id"] for row in rows}) == 36
    assert not any(word in body["messages"][0]["content"] for body in endpoint.bodies for word in ("eliza-2", "gpt-x", '"ai"'))


def test_a_model_that_always_says_a_is_right_in_one_place_and_never_in_the_other(games, endpoint):
    endpoint.script = namer(lambda talk: False)
    summary, _ = proposed(games)
    places = summary["verdicts"]["right by place"]
    assert places["A"]["value"] == 1.0 and places["B"]["value"] == 0.0 and places["A"]["n"] + places["B"]["n"] == 12


def test_statements_of_wrong_verdicts_are_left_out_where_that_is_asked_for(games, endpoint, tmp_path, monkeypatch):
    text = (ROOT / "datagen/config.yaml").read_text().replace("verdicts: all", "verdicts: right")
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr(config.load, "__defaults__", (tmp_path / "config.yaml",))
    endpoint.script = namer(lambda talk: ("W: ok" in talk) != ("hi 1\n" in talk))
    summary, rows = proposed(games)
    assert len(rows) == 33 and all(row["right"] for row in rows) and summary["statements"]["from"] == "right" and summary["verdicts"]["right"]["value"] == 11 / 12


def test_an_unusable_proposal_is_asked_for_again_with_the_sides_exchanged(games, endpoint):
    good = namer(lambda talk: "W: ok" in talk)
    endpoint.script = lambda body: good(body) if "An earlier answer could not be used: a statement mentioned A or B." in body["messages"][0]["content"] else (
        json.dumps({"human": "A", "statements": ["Talk A is short.", "Shouts a lot.", "Asks nothing."]})
    )  # fmt: skip
    summary, _ = proposed(games)
    assert summary["verdicts"]["right"]["value"] == 1.0 and summary["asked again"] == 12 and len(endpoint.bodies) == 24
    sides = {}
    for body in endpoint.bodies:
        talks = shown(body)
        sides.setdefault(frozenset(talks.values()), set()).add(talks["A"])
    assert all(len(firsts) == 2 for firsts in sides.values())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"human": "C", "statements": ["Writes little."] * 3}, "neither A nor B"),
        ({"human": "A", "statements": ["Writes little.", "Writes a lot."]}, "3 to 5"),
        ({"human": "A", "statements": ["Writes little.", "writes little", "Shouts a lot."]}, "stood twice"),
        ({"human": "A", "statements": ["Writes little.", "Asks back.", "No."]}, "fewer than 8"),
        ({"human": "A", "statements": ["Writes little.", "Asks back."], "why": ""}, "exactly"),
    ],
)
def test_a_proposal_with_a_fault_is_unusable(value, words):
    with pytest.raises(ask.Unusable, match=words):
        propose.read_reply(json.dumps(value))


def test_a_model_that_gives_no_statement_is_one_line_and_no_file(games, endpoint):
    endpoint.script = lambda body: "I would say A."
    assert "gave no statements" in one_line(proposed(games, status=1)) and not games.with_name("statements.jsonl").exists()


# ---------------------------------------------------------------- clustering

THEMES = {
    "short": ["Keeps its turns short.", "Writes short turns all along.", "Answers in short turns.", "Sends short turns of few words."],
    "emoji": ["Fills lines with emoji.", "Ends lines with emoji.", "Adds emoji to many lines.", "Decorates its lines with emoji."],
    "typos": ["Makes typos and leaves them.", "Leaves typos standing.", "Does not mend typos.", "Has typos it never corrects."],
    "asks": ["Asks curious questions back.", "Returns questions of its own.", "Ends with questions back.", "Puts questions to the other."],
}


def statements(path, extra=()):
    texts = [text for theme in THEMES.values() for text in theme] + list(extra)
    rows = [{"id": f"s-{i:03}", "statement": text} for i, text in enumerate(texts)]
    write_jsonl(path, rows)
    return rows


def clustered(folder, *more, status=0):
    return inside(
        "datagen.traits.cluster",
        folder / "statements.jsonl",
        folder / "rubric.json",
        "--profile",
        "tiny",
        "--store",
        folder / "store",
        "--cache",
        folder / "cache",
        *more,
        status=status,
    )


def test_equal_and_nearly_equal_statements_count_as_one(tmp_path):
    rows = statements(tmp_path / "s.jsonl", ["keeps its turns short", "Keeps its turns short."])
    kept = cluster.distinct(rows)
    assert len(kept) == 16 and kept[0] == {"id": "s-000", "statement": "Keeps its turns short.", "count": 3}


@pytest.mark.slow
def test_groups_are_those_of_alike_statements_whatever_the_order_of_the_rows(tmp_path):
    rows = statements(tmp_path / "s.jsonl")
    groups, _ = cluster.grouped(cluster.distinct(rows), 4, "tfidf", tmp_path)
    assert {frozenset(row["statement"] for row in group) for group in groups} == {frozenset(theme) for theme in THEMES.values()}
    write_jsonl(tmp_path / "s.jsonl", rows[::-1])
    again, _ = cluster.grouped(cluster.distinct(cluster.read_statements(tmp_path / "s.jsonl")), 4, "tfidf", tmp_path)
    assert again == groups


@pytest.mark.slow
def test_without_a_model_the_rubric_is_the_middles_of_the_groups(tmp_path):
    statements(tmp_path / "statements.jsonl")
    clustered(tmp_path, "--medoids")
    made = rubric.load(tmp_path / "rubric.json")
    assert len(made.traits) == 6 and set(made.statements.values()) <= {text for theme in THEMES.values() for text in theme} and made.prompt_sha256 is None
    assert all(trait.source[0] in {f"s-{i:03}" for i in range(16)} for trait in made.traits) and made.made_by["distinct"] == 16


def test_a_model_merges_the_statements_that_it_is_shown(tmp_path, endpoint):
    write_jsonl(tmp_path / "statements.jsonl", statements(tmp_path / "all.jsonl")[::2])  # 8: each is a group of its own

    def merge(body):
        ids = re.findall(r"^(s-\d{3}): (.+)$", body["messages"][0]["content"], re.MULTILINE)
        return json.dumps({"traits": [{"statement": text, "from": [id_]} for id_, text in ids[: 6 if "earlier answer" in body["messages"][0]["content"] else 5]]})

    endpoint.script = merge
    clustered(tmp_path)
    made = rubric.load(tmp_path / "rubric.json")
    assert len(made.traits) == 6 and made.prompt_sha256 == sha256((ROOT / "datagen/prompts/traits/merge.txt").read_text().strip())
    assert "there were 5 traits instead of 6" in endpoint.bodies[1]["messages"][0]["content"] and made.made_by["model"] == "scripted"
    texts = {row["id"]: row["statement"] for row in cluster.read_statements(tmp_path / "statements.jsonl")}
    assert all(texts[trait.source[0]] == trait.statement for trait in made.traits)
    clustered(tmp_path)
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ([("Writes short turns.", ["s-1"]), ("Shouts a lot here.", ["s-9"])], "there is no statement 's-9'"),
        ([("Writes short turns.", ["s-1"]), ("Shouts a lot here.", ["s-1"])], "stood with two traits"),
        ([("Writes short turns.", ["s-1"]), ("writes short turns", ["s-2"])], "two traits say the same"),
        ([("Writes short turns.", ["s-1"]), ("Shouts a lot here.", [])], "came from no statement"),
        ([("Writes short turns.", ["s-1"])], "1 traits instead of 2"),
    ],
)
def test_a_merged_list_with_a_fault_is_unusable(traits, words):
    with pytest.raises(ask.Unusable, match=words):
        cluster.read_merged(json.dumps({"traits": [{"statement": s, "from": f} for s, f in traits]}), {"s-1", "s-2"}, 2)


def test_too_few_statements_and_doubled_ids_are_one_line(tmp_path):
    write_jsonl(tmp_path / "statements.jsonl", [{"id": "s-1", "statement": "Shouts a lot."}])
    assert "holds 1 distinct statements, too few for the 6 traits" in one_line(clustered(tmp_path, status=1))
    write_jsonl(tmp_path / "statements.jsonl", [{"id": "s-1", "statement": "Shouts."}, {"id": "s-1", "statement": "Asks."}])
    assert "the id s-1 stands twice" in one_line(clustered(tmp_path, status=1))


# ---------------------------------------------------------------- rating

IDS = judges.made_rubric().ids
GOOD = dict.fromkeys(IDS, 3)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda value: value.pop(IDS[0]) and None, "1 ids were missing"),
        (lambda value: value.update({IDS[0]: 0}), "no whole numbers from 1 to 5"),
        (lambda value: value.update({IDS[0]: 6}), "no whole numbers from 1 to 5"),
        (lambda value: value.update({IDS[0]: "4"}), "no whole numbers from 1 to 5"),
        (lambda value: value.update({IDS[0]: 4.0}), "no whole numbers from 1 to 5"),
        (lambda value: value.update({IDS[0]: True}), "no whole numbers from 1 to 5"),
        (lambda value: value.update({IDS[0]: None}), "no whole numbers from 1 to 5"),
    ],
)
def test_a_rating_that_does_not_count_is_missing_and_the_others_stay(change, fault):
    value = dict(GOOD)
    change(value)
    found, said = rate.read_reply(json.dumps(value), IDS)
    assert fault in said and found == GOOD | {IDS[0]: None}


def test_an_id_that_is_not_in_the_list_is_a_fault_and_is_not_kept():
    assert rate.read_reply(json.dumps(GOOD | {"t-ffffff": 2}), IDS) == (GOOD, "'t-ffffff' is no id of the list")


def test_a_fenced_reply_counts_and_prose_around_the_object_does_not():
    assert rate.read_reply(f"```json\n{json.dumps(GOOD)}\n```", IDS) == (GOOD, "")
    with pytest.raises(ask.Unusable):
        rate.read_reply(f"Here you are: {json.dumps(GOOD)}", IDS)


def settings_of(**changes):
    settings = config.load("tiny")
    return settings.model_copy(update={"traits": settings.traits.model_copy(update=changes)})


@pytest.fixture
def synthetic(tmp_path):
    rubric.save(tmp_path / "rubric.json", judges.made_rubric())
    return tmp_path / "rubric.json"


def rated(games, synthetic, *more, status=0):
    out = games.with_name("ratings.jsonl")
    done = inside("datagen.traits.rate", games, out, "--rubric", synthetic, "--profile", "tiny", "--store", games.with_name("store"), *more, status=status)
    return done if status or more[:1] == ("--preview",) else ([json.loads(line) for line in out.open()], json.loads(out.with_suffix(".json").read_text()))


def test_every_text_is_rated_once_at_temperature_zero_by_the_rules_of_the_judge(games, synthetic, endpoint):
    rows, summary = rated(games, synthetic)
    pairs = {pair.id: pair for pair in contrast.read(games)}
    assert len(rows) == 24 and {body["temperature"] for body in endpoint.bodies} == {0.0}
    for row in rows:
        text = pairs[row["id"]].human if row["side"] == "human" else pairs[row["id"]].other
        assert row["ratings"] == judges.ratings(contrast.said("dialogue", text)) and row["text_sha256"] == sha256(text)
        assert (row["judge"], row["rubric_sha256"]) == ("scripted", judges.made_rubric().sha256)
    assert len(endpoint.bodies) == 24 + sum("retest" in row for row in rows) and summary["missing ratings"]["value"] == 0


def test_permuting_the_traits_of_the_file_changes_no_request_and_no_rating(games, synthetic, endpoint):
    before = rated(games, synthetic)[0]
    value = json.loads(synthetic.read_text())
    value["traits"].reverse()
    synthetic.write_text(json.dumps(value))
    asked = len(endpoint.bodies)
    assert rated(games, synthetic)[0] == before and len(endpoint.bodies) == asked


def test_traits_have_no_place_of_their_own_in_the_prompt(games, synthetic, endpoint):
    rated(games, synthetic)
    orders = [judges.asked(body)[1] for body in endpoint.bodies]
    assert all(sorted(order) == IDS for order in orders) and {order.index(IDS[0]) for order in orders} == set(range(len(IDS)))


def test_a_reply_is_shown_with_what_it_answers_and_neither_side_is_told(tmp_path, synthetic, endpoint):
    write_jsonl(tmp_path / "games.jsonl", [reply(1)])
    rated(tmp_path / "games.jsonl", synthetic)
    assert {judges.asked(body)[0] for body in endpoint.bodies} == {"I: What about 1?\nW: Eh, 1 is fine 🙂", "I: What about 1?\nW: The number 1 is an integer."}
    assert not any(word in body["messages"][0]["content"] for body in endpoint.bodies for word in ("chosen", "rejected", "human"))


def test_equal_texts_are_asked_about_once(tmp_path, synthetic, endpoint):
    write_jsonl(tmp_path / "games.jsonl", [reply(1), reply(1)])
    rows, _ = rated(tmp_path / "games.jsonl", synthetic)
    assert len(rows) == 4 and len(endpoint.bodies) == 2 + sum("retest" in row for row in rows[:2]) and rows[0]["ratings"] == rows[2]["ratings"]


def test_a_bad_reply_is_asked_for_again_in_another_order_with_a_key_of_its_own(games, synthetic, endpoint):
    judge = judges.Judge()
    endpoint.script = lambda body: judge(body) if "An earlier answer could not be used" in body["messages"][0]["content"] else '{"t-000000": 3}'
    rows, summary = rated(games, synthetic)
    assert not any(None in row["ratings"].values() for row in rows) and summary["asked again"] == len(endpoint.bodies) // 2
    assert len({json.dumps(body["messages"]) for body in endpoint.bodies}) == len(endpoint.bodies)


def test_what_is_missing_after_the_last_try_stays_null(games, synthetic, endpoint):
    judge = judges.Judge()
    endpoint.script = lambda body: (
        json.dumps({id_: v for id_, v in json.loads(judge(body)).items() if id_ != IDS[2]}) if "hi 5\n" in body["messages"][0]["content"] else judge(body)
    )
    rows, summary = rated(games, synthetic)
    lacking = [row for row in rows if None in row["ratings"].values()]
    assert {row["id"] for row in lacking} == {"g5"} and all([id_ for id_, v in row["ratings"].items() if v is None] == [IDS[2]] for row in lacking)
    assert summary["missing ratings"]["value"] == pytest.approx(2 / (24 * len(IDS))) and sum(summary["texts with a fault"].values()) == 2


def test_a_judge_that_cannot_be_read_is_one_line_and_leaves_older_ratings_alone(games, synthetic, endpoint):
    games.with_name("ratings.jsonl").write_text("older\n")
    endpoint.script = lambda body: "I cannot rate that."
    assert "gave no rating that can be read" in one_line(rated(games, synthetic, status=1)) and games.with_name("ratings.jsonl").read_text() == "older\n"


def test_the_preview_rates_what_the_store_then_holds_and_writes_nothing(games, synthetic, endpoint):
    said = rated(games, synthetic, "--preview", 3).stdout
    assert len(endpoint.bodies) == 3 and "3 of 3 texts have all ratings" in said and re.search(r"ratings +2\d ", said) and not games.with_name("ratings.jsonl").exists()
    rows, _ = rated(games, synthetic)
    assert len(endpoint.bodies) == 24 + sum("retest" in row for row in rows)


def test_a_named_judge_is_asked_at_its_own_address(games, synthetic, endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # nobody is there
    rows, _ = rated(games, synthetic, "--judge-model", "judge-1")
    assert {row["judge"] for row in rows} == {body["model"] for body in endpoint.bodies} == {"judge-1"}


def test_a_budget_that_is_reached_is_one_line_and_a_higher_one_goes_on(games, synthetic, endpoint, monkeypatch, tmp_path):
    text = (ROOT / "datagen/config.yaml").read_text().replace("prices: {}", 'prices: {scripted: {input: "100", output: "100"}}')
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr(config.load, "__defaults__", (tmp_path / "config.yaml",))
    monkeypatch.setenv("BUDGET_USD", "0.335")
    assert "the budget is reached" in one_line(rated(games, synthetic, status=1))
    some = len(endpoint.bodies)
    assert 0 < some < 24
    monkeypatch.setenv("BUDGET_USD", "50")
    rows, _ = rated(games, synthetic)
    assert len(endpoint.bodies) == 24 + sum("retest" in row for row in rows)


@pytest.mark.slow
def test_after_kill_9_nothing_is_asked_twice(games, synthetic, endpoint):
    judge, gate = judges.Judge(), {"open": False}

    def script(body):
        while len(endpoint.bodies) > 10 and not gate["open"]:
            time.sleep(0.01)
        return judge(body)

    endpoint.script = script
    command = [
        sys.executable,
        "-m",
        "datagen.traits.rate",
        games,
        games.with_name("ratings.jsonl"),
        "--rubric",
        synthetic,
        "--profile",
        "tiny",
        "--store",
        games.with_name("store"),
    ]
    child = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
    stored = games.with_name("store") / "scripted.jsonl"
    deadline = time.monotonic() + 60
    while not (stored.exists() and stored.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    gate["open"] = True
    kept = {json.loads(line)["key"] for line in stored.open()}
    time.sleep(0.05)  # what was on its way when the process died reaches the endpoint's list
    endpoint.bodies.clear()
    rows, _ = rated(games, synthetic)
    keys = [json.loads(line)["key"] for line in stored.open()]
    assert not games.with_name("ratings.jsonl.partial").exists() and len(rows) == 24
    assert len(keys) == len(set(keys)) == len(kept) + len(endpoint.bodies)


# ---------------------------------------------------------------- the judge against itself


def test_the_agreement_of_two_ratings_is_exact(games, synthetic, endpoint, monkeypatch, tmp_path):
    text = (ROOT / "datagen/config.yaml").read_text().replace("retest: 0.05", "retest: 1.0")
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr(config.load, "__defaults__", (tmp_path / "config.yaml",))
    judge, seen = judges.Judge(), {}

    def moody(body):  # the second time a talk is seen, the first trait is rated one higher, up to 5
        talk, _ = judges.asked(body)
        value, seen[talk] = json.loads(judge(body)), seen.get(talk, 0) + 1
        return json.dumps(value | {IDS[0]: min(5, value[IDS[0]] + 1)}) if seen[talk] == 2 else json.dumps(value)

    endpoint.script = moody
    rows, summary = rated(games, synthetic)
    moved = sum(row["ratings"][IDS[0]] != row["retest"][IDS[0]] for row in rows)
    retest = summary["test-retest"]
    assert moved == 24 - sum(row["ratings"][IDS[0]] == row["retest"][IDS[0]] == 5 for row in rows) > 0
    assert retest["texts"] == 24 and retest["exact"]["value"] == pytest.approx(1 - moved / (24 * len(IDS))) and retest["within 1"]["value"] == 1.0
    orders = {}
    for body in endpoint.bodies:
        talk, order = judges.asked(body)
        orders.setdefault(talk, set()).add(tuple(order))
    assert all(len(both) == 2 for both in orders.values())


def test_weighted_kappa_is_that_of_its_definition_and_undefined_where_all_ratings_are_equal():
    rng = np.random.default_rng(3)
    x = rng.integers(1, 6, 60)
    y = np.clip(x + rng.integers(-1, 2, 60), 1, 5)
    counts = np.vstack([np.ones(60, int), rng.multinomial(60, np.full(60, 1 / 60))])
    weights = (np.arange(1, 6)[:, None] - np.arange(1, 6)) ** 2
    for taken, found in zip(counts, rate.kappa(x.astype(float), y.astype(float), counts), strict=True):
        observed = np.zeros((5, 5))
        np.add.at(observed, (x - 1, y - 1), taken)
        expected = np.outer(observed.sum(1), observed.sum(0)) / 60
        assert found == pytest.approx(1 - (weights * observed).sum() / (weights * expected).sum(), abs=1e-12)
    found = rate.agreement([{"a": 3}] * 4, [{"a": 3}] * 4, ["a"])
    assert found["kappa"]["a"] == {"value": None, "interval": None, "n": 4} and found["exact"]["value"] == 1.0


def test_a_missing_rating_takes_no_part_in_the_agreement():
    found = rate.agreement([{"a": 1, "b": 2}, {"a": None, "b": 4}], [{"a": 1, "b": 4}, {"a": 5, "b": None}], ["a", "b"])
    assert (found["exact"]["value"], found["exact"]["n"], found["within 1"]["value"]) == (0.5, 2, 0.5) and found["kappa"]["a"]["n"] == 1


# ---------------------------------------------------------------- reading ratings back


def test_ratings_are_read_back_only_for_their_rubric_and_one_judge(tmp_path, games):
    path, made = tmp_path / "ratings.jsonl", judges.made_rubric()
    rows = judges.rows(contrast.read(games))
    write_jsonl(path, rows)
    found, binding = rate.read(path, made)
    assert len(found) == 24 and found["g3", "other"] == rows[7]["ratings"] and binding["judge"] == "synthetic"
    other = dataclasses.replace(made, traits=made.traits[:-1])
    with pytest.raises(UserError, match="rated on another rubric"):
        rate.read(path, other)
    for change, words in (
        ({"judge": "second"}, "more than one judge"),
        ({"ratings": rows[0]["ratings"] | {IDS[0]: 6}}, "got 6"),
        ({"ratings": {}}, "its traits are not those"),
        ({"side": "ai"}, "not a row of ratings"),
        ({"id": "g1"}, "stands twice"),
    ):
        write_jsonl(path, [rows[0] | change, *rows[1:]])
        with pytest.raises(UserError, match=words):
            rate.read(path, made)


# ---------------------------------------------------------------- the requests, the modules


def test_a_schema_is_sent_and_part_of_the_key_only_where_it_is_asked_for(games, synthetic, endpoint):
    rated(games, synthetic)
    sent = endpoint.bodies[0]["response_format"]["json_schema"]["schema"]
    assert sent["required"] == judges.asked(endpoint.bodies[0])[1] and set(sent["properties"]) == set(IDS)
    plain, bound = (ask.request(settings_of(schemas=on), "m", "x", 0, {"type": "object"}, None, 0.0) for on in (False, True))
    assert "response_format" not in plain.body() and plain.key != bound.key


@pytest.mark.parametrize("module", ["contrast", "propose", "cluster", "rubric", "rate"])
def test_every_entry_module_of_the_traits_opens_with_its_command(module):
    text = (ROOT / f"datagen/traits/{module}.py").read_text()
    assert f"python -m datagen.traits.{module}" in text.split('"""')[1] and text.splitlines()[-2] == 'if __name__ == "__main__":'
    assert "usage:" in inside(f"datagen.traits.{module}", "--help").stdout
