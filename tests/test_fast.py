"""The recipe `fast` and its benchmark.  .venv/bin/python -m pytest tests/test_fast.py -n 0 (-m slow: against Axolotl's own trainer)"""

import json
import os
import random
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, inside, one_line

from benchmarks import train as bench
from datagen.files import read_jsonl
from train import plan, recipe

BASES = ("llama3-8b", "qwen2.5-7b", "mistral-nemo", "tiny")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_fast_keeps_the_effective_batch_and_the_objective(base, gpus, monkeypatch):
    monkeypatch.chdir(ROOT)
    if base == "tiny":
        gpus = 0
    paper, fast = (recipe.compose(base, ablation, recipe.Path("d"), "r", gpus) for ablation in (None, "fast"))
    assert recipe.effective_batch(fast, gpus) == recipe.effective_batch(paper, gpus) == (16 if base == "tiny" else 32)
    changed = {key for key in paper.keys() | fast.keys() if paper.get(key) != fast.get(key)}
    assert changed <= {"trainer_cls", "precompute_ref_log_probs", "load_in_8bit", "gradient_checkpointing", "micro_batch_size", "gradient_accumulation_steps"}
    assert fast["trainer_cls"] == "train.fast.Trainer" and fast["precompute_ref_log_probs"] is True


def test_the_built_in_lengths_have_the_mean_that_their_comment_states():
    found = bench.lengths_of(None)
    assert len(found) == 64 and bench.tokens_of(found) == pytest.approx(377.3, abs=0.05)


def test_lengths_of_a_file_are_its_characters_over_the_measured_ratio(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 471, "chosen": "y" * 942, "rejected": ""}) + "\n")
    assert bench.lengths_of(path) == [(100, 200, 1)]
    path.write_text('{"prompt": "a"}\n')
    assert "every row needs prompt, chosen and rejected" in one_line(inside("benchmarks.train", "--lengths", path, status=1))


def test_random_pairs_have_exactly_the_lengths_asked_for(tmp_path):
    bench.make_pairs([(3, 4, 5), (6, 2, 1)], 5, 10, tmp_path / "rows.jsonl")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    sizes = [tuple(len(row[key].split()) for key in ("prompt", "chosen", "rejected")) for row in rows]
    assert len(rows) == 5 and sizes.count((3, 4, 5)) + sizes.count((6, 2, 1)) == 5 and {sizes[0], sizes[1]} == {(3, 4, 5), (6, 2, 1)}
    assert all(row[key].endswith("</s>") for row in rows for key in ("chosen", "rejected"))


def test_a_line_of_the_log_becomes_numbers():
    assert bench.read_line("x {'loss': '0.69', 'rewards/margins': '-1e-08', 'epoch': '0.1'}\n") == {"loss": 0.69, "rewards/margins": -1e-8, "epoch": 0.1}
    assert bench.read_line("nothing of the kind") is None


def test_useful_work_leaves_out_the_reference_where_it_is_cached():
    assert bench.useful(8, 10, cached=True) == 320 and bench.useful(8, 10, cached=False) == 480


