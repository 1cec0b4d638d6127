"""The data set's card, what must not be published, and the commit, against a small Hub on a socket.  .venv/bin/python -m pytest tests/test_publish.py"""

import base64
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from conftest import ROOT

from datagen.files import UserError
from train import publish

TOKEN = "hf_" + "secretsecretsecretsecretsecretsecr"
L31, L30, QWEN, FREE = "meta-llama/Llama-3.1-405B-Instruct", "meta-llama/Meta-Llama-3-70B-Instruct", "Qwen/Qwen2.5-72B-Instruct", "openai/gpt-oss-120b"


def settings(questions=L31, answers=L31):
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 1024}
    return {"prompts": str(ROOT / "datagen/prompts"), "seed": 1, "questions": {"model": questions} | sampling, "answers": {"model": answers} | sampling}


def rows(n=3):
    return [{"id": f"id{i}", "kind": "general", "prompt": f"Why {i}?", "chosen": "Oh, well | then!", "rejected": "It is so."} for i in range(n)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "paper"
    path.mkdir()
    write(path / "pairs.jsonl", rows())
    write(path / "rejects.jsonl", [rows(1)[0] | {"reason": "empty"}])
    spent = {"replies": 8, "prompt_tokens": 1200, "completion_tokens": 90, "usd": "0.001", "price": "Groq, 2026-06-10"}
    pairs = {"asked": 4, "accepted": 3, "reasons": {"empty": 1}}
    ledger = {"questions": {"requests": {"general": 1}, "asked": 1204, "usage": {L31: spent}}, "pairs": pairs, "usage": {L31: spent}, "settings": settings()}
    (path / "ledger.json").write_text(json.dumps(ledger))
    return path


def change(folder, **changes):
    ledger = json.loads((folder / "ledger.json").read_text()) | changes
    (folder / "ledger.json").write_text(json.dumps({k: v for k, v in ledger.items() if v is not None}))


def call(monkeypatch, folder, *options):
    monkeypatch.setattr(sys, "argv", ["publish", "data", str(folder), "my-org/my-set", *options])
    publish.main()
    return (folder / "publish/README.md").read_text()


def refused(monkeypatch, folder, *options):
    with pytest.raises(UserError) as caught:
        call(monkeypatch, folder, *options)
    assert caught.value.__cause__ is None and TOKEN not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def card(monkeypatch, folder):
    return call(monkeypatch, folder, "--dry-run")


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


# ---------------------------------------------------------------- the card


def test_a_dry_run_writes_everything_and_needs_neither_token_nor_network(folder, card, capsys):
    assert sorted(os.listdir(folder / "publish")) == ["README.md", "ledger.json", "pairs.jsonl", "pairs.parquet", "rejects.jsonl"]
    assert (folder / "publish/pairs.jsonl").read_bytes() == (folder / "pairs.jsonl").read_bytes()


def test_the_front_matter_is_what_the_hub_reads(card):
    assert front(card) == {
        "pretty_name": "my-set",
        "license": "llama3.1",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["dpo", "preference", "human-like", "synthetic"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "pairs.parquet"}]}],
    }


def test_the_parquet_file_holds_the_same_rows_across_its_batches(folder):
    import pyarrow.parquet

    write(folder / "pairs.jsonl", rows(10_001))
    facts = publish.write_parquet(folder / "pairs.jsonl", folder / "x.parquet")
    assert pyarrow.parquet.read_table(folder / "x.parquet").to_pylist() == rows(10_001)
    assert (facts["rows"], facts["kinds"], facts["words"]) == (10_001, {"general": 10_001}, {"chosen": 4.0, "rejected": 3.0})


def test_the_card_states_counts_ledger_sampling_usage_and_prompts(card):
    for line in [
        "| pairs | 3 |",
        "| of the kind general | 3 |",
        "| mean words, chosen | 4.0 |",
        "| questions: asked | 1,204 |",
        "| pairs: rejected: empty | 1 |",
        f"| answers | `{L31}` | 1.0 | 1.0 | 1024 |",
        "Seed: 1.",
        f"| `{L31}` | pairs | 8 | 1,200 | 90 | 0.001 | Groq, 2026-06-10 |",
        *[(ROOT / f"datagen/prompts/{name}.txt").read_text().strip() for name in ("human_like", "formal", "questions_general")],
    ]:
        assert line in card.split("\n") or line in card, line


def test_what_a_ledger_does_not_record_is_said_to_be_missing(monkeypatch, folder):
    change(folder, settings=None, usage=None, questions=None)
    card = call(monkeypatch, folder, "--dry-run")
    assert "Models, sampling settings and seed: not recorded." in card and "Tokens and money: not recorded." in card and "Prompts: not recorded." in card
    assert "**UNKNOWN: fill in.** The ledger does not record which models wrote the data." in card


def test_questions_from_a_file_have_no_prompts_and_no_model(monkeypatch, folder):
    change(folder, questions={"asked": 3}, settings=settings(questions=L30))
    card = call(monkeypatch, folder, "--dry-run")
    assert "the questions came from a file" in card and L30 not in card and "`questions_general`" not in card and front(card)["license"] == "llama3.1"


