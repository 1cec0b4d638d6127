"""Which pairs are kept, and that the ledger adds up.  .venv/bin/python -m pytest tests/test_pairs.py"""

import json

import pytest
from conftest import one_line, part_of, play, run

from datagen import config
from datagen.client import Reply, Store
from datagen.filters import reason_against


def reply(text, finish="stop"):
    return Reply(text, finish, {})


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (reply("Oh, sure!"), reply("Certainly."), None),
        (reply("um"), reply("Yes."), None),
        (reply(" \n"), reply("Certainly."), "empty"),
        (reply("Oh, su", "length"), reply("Certainly."), "truncated"),
        (reply("Oh, sure!"), reply("", "failed"), "failed"),
        (reply("Oh, sure!"), reply("Cert", "content_filter"), "refused"),
        (reply("Sorry, but I can't help with that."), reply("Certainly."), "refused"),
        (reply("Oh, sure!"), reply("I’m sorry, but I cannot assist with this request."), "refused"),
        (reply("Honestly, I can't stand olives."), reply("Certainly."), None),
        (reply("Yes,  of course."), reply("Yes, of course."), "too similar"),
    ],
)
def test_a_pair_is_rejected_for_the_first_reason_that_applies(chosen, rejected, reason):
    assert reason_against("Could you do that?", chosen, rejected, config.load("paper").filters) == reason


def write_questions(folder, n):
    rows = [{"id": f"id{i}", "kind": "general", "text": f"What is number {i} good for?", "source": ""} for i in range(n)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "questions.ledger.json").write_text(json.dumps({"asked": n + 3, "accepted": n, "held out": 1, "reasons": {"cut off": 2}}))


def make_pairs(folder, **options):
    return run("datagen.pairs", folder / "questions.jsonl", folder / "pairs.jsonl", "--profile", "tiny", "--store", folder / "store", **options)


def read(path):
    return [json.loads(line) for line in path.open()]


def test_asked_is_accepted_plus_every_reason_and_rejected_rows_are_kept(endpoint, tmp_path):
    def script(body):
        number, style = body["messages"][-1]["content"].split()[3], part_of(body)
        broken = {("1", "human_like"): "", ("2", "formal"): ("Cut o", "length"), ("3", "human_like"): (400, "no"), ("4", "formal"): "I cannot help with that."}
        return broken.get((number, style), play(body))

    endpoint.script = script
    write_questions(tmp_path, 8)
    make_pairs(tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    reasons = {"empty": 1, "truncated": 1, "failed": 1, "refused": 1}
    assert ledger["pairs"] == {"asked": 8, "accepted": 4, "reasons": reasons, "kinds": {"general": 4}}
    assert ledger["total"] == {"asked": 11, "accepted": 4, "reasons": reasons | {"cut off": 2, "held out": 1}}
    assert ledger["usage"]["scripted"] == {"replies": 15, "prompt_tokens": 150, "completion_tokens": 75, "usd": "0", "price": "local server, no price"}
    assert {row["id"]: row["reason"] for row in read(tmp_path / "rejects.jsonl")} == {"id1": "empty", "id2": "truncated", "id3": "failed", "id4": "refused"}
    assert [row["id"] for row in read(tmp_path / "pairs.jsonl")] == ["id0", "id5", "id6", "id7"]


def test_every_answer_is_asked_at_the_papers_sampling_settings(endpoint, tmp_path):
    endpoint.script = play
    write_questions(tmp_path, 2)
    make_pairs(tmp_path)
    assert {(body["temperature"], body["top_p"]) for body in endpoint.bodies} == {(1.0, 1.0)} and len(endpoint.bodies) == 4


def test_no_more_questions_are_asked_than_pairs_are_wanted(endpoint, tmp_path):
    endpoint.script = lambda body: "" if "number 0 " in body["messages"][-1]["content"] else play(body)
    write_questions(tmp_path, 900)
    done = make_pairs(tmp_path)
    wanted = len(read(tmp_path / "pairs.jsonl"))
    assert len(endpoint.bodies) == 2 * (wanted + 1) and f"{wanted} pairs in" in done.stdout and "1 empty" in done.stdout


def test_nothing_accepted_is_one_line_and_no_pairs_file(endpoint, tmp_path):
    endpoint.script = lambda body: ""
    write_questions(tmp_path, 3)
    assert "no pair was accepted (rejected: 3 empty)" in one_line(make_pairs(tmp_path, status=1))
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_server_that_dies_in_the_middle_loses_nothing_that_was_paid_for(endpoint, tmp_path):
    write_questions(tmp_path, 30)
    endpoint.script = lambda body: (401, "key expired") if len(endpoint.bodies) > 20 else play(body)
    line = one_line(make_pairs(tmp_path, status=1))
    assert "the key was refused (401: key expired); " in line and " replies are kept in" in line
    assert len(Store(tmp_path / "store")) == 20
    endpoint.script = play
    make_pairs(tmp_path)
    assert len(read(tmp_path / "pairs.jsonl")) == 30


def test_an_unwritable_output_is_one_line(endpoint, tmp_path):
    endpoint.script = play
    write_questions(tmp_path, 2)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    done = run("datagen.pairs", tmp_path / "questions.jsonl", tmp_path / "blocked" / "pairs.jsonl", "--profile", "tiny", "--store", tmp_path / "store", status=1)
    assert "blocked" in one_line(done) and "Nothing that was finished is lost" in one_line(done)


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch, capsys):
    import errno
    import os

    from datagen import files

    target = tmp_path / "pairs.jsonl"
    target.write_text("old\n")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SystemExit) as caught:
        files.entry(lambda: files.write_jsonl(target, [{"a": 1}]))
    assert "No space left on device" in caught.value.code
    assert target.read_text() == "old\n" and [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
