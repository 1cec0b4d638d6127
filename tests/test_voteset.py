"""Votes as a data set for others: what leaves, what does not, the card, and the push.  .venv/bin/python -m pytest tests/test_voteset.py"""

import json
import random
import shutil

import hubs
import pytest
import yaml
from conftest import ROOT, inside, one_line
from hubs import TOKEN
from test_ballot import answer, run_of

from datagen.files import read_jsonl
from eval import ballot, votes, voteset
from eval.studyfile import Study
from eval.votes import Store, read_events

FOUND = "Students of one school | asked by their teacher."


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """A frozen study in which eleven raters voted and one withdrew."""
    place, clock = tmp_path_factory.mktemp("voted"), [1_800_000_000.0]
    run_of(place / "out", "one", [answer(i) for i in range(30)])
    values = yaml.safe_load((ROOT / "eval/study.yaml").read_text()) | {"runs": ["one"], "name": "pilot", "quiz": [], "per_rater": 10, "gold_every": 5}
    study = Study(**values | {"votes_per_item": 12, "password_env": None})
    folder, _, _ = ballot.freeze(study, place / "out")
    store = Store(folder, study, clock=lambda: clock[0], rng=random.Random(1))
    for r in range(12):
        rater = store.join(str(r))
        given = {ask.key: next(option for option in ask.options if option not in ask.ends) for ask in study.questionnaire}
        store.answer(rater, given | ({"native": "no"} if r % 2 else {}) | ({"english": "well (B2)"} if r == 3 else {}))
        while ballot_ := store.next(rater):
            clock[0] += 3.21
            store.cast(rater, ballot_.token, ("left", "right", "tie")[r % 3], 2.345, "row", "key")
    store.withdraw(store.code(rater))
    store.join("one more")
    store.close()
    assert voteset.write(folder, "my-org/pilot", FOUND, "cc-by-4.0") == []
    return folder


@pytest.fixture
def mine(voted, tmp_path):
    """A copy to write to."""
    return shutil.copytree(voted, tmp_path / voted.name)


def made(folder):
    return read_jsonl(folder / "publish/votes.jsonl"), (folder / "publish/README.md").read_text()


def test_each_vote_that_was_not_withdrawn_is_there_once(voted):
    rows, _ = made(voted)
    exported = votes.export(voted)
    assert len(rows) == len(exported) == 11 * 13
    assert [row["vote"] for row in rows] == list(range(1, len(rows) + 1)) and {row["rater"] for row in rows} == set(range(1, 12))
    key = json.loads((voted / "key.json").read_text())
    same = lambda row: (row["item"], row["kind"], row["left_is"], row["choice"], row["position"])  # noqa: E731
    assert sorted(map(same, rows)) == sorted(map(same, exported))
    for row in rows:
        if row["kind"] == "main":
            assert row["tuned_won"] == (0.5 if row["chosen"] is None else float(key[row["item"]][row["chosen"]] == "tuned"))
            assert row["tuned_left"] == (key[row["item"]][row["left_is"]] == "tuned")
    by_number = {row["vote"]: row for row in rows}
    repeats = [row for row in rows if row["kind"] == "repeat"]
    assert len(repeats) == 11 and all((by_number[row["repeat_of"]]["item"], by_number[row["repeat_of"]]["rater"]) == (row["item"], row["rater"]) for row in repeats)


def test_nothing_leads_back_to_a_rater_or_the_store(voted):
    text = "".join((voted / "publish" / name).read_text() for name in ("votes.jsonl", "items.jsonl", "study.lock.json", "README.md"))
    secret = {value for event in read_events(voted) for name, value in event.items() if name in ("token", "rater", "invite", "code") and value}
    secret |= {value for row in votes.export(voted) for name, value in row.items() if name in ("vote", "rater")}
    assert len(secret) > 200 and not [value for value in secret if value in text]
    rows, _ = made(voted)
    assert {row["day"] for row in rows} == {"2027-01-15"} and {row["seconds_client"] for row in rows} == {2.3} and "received_at" not in rows[0]
    assert [(row["rater"], row["position"]) for row in rows] == sorted((row["rater"], row["position"]) for row in rows)  # not in the order in which they came


def test_raters_are_numbered_anew_each_time(voted):
    exported, key = votes.export(voted), json.loads((voted / "key.json").read_text())
    one, other = ([row["item"] for row in voteset.anonymous(exported, key, [], random.Random(seed))[0]] for seed in (1, 2))
    assert one != other and sorted(one) == sorted(other)


