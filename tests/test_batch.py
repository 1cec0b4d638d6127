"""The Batch API: half the price, nothing sent twice, whatever was closed or failed in between.  .venv/bin/python -m pytest tests/test_batch.py"""

import asyncio
import contextlib
import json
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datagen import batch as module
from datagen.batch import Batches
from datagen.client import Client, Request
from datagen.config import Endpoint
from datagen.files import UserError

KEY = "sk-very-secret-0123456789"
PRICES = {"scripted": {"input": "1000", "output": "2000"}}  # of 10 and 5 tokens: 0.02 a reply, 0.01 in a batch


class Server:
    """A Batch API. `script(body)`: text, a status and words, or None where no reply came; `status(how-manieth batch)`: how it ends; `break_creation`: answers lost."""

    def __init__(self):
        self.script, self.status = lambda body: "An answer.", lambda number: "completed"
        self.files, self.batches, self.polls, self.break_creation, self.refusal, self.errors = {}, [], 0, 0, None, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: two would wait for each other

            def log_message(self, *_):
                pass

            def send(self, value, status=200):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/octet-stream" if isinstance(value, bytes) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                if outer.refusal:
                    return self.send(*outer.refusal)
                path = self.path.split("?")[0]
                if path.endswith("/content"):
                    return self.send(outer.files[path.split("/")[-2]])
                if path.endswith("/batches"):
                    return self.send({"object": "list", "data": outer.batches[::-1], "has_more": False})
                outer.polls += 1
                batch = next(batch for batch in outer.batches if path.endswith("/" + batch["id"]))
                if batch["status"] == "in_progress":
                    batch["status"] = "finalizing"  # seen once under way
                    return self.send(batch | {"status": "in_progress"})
                return self.send(outer.end(batch))

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.refusal:
                    return self.send(*outer.refusal)
                if self.path.endswith("/files"):
                    name = f"file-{len(outer.files)}"
                    outer.files[name] = b"\n".join(line for line in raw.splitlines() if line.startswith(b'{"custom_id"'))
                    return self.send({"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch", "status": "processed"})
                asked = json.loads(raw)
                batch = {"id": f"batch_{len(outer.batches)}", "object": "batch", "created_at": 2, "status": "in_progress"}
                outer.batches.append(batch | {k: asked[k] for k in ("input_file_id", "endpoint", "completion_window", "metadata")})
                if outer.break_creation:
                    outer.break_creation -= 1
                    return self.send({"error": {"message": "lost"}}, 500)
                return self.send(outer.batches[-1])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def end(self, batch):
        if batch["status"] != "finalizing":
            return batch
        number, good, bad = int(batch["id"][6:]), [], []
        batch["status"] = self.status(number)
        if batch["status"] == "failed":
            return batch | {"errors": {"object": "list", "data": [{"code": "x", "line": 1, "message": "Unknown field 'top_q'"}]}}
        for line in map(json.loads, self.files[batch["input_file_id"]].splitlines()):
            reply, row = self.script(line["body"]), {"custom_id": line["custom_id"]}
            if reply is None:
                bad.append(row | {"response": None, "error": {"code": "batch_expired", "message": "not in time"}})
            elif isinstance(reply, tuple):
                bad.append(row | {"response": {"status_code": reply[0], "body": {"error": {"message": reply[1]}}}, "error": None})
            else:
                body = {"model": "m", "choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
                good.append(row | {"response": {"status_code": 200, "body": body}, "error": None})
        for kind, rows in (("output", good), ("error", bad)):
            if rows:
                self.files[f"{kind}-{number}"] = "\n".join(map(json.dumps, rows)).encode()
                batch[f"{kind}_file_id"] = f"{kind}-{number}"
        return batch

    @property
    def sent(self):
        """The questions of each batch."""
        files = [self.files[batch["input_file_id"]].splitlines() for batch in self.batches]
        return [[json.loads(line)["body"]["messages"][0]["content"] for line in lines] for lines in files]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Batches, "PAUSES", (0.005, 0.01))
    monkeypatch.setattr(module, "pause", lambda tries: 0.0)
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def make(server, store, **changes):
    settings = {"base_url": server.url, "api_key_env": "OPENAI_API_KEY", "timeout": 5.0, "concurrency": 4, "retries": 0}
    settings |= {"requests_per_minute": None, "tokens_per_minute": None, "batch": True}
    return Client(Endpoint(**(settings | changes)), store, prices=PRICES)


