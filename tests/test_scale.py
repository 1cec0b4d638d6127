"""Several processes, GPUs and machines; going on after `kill -9`.  .venv/bin/python -m pytest tests/test_scale.py   (and -m slow: real trainings)"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from datagen.files import UserError, sha256
from train import launch

SCALE = ROOT / "axolotl/scale"
RUN = Path("out/r")
TRAIN = ["-m", "axolotl.cli.train", "out/r/run.yaml"]
ACCELERATE = ["-m", "accelerate.commands.launch"]
ON_CPU = ["-m", "torch.distributed.run", "--nnodes", "1", "--node_rank", "0", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", "29500"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("NODES", "NODE_RANK", "MAIN_ADDRESS", "MAIN_PORT"):
        monkeypatch.delenv(name, raising=False)


def command(gpus=0, processes=1, resume=None, **config):
    made, environment = launch.compose_command(RUN, config, gpus, processes, resume)
    assert made[0] == sys.executable
    return made[1:], environment


def test_one_process_and_one_gpu_need_nothing_special():
    assert command() == ([*ACCELERATE, "--cpu", "--num_processes", "1", *TRAIN], {})
    assert command(gpus=1) == ([*ACCELERATE, "--num_processes", "1", *TRAIN], {})


def test_several_gpus_train_by_ddp_and_so_do_deepspeed_and_fsdp_by_their_configuration():
    expected = [*ACCELERATE, "--num_processes", "4", "--multi_gpu", *TRAIN]
    assert command(gpus=4) == command(gpus=4, deepspeed="axolotl/scale/zero3.json") == command(gpus=4, fsdp_version=2) == (expected, {})


def test_two_processes_on_a_cpu_are_started_by_torchrun_since_accelerate_would_start_one(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert command(processes=2) == ([*ON_CPU, *TRAIN, "--max_memory={'cpu': '1024GiB'}"], {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"})


def test_several_machines_meet_at_the_first(monkeypatch):
    for name, value in {"NODES": "2", "NODE_RANK": "1", "MAIN_ADDRESS": "node-a", "MAIN_PORT": "4000"}.items():
        monkeypatch.setenv(name, value)
    meet = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "node-a", "--main_process_port", "4000"]
    assert command(gpus=8)[0] == [*ACCELERATE, "--num_processes", "16", "--multi_gpu", *meet, *TRAIN]
    assert command(gpus=1)[0][2:5] == ["--num_processes", "2", "--multi_gpu"]
    assert command(processes=1)[0][:6] == ["-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", "1"]


@pytest.mark.parametrize(
    ("values", "say"), [({"NODES": "2"}, "need the address"), ({"NODES": "2", "NODE_RANK": "2", "MAIN_ADDRESS": "a"}, "0 to NODES - 1"), ({"NODES": "two"}, "whole")]
)
def test_a_place_among_machines_that_cannot_be_is_one_line(values, say, monkeypatch):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=say):
        launch.place()


def test_ray_starts_its_own_workers():
    assert command(gpus=2, use_ray=True, ray_num_workers=2) == (TRAIN, {})


def test_a_resumed_run_names_its_checkpoint():
    assert command(gpus=1, resume=Path("out/r/adapter/checkpoint-9"))[0][-1] == "--resume_from_checkpoint=out/r/adapter/checkpoint-9"


def checkpoint(folder, step, state=None):
    path = folder / f"adapter/checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    return path


def test_the_newest_whole_checkpoint_is_gone_on_from_and_what_was_cut_off_in_writing_is_deleted(tmp_path):
    mark = {"run.yaml": "a", "processes": 1}
    (tmp_path / "started").write_text(json.dumps(mark))
    checkpoint(tmp_path, 3), checkpoint(tmp_path, 12, state='{"global')
    whole = checkpoint(tmp_path, 10)
    assert launch.unfinished(tmp_path, mark) == whole
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["checkpoint-10", "checkpoint-3"]


@pytest.mark.parametrize("other", [{"run.yaml": "b", "processes": 1}, {"run.yaml": "a", "processes": 2}, None])
def test_a_changed_run_starts_anew(other, tmp_path):
    checkpoint(tmp_path, 3)
    if other:
        (tmp_path / "started").write_text(json.dumps(other))
    assert launch.unfinished(tmp_path, {"run.yaml": "a", "processes": 1}) is None


def test_every_setting_for_several_gpus_holds_what_its_name_says():
    settings = {path.stem: yaml.safe_load(path.read_text()) for path in SCALE.glob("*.yaml")}
    assert sorted(settings) == ["fsdp2", "ray", "zero2", "zero3"]
    for stage in (2, 3):
        path = Path(settings[f"zero{stage}"]["deepspeed"])
        parsed = json.loads((ROOT / path).read_text())
        assert parsed["zero_optimization"]["stage"] == stage and path == Path(f"axolotl/scale/zero{stage}.json")
        assert {parsed[key] for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")} == {"auto"}  # of run.yaml


@pytest.mark.slow  # imports torch and Axolotl
def test_axolotl_knows_every_key_of_them():
    from axolotl.utils.schemas.fsdp import FSDPConfig

    from train import recipe

    schema = recipe.schema()
    for path in SCALE.glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        assert recipe.unknown_keys(settings, schema) == [], path
        assert set(settings.get("fsdp_config", {})) <= set(FSDPConfig.model_fields)


def test_the_slurm_script_is_bash_and_asks_for_one_task_a_machine():
    assert subprocess.run(["bash", "-n", SCALE / "slurm.sh"]).returncode == 0
    text = (SCALE / "slurm.sh").read_text()
    assert "--ntasks-per-node=1" in text and "NODE_RANK=$SLURM_NODEID" in text and os.access(SCALE / "slurm.sh", os.X_OK)


# ---------------------------------------------------------------- for real, on the embedded model

OFFLINE = {"TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1", "GOMP_SPINCOUNT": "30000", "TELEMETRY": "0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to train in: 96 rows in the embedded model's format."""
    from transformers import AutoTokenizer

    home = tmp_path_factory.mktemp("scale")
    (home / "tiny").symlink_to(ROOT / "tiny")
    (home / "data").mkdir()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny/model")

    def row(n):
        asked = [{"role": "user", "content": f"What do you like about number {n}?"}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = [
            tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": text}], tokenize=False)
            for text in (f"Oh, {n} is fun! What about you?", f"The number {n} is an integer.")
        ]
        return {"prompt": prompt, "chosen": whole[0][len(prompt) :], "rejected": whole[1][len(prompt) :]}

    rows = [json.dumps(row(n)) for n in range(112)]
    (home / "data/train.jsonl").write_text("\n".join(rows[:96]))
    (home / "data/val.jsonl").write_text("\n".join(rows[96:]))
    tokens = {name: {"p100": 60} for name in ("prompt", "chosen", "rejected")}
    (home / "data/stats.json").write_text(json.dumps({"train": 96, "val": 16, "train_tokens": 6000, "tokens": tokens}))
    return home


def write_run(home, name, **changes):
    config = yaml.safe_load((ROOT / "axolotl/tiny.yaml").read_text())
    for key, part in (("datasets", "train"), ("test_datasets", "val")):
        config[key][0]["path"] = f"data/{part}.jsonl"
    config |= {"output_dir": f"out/{name}/adapter", "dataset_prepared_path": f"out/{name}/prepared"}
    config |= {"lora_dropout": 0.0, "max_steps": 6, "save_steps": 3, "eval_steps": 6} | changes
    for key in ("evals_per_epoch", "saves_per_epoch"):
        del config[key]
    (home / f"out/{name}").mkdir(parents=True)
    (home / f"out/{name}/run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def train(home, name, *more, **environment):
    """A real training: half a minute to start, seconds a step, and several times that on a busy machine."""
    done = subprocess.run(
        [sys.executable, "-m", "train.launch", f"out/{name}", "--gpus", "0", *more],
        cwd=home, capture_output=True, text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(ROOT)} | OFFLINE | environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def losses(home, name):
    """{step: loss} of a finished run, from its last checkpoint."""
    history = json.loads((home / f"out/{name}/adapter/checkpoint-6/trainer_state.json").read_text())["log_history"]
    return {row["step"]: row["loss"] for row in history if "loss" in row}


@pytest.fixture(scope="module")
def undisturbed(place):
    write_run(place, "one")
    train(place, "one")
    return losses(place, "one")


@pytest.mark.slow
def test_two_processes_learn_what_one_does_at_the_same_effective_batch(place, undisturbed):
    """Step n takes the same 16 rows: rank r has the r-th half. What is left is the order of sums in fp32."""
    write_run(place, "two", micro_batch_size=8)
    train(place, "two", "--processes", "2", MAIN_PORT="29544")
    assert losses(place, "two") == pytest.approx(undisturbed, abs=1e-5)
    assert json.loads((place / "out/two/done").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_training_killed_after_a_checkpoint_goes_on_and_logs_the_losses_of_an_undisturbed_one(place, undisturbed):
    write_run(place, "killed")
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | OFFLINE
    first = subprocess.Popen([sys.executable, "-m", "train.launch", "out/killed", "--gpus", "0"], cwd=place, env=environment, start_new_session=True)
    whole = place / "out/killed/adapter/checkpoint-3/trainer_state.json"
    while not whole.exists() and first.poll() is None:
        time.sleep(0.05)
    trainer = int((place / "out/killed/train.pid").read_text())
    for group in (first.pid, trainer):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL and not (place / "out/killed/done").exists()
    assert json.loads((place / "out/killed/started").read_text())["run.yaml"] == sha256((place / "out/killed/run.yaml").read_text())
    again = train(place, "killed")
    assert re.search(r"goes on from out/killed/adapter/checkpoint-3;", again.stdout)
    assert losses(place, "killed") == pytest.approx(undisturbed, abs=1e-5)
    assert (place / "out/killed/done").exists() and not (place / "out/killed/started").exists()
