"""How base and tuned model are evaluated: settings, places, what is checked first.  .venv/bin/python -m pytest tests/test_leaderboard.py  (-m slow: real evaluations)"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from boards import random_adapter
from conftest import ROOT, checkout, one_line

from datagen.files import UserError
from eval import leaderboard, preflight

ENVIRONMENT = ROOT / ".venv-eval"
FOUND = {"lm_eval": "0.4.11", "antlr4-python3-runtime": "4.11.0"}
BASE = {"base_model": "org/base", "revision": "c0ffee", "weights_sha256": "b" * 64}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run on a base of the Hub, with an adapter of a few bytes."""
    monkeypatch.chdir(tmp_path)
    Path("out/llama/adapter").mkdir(parents=True)
    Path("out/llama/adapter/adapter_config.json").write_text("{}")
    Path("out/llama/adapter/adapter_model.safetensors").write_text("weights")
    return Path("out/llama")


def arguments(run, **changes):
    usual = {"backend": "hf", "what": "adapter", "tasks": ["leaderboard"], "limit": None, "items": None, "max_gen_toks": None, "batch_size": None}
    return argparse.Namespace(run=run, **usual | {"base_model": "auto", "tuned_model": "auto"} | changes)


def settings_of(run, gpus=1, **changes):
    """(base, tuned)"""
    args = arguments(run, **changes)
    shared = leaderboard.common(args, gpus, FOUND)
    return tuple(leaderboard.of_model(shared, args, {"base_model": "org/base", "lora_r": 32}, BASE, who) for who in (False, True))


def test_base_and_tuned_differ_in_the_adapter_only(run):
    base, tuned = settings_of(run)
    assert base["model_args"] == {"dtype": "bfloat16", "pretrained": "org/base", "revision": "c0ffee"}
    assert tuned["model_args"] == base["model_args"] | {"peft": "out/llama/adapter"}
    assert {k: v for k, v in base.items() if k not in ("model_args", "identity")} == {k: v for k, v in tuned.items() if k not in ("model_args", "identity")}


def test_the_flags_are_those_of_the_leaderboard(run, tmp_path):
    config = leaderboard.lm_eval_yaml(tmp_path / "f", tmp_path / "c", settings_of(run)[0])
    assert config == {
        "model": "hf",
        "model_args": {"dtype": "bfloat16", "pretrained": "org/base", "revision": "c0ffee"},
        "tasks": ["leaderboard"],
        "batch_size": "auto",
        "seed": [0, 1234, 1234, 1234],
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "device": "cuda",
        "log_samples": True,
        "use_cache": str(tmp_path / "c"),
        "output_path": str(tmp_path / "f" / "results.json"),
    }


def test_a_full_fine_tuning_is_evaluated_as_a_model_of_its_own(run):
    (run / "adapter/adapter_config.json").unlink()
    (run / "adapter/adapter_model.safetensors").rename(run / "adapter/model.safetensors")
    assert settings_of(run)[1]["model_args"] == {"dtype": "bfloat16", "pretrained": "out/llama/adapter"}


def test_vllm_gets_the_adapter_its_rank_and_no_thinking(run, tmp_path):
    base, tuned = settings_of(run, backend="vllm", gpus=4)
    assert base["model"] == "vllm" and base["model_args"]["enable_thinking"] is False
    assert tuned["model_args"] == base["model_args"] | {"lora_local_path": "out/llama/adapter", "max_lora_rank": 32}
    assert leaderboard.lm_eval_yaml(tmp_path, tmp_path, base)["model_args"]["data_parallel_size"] == 4


