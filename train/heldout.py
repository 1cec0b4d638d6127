"""Measures a run on its held-out pairs by one yardstick, whatever loss it was trained with.

    python -m train.heldout out/tiny --data data/tiny/tiny

The trainer's own margins cannot be compared between losses: they carry its beta, and some have no reference. Here each pair has the margin of
DPO's implicit reward without beta (Rafailov et al. 2023, eq. 5): how many nats more the training has moved the chosen answer than the rejected
one, [log p(chosen) - log p_base(chosen)] - [log p(rejected) - log p_base(rejected)]. Writes `out/<run>/heldout.json`, with the margin of every
pair, so that runs can be compared pair by pair.
"""

import argparse
from pathlib import Path

import numpy as np

from datagen.config import read_yaml
from datagen.files import UserError, entry, quiet_libraries, read_jsonl, write_json
from eval.surface import bootstrap, wilson

TOKENS = 16_384  # in one batch, padding included


def pairs_of(path: Path) -> list[dict]:
    """Rendered pairs; rows of single labelled answers are put together again."""
    rows = read_jsonl(path, "rendered held-out rows, from `make format`")
    if rows and "label" in rows[0]:
        rows = [{"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]} for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return rows


def log_probabilities(model, tokenizer, texts: list[tuple[str, str]]) -> np.ndarray:
    """Sum of log p(completion | prompt) in nats for every (prompt, completion), tokenised as the trainer does."""
    import torch

    heads = [len(tokenizer(prompt)["input_ids"]) for prompt, _ in texts]
    ids = [tokenizer(prompt + completion)["input_ids"] for prompt, completion in texts]
    found, order = np.zeros(len(texts)), sorted(range(len(texts)), key=lambda i: len(ids[i]))
    while order:
        size = max(1, TOKENS // len(ids[order[-1]]))
        batch, order = order[-size:], order[:-size]
        longest = len(ids[batch[-1]])
        tokens = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in batch], device=model.device)
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in batch], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        for row, i in enumerate(batch):
            span = slice(heads[i] - 1, len(ids[i]) - 1)
            wanted = tokens[row, 1:][span, None]
            found[i] = logits[row, span].float().log_softmax(-1).gather(1, wanted).double().sum().item()
    return found


def margins(run: Path, pairs: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(how far training has moved the log-probability of each chosen answer, and of each rejected one), in nats."""
    quiet_libraries()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, adapter = read_yaml(run / "run.yaml", "the run's configuration, from `make train`"), run / "adapter"
    if not (adapter / "config.json").exists() and not (adapter / "adapter_config.json").exists():
        raise UserError(f"{adapter}: holds neither an adapter nor a model; run `make train` first")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = dict(dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    texts = [(pair["prompt"], pair[column]) for column in ("chosen", "rejected") for pair in pairs]
    base = AutoModelForCausalLM.from_pretrained(config["base_model"], **load).to(device).eval()
    before = log_probabilities(base, tokenizer, texts)
    if (adapter / "adapter_config.json").exists():
        tuned = PeftModel.from_pretrained(base, adapter).eval()
    else:
        del base
        tuned = AutoModelForCausalLM.from_pretrained(adapter, **load).to(device).eval()
    return tuple(np.split(log_probabilities(tuned, tokenizer, texts) - before, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, required=True, help="its rendered data: data/<set>/<base>")
    args = parser.parse_args()
    pairs = pairs_of(args.data / "val.jsonl")
    chosen, rejected = margins(args.run, pairs)
    margin = chosen - rejected
    right = int((margin > 0).sum())
    found = {
        "pairs": len(pairs),
        "accuracy": [right / len(pairs), *wilson(right, len(pairs))],
        "margin": [float(margin.mean()), *map(float, bootstrap(margin))],
        "chosen moved": [float(chosen.mean()), *map(float, bootstrap(chosen))],
        "rejected moved": [float(rejected.mean()), *map(float, bootstrap(rejected))],
        "unit": "nats, beta left out; 95 % intervals: Wilson for the accuracy, bootstrap over pairs for means",
        "margins": [round(float(m), 4) for m in margin],
        "chosen": [round(float(m), 4) for m in chosen],
    }
    write_json(args.run / "heldout.json", found)
    accuracy, mean = found["accuracy"], found["margin"]
    print(
        f"{args.run / 'heldout.json'}: {right} of {len(pairs)} held-out pairs ranked rightly, {accuracy[0]:.3f} [{accuracy[1]:.3f}, {accuracy[2]:.3f}]; "
        f"margin {mean[0]:.2f} [{mean[1]:.2f}, {mean[2]:.2f}] nats"
    )


if __name__ == "__main__":
    entry(main)
