"""The chat: says what it is, answers what comes in, ends cleanly.  .venv/bin/python -m pytest tests/test_chat.py  (-m slow: with the embedded model)"""

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT, inside, one_line

from train import chat

WORDS = "You are talking to an AI: a language model that was trained to talk like a person."


class Streaming:
    """An endpoint that answers with the pieces of `script(body)`, as server-sent events; a status and a message are an error."""

    def __init__(self):
        self.script, self.bodies, self.models = (lambda body: [" So", " it", " is."]), [], ["tuned-1"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status, kind, text):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self):
                self.reply(200, "application/json", json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in outer.models]}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                pieces = outer.script(body)
                if isinstance(pieces, tuple):
                    return self.reply(pieces[0], "application/json", json.dumps({"error": {"message": pieces[1]}}))
                chunks = [{"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [{"index": 0, "delta": {"content": p}}]} for p in pieces]
                self.reply(200, "text/event-stream", "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    server = Streaming()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    yield server
    server.server.shutdown()
    server.server.server_close()


def talk(monkeypatch, tmp_path, text, *options, status=0):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return inside("train.chat", tmp_path, "--endpoint", *options, status=status)


def asked(body):
    return [(m["role"], m["content"]) for m in body["messages"]]


def test_two_piped_questions_get_two_answers_and_the_second_knows_the_first(monkeypatch, tmp_path, endpoint):
    out = talk(monkeypatch, tmp_path, "Do you like rain?\n\nWhy?\n").stdout
    assert out.split(chat.banner())[1] == "\nyou> Do you like rain?\nAI> So it is.\nyou> \nyou> Why?\nAI> So it is.\nyou> \n"
    assert [asked(body) for body in endpoint.bodies] == [
        [("user", "Do you like rain?")],
        [("user", "Do you like rain?"), ("assistant", "So it is."), ("user", "Why?")],
    ]
    assert all((body["model"], body["temperature"], body["max_tokens"]) == ("tuned-1", 1.0, 512) for body in endpoint.bodies)


def test_it_says_that_it_is_an_ai_at_the_start_and_again_and_before_every_answer(monkeypatch, tmp_path, endpoint):
    out = talk(monkeypatch, tmp_path, "Hello?\n" * 11).stdout
    assert out.index(WORDS) < out.index("you>") and out.count(WORDS) == 3 and out.count("\nAI> ") == 11


def test_reset_forgets_and_shows_the_banner_and_quit_ends(monkeypatch, tmp_path, endpoint):
    out = talk(monkeypatch, tmp_path, "One?\n/reset\nTwo?\n/what\n/quit\nThree?\n").stdout
    assert [asked(body) for body in endpoint.bodies] == [[("user", "One?")], [("user", "Two?")]]
    assert out.count(WORDS) == 2 and "/what\n/reset forgets what was said, /quit ends the chat\n" in out and "Three?" not in out


@pytest.mark.parametrize("when", ["while waiting for a question", "in the middle of an answer"])
def test_ctrl_c_ends_it_cleanly(monkeypatch, tmp_path, endpoint, when):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input" if when.startswith("while") else "train.chat.fitting", interrupt)
    done = talk(monkeypatch, tmp_path, "Hello?\n")
    assert done.stdout.endswith("\n") and done.stderr == ""


def test_control_characters_of_a_model_do_not_reach_the_terminal(monkeypatch, tmp_path, endpoint):
    endpoint.script = lambda body: ["a\x1b[2J\tb\n", "c\x07\x9b"]
    assert "AI> a[2J\tb\nc\nyou>" in talk(monkeypatch, tmp_path, "Hello?\n").stdout


def test_the_oldest_turns_go_when_the_chat_outgrows_the_model(monkeypatch, tmp_path, endpoint):
    endpoint.script = lambda body: ["Yes."] if len(body["messages"]) < 4 else (400, "the request exceeds the available context size")
    out = talk(monkeypatch, tmp_path, "One?\nTwo?\nThree?\n").stdout
    assert asked(endpoint.bodies[-1]) == [("user", "Two?"), ("assistant", "Yes."), ("user", "Three?")]
    assert out.count("AI> Yes.") == 3 and "(the chat grew too long: its first 2 turns are forgotten)" in out


def test_a_question_that_never_fits_starts_the_chat_anew(monkeypatch, tmp_path, endpoint):
    endpoint.script = lambda body: (400, "maximum context length") if "long" in body["messages"][-1]["content"] else ["Yes."]
    out = talk(monkeypatch, tmp_path, "One?\nlong\nTwo?\n").stdout
    assert "the question is too long for this model" in out and asked(endpoint.bodies[-1]) == [("user", "Two?")]


def test_a_failing_endpoint_is_one_line_without_the_key(monkeypatch, tmp_path, endpoint):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-mine")
    endpoint.script = lambda body: (401, "bad key secret-of-mine")
    line = one_line(talk(monkeypatch, tmp_path, "Hello?\n", status=1))
    assert line.startswith(f"error: {endpoint.url}") and "bad key ***" in line and "secret-of-mine" not in line


def test_several_models_at_an_endpoint_have_to_be_told_apart(monkeypatch, tmp_path, endpoint):
    endpoint.models = ["base", "tuned"]
    assert "serves 2 models (base, tuned); name the tuned one with --model" in one_line(talk(monkeypatch, tmp_path, "", status=1))
    talk(monkeypatch, tmp_path, "Hello?\n", "--model", "tuned")
    assert endpoint.bodies[0]["model"] == "tuned"


def test_no_endpoint_and_no_merged_model_are_one_line_each(monkeypatch, tmp_path):
    assert "there is no endpoint: export OPENAI_BASE_URL" in one_line(talk(monkeypatch, tmp_path, "", status=1))
    assert "there is no merged model; run `make merge` first" in one_line(inside("train.chat", tmp_path, status=1))


@pytest.mark.slow
def test_a_folder_is_loaded_answers_as_its_pieces_and_stops_when_left(tmp_path):
    name, answer = chat.loaded(ROOT / "tiny/model", 0.0, 20)
    assert name.endswith("tiny/model on the CPU")
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    text = "".join(answer(question))
    assert text.strip() and "<|" not in text and "".join(answer(question)) == text
    pieces = answer(question)
    next(pieces)
    pieces.close()  # ends its thread, or this would hang
    with pytest.raises(chat.TooLong):
        list(answer([{"role": "user", "content": "rain " * 3000}]))