def test_answers_that_few_raters_share_are_withheld_by_question(voted):
    rows, card = made(voted)
    assert {row["native"] for row in rows} == {"yes", "no"} and "english" not in rows[0] and {"age", "chatbots"} <= set(rows[0])
    assert "- Answers to the questionnaire: english. With them, fewer than 5 raters would share their answers." in card
    raters = [{"a": "x", "b": "y"}] * 5 + [{"a": "x", "b": "z"}] * 5 + [{"a": "w", "b": "z"}] * 4
    assert voteset.shared(raters, ["a", "b"]) == ["b"] and voteset.shared(raters[:10], ["a", "b"]) == ["a", "b"] and voteset.shared([], ["a"]) == []


def test_parquet_holds_the_same_rows_and_a_type_for_every_column(voted):
    import pyarrow
    import pyarrow.parquet

    rows, _ = made(voted)
    table = pyarrow.parquet.read_table(voted / "publish/votes.parquet")
    assert table.to_pylist() == rows and not any(pyarrow.types.is_null(field.type) for field in table.schema)


def test_an_export_without_an_ending_is_both(voted, tmp_path):
    inside("eval.votes", voted, "--export", tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine.jsonl", "mine.parquet"] and read_jsonl(tmp_path / "mine.jsonl") == votes.export(voted)
    assert "no ending for both" in one_line(inside("eval.votes", voted, "--export", tmp_path / "x.csv", status=1))


def test_the_items_say_who_wrote_which_side(voted):
    rows, key = read_jsonl(voted / "publish/items.jsonl"), json.loads((voted / "key.json").read_text())
    assert all((row["writer_a"], row["writer_b"]) == (key[row["item"]]["a"], key[row["item"]]["b"]) for row in rows) and len(rows) == len(key)


def test_the_card_says_what_it_is_how_raters_were_found_the_consent_and_what_was_left_out(voted):
    _, card = made(voted)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0" and front["configs"][0]["data_files"] == [{"split": "train", "path": "votes.parquet"}]
    consent = yaml.safe_load((ROOT / "eval/study.yaml").read_text())["consent"].strip()
    for line in (
        "143 votes of 11 people, 2027-01-15.",
        "## How the raters were found\n\nStudents of one school \\| asked by their teacher.",
        f"````text\n{consent}\n````",
        "| votes withdrawn by their raters | 13 |",
        "| people who agreed and cast no vote that counts | 2 |",
        "Nobody's votes were left out as careless. The rule that was fixed before the first vote: 2 gold pairs failed or more, or a median time below 0.8 s",
        "| on pairs of the models (`kind`: main) | 110 |",
        "| one | some-org/Some-Base-7B | tuned-one |",
    ):
        assert line in card, line


def test_a_push_needs_to_say_how_raters_were_found_and_a_dry_run_tells_so(mine):
    said = inside("eval.votes", mine, "--push", "", "--dry-run").stdout
    assert "before a push: say how the raters were found" in said and "nothing was pushed" in said
    assert "**UNKNOWN: fill in.**" in made(mine)[1] and "No licence is declared" in made(mine)[1]
    assert "say how the raters were found" in one_line(inside("eval.votes", mine, "--push", "my-org/pilot", status=1))
    assert "REPO=pilot: expected organisation/name" in one_line(inside("eval.votes", mine, "--push", "pilot", status=1))


def test_simulated_raters_are_called_so(mine):
    lock = json.loads((mine / "study.lock.json").read_text())
    (mine / "study.lock.json").write_text(json.dumps(lock | {"simulated": True}))
    assert voteset.write(mine, "my-org/pilot", None, None) == []
    _, card = made(mine)
    assert "# pilot (simulated raters)" in card and "**Simulated raters, not people.**" in card and "simulated" in yaml.safe_load(card.split("---\n")[1])["tags"]
    assert "of 11 simulated raters" in card and "They are a program." in card


def test_a_push_is_one_commit_to_a_private_data_set(mine, monkeypatch, tmp_path):
    hub = hubs.Hub()
    hubs.use(monkeypatch, tmp_path, hub)
    done = inside("eval.votes", mine, "--push", "my-org/pilot", "--found", FOUND)
    hub.close()
    (commit,) = hub.repos["my-org/pilot"]["commits"]
    assert sorted(commit) == ["README.md", "items.jsonl", "study.lock.json", "votes.jsonl", "votes.parquet"] and hub.repos["my-org/pilot"]["private"]
    assert commit["votes.jsonl"] == (mine / "publish/votes.jsonl").read_bytes() and "pushed: " in done.stdout and TOKEN not in done.stdout + done.stderr