@pytest.mark.parametrize(
    ("audit", "text"),
    [
        (None, "No audit was run on these pairs"),
        ({"rows": 3, "verdicts": [{"text": "Emoji tell 97 %.", "level": "shortcut"}, {"text": "Length 70 %."}]}, "- Emoji tell 97 %.\n- Length 70 %."),
        ({"rows": 3, "verdicts": []}, "The audit found none."),
        ({"rows": 4, "verdicts": [{"text": "Sound."}]}, "The audit that lies beside the pairs describes another state of them"),
    ],
)
def test_the_card_quotes_the_audit_or_says_why_not(monkeypatch, folder, audit, text):
    if audit:
        (folder / "audit.json").write_text(json.dumps(audit))
    assert text in call(monkeypatch, folder, "--dry-run")


def test_an_audit_older_than_the_pairs_is_not_quoted(monkeypatch, folder):
    (folder / "audit.json").write_text('{"rows": 3, "verdicts": [{"text": "Sound."}]}')
    os.utime(folder / "audit.json", (1, 1))
    card = call(monkeypatch, folder, "--dry-run")
    assert "describes another state of them" in card and "Sound." not in card


# ---------------------------------------------------------------- the licence


@pytest.mark.parametrize(
    ("models", "derived", "identifier"),
    [
        ([L31, L30], "Meta Llama 3 Community License (Llama 3.0)", "llama3"),
        ([L31, QWEN], "Llama 3.1 Community License", "llama3.1"),
        ([FREE, QWEN], "Qwen License Agreement (Qwen2.5 72B)", "other"),
        ([FREE, "deepseek-ai/DeepSeek-R1"], "Apache License 2.0", "apache-2.0"),
        ([L30, "gpt-4o"], "Meta Llama 3 Community License (Llama 3.0) and OpenAI terms of use", "other"),
        ([L31, "my-model"], "UNKNOWN: fill in", "other"),
        ([], "UNKNOWN: fill in", "other"),
    ],
)
def test_the_licence_is_the_strictest_of_the_generators(models, derived, identifier):
    licence = publish.terms(models, None)
    assert (licence["derived"], licence["id"]) == (derived, identifier)


def test_a_declared_licence_is_used_and_the_derived_one_still_told(monkeypatch, folder):
    card = call(monkeypatch, folder, "--dry-run", "--licence", "cc-by-nc-4.0")
    assert front(card)["license"] == "cc-by-nc-4.0"
    assert "as declared by its publisher. From the generator models alone it would be: Llama 3.1 Community License." in card


def test_a_licence_that_the_hub_does_not_know_is_other_with_a_name(monkeypatch, folder):
    matter = front(call(monkeypatch, folder, "--dry-run", "--licence", "Our Own, v2"))
    assert (matter["license"], matter["license_name"]) == ("other", "our-own-v2")


def test_terms_that_restrict_training_are_told_before_the_table(monkeypatch, folder):
    change(folder, settings=settings(answers=L30))
    assert "**Before you train on this data:**" in call(monkeypatch, folder, "--dry-run")


# ---------------------------------------------------------------- what must not go out


def test_an_unknown_generator_stops_the_push_but_not_the_dry_run(monkeypatch, folder):
    change(folder, settings=settings(answers="my-model"))
    assert "**UNKNOWN: fill in.** The terms of a generator model are not known here." in call(monkeypatch, folder, "--dry-run")
    assert refused(monkeypatch, folder).startswith("the licence cannot be derived (my-model): name it with LICENCE=…")


def test_no_pairs_are_refused(monkeypatch, folder):
    write(folder / "pairs.jsonl", [])
    assert "pairs.jsonl: holds no pairs" in refused(monkeypatch, folder, "--dry-run")
    assert not (folder / "publish/pairs.parquet").exists()


def test_pairs_that_do_not_fit_their_ledger_are_refused(monkeypatch, folder):
    write(folder / "pairs.jsonl", rows(2))
    assert "ledger.json counts 3 accepted pairs, pairs.jsonl holds 2;" in refused(monkeypatch, folder, "--dry-run")


def test_rows_with_other_columns_are_refused(monkeypatch, folder):
    write(folder / "pairs.jsonl", [*rows(2), rows(3)[2] | {"note": "x"}])
    assert "pairs.jsonl, row 3: its columns id, kind, prompt, chosen, rejected, note differ" in refused(monkeypatch, folder, "--dry-run")


@pytest.mark.parametrize("name", ["pairs.jsonl", "rejects.jsonl", "ledger.json"])
@pytest.mark.parametrize(
    "secret",
    ["sk-proj-abcdefghij0123456789", "hf_" + "a" * 34, "gsk_" + "b" * 40, "ghp_" + "c" * 36, "AKIAABCDEFGHIJKLMNOP", "https://me:word@host/v1", "of-this-shell-0"],
)
def test_what_looks_like_a_key_is_refused_and_not_shown(monkeypatch, folder, name, secret):
    monkeypatch.setenv("SOME_API_KEY", "of-this-shell-0")
    (folder / name).write_text((folder / name).read_text().replace("Why 1?" if name == "pairs.jsonl" else "general", secret, 1))
    line = refused(monkeypatch, folder, "--dry-run")
    assert f"{name}:{2 if name == 'pairs.jsonl' else 1}: holds what looks like an API key or token" in line and secret not in line