@pytest.mark.parametrize("shape", bench.SHAPES)
def test_a_model_of_the_benchmark_has_the_shape_that_the_plan_reckons_with(shape, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    (tmp_path / "config.json").write_text(json.dumps(bench.config_of(shape)))
    assert plan.read_shape(str(tmp_path)) == plan.read_shape(recipe.compose(shape, None, tmp_path, "r", 1)["base_model"])


def test_all_recipes_of_the_benchmark_have_one_batch(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, config in bench.recipes("llama3-8b", list(bench.PARTS), True, 32).items():
        assert recipe.effective_batch(config, 1) == 32, name


def test_a_real_shape_without_a_gpu_is_one_line():
    assert "needs a GPU" in one_line(inside("benchmarks.train", "--shape", "llama3-8b", status=1))


# ---------------------------------------------------------------- with torch and Axolotl

WORK = '''
"""Builds trainers as Axolotl does, in one process, and tells what they computed."""
import json, shutil, sys
from pathlib import Path


def build(name, data, base, seen=None, **more):
    import yaml
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_preference_datasets
    from axolotl.train import setup_model_and_trainer
    from train import fast

    config = yaml.safe_load(Path("tiny.yaml").read_text()) | {"base_model": base, "lora_dropout": 0.0, "micro_batch_size": 8, "max_steps": 4}
    config |= {"save_strategy": "no", "warmup_steps": 2}
    config |= {"output_dir": f"out/{name}/adapter", "dataset_prepared_path": f"out/{name}/prepared", "val_set_size": 0, "dataset_num_proc": 1}
    for key in ("test_datasets", "evals_per_epoch", "saves_per_epoch"):
        del config[key]
    config["datasets"][0]["path"] = data
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config | more))
    cfg = load_cfg(f"{name}.yaml")
    counted, computed = fast.Cached.reference, []
    fast.Cached.reference = lambda self, texts, model: (computed.append(len(texts)), counted(self, texts, model))[1]
    trainer = setup_model_and_trainer(cfg, load_preference_datasets(cfg=cfg, cli_args=TrainerCliArgs()))[0]
    fast.Cached.reference = counted
    return trainer, computed


def adapter(trainer):
    return {name: p for name, p in trainer.model.named_parameters() if "lora_" in name}


def curve(trainer, start):
    """Losses and margins of four steps from one and the same adapter, and where it ends."""
    import torch

    with torch.no_grad():
        for name, p in adapter(trainer).items():
            p.copy_(start[name])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "rewards/margins" in row]
    keys = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    return [[float(row[key]) for key in keys] for row in rows], {name: p.detach().clone() for name, p in adapter(trainer).items()}


def distance(one, other):
    """Euclidean: Adam moves a weight whose gradient is all rounding by a full step in either direction, so single weights say nothing."""
    return sum(((one[key] - other[key]) ** 2).sum().item() for key in one) ** 0.5


def main():
    import torch
    from safetensors.torch import load_file, save_file
    from train import fast

    base, told = sys.argv[1], {}
    stock, _ = build("stock", "rows.jsonl", base)
    start = {name: p.detach().clone() for name, p in adapter(stock).items()}
    reference = {}
    for i, row in enumerate(stock.train_dataset):
        batch = stock.data_collator([row])
        chosen, rejected = stock.compute_ref_log_probs(stock.model, batch)
        reference[row["prompt"] + row["chosen"]] = chosen.item()
        reference[row["prompt"] + row["rejected"]] = rejected.item()
    told["stock"], end = curve(stock, start)
    whole = {"trainer_cls": "train.fast.Trainer", "precompute_ref_log_probs": True}
    variants = {
        "quiet": {"trainer_cls": "train.fast.Quiet"},
        "logits": {"trainer_cls": "train.fast.Logits"},
        "packed": {"trainer_cls": "train.fast.Packed"},
        "fast": whole,
        "parts": whole | {"micro_batch_size": 8},
        "ipo": whole | {"rl": "ipo"},
        "stock ipo": {"rl": "ipo"},
    }
    for name, more in variants.items():
        fast.TOKENS = 150 if name == "parts" else 2048
        trainer, computed = build(name.replace(" ", "-"), "rows.jsonl", base, **more)
        told[f"{name} away"] = distance(adapter(trainer), start)
        told[name], last = curve(trainer, start)
        told[f"{name} moved"] = distance(last, end)
        told[f"{name} computed"] = computed
        if name == "fast":
            rows = trainer.train_dataset
            told["reference"] = max(abs(row[f"ref_{s}_logps"] - reference[row["prompt"] + row[s]]) for row in rows for s in ("chosen", "rejected"))
    told["moved"] = distance(end, start)
    told["two new answers"] = build("changed", "changed.jsonl", base, **whole)[1]
    shutil.copytree(base, "other")
    weights = load_file("other/model.safetensors")
    name = sorted(weights)[0]
    weights[name][0, 0] += 1
    save_file(weights, "other/model.safetensors", metadata={"format": "pt"})
    told["another base"] = build("other-base", "rows.jsonl", "other", **whole)[1]
    shutil.copytree(base, "moved")
    told["the same base elsewhere, another adapter"] = build("moved-base", "rows.jsonl", "moved", lora_r=16, rl_beta=0.5, **whole)[1]
    Path("told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
'''


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What WORK tells: Axolotl's own trainer beside ours, from one adapter on the same 32 pairs in fp32, without dropout."""
    place, draw = tmp_path_factory.mktemp("fast"), random.Random(1)
    words = ["tea", "rain", "chess", "bread", "trains", "owls", "clay", "maps", "soup", "kites", "moss", "drums"]
    rows = [
        {
            "prompt": f"<|user|> What do you like about {words[i % 12]} and {words[i // 12]}?<|end|><|assistant|>",
            "chosen": f" Oh, I love {' and '.join(draw.choices(words, k=draw.randrange(1, 30)))}!<|end|>",
            "rejected": f" As an AI, I note {', '.join(draw.choices(words, k=draw.randrange(1, 30)))}.<|end|>",
        }
        for i in range(32)
    ]
    for name, more in (("rows", {}), ("changed", {"chosen": " Never.<|end|>", "rejected": " It depends.<|end|>"})):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row | (more if i == 3 else {})) + "\n" for i, row in enumerate(rows)))
    (place / "tiny.yaml").write_text((ROOT / "axolotl/tiny.yaml").read_text())
    (place / "work.py").write_text(WORK)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1", "GOMP_SPINCOUNT": "30000", "HOME": str(place)}
    done = subprocess.run([sys.executable, "work.py", str(ROOT / "tiny/model")], cwd=place, capture_output=True, text=True, env=environment, timeout=900)
    assert (place / "told.json").exists(), done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((place / "told.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quiet", "logits", "packed", "fast", "parts"])
