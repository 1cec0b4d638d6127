"""Composing a run, reading its log, drawing it.  .venv/bin/python -m pytest tests/test_train.py"""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import inside, one_line

from datagen.files import UserError
from train import launch, recipe


def make_data(folder, rows=40):
    folder.mkdir(parents=True)
    for name, n in (("train", rows), ("val", 8)):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) * n)
    tokens = {name: {"p5": 1, "p50": 2, "p95": 3, "p100": 4} for name in ("prompt", "chosen", "rejected")}
    (folder / "stats.json").write_text(json.dumps({"train": rows, "val": 8, "train_tokens": 1000, "tokens": tokens}))


def compose(project, *more, status=0):
    return inside("train.recipe", "tiny", "--data", "data/d", "--run", "r", "--gpus", "0", *more, cwd=project, status=status)


def test_a_run_file_is_the_base_with_its_data_and_folders(project):
    make_data(project / "data/d")
    done = compose(project)
    made, base = (yaml.safe_load((project / path).read_text()) for path in ("out/r/run.yaml", "axolotl/tiny.yaml"))
    assert {key for key in base if base[key] != made[key]} == {"datasets", "test_datasets", "dataset_prepared_path", "output_dir"} and list(made) == list(base)
    assert made["datasets"][0]["path"] == "data/d/train.jsonl" and made["output_dir"] == "out/r/adapter"
    assert "effective batch 16 = micro 16 x accumulation 1 x 1 CPU process" in done.stdout
    assert "3 steps for 40 pairs x 1 epoch(s), 1,000 tokens" in done.stdout and "estimated memory" in done.stdout


def test_the_run_file_is_rewritten_only_when_a_value_or_the_data_changes(project):
    make_data(project / "data/d")
    compose(project)
    path = project / "out/r/run.yaml"
    os.utime(path, (1, 1))
    base = project / "axolotl/tiny.yaml"
    base.write_text("# another comment\n" + base.read_text())
    compose(project)
    assert path.stat().st_mtime == 1
    (project / "data/d/train.jsonl").write_text("{}")
    compose(project)
    assert path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    base.write_text(base.read_text().replace("3.5e-3", "1.0e-3"))
    compose(project)
    assert path.stat().st_mtime > 1 and yaml.safe_load(path.read_text())["learning_rate"] == 1e-3


def test_an_ablation_changes_exactly_its_keys(project):
    make_data(project / "data/d")
    (project / "axolotl/ablations/mine.yaml").write_text("lora_r: 12\n")
    compose(project, "--ablation", "mine")
    assert yaml.safe_load((project / "out/r/run.yaml").read_text())["lora_r"] == 12
    (project / "axolotl/ablations/idle.yaml").write_text("lora_r: 8\n")
    assert "lora_r is already so in axolotl/tiny.yaml" in one_line(compose(project, "--ablation", "idle", status=1))
    assert "ABLATION is one of: base-4bit, base-bf16" in one_line(compose(project, "--ablation", "typo", status=1))


def test_an_unknown_key_is_refused_with_the_nearest_known_one(project):
    make_data(project / "data/d")
    with open(project / "axolotl/tiny.yaml", "a") as file:
        file.write("lerning_rate: 3\n")
    line = one_line(compose(project, status=1))
    assert "lerning_rate (did you mean 'learning_rate'?)" in line and not (project / "out/r/run.yaml").exists()


def test_an_unknown_base_lists_the_known(project):
    done = inside("train.recipe", "typo", "--data", "data/d", "--run", "r", cwd=project, status=1)
    assert "MODEL is one of: llama3-8b, mistral-nemo, qwen2.5-7b, tiny" in one_line(done)


@pytest.mark.parametrize(("gpus", "accumulation"), [(1, 16), (2, 8), (4, 4), (8, 2)])
def test_the_papers_effective_batch_is_held_on_any_number_of_gpus(gpus, accumulation, monkeypatch):
    monkeypatch.chdir(recipe.Path(__file__).parent.parent)
    config = recipe.compose("llama3-8b", None, recipe.Path("d"), "r", gpus)
    assert config["gradient_accumulation_steps"] == accumulation and recipe.effective_batch(config, gpus) == 32


def test_a_number_of_gpus_that_cannot_hold_the_batch_is_an_error(monkeypatch):
    monkeypatch.chdir(recipe.Path(__file__).parent.parent)
    with pytest.raises(UserError, match="32 does not divide into 3 GPUs x micro_batch_size 2"):
        recipe.compose("llama3-8b", None, recipe.Path("d"), "r", 3)


def logged(step, margin, val=False):
    prefix = "eval_" if val else ""
    values = {"loss": 0.5, "rewards/margins": margin, "rewards/accuracies": 0.75, "rewards/chosen": 1.0, "rewards/rejected": -1.0}
    return {"step": step, "epoch": step / 10} | {prefix + k: v for k, v in values.items()}


def test_the_log_becomes_numbers_a_figure_and_a_summary_with_an_interval(tmp_path):
    state = {"log_history": [logged(1, 0.0), logged(2, 0.9), logged(2, 0.8, val=True), {"step": 2, "epoch": 0.2, "train_runtime": 1.0}]}
    for step in (1, 2):
        folder = tmp_path / f"run/adapter/checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps(state if step == 2 else {"log_history": []}))
    (tmp_path / "stats.json").write_text('{"val": 8}')
    inside("train.monitor", tmp_path / "run", "--data", tmp_path)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [(row["step"], row["split"], row["margin"]) for row in rows] == [("1", "train", "0.0"), ("2", "train", "0.9"), ("2", "val", "0.8")]
    end = json.loads((tmp_path / "run/metrics.json").read_text())
    assert end["held-out accuracy"] == 0.75 and end["held-out pairs"] == 8 and end["held-out margin"] == 0.8
    assert [round(x, 3) for x in end["held-out accuracy interval"]] == [0.409, 0.929]
    assert (tmp_path / "run/margins.svg").read_text().count("<svg") == 1 and (tmp_path / "run/margins.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_without_checkpoint_is_one_line(tmp_path):
    (tmp_path / "stats.json").write_text('{"val": 8}')
    assert "no checkpoint with a trainer_state.json" in one_line(inside("train.monitor", tmp_path, "--data", tmp_path, status=1))


def test_a_step_of_the_trainer_is_shown_in_one_short_line():
    line = "{'loss': '0.6931', 'grad_norm': '1.2', 'rewards/margins': '0.25', 'rewards/accuracies': '0.5', 'epoch': '0.03'}"
    assert launch.show(line, 4).split() == ["step", "5", "loss", "0.693", "margin", "0.250", "accuracy", "0.500"]
    assert launch.show("INFO nothing of the kind", 4) is None


def test_a_training_that_outlived_its_make_is_ended(tmp_path):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "axolotl.cli.train"], start_new_session=True)
    while not Path(f"/proc/{orphan.pid}/cmdline").read_bytes():  # the program is still being loaded
        time.sleep(0.01)
    (tmp_path / "train.pid").write_text(str(orphan.pid))
    launch.end_leftover(tmp_path / "train.pid")
    assert orphan.wait(10) == -9


def test_a_pid_file_of_another_program_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    (tmp_path / "train.pid").write_text(str(other.pid))
    launch.end_leftover(tmp_path / "train.pid")
    assert other.poll() is None
    other.kill()
    other.wait()