def test_ordinary_words_are_no_keys(folder):
    write(folder / "pairs.jsonl", [rows(1)[0] | {"chosen": "A task-oriented-approach-to-risk-management, or sk-ating-on-thin-ice-for-hours: see https://a.b/c@d?"}])
    publish.refuse_secrets(folder / "pairs.jsonl")


def test_a_folder_without_pairs_names_what_makes_them(monkeypatch, tmp_path):
    assert "pairs.jsonl and ledger.json have to lie there; `make data` writes both" in refused(monkeypatch, tmp_path, "--dry-run")


# ---------------------------------------------------------------- the Hub


class Hub:
    """Answers like the Hub to the five requests of a push, or with `status` to the creation of the repository."""

    def __init__(self):
        self.status, self.private, self.created, self.files, self.keys = 200, True, None, {}, set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, value, status=200):
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self):
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers["Content-Length"]))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(chunks)

            def do_GET(self):
                self.reply({"id": "my-org/my-set", "private": hub.private, "sha": "0" * 40}, 404 if hub.status == 403 else 200)

            def do_POST(self):
                body = self.body()
                hub.keys.add(self.headers["Authorization"])
                if self.path == "/api/repos/create":
                    hub.created = json.loads(body)
                    self.reply({"url": f"{hub.url}/datasets/my-org/my-set", "error": f"no, {TOKEN}"}, hub.status)
                elif self.path == "/api/validate-yaml":
                    self.reply({"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    self.reply({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]})
                else:
                    lines = [json.loads(line) for line in body.splitlines()]
                    hub.files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
                    self.reply({"commitUrl": f"{hub.url}/commit/1", "commitOid": "1" * 40, "success": True})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_push_is_one_commit_of_the_card_and_the_files_to_a_private_data_set(monkeypatch, folder, hub, capsys):
    (folder / "publish").mkdir()
    (folder / "publish/notes.txt").write_text("not of this data set")
    card = call(monkeypatch, folder)
    assert [hub.created[k] for k in ("type", "organization", "name", "visibility")] == ["dataset", "my-org", "my-set", "private"]
    assert sorted(hub.files) == ["README.md", "ledger.json", "pairs.jsonl", "pairs.parquet", "rejects.jsonl"]
    assert hub.files["README.md"].decode() == card and hub.keys == {f"Bearer {TOKEN}"}
    output = capsys.readouterr()
    assert f"pushed: {hub.url}/commit/1" in output.out and TOKEN not in output.out + output.err


def test_public_is_asked_for(monkeypatch, folder, hub):
    call(monkeypatch, folder, "--public")
    assert hub.created["visibility"] == "public" and hub.files


def test_a_data_set_that_is_public_already_is_not_written_by_accident(monkeypatch, folder, hub):
    hub.private = False
    assert "my-org/my-set is there already and is public; add PUBLIC=1" in refused(monkeypatch, folder) and not hub.files


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the token was refused (401"),
        (403, "the token may not write there (403"),
        (404, "there is no such user, organisation or data set (404"),
        (400, "the Hub refused (400"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_without_the_token(monkeypatch, folder, hub, status, words):
    hub.status = status
    line = refused(monkeypatch, folder)
    assert line.startswith(f"my-org/my-set: {words}") and "What was to be pushed lies in" in line


def test_no_network_is_one_line(monkeypatch, folder, hub):
    hub.server.shutdown()
    hub.server.server_close()
    assert refused(monkeypatch, folder).startswith(f"my-org/my-set: {hub.url} cannot be reached (")


def test_no_token_is_one_line(monkeypatch, folder, hub):
    monkeypatch.delenv("HF_TOKEN")
    assert refused(monkeypatch, folder).startswith("there is no token for the Hub: export HF_TOKEN")


def test_a_dry_run_needs_no_repository_name(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["publish", "data", str(folder), "--dry-run"])
    publish.main()
    assert 'load_dataset("your-org/paper", split="train")' in (folder / "publish/README.md").read_text()


@pytest.mark.parametrize("repo", ["my-set", "my-org/", "https://huggingface.co/my-org/my-set", "my org/my-set", ""])
def test_a_bad_repository_name_is_one_line(monkeypatch, folder, repo):
    monkeypatch.setattr(sys, "argv", ["publish", "data", str(folder), repo])
    with pytest.raises(UserError, match="expected organisation/name"):
        publish.main()


def test_a_name_that_breaks_the_hubs_rules_is_one_line(monkeypatch, folder, hub):
    monkeypatch.setattr(sys, "argv", ["publish", "data", str(folder), "my-org/a--b"])
    with pytest.raises(UserError, match="my-org/a--b: the Hub does not take it"):
        publish.main()
