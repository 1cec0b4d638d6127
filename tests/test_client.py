"""The client and its store: nothing paid for twice, nothing lost, no secret shown.  .venv/bin/python -m pytest tests/test_client.py"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from conftest import ROOT, one_line, play, run

from datagen.client import Client, Request, Store
from datagen.config import Endpoint
from datagen.files import UserError

KEY = "sk-very-secret-0123456789"


def make(url, store, **changes):
    settings = {"base_url": url, "api_key_env": "OPENAI_API_KEY", "timeout": 5.0, "concurrency": 4, "retries": 0}
    settings |= {"requests_per_minute": None, "tokens_per_minute": None, "batch": False}
    return Client(Endpoint(**(settings | changes)), store)


def ask(client, *requests):
    async def go():
        async with client:
            return {request: reply async for request, reply in client.replies(requests)}

    return asyncio.run(go())


async def resolve(client):
    async with client:
        return await client.resolve("auto")


def request(text="Hi?", **changes):
    return Request(**({"model": "scripted", "messages": (("user", text),), "temperature": 1.0, "top_p": 1.0, "max_tokens": 50, "seed": 1} | changes))


def test_a_reply_is_stored_with_what_was_asked_and_never_asked_again(endpoint, tmp_path):
    ask(make(endpoint.url, tmp_path), request())
    [line] = (tmp_path / "scripted.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["key"] == request().key and row["text"] == "An answer." and row["finish_reason"] == "stop"
    assert row["request"]["messages"] == [{"role": "user", "content": "Hi?"}] and row["usage"] == {"prompt_tokens": 10, "completion_tokens": 5}
    again = ask(make(endpoint.url, tmp_path), request())
    assert again[request()].text == "An answer." and len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "change", [{"model": "b"}, {"temperature": 0.5}, {"top_p": 0.9}, {"seed": 2}, {"sample": 1}, {"revision": "r"}, {"messages": (("user", "Ho?"),)}]
)
def test_whatever_changes_the_reply_changes_the_key(change):
    assert request(**change).key != request().key


@pytest.mark.parametrize("change", [{"max_tokens": 99}, {"tag": 7}])
def test_what_does_not_change_the_reply_is_not_in_the_key(change):
    assert request(**change).key == request().key


def test_raising_max_tokens_asks_again_only_for_what_was_cut_off(endpoint, tmp_path):
    endpoint.script = lambda body: ("Cut", "length") if body["messages"][0]["content"] == "Long?" and body["max_tokens"] < 80 else "Whole."
    ask(make(endpoint.url, tmp_path), request("Long?"), request("Short?"))
    replies = ask(make(endpoint.url, tmp_path), request("Long?", max_tokens=80), request("Short?", max_tokens=80))
    assert [r.text for r in replies.values()] == ["Whole.", "Whole."] or {r.text for r in replies.values()} == {"Whole."}
    assert Counter(body["messages"][0]["content"] for body in endpoint.bodies) == {"Long?": 2, "Short?": 1}


def test_samples_of_one_question_have_different_seeds_and_models_the_same():
    assert request(sample=1).body()["seed"] != request().body()["seed"] == request(model="other").body()["seed"]


def test_a_half_written_line_is_left_aside_and_the_next_reply_is_whole(endpoint, tmp_path, capsys):
    ask(make(endpoint.url, tmp_path), request("One?"))
    with open(tmp_path / "scripted.jsonl", "a") as file:
        file.write('{"key": "abc", "requ')
    ask(make(endpoint.url, tmp_path), request("Two?"))
    store = Store(tmp_path)
    assert store.get(request("One?")) and store.get(request("Two?"))
    assert "scripted.jsonl:2: half-written reply left aside" in capsys.readouterr().err


def test_never_more_requests_in_flight_than_asked_for(endpoint, tmp_path):
    now, most = [0], [0]

    def script(body):
        with endpoint.lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with endpoint.lock:
            now[0] -= 1
        return "x"

    endpoint.script = script
    ask(make(endpoint.url, tmp_path, concurrency=3), *[request(f"{i}?") for i in range(12)])
    assert most[0] == 3


def test_a_busy_server_is_asked_again(endpoint, tmp_path):
    answers = iter([(503, "busy"), (429, "slow down"), ("Here.", "stop")])
    endpoint.script = lambda body: next(answers)
    assert ask(make(endpoint.url, tmp_path, retries=3), request())[request()].text == "Here."


def test_one_failed_request_is_a_reply_that_says_so_and_is_not_stored(endpoint, tmp_path):
    endpoint.script = lambda body: (400, "too long") if body["messages"][0]["content"] == "Bad?" else "Good."
    replies = ask(make(endpoint.url, tmp_path), request("Bad?"), request("Good?"))
    assert (replies[request("Bad?")].finish_reason, replies[request("Bad?")].error) == ("failed", "too long")
    assert Store(tmp_path).get(request("Bad?")) is None


def test_ten_failures_in_a_row_stop_the_run_with_the_servers_words(endpoint, tmp_path):
    endpoint.script = lambda body: (400, "the chat template is broken")
    with pytest.raises(UserError, match="10 requests in a row failed, the last with: the chat template is broken"):
        ask(make(endpoint.url, tmp_path), *[request(f"{i}?") for i in range(30)])
    assert len(endpoint.bodies) < 20


def test_a_refused_key_is_one_line_without_the_key(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint.script = lambda body: (401, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UserError) as caught:
        ask(make(endpoint.url, tmp_path), request())
    assert "the key was refused (401" in str(caught.value) and "OPENAI_API_KEY is set" in str(caught.value) and KEY not in str(caught.value)


def test_the_key_is_sent_and_stands_in_no_file(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(make(endpoint.url, tmp_path), request())
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_password_in_the_address_is_not_shown(tmp_path):
    assert make("http://user:hunter2@127.0.0.1:9/v1", tmp_path).where == "http://127.0.0.1:9/v1"


def test_an_unknown_model_stops_with_the_servers_words(endpoint, tmp_path):
    endpoint.script = lambda body: (404, "The model `scripted` does not exist")
    with pytest.raises(UserError, match="not found \\(404: The model `scripted` does not exist\\)"):
        ask(make(endpoint.url, tmp_path), request())


def test_auto_needs_exactly_one_listed_model(endpoint, tmp_path):
    endpoint.models = ["a", "b"]
    with pytest.raises(UserError, match="lists 2 models \\(a, b\\)"):
        asyncio.run(resolve(make(endpoint.url, tmp_path)))


def test_no_endpoint_is_one_line_at_once(tmp_path):
    done = run("datagen.questions", tmp_path / "q.jsonl", "--profile", "tiny", "--store", tmp_path / "s", status=1, OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert "http://127.0.0.1:9/v1: nothing answers there" in one_line(done)


def test_two_processes_on_one_store_lose_and_break_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from datagen.client import *\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for i in range(300): store.add(Request('m', (('user', sys.argv[2] + str(i)),), 1.0, 1.0, 9), Reply('x' * 999, 'stop', {}), 'm')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(Store(tmp_path)) == 600


def test_what_was_paid_for_survives_kill_9_and_the_next_run_goes_on(endpoint, tmp_path):
    (tmp_path / "questions.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "kind": "general", "text": f"What is number {i} good for?", "source": ""}) + "\n" for i in range(40))
    )
    (tmp_path / "questions.ledger.json").write_text('{"asked": 40, "accepted": 40, "reasons": {}}')

    def slow(body):
        time.sleep(0.05)
        return play(body)

    endpoint.script = slow
    arguments = ["datagen.pairs", str(tmp_path / "questions.jsonl"), str(tmp_path / "pairs.jsonl"), "--profile", "tiny", "--store", str(tmp_path / "store")]
    first = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(endpoint.bodies) < 24:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = len(Store(tmp_path / "store"))
    assert kept >= 24 - 8 and not (tmp_path / "pairs.jsonl").exists()
    time.sleep(0.2)
    before = len(endpoint.bodies)
    run(*arguments)
    assert len(endpoint.bodies) - before == 80 - kept and len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 40
