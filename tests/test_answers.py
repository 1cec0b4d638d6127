"""Answers of base and tuned model by every engine.  .venv/bin/python -m pytest tests/test_answers.py  (-m slow: the embedded model through transformers)

vLLM itself is not run here: a small program of that name stands in for it, with its command line and its addresses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, Endpoint, inside, one_line, run

from datagen.store import Request
from eval import answers, local, serve

VLLM = f"""#!{sys.executable}
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps({{"pid": os.getpid(), "arguments": arguments, "key": os.environ.get("VLLM_API_KEY")}}) + "\\n")
if "--broken" in arguments:
    sys.exit("ValueError: this GPU is too small")
name = arguments[arguments.index("--served-model-name") + 1]
names = [name] + [arguments[i + 1].split("=")[0] for i, a in enumerate(arguments) if a == "--lora-modules"]

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.send({{"version": "0.0.fake"}} if self.path == "/version" else {{"data": [{{"id": n}} for n in names]}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] in names
        text = f"{{body['model']}} says {{body['messages'][-1]['content']}} with {{body['seed']}}"
        self.send({{"model": body["model"], "choices": [{{"message": {{"content": text}}, "finish_reason": "stop"}}], "usage": {{}}}})

ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""


def digest(text):
    return sha256(text.encode()).hexdigest()


def asked(count):
    return [{"id": f"q{i}", "kind": "general", "messages": [{"role": "user", "content": f"Why {i}?"}]} for i in range(count)]


def rows(path):
    return [json.loads(line) for line in path.open()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a base of a few bytes, a run on it, four held-out questions, our settings, and a stand-in for vLLM on the PATH."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"model.safetensors": "weights", "config.json": "{}", "tokenizer.json": "{}", "tokenizer_config.json": "{}"}.items():
        write(Path("bases/base", name), text)
    write(Path("out/r/adapter/adapter_config.json"), json.dumps({"r": 24, "rank_pattern": {"q_proj": 40}}))
    write(Path("out/r/adapter/adapter_model.safetensors"), "adapter")
    write(Path("out/r/run.yaml"), yaml.safe_dump({"base_model": "bases/base", "adapter": "lora", "sequence_len": 8192}))
    write(Path("heldout.jsonl"), "".join(json.dumps(row) + "\n" for row in asked(4)))
    Path("datagen").symlink_to(ROOT / "datagen")
    write(Path("bin/vllm"), VLLM)
    Path("bin/vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.jsonl"))
    for name in ("VLLM_ARGS", "BASE_MODEL", "TUNED_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def calls():
    return rows(Path("calls.jsonl"))


def gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def answer(*more, status=0):
    return inside("eval.answers", "heldout.jsonl", "out/r", "--profile", "tiny", *more, cwd=Path.cwd(), status=status)


# ---------------------------------------------------------------- vLLM


def test_vllm_serves_base_and_adapter_under_names_that_change_with_their_weights(place):
    done = answer("--engine", "vllm")
    base, tuned = f"bases--base-{digest('weights')[:8]}", f"r-{digest('adapter')[:8]}"
    (call,) = calls()
    arguments = call["arguments"]
    assert arguments[:4] == ["serve", "bases/base", "--served-model-name", base] and arguments[-4:-2] == ["--host", "127.0.0.1"]
    assert arguments[4:-4] == [
        *("--generation-config", "vllm", "--max-model-len", "8192", "--enable-lora"),
        *("--max-lora-rank", "64", "--lora-modules", f"{tuned}=out/r/adapter"),
    ]  # fmt: skip
    found, meta = rows(Path("out/r/answers.jsonl")), json.loads(Path("out/r/answers.meta.json").read_text())
    assert [row["id"] for row in found] == ["q0", "q1", "q2", "q3"] and gone(call["pid"])
    for row in found:  # the seed is the same for both
        said = re.fullmatch(rf"{base} says {re.escape(row['messages'][0]['content'])} with (\d+)", row["base"])
        assert row["tuned"] == f"{tuned} says {row['messages'][0]['content']} with {said[1]}"
    assert meta["engine"] == "vllm" and (meta["base"], meta["tuned"]) == (base, tuned) and meta["versions"] == {"vllm": "0.0.fake"}
    assert meta["weights_sha256"] == {"base": digest("weights"), "tuned": digest("adapter")} and "starting " in done.stdout


def test_a_whole_model_beside_its_base_gets_a_server_of_its_own(place):
    for path in Path("out/r/adapter").iterdir():
        path.unlink()
    write(Path("out/r/adapter/model.safetensors"), "all of it")
    answer("--engine", "vllm")
    first, second = (call["arguments"] for call in sorted(calls(), key=lambda call: "out/r/adapter" in call["arguments"]))
    assert second[1:6] == ["out/r/adapter", "--tokenizer", "bases/base", "--served-model-name", f"r-{digest('all of it')[:8]}"]
    assert all(a[a.index("--gpu-memory-utilization") + 1] == "0.45" and "--enable-lora" not in a for a in (first, second))
    assert rows(Path("out/r/answers.jsonl"))[0]["tuned"].startswith("r-")


def test_a_command_finds_addresses_and_names_and_its_status_counts(place, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    monkeypatch.setenv("VLLM_ARGS", "--tensor-parallel-size 2")
    code = "import os, sys; print([os.environ[n] for n in ('OPENAI_BASE_URL', 'TUNED_BASE_URL', 'BASE_MODEL', 'TUNED_MODEL')]); sys.exit(7)"
    done = run("eval.serve", "out/r", "--", sys.executable, "-c", code, cwd=place, status=7)
    base_url, tuned_url, base, tuned = eval(done.stdout.splitlines()[-1])
    (call,) = calls()
    port = call["arguments"][call["arguments"].index("--port") + 1]
    assert base_url == tuned_url == f"http://127.0.0.1:{port}/v1" and base.startswith("bases--base-") and tuned.startswith("r-")
    assert call["arguments"][-2:] == ["--tensor-parallel-size", "2"] and call["key"] is None and gone(call["pid"])


def test_the_server_ends_with_a_program_that_is_killed(place):
    code = "import time; time.sleep(60)"
    program = subprocess.Popen(
        [sys.executable, "-m", "eval.serve", "out/r", "--", sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not Path("calls.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert gone(calls()[0]["pid"])


def test_a_server_that_does_not_start_is_one_line_with_its_own_words(place, monkeypatch):
    monkeypatch.setenv("VLLM_ARGS", "--broken")
    line = one_line(answer("--engine", "vllm", status=1))
    assert line == "error: vllm did not start; its log is out/r/vllm-base.log: ValueError: this GPU is too small"


def test_without_vllm_one_line_says_how_to_install_it(place, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    line = one_line(answer("--engine", "vllm", status=1))
    assert "there is no vllm on the PATH and no .venv-vllm/bin/vllm" in line and "python3 -m venv .venv-vllm && .venv-vllm/bin/pip install vllm" in line


def test_a_rank_beyond_what_vllm_serves_names_the_other_engine(place):
    write(Path("out/r/adapter/adapter_config.json"), '{"r": 1024}')
    assert "rank 1024 is more than vLLM serves as an adapter (512); use ENGINE=transformers" in one_line(answer("--engine", "vllm", status=1))


def test_a_run_without_a_model_is_one_line(place):
    Path("out/r/adapter/adapter_model.safetensors").unlink()
    for engine in ("vllm", "transformers"):
        assert "out/r: holds neither an adapter nor a model in adapter/ or merged/" in one_line(answer("--engine", engine, status=1))


def test_a_merged_model_stands_in_where_the_adapter_is_gone(place):
    for path in Path("out/r/adapter").iterdir():
        path.unlink()
    write(Path("out/r/merged/model.safetensors"), "merged")
    models = serve.models_of(Path("out/r"))
    assert models.tuned == Path("out/r/merged") and not models.adapter and models.tuned_name == f"r-{digest('merged')[:8]}"


# ---------------------------------------------------------------- a part of the questions


def test_a_limit_takes_the_smallest_hashes_and_grows_into_the_whole(place, monkeypatch):
    server = Endpoint()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.script = lambda body: f"{body['model']}: {body['messages'][0]['content']}"
    names = ("--base-model", "b", "--tuned-model", "t")
    try:
        answer("--limit", "2", *names)
        order = sorted(asked(4), key=lambda row: digest(row["id"]))
        found = rows(Path("out/r/answers-first-2.jsonl"))
        assert {row["id"] for row in found} == {row["id"] for row in order[:2]} and [row["id"] for row in found] == sorted(row["id"] for row in found)
        assert not Path("out/r/answers.jsonl").exists() and json.loads(Path("out/r/answers-first-2.meta.json").read_text())["questions"] == 2
        answer(*names)
        assert len(server.bodies) == 8 and len(rows(Path("out/r/answers.jsonl"))) == 4
        assert json.loads(Path("out/r/answers.meta.json").read_text())["engine"] == "endpoint"
    finally:
        server.close()


def test_the_first_rows_are_a_sample_that_grows():
    order = [answers.first(asked(50), n) for n in (5, 20, 50)]
    ids = [{row["id"] for row in part} for part in order]
    assert ids[0] < ids[1] < ids[2] and [len(part) for part in order] == [5, 20, 50] and order[2] == asked(50)


def test_a_limit_of_nothing_is_one_line(place):
    assert "--limit 0: expected a number from 1 on" in one_line(answer("--limit", "0", status=1))


def test_names_that_eval_serve_exports_are_the_default(place, monkeypatch):
    monkeypatch.setenv("BASE_MODEL", "same")
    monkeypatch.setenv("TUNED_MODEL", "same")
    assert "the same model 'same' at one endpoint" in one_line(answer(status=1))


# ---------------------------------------------------------------- sampling of the transformers engine


def request(text="Why?", seed=1, **more):
    return Request("m", (("user", text),), 1.0, 1.0, 64, seed, **more)


def test_random_numbers_belong_to_a_conversation_and_not_to_a_model():
    one = local.randoms(request(), 8)
    assert (one == local.randoms(request(revision="tuned"), 8)).all() and (one == local.randoms(request(), 20)[:8]).all()
    assert not np.isin(one, local.randoms(request("How?"), 8)).any() and not np.isin(one, local.randoms(request(seed=2), 8)).any()
    assert not np.isin(one, local.randoms(request(sample=1), 8)).any() and len(local.randoms(request(seed=None), 3)) == 3


def test_a_token_is_drawn_by_its_cumulative_probability():
    import torch

    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]])).repeat(7, 1)
    numbers = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.7001, 0.9999], dtype=torch.float64)
    assert local.drawn(logits, numbers, 1.0, 1.0).tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert local.drawn(logits, numbers, 0.0, 1.0).tolist() == [1] * 7
    # The nucleus of 0.7 is tokens 1 and 3, of 0.71 also token 2; what is left is scaled up: 0.4 / 0.7.
    assert local.drawn(logits, numbers, 1.0, 0.6999).tolist() == [1, 1, 1, 1, 1, 3, 3]
    assert set(local.drawn(logits, numbers, 1.0, 0.71).tolist()) == {1, 2, 3}
    assert local.drawn(logits, numbers, 1.0, 0.0).tolist() == [1] * 7
    # Half the temperature squares the odds: 1, 16, 4, 9 of 30.
    assert local.drawn(logits, numbers, 0.5, 1.0).tolist() == [0, 1, 1, 1, 1, 3, 3]


# ---------------------------------------------------------------- the embedded model through transformers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the embedded model whose adapter is noise: enough to change its answers, and little enough that they end."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "tiny/model", dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)).save_pretrained(folder / "adapter")
    write(folder / "run.yaml", yaml.safe_dump({"base_model": str(ROOT / "tiny/model"), "adapter": "lora", "sequence_len": 1536}))
    return folder


QUESTIONS = [
    {"id": f"q{i}", "kind": "general", "messages": [{"role": "user", "content": text}]}
    for i, text in enumerate(
        [
            "What do you love most about working in a garden?",
            "Why does bread rise?",
            "Do you like rain?",
            "What is your favourite way to spend a long train journey through the mountains in winter?",
            "How do bees make honey?",
            "Tell me about tea.",
            "Which ancient civilization would you most like to visit?",
            "Why is the sea salty?",
            "Cats or dogs?",
        ]
    )
]


def requests(here, who, count, temperature=1.0, max_tokens=60):
    chats = [tuple((m["role"], m["content"]) for m in row["messages"]) for row in QUESTIONS[:count]]
    return [Request(here.name(who), chat, temperature, 1.0, max_tokens, 1, revision=here.revision) for chat in chats]


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(trained, tmp_path):
    found = []
    for size in (1, 4, 9):
        here = local.Local(trained, tmp_path / f"store-{size}", batch=size)
        found.append([here.replies(who, requests(here, who, 9)) for who in ("base", "tuned")])
        here.close()
    assert found[0] == found[1] == found[2] and found[0][0] != found[0][1]


@pytest.mark.slow
def test_without_temperature_the_base_says_what_generate_says_and_the_adapter_is_really_off(trained, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = local.Local(trained, tmp_path / "store", batch=4)
    said = {who: here.replies(who, requests(here, who, 4, 0.0, 20)) for who in ("tuned", "base")}
    tokenizer, model = AutoTokenizer.from_pretrained(ROOT / "tiny/model"), AutoModelForCausalLM.from_pretrained(ROOT / "tiny/model", dtype=torch.float32)
    for row, reply in zip(QUESTIONS, said["base"], strict=False):
        ids = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False)
        wanted = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id)[0, ids.shape[1] :]
        assert reply.text == tokenizer.decode(wanted, skip_special_tokens=True) and reply.usage["prompt_tokens"] == ids.shape[1]
        assert reply.finish_reason == ("stop" if wanted[-1] == tokenizer.eos_token_id else "length")
    assert [reply.text for reply in said["tuned"]] != [reply.text for reply in said["base"]]
    here.close()


