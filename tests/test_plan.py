"""The preflight: counts, memory, the time model against the paper, refusals.  .venv/bin/python -m pytest tests/test_plan.py"""

import json
import re
import shutil
import subprocess
from collections import namedtuple

import pytest
from conftest import ROOT, inside, one_line

from datagen.files import UserError
from train import plan, recipe

DPO = {"rl": "dpo", "adapter": "lora", "lora_r": 8, "lora_dropout": 0.05, "optimizer": "adamw_bnb_8bit", "micro_batch_size": 2, "load_in_8bit": True}
LLAMA, QWEN, NEMO = (plan.llama_shape(*plan.KNOWN[name]) for name in plan.KNOWN)
A100 = plan.Machine("a100-80g", 2, 80e9, 312e12)


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1e12))


@pytest.mark.parametrize(("shape", "parameters", "adapter"), [(LLAMA, 8_030_261_248, 20_971_520), (QWEN, 7_615_616_512, 20_185_088), (NEMO, 12_247_782_400, 28_508_160)])
def test_the_parameters_of_the_three_bases_and_of_their_adapters_are_counted_exactly(shape, parameters, adapter):
    assert (shape.parameters, shape.adapter(8)) == (parameters, adapter)


@pytest.mark.slow  # imports torch and transformers
def test_the_arithmetic_counts_what_transformers_counts():
    assert plan.read_shape("tiny/model") == plan.count_shape(ROOT / "tiny/model")


@pytest.mark.parametrize(("base", "error"), [("llama3-8b", -0.025), ("qwen2.5-7b", 0.059), ("mistral-nemo", -0.059)])
def test_the_time_model_meets_each_duration_of_the_papers_table_4_within_its_stated_error(base, error):
    assert plan.paper_errors()[base] == pytest.approx(error, abs=0.001)


def test_no_other_efficiency_has_a_smaller_largest_error():
    factors = [1 + error for error in plan.paper_errors().values()]
    assert plan.EFFICIENCY * (max(factors) + min(factors)) / 2 == pytest.approx(plan.EFFICIENCY, abs=0.0001)


def test_the_docstring_gives_the_same_residuals():
    stated = [int(text) for text in re.findall(r"([+-]\d+) %", plan.__doc__)]
    assert stated == [round(100 * error) for error in plan.paper_errors().values()]


def test_a_token_costs_eight_flops_a_parameter_with_checkpointing_and_six_without():
    config = DPO | {"num_epochs": 1, "gradient_checkpointing": True}
    assert plan.work(LLAMA, config, 1000, 0) == 8 * 1000 * LLAMA.computed
    assert plan.work(LLAMA, config | {"gradient_checkpointing": False}, 1000, 0) == 6 * 1000 * LLAMA.computed
    assert plan.work(LLAMA, config | {"rl": "orpo", "adapter": None}, 1000, 0) == 8 * 1000 * LLAMA.computed  # trained weights, no reference


def test_half_the_bits_are_half_the_weights():
    linear = LLAMA.quantised
    rest = 2 * (LLAMA.parameters - linear)
    assert plan.weights(LLAMA, {"load_in_8bit": True}, cpu=False) == linear + 4 * sum(o for _, o in LLAMA.linear) + rest
    assert plan.weights(LLAMA, {"load_in_4bit": True}, cpu=False) == pytest.approx(linear * 0.515875 + rest)
    assert plan.weights(LLAMA, {"bf16": "auto"}, cpu=False) == 2 * LLAMA.parameters


def test_checkpointing_keeps_the_input_of_every_layer_and_one_layer():
    full, kept = (plan.activations(LLAMA, {"gradient_checkpointing": on}, 1000) for on in (False, True))
    assert kept == full / 32 + 1000 * 32 * 2 * 4096


def test_logits_grow_with_batch_length_and_vocabulary():
    parts = plan.memory(LLAMA, DPO, A100, 500)
    assert parts["logits"] == plan.LOGIT_BYTES * 2 * 2 * 500 * 128256


@pytest.mark.parametrize(("stage", "split"), [(2, (1, 4, 4)), (3, (4, 4, 4))])
def test_deepspeed_splits_what_its_stage_says(stage, split):
    assert tuple(plan.sharded({"deepspeed": f"axolotl/scale/zero{stage}.json"}, 4).values()) == split
    assert tuple(plan.sharded({"fsdp_config": {"x": 1}}, 4).values()) == (4, 4, 4) and tuple(plan.sharded({}, 4).values()) == (1, 1, 1)


