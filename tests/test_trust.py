"""Whether data generation can be trusted with money: one test for each property.  .venv/bin/python -m pytest tests/test_trust.py  (-m slow: the long ones)"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from decimal import Decimal
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, part_of

from datagen import client as clients
from datagen import meter as meters
from datagen import pairs, preview, questions
from datagen.client import Client, Replica, Reply, Request, Store, retry_after
from datagen.config import Endpoint
from datagen.files import UserError
from datagen.filters import foreign
from datagen.meter import Meter, Usage, estimate, table
from datagen.prices import Price

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}
FAST = (0.01, 0.1)  # pauses before another try, in place of 0.5 to 60 s


# ---------------------------------------------------------------- a server that decides every byte


def completion(text, finish="stop", usage=USAGE, **message) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    return json.dumps({"id": "x", "model": "scripted", "choices": [choice]} | ({"usage": usage} if usage else {}), ensure_ascii=False).encode()


def refusal(status, words, wait=None):
    return status, {"Retry-After": wait} if wait is not None else {}, json.dumps({"error": {"message": words}}).encode()


class Rough:
    """Answers chat completions with `script(body)`: text, bytes, or (status, headers, bytes); `None` closes the connection in the middle."""

    def __init__(self, port: int = 0):
        self.script, self.bodies, self.times, self.now, self.most, self.lock = (lambda body: "An answer."), [], [], 0, 0, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, status, headers, data, whole=True):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data if whole else data[: len(data) // 2])
                self.close_connection = self.close_connection or not whole

            def do_GET(self):
                self.send(200, {}, b'{"object": "list", "data": [{"id": "scripted"}]}')

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.times.append(time.monotonic())
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    reply = outer.script(body)
                finally:
                    with outer.lock:
                        outer.now -= 1
                if reply is None:
                    return self.send(200, {}, completion("SPOILED " * 20), whole=False)
                reply = completion(reply) if isinstance(reply, str) else reply
                return self.send(*((200, {}, reply) if isinstance(reply, bytes) else reply))

        class Server(ThreadingHTTPServer):
            request_queue_size = 64
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def rough(monkeypatch):
    monkeypatch.setattr(clients, "PAUSES", FAST)
    server = Rough()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def other():
    server = Rough()
    yield server
    server.close()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def make(url, store, prices=None, **changes):
    settings = {"base_url": url, "api_key_env": "OPENAI_API_KEY", "timeout": 5.0, "concurrency": 4, "retries": 5}
    settings |= {"requests_per_minute": None, "tokens_per_minute": None, "batch": False}
    return Client(Endpoint(**(settings | changes)), store, url=url, prices=prices)


def ask(client, requests):
    async def go():
        async with client:
            return {request: reply async for request, reply in client.replies(requests)}

    return asyncio.run(go())


def request(text="Hi?", **changes):
    return Request(**({"model": "scripted", "messages": (("user", text),), "temperature": 1.0, "top_p": 1.0, "max_tokens": 50, "seed": 1} | changes))


def many(n):
    return [request(f"{i:03}") for i in range(n)]


# ---------------------------------------------------------------- a small project, and a stand-in for the models


def share(*parts) -> float:
    """A number in [0, 1) that the parts decide."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


def good(body: dict) -> str:
    """Twenty questions on twenty things, or an answer to one, in one of the two styles."""
    part, asked = part_of(body), body["messages"][-1]["content"]
    if part.startswith("questions"):
        things = ["tea", "rain", "chess", "bread", "trains", "owls", "clay", "maps", "soup", "kites"]
        things += ["moss", "drums", "glass", "snow", "figs", "boats", "wool", "salt", "bells", "hats"]
        form = "What do you enjoy about {} on a {} day?" if part.endswith("conversational") else "Why does {} matter in {}?"
        return "\n".join(f"{i}. {form.format(thing, body['seed'] % 99991)}" for i, thing in enumerate(things, 1))
    thing = asked.split()[5 if asked.startswith("What") else 2]
    if part == "human_like":
        return f"Oh, I really love {thing}! My grandmother always told me a story about it when we were little. What about you? 😊"
    return f"The subject of {thing} is regarded as significant, since it has shaped the customs of many communities over the centuries."


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with the project's settings; `desk.profile` adds a profile, `desk.do` runs a stage in this process."""
    (tmp_path / "datagen").mkdir()
    shutil.copytree(ROOT / "datagen/prompts", tmp_path / "datagen/prompts")
    shutil.copy(ROOT / "datagen/topics.yaml", tmp_path / "datagen")
    shutil.copy(ROOT / "datagen/config.yaml", tmp_path / "datagen")
    monkeypatch.chdir(tmp_path)

    def profile(count, wanted, held_out=4, **changes):
        config = yaml.safe_load((ROOT / "datagen/config.yaml").read_text())
        mine = {"questions": {"model": "auto", "count": count, "held_out": held_out, "avoid": []}, "answers": {"model": "auto"}, "pairs": wanted}
        mine["endpoint"] = {"concurrency": 8, "timeout": 10.0}
        config["profiles"]["trust"] = mine | changes
        (tmp_path / "datagen/config.yaml").write_text(yaml.safe_dump(config))

    def do(stage, *arguments, profile="trust", store="store"):
        monkeypatch.setattr(sys, "argv", [stage.__name__, *map(str, arguments), "--profile", profile, "--store", store])
        stage.main()

    return SimpleNamespace(path=tmp_path, profile=profile, do=do)