def request(text="Hi?", **changes):
    return Request(**({"model": "scripted", "messages": (("user", text),), "temperature": 1.0, "top_p": 1.0, "max_tokens": 50, "seed": 1} | changes))


def ask(client, *requests, source=None):
    async def go():
        async with client, contextlib.aclosing(client.replies(source or iter(requests))) as replies:
            return {request.messages[0][1]: reply async for request, reply in replies}

    return asyncio.run(go())


def close_when(client, happened, *requests):
    """Runs until `happened()`, and is then cancelled, as by Ctrl-C."""

    async def go():
        async with client:

            async def all_of():
                return [pair async for pair in client.replies(iter(requests))]

            task = asyncio.create_task(all_of())
            until = time.monotonic() + 5
            while not happened():
                assert time.monotonic() < until and not task.done()
                await asyncio.sleep(0.002)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(go())


def test_replies_come_back_and_are_stored_as_of_a_batch(server, tmp_path):
    server.script = lambda body: "Re: " + body["messages"][0]["content"]
    replies = ask(make(server, tmp_path), request("One?"), request("Two? 😊"))
    assert {text: reply.text for text, reply in replies.items()} == {"One?": "Re: One?", "Two? 😊": "Re: Two? 😊"} and len(server.batches) == 1
    rows = [json.loads(line) for line in (tmp_path / "scripted.jsonl").read_text().splitlines()]
    assert all(row["batch"] for row in rows) and {row["key"] for row in rows} == {request("One?").key, request("Two? 😊").key}
    assert json.loads(server.files["file-0"].splitlines()[0])["url"] == "/v1/chat/completions" and not list(tmp_path.glob("batches/*.jsonl"))


def test_a_reply_costs_half(server, tmp_path):
    client = make(server, tmp_path)
    ask(client, request("One?"), request("Two?"))
    assert client.meter.usd == Decimal("0.02") and client.sent == 2


def test_what_the_store_holds_is_not_sent(server, tmp_path):
    ask(make(server, tmp_path), request("One?"))
    client = make(server, tmp_path)
    assert len(ask(client, request("One?"), request("Two?"))) == 2
    assert server.sent == [["One?"], ["Two?"]] and (client.cached, client.sent) == (1, 1)


def test_one_question_asked_twice_is_sent_once(server, tmp_path):
    client = make(server, tmp_path)
    ask(client, request("One?", tag=1), request("One?", tag=2), request("Two?"))
    assert server.sent == [["One?", "Two?"]] and (client.cached, client.sent) == (1, 2)


def test_each_model_has_its_own_batch(server, tmp_path):
    assert len(ask(make(server, tmp_path), request("One?"), request("Two?", model="other"), request("Three?"))) == 3
    assert server.sent == [["One?", "Three?"], ["Two?"]]


def test_a_batch_has_no_more_requests_than_the_api_takes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "MOST", 2)
    assert len(ask(make(server, tmp_path), *(request(f"{i}?") for i in range(5)))) == 5
    assert [len(batch) for batch in server.sent] == [2, 2, 1]


def test_closed_while_it_waits_and_started_again_sends_nothing_twice(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "PAUSES", (30, 30))
    close_when(make(server, tmp_path), lambda: server.polls, request("One?"), request("Two?"))
    monkeypatch.setattr(Batches, "PAUSES", (0.005, 0.01))
    for _ in range(2):
        assert {reply.text for reply in ask(make(server, tmp_path), request("One?"), request("Two?")).values()} == {"An answer."}
    assert len(server.batches) == 1 and [name for name in server.files if name.startswith("file")] == ["file-0"]
    assert len((tmp_path / "scripted.jsonl").read_text().splitlines()) == 2


def test_a_batch_of_which_only_the_server_knows_is_found_again(server, tmp_path, monkeypatch):
    server.break_creation = 1
    with pytest.raises(UserError, match="500: lost"):  # made, but the answer never came
        ask(make(server, tmp_path), request())
    assert ask(make(server, tmp_path), request())["Hi?"].text == "An answer." and len(server.batches) == 1


def test_a_broken_connection_at_creation_makes_no_second_batch(server, tmp_path):
    server.break_creation = 1
    assert ask(make(server, tmp_path, retries=2), request())["Hi?"].text == "An answer." and len(server.batches) == 1


