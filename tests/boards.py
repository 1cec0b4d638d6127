"""Evaluated models made by hand: items of all 39 tasks with as many hits as asked for, and the folder that lm-eval and eval.leaderboard would leave."""

import json
from pathlib import Path

from eval import scores

# Right answers in the leaderboard's own raw runs of 2024-06-17 and 2025-02-13, from results_*.json of the models, mirrored in
# github.com/ztangat/23th-NPMCM (real_attachments/C_efficiency_evolution/detailed_results). MATH: pooled over its seven tasks; of the base only the old parser exists.
OFFICIAL = {
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        "bbh": [200, 113, 113, 140, 139, 80, 145, 90, 115, 137, 135, 135, 94, 78, 160, 170, 124, 88, 200, 92, 46, 54, 102, 114],
        "gpqa": [110, 148, 51],
        "musr": [125, 59, 85],
        "mmlu_pro": 4409,
        "prompts": 378,
        "instructions": 653,
        "math": 115,
        "math-verify": 0,
    },
    "HumanLLMs/Humanish-LLama3-8B-Instruct": {
        "bbh": [198, 118, 113, 137, 140, 77, 148, 85, 107, 133, 137, 129, 98, 77, 155, 167, 122, 94, 203, 82, 47, 55, 108, 118],
        "gpqa": [110, 143, 52],
        "musr": [124, 59, 87],
        "mmlu_pro": 4454,
        "prompts": 321,
        "instructions": 589,
        "math": 112,
        "math-verify": 136,
    },
}
BBH = sorted(scores.CHOICES)
GPQA = ("leaderboard_gpqa_main", "leaderboard_gpqa_extended", "leaderboard_gpqa_diamond")
PROMPTS, INSTRUCTIONS = 541, 834


def whole(right: dict) -> list[dict]:
    """Items of the full size, of which the first ones are answered rightly."""
    rows = []

    def add(task: str, hits: int, metric: str, of=lambda task, i: f"{task}/{i}", **more) -> None:
        for i in range(scores.ITEMS[task]):
            rows.append({"task": task, "doc": i, "hash": f"{task}-{i}", "cluster": of(task, i), metric: float(i < hits)} | {k: v(i) for k, v in more.items()})

    for name, hits in zip(BBH, right["bbh"], strict=True):
        add(f"leaderboard_bbh_{name}", hits, "acc_norm")
    for task, hits in zip(GPQA, right["gpqa"], strict=True):  # diamond lies in main, main in extended
        add(task, hits, "acc_norm", of=lambda task, i: f"question {i}")
    for name, hits in zip(scores.MUSR, right["musr"], strict=True):
        add(f"leaderboard_musr_{name}", hits, "acc_norm")
    add("leaderboard_mmlu_pro", right["mmlu_pro"], "acc")
    given, left = [2 if i < INSTRUCTIONS - PROMPTS else 1 for i in range(PROMPTS)], [right["instructions"]]

    def followed(i: int) -> list[bool]:
        taken = min(given[i], left[0])
        left[0] -= taken
        return [j < taken for j in range(given[i])]

    add(
        "leaderboard_ifeval",
        right["prompts"],
        "prompt_level_strict_acc",
        inst_level_strict_acc=followed,
        instructions=lambda i: ["length_constraints:number_words", "punctuation:no_comma"][: given[i]],
    )
    old, new = right["math"], right["math-verify"]
    for name in scores.MATH:
        task = f"leaderboard_math_{name}_hard"
        n = scores.ITEMS[task]
        add(task, min(old, n), "exact_match_original", exact_match=lambda i, new=new: float(i < new))
        old, new = max(0, old - n), max(0, new - n)
    return rows


def small(right: set[tuple[str, int]] = frozenset(), items: int = 2) -> list[dict]:
    """A few items of every task; those in `right` are answered rightly."""
    rows = []
    for task in scores.ITEMS:
        for i in range(items):
            hit = float((task, i) in right)
            row = {"task": task, "doc": i, "hash": f"{task}-{i}", "cluster": f"{task}/{i}"}
            if "ifeval" in task:
                row |= {"prompt_level_strict_acc": hit, "inst_level_strict_acc": [bool(hit)], "instructions": ["punctuation:no_comma"]}
            elif "math" in task:
                row |= {"exact_match_original": hit, "exact_match": hit}
            else:
                row["acc" if "mmlu" in task else "acc_norm"] = hit
            rows.append(row)
    return rows


def evaluated(folder: Path, rows: list[dict], tuned: bool, items: bool = True, **changes) -> Path:
    """The folder of a finished evaluation. `changes`: settings by name; results by `results={…}`, versions by `versions={…}`."""
    results = {"chat_template_sha": "t", "fewshot_as_multiturn": True, "versions": {"leaderboard_ifeval": 3.0}, "n-shot": {"leaderboard_ifeval": 0}, "max_length": 8192}
    settings = {
        "backend": "hf",
        "model": "hf",
        "tasks": ["leaderboard"],
        "limit": None,
        "items": {"folder": str(folder.parent / "items"), "hash": "i"} if items else None,
        "gen_kwargs": {},
        "batch_size": 16,
        "dtype": "float32",
        "gpus": 0,
        "seed": [0, 1234, 1234, 1234],
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "versions": {"lm_eval": "0.4.11", "antlr4-python3-runtime": "4.11.0"} | changes.pop("versions", {}),
        "model_args": {"pretrained": "tiny/model", "dtype": "float32"} | ({"peft": "out/tiny/adapter"} if tuned else {}),
        "identity": {"base_model": "tiny/model", "base_weights": "w", "tuned_weights": "a" if tuned else None} | changes.pop("identity", {}),
    }
    folder.mkdir(parents=True)
    (folder / "results_2026.json").write_text(json.dumps(results | changes.pop("results", {})))
    (folder / "settings.json").write_text(json.dumps(settings | changes))
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "done").write_text(json.dumps({"seconds": 1.5, "items": len(rows)}))
    return folder


def random_adapter(folder: Path, base: Path, width: int | None = None, size: float = 0.3) -> None:
    """A LoRA adapter with random weights for `base`, or for a base of another `width`."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    width, rank, rng = width or config["hidden_size"], 4, torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name in ("q_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = size * torch.randn(rank, width, generator=rng)
            tensors[f"{stem}.lora_B.weight"] = size * torch.randn(width, rank, generator=rng)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["q_proj", "v_proj"]}))