def test_deepspeed_keeps_twelve_bytes_a_bf16_parameter_for_adam():
    assert plan.state_bytes({"optimizer": "adamw_torch_fused", "deepspeed": "zero3.json"}, 2) == 12
    assert plan.state_bytes({"optimizer": "adamw_torch_fused"}, 2) == 4 and plan.state_bytes({"optimizer": "adamw_bnb_8bit"}, 4) == 2


def test_full_training_needs_the_reference_as_a_second_copy():
    full = {"rl": "dpo", "optimizer": "adamw_bnb_8bit", "micro_batch_size": 2}
    assert plan.memory(LLAMA, full, A100, 10)["weights (bf16)"] == 4 * LLAMA.parameters
    assert plan.memory(LLAMA, full | {"rl": "orpo"}, A100, 10)["weights (bf16)"] == 2 * LLAMA.parameters


def test_the_plan_of_the_papers_run_is_printed_before_anything_is_downloaded():
    text = inside("train.plan", "llama3-8b", "--gpu", "a100-80g:2").stdout
    for line in (
        "8,030,261,248, trained 20,971,520 (0.26%)",
        "= micro 2 x accumulation 8 x 2 GPU(s)",
        "324 for 10,340 pairs",
        "2 h 16 min (2 h 09 min to 2 h 25 min)",
        "download",
    ):
        assert line in text, line
    assert "errors: llama3-8b -3%, qwen2.5-7b +6%, mistral-nemo -6%" in text


def test_a_range_stands_only_where_the_fit_does():
    for case in (("--gpu", "h100-80g"), ("--gpu", "a100-80g:2", "--ablation", "base-bf16")):
        line = next(line for line in inside("train.plan", "llama3-8b", *case).stdout.splitlines() if line.startswith("time "))
        assert line.endswith("as in the paper's runs (A100, 8-bit base): not measured") and " to " not in line


def test_what_does_not_fit_the_memory_is_refused_with_its_largest_part():
    line = one_line(inside("train.plan", "llama3-8b", "--gpu", "l4-24g", "--ablation", "full", status=1))
    assert "do not fit l4-24g with 24 GB" in line and "try SCALE=zero3 or fsdp2" in line


def test_what_does_not_fit_the_disk_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(20e9))
    line = one_line(inside("train.plan", "llama3-8b", "--gpu", "a100-80g:2", status=1))
    assert "32.3 GB are written" in line and "20.0 GB free" in line


def test_a_gpu_that_nobody_knows_lists_those_in_the_table():
    assert "known are a100-40g, a100-80g" in one_line(inside("train.plan", "llama3-8b", "--gpu", "a100", status=1))
    with pytest.raises(UserError, match="known are"):
        plan.find_machine("a100-80g:0")


def smi(monkeypatch, text):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, text, ""))


def test_the_gpus_found_are_those_that_are_visible(monkeypatch):
    smi(monkeypatch, "NVIDIA A100-SXM4-80GB, 81920\n" * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert plan.find_machine(None) == plan.Machine("NVIDIA A100-SXM4-80GB", 2, 81920 * 2**20, 312e12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert plan.find_machine(None).gpus == 0


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 NVL", None)]
)
def test_a_driver_name_is_never_taken_for_another_card(name, peak, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi(monkeypatch, f"{name}, 46068\n")
    assert plan.find_machine(None).peak == peak


def test_the_length_of_the_users_own_data_counts(tmp_path):
    tokens = {name: {"p100": 4000} for name in ("prompt", "chosen", "rejected")}
    (tmp_path / "stats.json").write_text(json.dumps({"train": 64, "val": 8, "train_tokens": 1000, "tokens": tokens}))
    line = one_line(inside("train.plan", "llama3-8b", "--gpu", "l4-24g", "--data", tmp_path, status=1))
    assert "most of it is logits" in line and "try a smaller micro_batch_size" in line


def test_describe_tells_batch_steps_and_an_estimate():
    config = recipe.read_yaml(recipe.BASES / "tiny.yaml", "a base")
    stats = {"train": 40, "val": 8, "train_tokens": 1000, "tokens": {name: {"p100": 4} for name in ("prompt", "chosen", "rejected")}}
    lines = plan.describe(config, stats, 0)
    assert lines[0] == "effective batch 16 = micro 16 x accumulation 1 x 1 CPU process"
    assert lines[1] == "3 steps for 40 pairs x 1 epoch(s), 1,000 tokens with both answers"
    assert lines[2].startswith("1,127,296 parameters, 59,136 trained; estimated memory 0.03 GB; estimated time 0.6 min")
    assert "not on this machine yet" in plan.describe(config | {"base_model": "nobody/knows"}, stats, 0)[2]