def test_of_an_expired_batch_only_what_is_missing_is_sent_again(server, tmp_path):
    server.status = lambda number: "completed" if number else "expired"
    server.script = lambda body: None if body["messages"][0]["content"] == "Late?" and len(server.batches) == 1 else "An answer."
    replies = ask(make(server, tmp_path, retries=1), request("Early?"), request("Late?"))
    assert [reply.text for reply in replies.values()] == ["An answer."] * 2 and server.sent == [["Early?", "Late?"], ["Late?"]]


def test_a_bad_request_fails_at_once_and_a_server_error_is_tried_again(server, tmp_path):
    server.script = lambda body: {"Bad?": (400, "too long"), "Ill?": (500, "down"), "Well?": "An answer."}[body["messages"][0]["content"]]
    replies = ask(make(server, tmp_path, retries=2), request("Bad?"), request("Ill?"), request("Well?"))
    assert {text: (r.finish_reason, r.error) for text, r in replies.items()} == {
        "Well?": ("stop", ""),
        "Bad?": ("failed", "too long"),
        "Ill?": ("failed", "down"),
    }
    assert server.sent == [["Bad?", "Ill?", "Well?"], ["Ill?"], ["Ill?"]]


def test_many_bad_requests_in_a_good_batch_do_not_stop_the_run(server, tmp_path):
    server.script = lambda body: "Fine." if body["messages"][0]["content"] == "0?" else (400, "too long")
    assert len(ask(make(server, tmp_path), *(request(f"{i}?") for i in range(15)))) == 15


def test_a_batch_of_nothing_but_failures_stops_the_run(server, tmp_path):
    server.script = lambda body: (400, "too long")
    with pytest.raises(UserError, match="10 requests in a row failed, the last with: too long"):
        ask(make(server, tmp_path), *(request(f"{i}?") for i in range(15)))


def test_none_in_the_source_makes_rounds(server, tmp_path):
    def source():
        yield request("First?")
        while not server.batches:
            yield None
        yield request("Second?")

    assert len(ask(make(server, tmp_path), source=source())) == 2 and server.sent == [["First?"], ["Second?"]]


def test_the_budget_stops_before_the_batch_that_would_pass_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BUDGET_USD", "0.07")  # a request costs 0.059 at worst (18 and 50 tokens) and 0.01 in truth: two fit, one after the other
    client = make(server, tmp_path)
    with pytest.raises(UserError, match="budget is reached"):
        ask(client, *(request(f"{i}?") for i in range(9)))
    assert server.sent == [["0?"], ["1?"]] and client.meter.usd == Decimal("0.02") and client.meter.reserved == 0


def test_a_refused_batch_ends_in_the_words_of_the_server_and_does_not_stay_in_the_way(server, tmp_path):
    server.status = lambda number: "completed" if number else "failed"
    with pytest.raises(UserError, match=r"batch_0 was refused \(line 1: Unknown field 'top_q'\)"):
        ask(make(server, tmp_path), request())
    assert ask(make(server, tmp_path), request())["Hi?"].text == "An answer."


@pytest.mark.parametrize(("status", "words"), [(401, "the key was refused"), (404, "Has this server a Batch API"), (400, "no such purpose")])
def test_a_server_that_takes_no_batches_is_one_clear_error(server, tmp_path, status, words):
    server.refusal = ({"error": {"message": "no such purpose"}}, status)
    with pytest.raises(UserError, match=words):
        ask(make(server, tmp_path), request())


def test_a_line_that_no_try_would_mend_stops_the_run_with_the_rest_kept(server, tmp_path):
    server.script = lambda body: (404, "no model") if body["messages"][0]["content"] == "One?" else "An answer."
    with pytest.raises(UserError, match="no model"):
        ask(make(server, tmp_path), request("One?"), request("Two?"))
    assert len((tmp_path / "scripted.jsonl").read_text().splitlines()) == 1


def test_two_programs_do_not_send_for_one_store(server, tmp_path):
    first = make(server, tmp_path)
    with Batches(first).alone(), pytest.raises(UserError, match="another program"):
        ask(make(server, tmp_path), request())
    first.store.close()


def test_the_key_stands_in_no_file_and_no_message(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = lambda body: (500, f"bad {KEY}") if body["messages"][0]["content"] == "Ill?" else "An answer."
    replies = ask(make(server, tmp_path), request(), request("Ill?"))
    server.refusal = ({"error": {"message": f"Incorrect key {KEY}"}}, 401)
    with pytest.raises(UserError) as error:
        ask(make(server, tmp_path), request("Other?"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("batches" in path.parts for path in files) and not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in str(error.value) + replies["Ill?"].error + "".join(capsys.readouterr())