def test_each_trainer_draws_the_curve_of_axolotls_own(told, name):
    assert len(told["stock"]) == 4 and told["moved"] > 0.01
    for ours, theirs in zip(told[name], told["stock"], strict=True):
        assert ours[:3] + ours[4:] == pytest.approx(theirs[:3] + theirs[4:], rel=1e-4, abs=1e-5)  # loss, gradient norm, margin, log-probabilities
    assert told[f"{name} moved"] < 0.01 * told["moved"]  # of the trained adapter, against how far training took it


@pytest.mark.slow
def test_every_trainer_starts_from_the_same_adapter(told):
    away = {name: value for name, value in told.items() if name.endswith(" away")}
    assert len(away) == 7 and set(away.values()) == {0.0}


@pytest.mark.slow
def test_another_loss_is_left_to_trl(told):
    for ours, theirs in zip(told["ipo"], told["stock ipo"], strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-3)


@pytest.mark.slow
def test_the_reference_is_that_of_axolotls_own_trainer(told):
    assert told["reference"] < 1e-3


@pytest.mark.slow
def test_the_reference_is_computed_once_and_again_only_for_what_changed(told):
    assert told["fast computed"] == [64] and told["parts computed"] == [0] and told["ipo computed"] == [0]
    assert told["two new answers"] == [2] and told["another base"] == [64]


@pytest.mark.slow
def test_runs_with_another_adapter_or_beta_share_the_reference(told):
    assert told["the same base elsewhere, another adapter"] == [0]


@pytest.mark.slow
def test_rows_hold_every_sequence_once_and_none_overlaps():
    from train import fast

    draw = random.Random(2)
    for _ in range(200):
        lengths = [draw.randrange(1, 50) for _ in range(draw.randrange(1, 40))]
        places, rows = fast.lay(lengths, max(lengths))
        taken = [(row, start + k) for (row, start), length in zip(places, lengths, strict=True) for k in range(length)]
        assert len(set(taken)) == sum(lengths) and {row for row, _ in places} == set(range(rows)) and max(k for _, k in taken) < max(lengths)


@pytest.mark.slow
def test_parts_hold_every_pair_once_and_keep_to_the_limit():
    from train import fast

    draw = random.Random(3)
    for _ in range(200):
        lengths = [draw.randrange(1, 50) for _ in range(draw.randrange(1, 40))]
        limit = draw.randrange(1, 300)
        parts = fast.cut(lengths, limit)
        assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in part) <= limit or len(part) == 1 for part in parts)


@pytest.mark.slow
def test_log_probabilities_and_their_gradient_are_those_of_log_softmax(monkeypatch):
    import torch

    from train import fast

    monkeypatch.setattr(fast, "LOGITS", 40)  # two rows of 17 words at a time
    torch.manual_seed(0)
    hidden, weight, bias, labels = torch.randn(7, 5, requires_grad=True), torch.randn(17, 5), torch.randn(17), torch.randint(17, (7,))
    scale = torch.randn(7)
    found = fast.TokenLogProbs.apply(hidden, weight, bias, labels)
    (gradient,) = torch.autograd.grad((found * scale).sum(), hidden)
    wanted = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)[torch.arange(7), labels]
    (right,) = torch.autograd.grad((wanted * scale).sum(), hidden)
    assert torch.allclose(found, wanted, atol=1e-5) and torch.allclose(gradient, right, atol=1e-5)


@pytest.mark.slow
def test_one_row_for_flash_attention_names_where_sequences_end():
    import torch

    from train import fast

    ids = torch.tensor([[5, 6, 7, 0], [5, 8, 0, 0], [5, 6, 9, 9], [5, 8, 9, 0]])
    mask = (ids > 0).long()
    completion = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]])
    batch = fast.packed({"input_ids": ids, "attention_mask": mask, "completion_mask": completion}, one_row=True)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 9, 9, 5, 6, 7, 5, 8, 9, 5, 8]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1]]
    assert batch.inputs["cu_seq_lens_q"].tolist() == [0, 4, 7, 10, 12] and batch.inputs["max_length_q"] == 4
    assert batch.labels.tolist() == [7, 8, 9, 9, 8, 9] and batch.answer.tolist() == [0, 1, 2, 2, 3, 3]
    assert batch.at.tolist() == [5, 10, 1, 2, 7, 8]


def test_fast_yaml_names_a_class_of_the_module():
    config = yaml.safe_load((ROOT / "axolotl/ablations/fast.yaml").read_text())
    module, name = config["trainer_cls"].rsplit(".", 1)
    assert f"class {name}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