def test_an_endpoint_gets_the_names_the_bases_tokenizer_and_no_key(run, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1/")
    monkeypatch.setenv("TUNED_BASE_URL", "http://b/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    base, tuned = settings_of(run, backend="endpoint", base_model="llama", tuned_model="friend")
    assert (base["model"], base["model_args"]["base_url"], tuned["model_args"]["base_url"]) == ("local-completions", "http://a/v1/completions", "http://b/v1/completions")
    assert (base["model_args"]["model"], tuned["model_args"]["model"], base["model_args"]["tokenizer"]) == ("llama", "friend", "org/base")
    assert "sk-secret" not in json.dumps([base, tuned])


def test_an_endpoint_without_names_is_refused_before_anything_runs(run):
    with pytest.raises(UserError, match="BACKEND=endpoint needs OPENAI_BASE_URL"):
        settings_of(run, backend="endpoint")


def test_several_gpus_share_one_evaluation_through_accelerate(run, tmp_path):
    command = leaderboard.command_of(tmp_path, settings_of(run, gpus=4)[0])
    assert command[1:6] == ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "4"] and command[6:8] == ["-m", "eval.harness"]


def test_ablations_share_the_evaluation_of_their_base(run):
    other = shutil.copytree(run, Path("out/llama+x"))
    (other / "adapter/adapter_model.safetensors").write_text("other weights")
    (one, tuned), (two, changed) = settings_of(run), settings_of(other)
    under = Path("out/leaderboard/llama")
    assert leaderboard.place(one, under) == leaderboard.place(two, under)
    assert leaderboard.place(tuned, under)[0] != leaderboard.place(changed, under)[0] and leaderboard.place(tuned, under)[1] != leaderboard.place(changed, under)[1]


def test_a_limit_has_results_of_its_own_and_shares_the_answers(run):
    whole, part = (leaderboard.place(settings_of(run, limit=limit)[0], Path("x")) for limit in (None, 20))
    assert whole[0] != part[0] and whole[1] == part[1]


def test_the_number_of_gpus_does_not_make_another_evaluation(run):
    assert leaderboard.place(settings_of(run, gpus=1)[0], Path("x")) == leaderboard.place(settings_of(run, gpus=8)[0], Path("x"))


def test_another_version_or_batch_size_never_takes_answers_of_before(run):
    base, _ = settings_of(run)
    places = {leaderboard.place(base | change, Path("x")) for change in ({}, {"versions": {"torch": "3"}}, {"batch_size": 4})}
    assert len({cache for _, cache in places}) == 3


def stand_in(tmp_path, monkeypatch, body):
    """A Python that plays lm-eval: `body` sees `config`, its YAML."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport json, sys, yaml, pathlib\nconfig = yaml.safe_load(open(sys.argv[-1]))\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(leaderboard, "PYTHON", script)


GOOD = """
out = pathlib.Path(config["output_path"]).parent
(out / "results_1.json").write_text(json.dumps({"n-samples": {"leaderboard_mmlu_pro": {"effective": 1}}}))
row = {"doc_id": 0, "doc": {}, "metrics": ["acc"], "acc": 1.0, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
(out / "samples_leaderboard_mmlu_pro_1.jsonl").write_text(json.dumps(row))
with open("calls", "a") as calls: calls.write("x")
"""


def test_what_was_evaluated_with_equal_settings_is_not_evaluated_again(run, tmp_path, monkeypatch, capsys):
    stand_in(tmp_path, monkeypatch, GOOD)
    folder = tmp_path / "f"
    folder.mkdir()
    for _ in range(2):
        leaderboard.evaluate(settings_of(run, gpus=0)[0], folder, tmp_path / "cache" / "c", "base")
    assert (leaderboard.PLACE / "calls").read_text() == "x" and json.loads((folder / "done").read_text())["items"] == 1
    assert "evaluated before with equal settings" in capsys.readouterr().out


def test_an_lm_eval_that_fails_is_one_line_with_its_last_error_and_its_log(run, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "print('torch.OutOfMemoryError: CUDA out of memory'); sys.exit(3)")
    (tmp_path / "f").mkdir()
    with pytest.raises(UserError, match=r"lm-eval ended with status 3 on the base model; its log is .*/f/lm-eval.log: torch.OutOfMemoryError: CUDA out of memory"):
        leaderboard.evaluate(settings_of(run, gpus=0)[0], tmp_path / "f", tmp_path / "cache" / "c", "base")
    assert not (tmp_path / "f" / "done").exists()


def test_progress_and_time_left_are_shown_and_everything_is_kept(run, tmp_path, monkeypatch, capsys):
    bars = r"\rRunning loglikelihood requests:  50%|#####     | 160/320 [00:10<00:12, 16.0it/s]\r"
    stand_in(tmp_path, monkeypatch, f"print('INFO Cached requests: 1194, Requests remaining: 129'); print({bars!r})\n{GOOD}".replace("\\\\r", "\\r"))
    (tmp_path / "f").mkdir()
    leaderboard.evaluate(settings_of(run, gpus=0)[0], tmp_path / "f", tmp_path / "cache" / "c", "tuned")
    shown = capsys.readouterr().out
    assert "tuned: 1,194 requests answered before, 129 to go" in shown and "tuned: multiple choice 160 of 320, 00:12 left" in shown
    assert "Running loglikelihood" in (tmp_path / "f" / "lm-eval.log").read_text()


def test_without_its_environment_the_user_is_told_how_to_make_it(run, monkeypatch):
    monkeypatch.setattr(leaderboard, "PYTHON", Path("nowhere/python"))
    with pytest.raises(UserError, match="nowhere/python is not there; `make eval` makes this environment"):
        leaderboard.versions()


def test_a_run_of_another_base_is_refused_by_make(project):
    done = subprocess.run(["make", "-n", "eval", "RUN=llama3-8b+lora-r64"], cwd=project, capture_output=True, text=True)
    assert done.returncode and "RUN=llama3-8b+lora-r64 is not a run of MODEL=tiny; name its base, too" in done.stderr


# ---------------------------------------------------------------- preflight


def test_the_wrong_antlr_is_found_before_anything_is_evaluated(monkeypatch):
    pins = dict(line.partition("==")[::2] for line in (ROOT / "requirements-eval.txt").read_text().splitlines() if "==" in line)
    installed = {name.partition("[")[0]: version for name, version in pins.items()} | {"antlr4-python3-runtime": "4.13.2"}
    monkeypatch.setattr(preflight.importlib.metadata, "version", installed.__getitem__)
    (fault,) = preflight.pinned(ROOT / "requirements-eval.txt")
    assert "antlr4-python3-runtime is 4.13.2 in this environment" in fault and "MATH column is silently 0" in fault


def test_every_version_of_the_second_environment_is_pinned():
    constraints = {line.partition("==")[0].lower() for line in (ROOT / "constraints-eval.txt").read_text().splitlines()}
    assert {"lm_eval", "sympy", "nltk", "tokenizers", "antlr4-python3-runtime", "latex2sympy2_extended"} <= constraints and len(constraints) == 96


def test_a_server_without_log_probabilities_of_the_prompt_is_refused(endpoint):
    settings = {"model_args": {"model": "scripted", "base_url": f"{endpoint.url}/completions"}}
    assert list(preflight.server_faults(settings)) == [
        f"{endpoint.url}/completions gives no log-probabilities of the prompt (echo), which multiple choice needs; vLLM and SGLang do, chat-only services do not"
    ]


def test_a_server_that_refuses_is_named_with_its_status(endpoint):
    endpoint.script = lambda body: (404, "no such path")
    (fault,) = preflight.server_faults({"model_args": {"model": "m", "base_url": f"{endpoint.url}/completions"}})
    assert "answers 404 for the model m" in fault


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    shutil.copytree(ROOT / "tiny/model", tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").unlink()
    assert list(preflight.tokenizer_faults(str(tmp_path / "m"))) == [f"{tmp_path / 'm'}: its tokenizer has no chat template; an instruct model is needed"]


def test_a_template_that_refuses_a_system_message_is_noted_not_refused(tmp_path, capsys):
    shutil.copytree(ROOT / "tiny/model", tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text("{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}x")
    assert list(preflight.tokenizer_faults(str(tmp_path / "m"))) == [] and "BBH is asked without the descriptions" in capsys.readouterr().out


def test_weights_that_lack_a_tensor_are_found_without_reading_them(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(ROOT / "tiny/model", tmp_path / "m")
    tensors = load_file(tmp_path / "m/model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "m/model.safetensors")
    (fault,) = preflight.weight_faults({"model_args": {"pretrained": str(tmp_path / "m")}})
    assert fault == f"{tmp_path / 'm'}: the weight model.norm.weight is missing from its *.safetensors files"


def test_an_adapter_of_another_model_is_found_by_its_shapes(tmp_path):
    random_adapter(tmp_path / "adapter", ROOT / "tiny/model", width=96)
    (fault,) = preflight.weight_faults({"model_args": {"pretrained": str(ROOT / "tiny/model"), "peft": str(tmp_path / "adapter")}})
    assert "does not fit the base" in fault and "the adapter was trained on another model" in fault


def test_an_adapter_that_fits_passes(tmp_path):
    random_adapter(tmp_path / "adapter", ROOT / "tiny/model")
    assert list(preflight.weight_faults({"model_args": {"pretrained": str(ROOT / "tiny/model"), "peft": str(tmp_path / "adapter")}})) == []


def test_gpqa_without_access_says_where_to_accept_its_terms(monkeypatch):
    import huggingface_hub

    def refuse(self, *_, **__):
        raise huggingface_hub.errors.GatedRepoError("gated", response=argparse.Namespace(headers={}, request=None, status_code=403))

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", refuse)
    (fault,) = preflight.gpqa_faults()
    assert fault.startswith("GPQA is gated: accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa and export HF_TOKEN, or give ITEMS=")


def test_a_full_disk_is_found_first(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: argparse.Namespace(free=1 << 29))
    (fault,) = preflight.room_faults({"limit": None, "items": None}, tmp_path)
    assert "0.5 GB free, lm-eval's logs and cache need up to 2.0 GB" in fault
    assert list(preflight.room_faults({"limit": 5, "items": None}, tmp_path)) == []


# ---------------------------------------------------------------- real evaluations


@pytest.fixture
def real(tmp_path):
    """A project with a run on the embedded model (random adapter), and one item of each task."""
    project = checkout(tmp_path / "project")
    (project / ".venv-eval").symlink_to(ENVIRONMENT)
    random_adapter(project / "out/tiny/adapter", ROOT / "tiny/model")
    (project / "out/tiny/run.yaml").write_text(yaml.safe_dump({"base_model": "tiny/model", "adapter": "lora", "lora_r": 4}))
    subprocess.run([sys.executable, "-m", "eval.items", "out/items", "--per-task", "1"], cwd=project, check=True, capture_output=True)
    return project


def evaluate(project, *more, **environment):
    command = [sys.executable, "-m", "eval.leaderboard", "out/tiny", "--items", "out/items", "--max-gen-toks", "16", "--gpus", "0", *more]
    environment = os.environ | {"GOMP_SPINCOUNT": "30000"} | environment
    return subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )  # fmt: skip


def numbers_of(project):
    found = json.loads((project / "out/tiny/leaderboard.json").read_text())
    return {k: found[k] for k in ("columns", "instructions", "tasks", "kind")}


def answered(project):
    """(requests answered before, to go) of each kind, as the base's log has them."""
    (log,) = (project / "out/leaderboard/tiny").glob("*/lm-eval.log")
    return [tuple(map(int, match)) for match in leaderboard.CACHED.findall(log.read_text())]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_gives_the_same_numbers(real, tmp_path):
    whole = shutil.copytree(real, tmp_path / "whole", symlinks=True)
    process = evaluate(whole)
    assert process.wait(500) == 0, process.stderr.read()
    asked = [before + left for before, left in answered(whole)]
    assert [before for before, _ in answered(whole)] == [0, 0]

    process = evaluate(real)
    deadline = time.time() + 400
    while time.time() < deadline:
        logs = list((real / "out/leaderboard/tiny").glob("*/lm-eval.log"))
        if logs and any(int(done) > 40 for _, done, _, _ in leaderboard.PROGRESS.findall(logs[0].read_text())):
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(real).encode() in read(p) and b"eval.harness" in read(p)]  # nothing goes on behind the user's back
    assert not list((real / "out/leaderboard/tiny").glob("*/done"))

    process = evaluate(real)
    assert process.wait(500) == 0, process.stderr.read()
    (before, left), (_, generated) = answered(real)
    assert before >= 40 and before + left == asked[0] and generated == asked[1]  # what was answered is not asked again, and nothing is left out
    assert numbers_of(real) == numbers_of(whole)

    process = evaluate(real)
    assert process.wait(60) == 0 and process.stdout.read().count("evaluated before with equal settings") == 2


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_a_server_with_log_probabilities_gives_the_scores_of_the_model_itself(real):
    """MuSR and IFEval through /v1/completions of a small server around the same weights, and through transformers."""
    tasks = ("--tasks", "leaderboard_musr,leaderboard_ifeval")
    process = evaluate(real, *tasks)
    assert process.wait(300) == 0, process.stderr.read()
    (name,) = (path.name for path in (real / "out/tiny").glob("leaderboard-*.json"))
    here = json.loads((real / "out/tiny" / name).read_text())
    server = subprocess.Popen([ENVIRONMENT / "bin/python", ROOT / "tests/completions.py", "tiny/model", "out/tiny/adapter"], cwd=real, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        process = evaluate(real, *tasks, "--backend", "endpoint", "--base-model", "base", "--tuned-model", "tuned", OPENAI_BASE_URL=url)
        assert process.wait(300) == 0, process.stderr.read()
    finally:
        server.kill()
    there = json.loads((real / "out/tiny" / name).read_text())
    assert there["settings"]["backend"] == "endpoint" and here["settings"]["backend"] == "hf"
    assert there["columns"] == here["columns"] and {t: v["items"] for t, v in there["tasks"].items()} == {t: v["items"] for t, v in here["tasks"].items()}


@pytest.mark.slow
def test_faults_are_all_named_at_once_before_the_evaluation(real):
    (real / "tiny/model/chat_template.jinja").unlink()
    random_adapter(real / "out/tiny/adapter", ROOT / "tiny/model", width=96)
    process = evaluate(real)
    out, err = process.communicate(timeout=120)
    line = one_line(argparse.Namespace(stderr=err))
    assert process.returncode == 1 and "has no chat template" in line and "does not fit the base" in line and "lm-eval run" not in out
