"""Merges a run's adapter into its base and checks that the merged model computes what the adapter on the base does.

    python -m train.merge out/tiny

Reads base and adapter from `run.yaml`, writes `out/<run>/merged/` (weights, tokenizer, merge.json) and nothing when the check fails.
"""

import argparse
import shutil
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import UserError, entry, quiet_libraries, read_jsonl, write_json

PROMPTS = 4  # held-out prompts on which logits are compared
# Largest difference between the two, relative to the spread of the logits. Rounding alone gives 1e-6 in fp32; in bf16 (8 bits of mantissa)
# the merged weights are rounded once more, which costs up to a few per cent of a logit.
TOLERANCE = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 1e-2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, required=True, help="its data folder, for prompts to compare on")
    args = parser.parse_args()
    config = read_yaml(args.run / "run.yaml", "the run's configuration, from `make train`")
    adapter = args.run / "adapter"
    if not (adapter / "adapter_config.json").exists():
        raise UserError(f"{adapter}: holds no adapter; run `make train` first")

    quiet_libraries()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32  # bf16 is emulated, and slow, on many CPUs
    # The base is loaded unquantised: an adapter trained on an 8-bit base is merged into the weights that the 8 bits stand for.
    base = AutoModelForCausalLM.from_pretrained(config["base_model"], dtype=dtype).to(device)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(base, adapter).eval()
    rows = read_jsonl(args.data / "val.jsonl", "rendered held-out rows")[:PROMPTS]
    inputs = [tokenizer(row["prompt"] + row["chosen"], return_tensors="pt").to(device) for row in rows]

    with torch.no_grad():
        before = [model(**batch).logits.float() for batch in inputs]
        with model.disable_adapter():
            unchanged = [model(**batch).logits.float() for batch in inputs]
        merged = model.merge_and_unload()
        after = [merged(**batch).logits.float() for batch in inputs]
    difference = max(((a - b).abs().max() / b.std()).item() for a, b in zip(after, before, strict=True))
    moved = max(((u - b).abs().max() / b.std()).item() for u, b in zip(unchanged, before, strict=True))
    limit = TOLERANCE[str(dtype)]
    if not difference <= limit:
        raise UserError(f"{args.run}: merged and adapter-on-base logits differ by {difference:.2g} of their spread (limit {limit}); nothing was written")
    if moved <= limit:
        raise UserError(f"{args.run}: the adapter changes no logit by more than {moved:.2g} of their spread; it has not learnt anything, and there is nothing to merge")

    partial = args.run / "merged.partial"
    shutil.rmtree(partial, ignore_errors=True)
    merged.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    check = {"prompts": len(rows), "largest relative logit difference": difference, "limit": limit, "adapter moves logits by": moved, "dtype": str(dtype)}
    write_json(partial / "merge.json", check)
    shutil.rmtree(args.run / "merged", ignore_errors=True)
    partial.rename(args.run / "merged")
    print(f"{args.run / 'merged'}: logits agree with adapter on base to {difference:.1e} (limit {limit}, the adapter moves them by {moved:.2f}), {len(rows)} prompts")


if __name__ == "__main__":
    entry(main)