def read(path):
    return [json.loads(line) for line in path.open()]


def stored(folder):
    """The replies in a store whose line is whole."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def adds_up(ledger):
    for part in (ledger["pairs"], ledger["total"]):
        assert part["asked"] == part["accepted"] + sum(part["reasons"].values())


# ---------------------------------------------------------------- kill -9

# Does what `python -m datagen.questions … && python -m datagen.pairs …` does, as make would: no questions where they are finished. A fork, because the imports
# take longer than the work.
NURSERY = """
import json, os, sys
from datagen import filters, pairs, questions, topics
from datagen.files import entry
for line in sys.stdin:
    out, store = json.loads(line)
    pid = os.fork()
    if not pid:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        status = 1
        try:
            for stage, files in [(questions, ["questions"])] * (not os.path.exists(out + "/questions.jsonl")) + [(pairs, ["questions", "pairs"])]:
                sys.argv = ["-", *[f"{out}/{name}.jsonl" for name in files], "--profile", "trust", "--store", store]
                entry(stage.main)
            status = 0
        except SystemExit as error:
            print(error.code, file=sys.stderr)
        finally:
            os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def killed_and_undisturbed(endpoint, desk, kills, wanted, seed):
    desk.profile(wanted, wanted, filters={"language": None})  # no second for loading the model that tells languages, at each of the starts

    def script(body):
        key = json.dumps(body, sort_keys=True)
        time.sleep(0.004 + 0.02 * share(key, "how long"))
        return "" if part_of(body) in ("human_like", "formal") and share(key) < 0.1 else good(body)

    endpoint.script = script
    rng = random.Random(seed)
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as nursery:

        def start(out, store):
            print(json.dumps([out, store]), file=nursery.stdin, flush=True)
            return int(nursery.stdout.readline())

        def ended():
            return int(nursery.stdout.readline())

        start("calm", "calm-store")
        assert ended() == 0, (desk.path / "log.txt").read_text()
        needed = len(endpoint.bodies)
        assert len(stored(desk.path / "calm-store")) == needed
        endpoint.bodies.clear()
        lost = []
        for _ in range(kills):
            before, kept = len(endpoint.bodies), len(stored(desk.path / "store"))
            moment, more = rng.uniform(0, 0.03), rng.randrange(0, needed // (kills + 4))
            pid = start("out", "store")
            deadline = time.monotonic() + 20
            while len(endpoint.bodies) < before + more and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
            assert ended() == -signal.SIGKILL, (desk.path / "log.txt").read_text()
            assert not (desk.path / "out/pairs.jsonl").exists()
            count = -1
            while count != len(endpoint.bodies):
                count = len(endpoint.bodies)
                time.sleep(0.04)
            lost.append((count - before) - (len(stored(desk.path / "store")) - kept))
        start("out", "store")
        assert ended() == 0, (desk.path / "log.txt").read_text()
    assert all(0 <= n <= 8 for n in lost), lost  # 8 in flight at most, so no more than that at a kill
    assert len(endpoint.bodies) == needed + sum(lost)
    assert len({row["key"] for row in stored(desk.path / "store")}) == len(stored(desk.path / "store")) == needed
    for name in ("questions.jsonl", "questions.topup.jsonl", "pairs.jsonl", "rejects.jsonl", "questions.ledger.json", "ledger.json"):
        assert (desk.path / "out" / name).read_bytes() == (desk.path / "calm" / name).read_bytes(), name
    assert len(read(desk.path / "out/pairs.jsonl")) == wanted and read(desk.path / "out/rejects.jsonl")


def test_kill_9_at_three_moments_costs_what_is_in_flight_and_changes_no_file(endpoint, desk):
    killed_and_undisturbed(endpoint, desk, 3, 15, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_kill_9_at_twenty_moments_costs_what_is_in_flight_and_changes_no_file(endpoint, desk, seed):
    killed_and_undisturbed(endpoint, desk, 20, 160, seed)


# ---------------------------------------------------------------- a server that spoils its replies

GERMAN = "SPOILED Ich finde, das ist eine wirklich schöne Frage, und ich würde gerne noch viel mehr darüber erzählen, wenn du magst."
CHINESE = "SPOILED 我觉得这是一个非常好的问题，我小时候常常和我的祖母一起在花园里讨论这些事情，她总是给我讲很多有趣的故事，我到现在还记得很清楚。"
GERMAN_LIST = "1. Was gefällt dir an SPOILED Brot am frühen Morgen?\n2. Warum ist der Himmel über SPOILED München am Abend so rot?"
TRIED_AGAIN = {  # ways in which no reply comes: the client's word for it in the ledger
    "not JSON": ("not JSON", lambda body: b'{"choices": [{"message": SPOILED'),
    "HTML": ("not JSON", lambda body: b"<html>SPOILED</html>"),
    "not UTF-8": ("not UTF-8", lambda body: completion("SPOILED ~").replace(b"~", b"\xff\xfe")),
    "no choices": ("no choices", lambda body: b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'),
    "error with 200": ("an error with status 200", lambda body: json.dumps({"error": {"message": "SPOILED upstream"}}).encode()),
    "cut in the middle": ("cut off on the way", lambda body: None),
    "429": ("busy", lambda body: refusal(429, "SPOILED: too many requests", "0")),
    "503": ("busy", lambda body: refusal(503, "SPOILED: overloaded")),
    "500": ("server error", lambda body: refusal(500, "SPOILED: internal")),
}
KEPT = {  # replies that are none: the reason for which the pair is left out, in the order in which reasons are found
    "tool calls": ("tool call", lambda body: completion(None, "tool_calls", tool_calls=[{"type": "function", "function": {"name": "SPOILED"}}])),
    "cut off": ("truncated", lambda body: completion(good(body) + "\n21. Why does SPOILED", "length")),
    "endless thought": ("truncated", lambda body: completion("<think>SPOILED, on and on")),
    "null": ("empty", lambda body: completion(None)),
    "empty text": ("empty", lambda body: completion(" \n")),
    "1 MB": ("too long for sequence_len", lambda body: completion("SPOILED " * (1 << 17), usage=None)),
    "echo": ("echo of the system prompt", lambda body: completion(f"SPOILED {body['messages'][0]['content']}")),
    "German": ("wrong language", lambda body: completion(GERMAN_LIST if part_of(body).startswith("questions") else GERMAN)),
    "Chinese": ("wrong language", lambda body: completion(CHINESE)),
    "thought": (None, lambda body: completion(f"<think>SPOILED: 1. Why does SPOILED ask?</think>\n{good(body)}")),
}
WAYS = TRIED_AGAIN | KEPT


class Spoiler:
    """Spoils a share of the replies, each in a way that what is asked and the try decide; remembers how the last try of each went."""

    def __init__(self, rate):
        self.rate, self.tries, self.ways, self.last, self.lock = rate, Counter(), Counter(), {}, threading.Lock()

    def __call__(self, body):
        key = json.dumps(body, sort_keys=True)
        with self.lock:
            self.tries[key] += 1
            n = self.tries[key]
            way = list(WAYS)[int(share(key, n, "way") * len(WAYS))] if share(key, n) < self.rate else None
            self.ways[way] += 1
            self.last[part_of(body), body["messages"][-1]["content"]] = way
        return WAYS[way][1](body) if way else good(body)


def spoiled_run(rough, desk, wanted):
    spoil = rough.script = Spoiler(0.15)
    desk.profile(wanted, wanted)
    desk.do(questions, "questions.jsonl")
    spoil.ways.clear()
    desk.do(pairs, "questions.jsonl", "pairs.jsonl")
    ledger = json.loads((desk.path / "ledger.json").read_text())
    rows = read(desk.path / "pairs.jsonl")
    assert len(rows) == len({row["prompt"] for row in rows}) == wanted == ledger["pairs"]["accepted"] == ledger["total"]["accepted"]
    adds_up(ledger)
    order = [reason for reason, _ in KEPT.values()]
    expected, asked = Counter(), {prompt for part, prompt in spoil.last if part in ("human_like", "formal")}
    for prompt in asked:
        reasons = [KEPT[way][0] for style in ("human_like", "formal") if (way := spoil.last[style, prompt])]
        expected[min(filter(None, reasons), key=order.index, default=None)] += 1
    assert ledger["pairs"]["asked"] == len(asked) and expected.pop(None) == wanted
    assert ledger["pairs"]["reasons"] == dict(sorted(expected.items()))
    assert Counter(row["reason"] for row in read(desk.path / "rejects.jsonl") if "chosen" in row) == expected
    faults = Counter()
    for way, (word, _) in TRIED_AGAIN.items():
        faults[word] += spoil.ways[way]
    thoughts = spoil.ways["thought"] + spoil.ways["endless thought"]
    assert ledger["replies that came otherwise"] == dict(sorted((+faults).items())) | {"<think> block stripped": thoughts}
    return spoil, ledger


def test_a_server_that_spoils_replies_still_makes_exactly_n_pairs_and_the_ledger_adds_up(rough, desk):
    spoil, ledger = spoiled_run(rough, desk, 90)
    assert len(ledger["questions asked for later"]) == 3  # it topped up by itself
    assert len([way for way in spoil.ways if way]) >= 12


def test_no_spoiled_text_reaches_the_pairs(rough, desk):
    rough.script = lambda body: completion(f"{GERMAN_LIST}\n{good(body)}") if part_of(body).startswith("questions") else spoil(body)
    spoil = Spoiler(0.15)
    desk.profile(40, 40, held_out=0)
    desk.do(questions, "questions.jsonl")
    desk.do(pairs, "questions.jsonl", "pairs.jsonl")
    text = (desk.path / "pairs.jsonl").read_text()
    assert not [line for line in text.splitlines() if "SPOILED" in line or "<think" in line] and len(text.splitlines()) == 40


@pytest.mark.slow
def test_every_way_to_spoil_a_reply_is_counted_under_its_reason(rough, desk):
    spoil, ledger = spoiled_run(rough, desk, 1000)
    assert set(spoil.ways) == {None, *WAYS}
    assert set(ledger["pairs"]["reasons"]) == {reason for reason, _ in KEPT.values() if reason}


@pytest.mark.parametrize("way", TRIED_AGAIN)
def test_what_is_no_reply_is_asked_for_again_and_not_stored(rough, tmp_path, way):
    word, spoiled = TRIED_AGAIN[way]
    rough.script = lambda body: spoiled(body) if len(rough.bodies) == 1 else "Here."
    client = make(rough.url, tmp_path)
    assert ask(client, [request()])[request()] == Reply("Here.", "stop", USAGE)
    assert client.meter.faults == {word: 1} and len(rough.bodies) == 2 and [row["text"] for row in stored(tmp_path)] == ["Here."]


@pytest.mark.parametrize("text", [CHINESE[8:], "我觉得这是一个非常好的问题，我的祖母总是给我讲很多故事。", GERMAN[8:]])
def test_an_answer_in_another_language_is_found_however_short_its_script(text):
    assert foreign(text, "en")


# ---------------------------------------------------------------- how the load finds its level


def test_retry_after_is_honoured_by_all_requests_to_that_server(rough, tmp_path):
    rough.script = lambda body: refusal(429, "slow down", "0.4") if len(rough.bodies) == 1 else "x"
    client = make(rough.url, tmp_path, concurrency=1)
    ask(client, many(4))
    assert rough.times[1] - rough.times[0] >= 0.4 and len(rough.bodies) == 5
    assert client.meter.faults == {"busy": 1}


def test_retry_after_is_read_as_seconds_or_date_and_never_believed_beyond_an_hour():
    assert [retry_after(value) for value in (None, "", "7", "0.5", "-3", "99999", "soon", "nan")] == [0, 0, 7, 0.5, 0, 3600, 0, 0]
    assert 18 <= retry_after(formatdate(time.time() + 20, usegmt=True)) <= 20 and retry_after(formatdate(time.time() - 20, usegmt=True)) == 0


def test_requests_in_flight_are_halved_once_for_a_wave_of_503_and_grow_again(rough, tmp_path):
    wave = threading.Barrier(8, timeout=5)
    limits, at = [], []

    def script(body):
        n = len(at)
        at.append(n)
        if n < 8:
            wave.wait()
            return refusal(503, "busy")
        if n == 8:
            rough.most = 0
        limits.append(client.replicas[0].limit)
        time.sleep(0.003)
        return "x"

    rough.script = script
    client = make(rough.url, tmp_path, concurrency=8)
    replies = ask(client, many(120))
    assert {reply.text for reply in replies.values()} == {"x"} and len(replies) == 120 and len(rough.bodies) == 128
    assert min(limits) == 4 and client.replicas[0].limit == 8 and client.meter.faults == {"busy": 8}


def test_a_replica_halves_once_for_what_was_in_flight_together_and_grows_by_one_a_round():
    replica = Replica("u", 256)
    assert replica.limit == 64
    asked = time.monotonic()
    replica.overloaded(asked, 0)
    replica.overloaded(asked, 0)
    assert replica.limit == 32
    for _ in range(33):
        replica.succeeded()
    assert 33 <= replica.limit < 33.1
    for _ in range(10):
        replica.overloaded(time.monotonic() + 1, 0)
        replica.halved = 0.0
    assert replica.limit == 1


def test_two_replicas_share_the_load(rough, other, tmp_path):
    rough.script = other.script = lambda body: time.sleep(0.01) or "x"
    replies = ask(make(f"{rough.url},{other.url}", tmp_path, concurrency=4), many(80))
    assert len(replies) == 80 == len(rough.bodies) + len(other.bodies) and abs(len(rough.bodies) - len(other.bodies)) <= 20
    assert max(rough.most, other.most) <= 4 < rough.most + other.most


@pytest.mark.parametrize("first", [True, False])
def test_a_dead_replica_is_left_out_and_the_run_ends_well(rough, tmp_path, first):
    urls = [f"http://127.0.0.1:{free_port()}/v1", rough.url]
    client = make(",".join(urls if first else urls[::-1]), tmp_path)
    replies = ask(client, many(60))
    assert [reply.text for reply in replies.values()] == ["An answer."] * 60 and len(rough.bodies) == 60
    assert 1 <= client.meter.faults["unreachable"] <= 60 and client.meter.faults.keys() == {"unreachable"}


def test_the_model_is_asked_of_a_replica_that_lives(rough, tmp_path):
    async def go():
        async with make(f"http://127.0.0.1:{free_port()}/v1,{rough.url}", tmp_path) as client:
            return await client.resolve("auto")

    assert asyncio.run(go()) == "scripted"


def test_a_replica_that_comes_back_is_used_again(rough, tmp_path):
    port, late = free_port(), []

    def script(body):
        if len(rough.bodies) == 20:
            late.append(Rough(port))
        time.sleep(0.01)
        return "x"

    rough.script = script
    replies = ask(make(f"http://127.0.0.1:{port}/v1,{rough.url}", tmp_path), many(120))
    late[0].close()
    assert len(replies) == 120 == len(rough.bodies) + len(late[0].bodies) and len(late[0].bodies) >= 20


@pytest.mark.parametrize(
    ("status", "words"), [(429, "You exceeded your current quota (insufficient_quota)"), (402, "Payment required"), (429, "Your credit balance is too low")]
)
def test_no_credit_stops_at_once_with_the_servers_words(rough, tmp_path, status, words):
    rough.script = lambda body: "x" if len(rough.bodies) <= 3 else refusal(status, words)
    with pytest.raises(UserError) as caught:
        ask(make(rough.url, tmp_path, concurrency=1), many(20))
    advice = f"3 replies are kept in {tmp_path}. Top up the account; the same command then goes on"
    assert str(caught.value) == f"{rough.url}: no credit is left ({status}: {words}); {advice}" and len(rough.bodies) == 4


def test_requests_per_minute_holds(rough, tmp_path):
    start = time.monotonic()
    ask(make(rough.url, tmp_path, concurrency=10, requests_per_minute=1200), many(12))
    assert 11 * 0.05 <= rough.times[-1] - start < 5 and len(rough.bodies) == 12


def test_tokens_per_minute_holds(rough, tmp_path):
    # 15 tokens a reply at 15,000 a minute: one in 0.06 s, once the first has shown that it is not the 50 that it could be.
    start = time.monotonic()
    ask(make(rough.url, tmp_path, concurrency=1, tokens_per_minute=15_000), many(10))
    assert 9 * 0.06 - 0.01 <= rough.times[-1] - start < 5


# ---------------------------------------------------------------- the budget

PRICES = {"scripted": {"input": "1000", "output": "2000"}}  # 3 bytes + 16 and 50 tokens: 11.9 cents a request at worst
AT_WORST = {"prompt_tokens": 19, "completion_tokens": 50}


def test_what_is_spent_never_exceeds_the_cap_and_a_higher_one_goes_on_without_paying_twice(rough, tmp_path, monkeypatch):
    rough.script = lambda body: completion("x", usage=AT_WORST)
    store = tmp_path / "store"
    for cap, paid in (("1", 8), ("1", 8), ("1.07", 8), ("1.071", 9), ("2.00", 16)):
        monkeypatch.setenv("BUDGET_USD", cap)
        with pytest.raises(UserError) as caught:
            ask(make(rough.url, store, PRICES), many(20))
        usd = sum(Decimal(row["usage"]["prompt_tokens"]) / 1000 + Decimal(row["usage"]["completion_tokens"]) / 500 for row in stored(store))
        assert usd == Decimal("0.119") * paid <= Decimal(cap) and len(rough.bodies) == paid
        shown = f"${usd:.2f}" if usd >= 1 else f"${usd:.4f}"
        assert str(caught.value) == (
            f"the budget is reached: {shown} of BUDGET_USD={cap} are spent on this data set, and one more request could go over it. "
            f"{paid} replies are kept in {store}; the same command with a higher BUDGET_USD goes on from there"
        )
    monkeypatch.setenv("BUDGET_USD", "2.38")
    assert len(ask(make(rough.url, store, PRICES), many(20))) == 20 == len(rough.bodies)


def test_replies_that_break_on_the_way_count_against_the_cap(rough, tmp_path, monkeypatch):
    rough.script = lambda body: None if share(body["seed"], len(rough.bodies)) < 0.4 else completion("x", usage=AT_WORST)
    monkeypatch.setenv("BUDGET_USD", "3")
    with pytest.raises(UserError, match=r"the budget is reached"):
        ask(make(rough.url, tmp_path, PRICES, concurrency=4), many(60))
    assert Decimal("2.5") < len(rough.bodies) * Decimal("0.119") <= 3 and len(stored(tmp_path)) < len(rough.bodies)


def test_one_cap_holds_for_questions_and_pairs_together(rough, desk, monkeypatch):
    rough.script = lambda body: completion(good(body), usage={"prompt_tokens": 400, "completion_tokens": 900})
    desk.profile(20, 20, prices={"scripted": {"input": "5", "output": "20"}})  # 2 cents a reply; at worst 4.5 for a list, about 2.3 for an answer
    monkeypatch.setenv("BUDGET_USD", "0.50")

    def usd():
        return sum((Decimal(400) * 5 + Decimal(900) * 20) / 1_000_000 for _ in stored(desk.path / "store"))

    desk.do(questions, "questions.jsonl")
    lists = len(rough.bodies)
    for cap in ("0.50", "0.70"):
        monkeypatch.setenv("BUDGET_USD", cap)
        with pytest.raises(UserError, match="the budget is reached"):
            desk.do(pairs, "questions.jsonl", "pairs.jsonl")
        assert Decimal(cap) - Decimal("0.03") < usd() <= Decimal(cap) and not (desk.path / "pairs.jsonl").exists()
    monkeypatch.setenv("BUDGET_USD", "10")
    desk.do(pairs, "questions.jsonl", "pairs.jsonl")
    assert len(rough.bodies) == lists + 40 and len(read(desk.path / "pairs.jsonl")) == 20
    ledger = json.loads((desk.path / "ledger.json").read_text())
    assert Decimal(ledger["usage"]["scripted"]["usd"]) + Decimal(ledger["questions"]["usage"]["scripted"]["usd"]) == usd()
    assert ledger["usage"]["scripted"]["price"] == "own price, datagen/config.yaml"


@pytest.mark.slow
def test_a_budget_of_one_dollar_is_kept_and_the_run_goes_on_later(rough, desk, monkeypatch):
    rough.script = lambda body: completion(good(body), usage={"prompt_tokens": 90, "completion_tokens": int(1000 * share(body["seed"]))})
    desk.profile(300, 300, prices={"scripted": {"input": "3.5", "output": "3.5"}})
    spent = []
    for cap in ("1", "10"):
        monkeypatch.setenv("BUDGET_USD", cap)
        if cap == "1":
            desk.do(questions, "questions.jsonl")
            with pytest.raises(UserError, match=r"the budget is reached: \$0\.99"):
                desk.do(pairs, "questions.jsonl", "pairs.jsonl")
        else:
            desk.do(pairs, "questions.jsonl", "pairs.jsonl")
        spent.append(sum(sum(row["usage"].values()) * Decimal("3.5") / 1_000_000 for row in stored(desk.path / "store")))
    assert Decimal("0.99") < spent[0] <= 1 < spent[1]
    assert len(rough.bodies) == len(stored(desk.path / "store")) and len(read(desk.path / "pairs.jsonl")) == 300


def test_a_budget_without_a_known_price_is_refused():
    meter = Meter("https://api.nobody-knows.example/v1", {}, Decimal(1))
    with pytest.raises(UserError) as caught:
        meter.reserve(request(model="unheard-of"))
    assert str(caught.value) == "BUDGET_USD cannot be kept: the price of unheard-of is not known; write it under `prices:` in datagen/config.yaml"
    assert Meter("https://api.nobody-knows.example/v1", {}, None).reserve(request(model="unheard-of"))


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1,5", "$5"])
def test_a_budget_that_is_no_sum_of_money_is_one_line(rough, tmp_path, monkeypatch, text):
    monkeypatch.setenv("BUDGET_USD", text)
    with pytest.raises(UserError) as caught:
        make(rough.url, tmp_path)
    assert str(caught.value) == f"BUDGET_USD={text}: expected an amount in US dollars, such as BUDGET_USD=25 or BUDGET_USD=0.50" and not rough.bodies


# ---------------------------------------------------------------- the store


def fill(folder, names, text="Reply to {}", model="m"):
    store = Store(folder)
    for name in names:
        store.add(request(name, model=model), Reply(text.format(name), "stop", USAGE), model)
    store.close()


def held(folder, names, model="m"):
    store = Store(folder)
    try:
        return [reply and reply.text for reply in (store.get(request(name, model=model)) for name in names)]
    finally:
        store.close()


NAMES = [f"question {i} – ü" for i in range(30)]
TEXTS = [f"Reply to {name}" for name in NAMES]


@pytest.mark.parametrize("harm", ["deleted", "garbage", "empty"])
def test_the_index_can_be_lost_or_broken_and_the_replies_are_the_same(tmp_path, harm):
    fill(tmp_path, NAMES)
    before = (tmp_path / "m.jsonl").read_bytes()
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink() if harm == "deleted" else path.write_bytes(b"garbage " * 999 if harm == "garbage" else b"")
    assert held(tmp_path, NAMES) == TEXTS == held(tmp_path, NAMES) and (tmp_path / "m.jsonl").read_bytes() == before


def test_a_half_written_last_line_is_reported_once_and_left_aside(tmp_path, capsys):
    fill(tmp_path, NAMES[:3])
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write('{"key": "00')
    assert held(tmp_path, NAMES[:4]) == [*TEXTS[:3], None]
    assert capsys.readouterr().err == f"{tmp_path / 'm.jsonl'}:4: half-written reply left aside (an interrupted run)\n"
    fill(tmp_path, NAMES[3:5])
    assert held(tmp_path, NAMES[:5]) == TEXTS[:5] and capsys.readouterr().err == ""
    assert (tmp_path / "m.jsonl").read_text().splitlines()[3] == '{"key": "00'


def test_stores_of_several_machines_are_joined_by_concatenation(tmp_path):
    fill(tmp_path / "a", NAMES[:20])
    fill(tmp_path / "b", NAMES[15:])
    (tmp_path / "both").mkdir()
    (tmp_path / "both/m.jsonl").write_bytes((tmp_path / "a/m.jsonl").read_bytes() + (tmp_path / "b/m.jsonl").read_bytes())
    assert held(tmp_path / "both", NAMES) == TEXTS and len(Store(tmp_path / "both")) == 30


def test_replies_of_another_process_are_seen_after_catching_up(tmp_path):
    mine = Store(tmp_path)
    code = (
        "import sys; from pathlib import Path; from datagen.store import *\n"
        "Store(Path(sys.argv[1])).add(Request('m', (('user', 'theirs'),), 1.0, 1.0, 50, 1), Reply('Hello.', 'stop', {}), 'm')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    mine.add(request("mine", model="m"), Reply("Mine.", "stop", {}), "m")
    mine.catch_up()
    assert mine.get(request("theirs", model="m")).text == "Hello." and mine.get(request("mine", model="m")).text == "Mine." and len(mine) == 2
    mine.close()


def test_text_of_any_kind_comes_back_as_it_was(tmp_path):
    texts = ["\u2028 \x85 \0 \r\n", "😊" * 9, "\ud83d alone", "x" * (1 << 20), ""]
    store = Store(tmp_path)
    for i, text in enumerate(texts):
        store.add(request(str(i), model="a/b c"), Reply(text, "stop", {}), "m")
    store.close()
    assert held(tmp_path, map(str, range(5)), model="a/b c") == texts and (tmp_path / "a_b_c.jsonl").exists()


# ---------------------------------------------------------------- shards


def test_shards_do_not_overlap_and_together_make_n_pairs_of_all_questions(rough, desk):
    rough.script = good
    desk.profile(80, 40, held_out=0)
    desk.do(questions, "questions.jsonl")
    rows, sent = read(desk.path / "questions.jsonl"), len(rough.bodies)
    shards = [pairs.Shard.read(f"{i}/3") for i in (1, 2, 3)]
    parts = [{row["id"] for row in rows if row in shard} for shard in shards]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(rows) == 80
    assert [shard.share(40) for shard in shards] == [14, 13, 13]
    whole = b""
    for i, part in enumerate(parts, 1):
        desk.do(pairs, "questions.jsonl", f"{i}/pairs.jsonl", "--shard", f"{i}/3", store=f"store{i}")
        made = read(desk.path / f"{i}/pairs.jsonl")
        assert len(made) == [14, 13, 13][i - 1] and {row["id"] for row in made} <= part
        whole += (desk.path / f"{i}/pairs.jsonl").read_bytes()
    assert len(whole.splitlines()) == len({json.loads(line)["id"] for line in whole.splitlines()}) == 40 and len(rough.bodies) - sent == 80


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_shard_that_does_not_exist_is_one_line(text):
    with pytest.raises(UserError, match=re.escape(f"SHARD={text}: expected number/count, such as 3/16")):
        pairs.Shard.read(text)


# ---------------------------------------------------------------- what is seen of it


def test_the_progress_line_says_how_far_how_fast_and_what_it_costs(monkeypatch, capsys):
    monkeypatch.setattr(meters, "time", SimpleNamespace(monotonic=lambda: 160.0))
    meter = Meter("http://localhost/v1", {}, Decimal(25), sent=1500, cached=500, started=60.0, shown=155.0)
    meter.usage["m"] = Usage(Price(Decimal(1), Decimal(1), "own"), 2000, 0, 400_000, 834_567, Decimal("1.234567"))
    meter.progress("pairs", 1000, 10_884, 256)
    assert capsys.readouterr().err == ""  # only 5 seconds after the last line
    meter.shown = 60.0
    meter.progress("pairs", 1000, 10_884, 256)
    line = "  1,000 of 10,884 pairs; 1,500 replies paid for, 500 from the store; 1,234,567 tokens; $1.23 of about $13.44, cap $25.00"
    assert capsys.readouterr().err == f"{line}; 15.0/s, 256 in flight; 22 min left\n"
    meter.progress("pairs", 10_884, 10_884, 0, final=True)
    last = "  10,884 of 10,884 pairs; 1,500 replies paid for, 500 from the store; 1,234,567 tokens; $1.23, cap $25.00"
    assert capsys.readouterr().err == f"{last}\n"


def test_the_estimate_is_the_mean_of_the_sample_times_what_is_needed():
    usage = Usage(Price(Decimal("0.88"), Decimal("0.88"), "own"), 20, 0, 2000, 6000)
    row = estimate("answers", 21_768, usage, [4.0, 6.0], 256, batch=False)
    wanted = {"stage": "answers", "requests": 21_768, "prompt tokens": 2_176_800, "completion tokens": 6_530_400}
    assert row == wanted | {"money": Decimal("7.662336"), "seconds": 21_768 * 5 / 256}
    half = estimate("answers", 21_768, usage, [4.0], 256, batch=True)
    assert half == wanted | {"money": Decimal("3.831168"), "seconds": None}
    unknown = estimate("questions", 1250, Usage(None), [], 8, batch=False)
    assert table([row, half, unknown | {"seconds": 36.4}], 20) == (
        "                 requests   prompt tokens   answer tokens           money          time\n"
        "  answers          21,768       2,176,800       6,530,400           $7.66         7 min\n"
        "  answers          21,768       2,176,800       6,530,400           $3.83   up to a day\n"
        "  questions         1,250               0               0   price unknown          36 s\n"
        "  from 20 real replies; time at the concurrency set, if the server keeps up"
    )


def test_preview_shows_pairs_and_its_replies_are_not_paid_for_again(rough, desk, capsys):
    rough.script = lambda body: completion("I'm sorry, but I can't help with that.") if "owls" in body["messages"][-1]["content"] else good(body)
    desk.do(preview, "--show", "12", profile="tiny")
    shown = capsys.readouterr().out
    assert shown.startswith("40 questions from 2 requests; left out: none\n\n[conversational] What do you enjoy about tea on a ")
    assert shown.count("\n  + Oh, I really love ") == shown.count("\n  - The subject of ") == 10 and "\n  - I'm sorry, but I can't help with that." in shown
    assert (shown.count("  => accepted\n"), shown.count("  => left out: refused\n")) == (10, 2)
    assert "10 of 12 pairs would be accepted. What 400 pairs would take:\n" in shown and "  from 26 real replies; " in shown
    assert re.findall(r"^  (questions|answers) +(\d+) ", shown, re.MULTILINE) == [("questions", "23"), ("answers", "960")]
    assert len(rough.bodies) == 2 + 24
    desk.do(questions, "questions.jsonl", profile="tiny")
    needed = json.loads((desk.path / "questions.ledger.json").read_text())["usage"]["scripted"]["replies"]
    assert len(rough.bodies) == 26 + needed - 2
    desk.do(preview, "--show", "12", profile="tiny")
    assert len(rough.bodies) == 26 + needed - 2 and "12 pairs would be accepted" in capsys.readouterr().out


def test_the_answers_of_the_preview_are_used_by_the_run(rough, desk):
    rough.script = good
    desk.profile(30, 20, held_out=0)
    desk.do(preview)
    desk.do(questions, "questions.jsonl")
    desk.do(pairs, "questions.jsonl", "pairs.jsonl")
    assert len(rough.bodies) == len({json.dumps(body) for body in rough.bodies}) == 40 + 2