def both(folder, store):
    """Twelve replies: six questions to each model."""
    here = local.Local(Path(folder), Path(store), batch=2)
    replies = [here.replies(who, requests(here, who, 6, max_tokens=40)) for who in ("base", "tuned")]
    here.close()
    return replies


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_asks_nothing_twice(trained, tmp_path):
    code = f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}]; import test_answers; test_answers.both({str(trained)!r}, {str(tmp_path / 'cut')!r})"
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kept():
        return [json.loads(line)["key"] for path in (tmp_path / "cut").glob("*.jsonl") for line in path.read_text().splitlines()]

    while len(kept()) < 3 and program.poll() is None:
        time.sleep(0.005)
    program.send_signal(signal.SIGKILL)
    program.wait()
    before = kept()
    assert 3 <= len(before) < 12
    assert both(trained, tmp_path / "cut") == both(trained, tmp_path / "whole")
    assert len(kept()) == len(set(kept())) == 12 and set(before) < set(kept())


@pytest.mark.slow
def test_the_command_writes_what_the_models_said(trained, tmp_path):
    (trained / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS[:2]))
    more = ("--engine", "transformers", "--profile", "tiny", "--store", tmp_path / "store", "--batch", "2")
    inside("eval.answers", trained / "heldout.jsonl", trained, *more)
    found, meta = rows(trained / "answers.jsonl"), json.loads((trained / "answers.meta.json").read_text())
    assert [(row["id"], row["messages"]) for row in found] == [(row["id"], row["messages"]) for row in QUESTIONS[:2]] and {"base", "tuned", "finish"} < set(found[0])
    assert (meta["engine"], meta["dtype"], meta["device"], meta["batch"]) == ("transformers", "float32", "CPU", 2) and meta["base"].startswith("tiny--model-")
    assert set(meta["versions"]) == {"torch", "transformers", "peft"}


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_left_out_and_an_answer_ends_where_the_model_does(trained, tmp_path):
    here = local.Local(trained, tmp_path / "store", batch=2)
    long, full = "tea " * 3000, "tea " * 1900
    replies = here.replies("tuned", [Request(here.name("tuned"), (("user", text),), 1.0, 1.0, 4000, 1, revision=here.revision) for text in (long, full)])
    assert replies[0].finish_reason == "failed" and re.fullmatch(r"the prompt has \d+ tokens, and the model reads 2048", replies[0].error)
    assert sum(replies[1].usage.values()) <= 2048 and replies[1].finish_reason in ("stop", "length")
    here.close()
