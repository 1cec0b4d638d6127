"""Merges a run's adapter into its base and checks that the merged model computes what the adapter on the base does.

    python -m train.merge out/tiny --data data/tiny/tiny

Reads base and adapter from `run.yaml`, writes `out/<run>/merged/` (weights, the base's own tokenizer files, merge.json) and nothing when the check
fails. Once it has passed, `adapter/base.json` says which base that was: name, revision, hashes. From then on, another base is refused here and when
the model is chatted with or published. The result of a full fine-tuning has nothing to merge; it is checked and written in the same way.
"""

import argparse
import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import UserError, canonical, entry, quiet_libraries, read_json, read_jsonl, read_text, sha256, write_json

PROMPTS = 4  # held-out prompts on which logits are compared
# Largest difference between the two, relative to the spread of the logits. Rounding alone gives 1e-6 in fp32; in bf16 (8 bits of mantissa)
# the merged weights are rounded once more, which costs up to a few per cent of a logit.
TOLERANCE = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 1e-2}
# What makes text into tokens. A merged model carries the base's own files, byte for byte. Those that Axolotl leaves beside an adapter differ: the pad token of
# `special_tokens` is written into them (Llama 3 and Mistral Nemo have none of their own), and flags of the machine that loaded them (`is_local`).
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
GENERATION = "generation_config.json"  # where a model stops, such as at Llama 3's two ends of a turn
IDENTITY = ("weights_sha256", "tokenizer_sha256", "chat_template_sha256")


# ---------------------------------------------------------------- which base it is


def file_sha256(path: Path) -> str:
    """Read in pieces: a shard can be larger than memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def file_hashes(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(files)}


def one_hash(hashes: dict[str, str]) -> str:
    """The hash of a single file, or the one over the names and hashes of several."""
    return next(iter(hashes.values())) if len(hashes) == 1 else sha256(canonical(hashes))


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads; a second copy of the weights, such as Mistral's consolidated.safetensors, is none of them."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in TOKENIZER if (folder / name).exists()]


def chat_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    text = read_text(path, "a chat template") if path.exists() else read_json(folder / "tokenizer_config.json").get("chat_template") or ""
    return text if isinstance(text, str) else canonical(text)  # several named templates


def base_folder(config: dict, revision: str | None, download: bool = False) -> Path | None:
    """The folder of the base's files: the one that the configuration names, or its snapshot in the Hub's cache. None when it is not on this machine."""
    name = config["base_model"]
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import errors, snapshot_download

    patterns = ["model*.safetensors", "model.safetensors.index.json", "config.json", GENERATION, *TOKENIZER, "LICENSE*", "USE_POLICY*", "NOTICE*"]
    try:  # the snapshot of the training first: the Hub may have a newer one by now
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if weight_files(folder) or not download:
            return folder if weight_files(folder) else None
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        if not download:
            return None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"the base {name} is not on this machine and cannot be fetched ({str(error).splitlines()[0][:200]})") from None


def identify(folder: Path, config: dict) -> dict:
    """What base.json holds. Raises UserError for a folder without weights."""
    weights = file_hashes(weight_files(folder))
    if not weights:
        raise UserError(f"{folder}: holds no weights (model*.safetensors)")
    settings = read_json(folder / "config.json")
    return {
        "base_model": config["base_model"],
        "revision": None if Path(config["base_model"]).is_dir() else folder.name,  # the Hub's cache names a snapshot by its commit
        "dtype": settings.get("dtype") or settings.get("torch_dtype") or "not recorded",
        "weights": weights,
        "weights_sha256": one_hash(weights),
        "tokenizer_sha256": one_hash(file_hashes(tokenizer_files(folder))),
        "chat_template_sha256": sha256(chat_template(folder)),
    }


def check_base(run: Path, config: dict, download: bool = False) -> tuple[Path | None, dict]:
    """(folder of the base or None when it is not here, what base.json holds or shall hold). Raises UserError when the base is not the one that
    the adapter was trained on, as far as base.json, or before there is one the head of run.yaml, says."""
    path = run / "adapter" / "base.json"
    known = read_json(path) if path.exists() else None
    if known and known["base_model"] != config["base_model"]:
        raise UserError(f"{run}: the adapter was trained on {known['base_model']}, and run.yaml names {config['base_model']}; run `make train`")
    folder = base_folder(config, known["revision"] if known else config.get("revision_of_model"), download)
    if folder is None:
        if not known:
            raise UserError(f"{path}: there is no such file, and the base {config['base_model']} is not on this machine; `make merge` writes it")
        return None, known
    found = identify(folder, config)
    recorded = re.search(r"^# base: .* sha256 ([0-9a-f]{64})$", read_text(run / "run.yaml", "the run's configuration"), re.MULTILINE)
    wanted = known or ({"weights_sha256": recorded[1]} if recorded else {})
    for key in IDENTITY:
        if key in wanted and wanted[key] != found[key]:
            what = key.removesuffix("_sha256").replace("_", " ")
            raise UserError(
                f"{run}: the adapter was trained on another base: {what} {wanted[key][:12]}, and {folder} now has {found[key][:12]}; "
                "bring that base back, or train on this one with `make train`"
            )
    return folder, known or found


def trained_files(run: Path) -> list[Path]:
    """What the training wrote: the adapter's weights, or all of them after a full fine-tuning; empty where nothing was trained here."""
    adapter = run / "adapter" / "adapter_model.safetensors"
    return [adapter] if adapter.exists() else weight_files(run / "adapter")


def tuned_revision(run: Path) -> str:
    """Tells the replies of a tuned model apart that is served under one name however often it is retrained; "" where nothing was trained here."""
    return trained_hash(run)[:16] if trained_files(run) else ""


def trained_hash(run: Path) -> str:
    """The hash of `trained_files`."""
    files = trained_files(run)
    if not files:
        raise UserError(f"{run / 'adapter'}: holds no adapter; run `make train` first")
    return one_hash(file_hashes(files))


def merged_folder(run: Path) -> Path:
    """The run's merged model. Raises UserError when there is none, or when it was merged from another adapter or base than those that lie there."""
    merged, base = run / "merged", run / "adapter" / "base.json"
    if not (merged / "merge.json").exists():
        raise UserError(f"{merged}: there is no merged model; run `make merge` first")
    check = read_json(merged / "merge.json")
    if not base.exists() or check.get("base_sha256") != read_json(base)["weights_sha256"] or check.get("trained_sha256") != trained_hash(run):
        raise UserError(f"{merged}: was merged from another adapter or base than those of {run / 'adapter'}; run `make merge` again")
    return merged


# ---------------------------------------------------------------- merging


def tokenizer_differences(trained, own, texts: list[str]) -> list[str]:
    """In what the tokenizer of the training differs from the base's own, pad token aside: that one is never seen by the loss."""
    pairs = {
        "vocabulary": (trained.get_vocab(), own.get_vocab()),
        "chat template": (trained.chat_template, own.chat_template),
        "first token": (trained.bos_token, own.bos_token),
        "end token": (trained.eos_token, own.eos_token),
        "splitting": (trained(texts)["input_ids"], own(texts)["input_ids"]),
    }
    return [name for name, (a, b) in pairs.items() if a != b]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, required=True, help="its data folder, for prompts to compare on")
    args = parser.parse_args()
    config = read_yaml(args.run / "run.yaml", "the run's configuration, from `make train`")
    adapter, lora = args.run / "adapter", bool(config.get("adapter"))
    if not (adapter / "adapter_config.json").exists() and (lora or not weight_files(adapter)):
        raise UserError(f"{adapter}: holds no adapter; run `make train` first")
    folder, identity = check_base(args.run, config, download=True)
    rendered = read_json(args.data / "stats.json").get("chat_template_sha256") if (args.data / "stats.json").exists() else None
    if rendered not in (None, identity["chat_template_sha256"]):
        raise UserError(f"{args.data}: was rendered with another chat template than that of {folder}; run `make format` and `make train`")
    # under KTO a row is one answer with a label
    texts = [row["prompt"] + row.get("chosen", row.get("completion", "")) for row in read_jsonl(args.data / "val.jsonl", "rendered held-out rows")[:PROMPTS]]

    quiet_libraries()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32  # bf16 is emulated, and slow, on many CPUs
    own, trained = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(adapter)
    if different := tokenizer_differences(trained, own, texts):
        raise UserError(
            f"{adapter}: its tokenizer differs from the base's in {', '.join(different)}, and a merged model carries the base's; use tokens that the base has"
        )

    def load(path: Path):
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()

    @torch.no_grad()
    def logits(model) -> list:
        return [model(**own(text, return_tensors="pt").to(device)).logits.float().cpu() for text in texts]

    # The base is loaded unquantised: an adapter trained on an 8-bit base is merged into the weights that the 8 bits stand for.
    merged = load(folder)
    unchanged = logits(merged)
    if lora:
        model = PeftModel.from_pretrained(merged, adapter).eval()
        before = logits(model)
        merged = model.merge_and_unload()
        del model
    else:
        settings, merged = merged.config, load(adapter)
        merged.config = settings  # the trainer's copy has its own pad token and no cache
        before = logits(merged)

    partial = args.run / "merged.partial"
    shutil.rmtree(partial, ignore_errors=True)
    merged.save_pretrained(partial)
    del merged  # the files are checked, not what memory holds; there may not be room for both
    for path in [*tokenizer_files(folder), folder / GENERATION]:
        if path.exists():
            shutil.copyfile(path, partial / path.name)
    assert one_hash(file_hashes(tokenizer_files(partial))) == identity["tokenizer_sha256"]
    after = logits(load(partial))

    difference = max(((a - b).abs().max() / b.std()).item() for a, b in zip(after, before, strict=True))
    moved = max(((u - b).abs().max() / b.std()).item() for u, b in zip(unchanged, before, strict=True))
    limit = TOLERANCE[str(dtype)]
    if not difference <= limit:
        shutil.rmtree(partial)
        raise UserError(f"{args.run}: merged and adapter-on-base logits differ by {difference:.2g} of their spread (limit {limit}); nothing was written")
    if moved <= limit:
        shutil.rmtree(partial)
        raise UserError(f"{args.run}: the adapter changes no logit by more than {moved:.2g} of their spread; it has not learnt anything, and there is nothing to merge")

    if not (adapter / "base.json").exists():
        write_json(adapter / "base.json", identity)
    check = {
        "prompts": len(texts),
        "largest relative logit difference": difference,
        "limit": limit,
        "adapter moves logits by": moved,
        "dtype": str(dtype),
        "base_sha256": identity["weights_sha256"],
        "trained_sha256": trained_hash(args.run),
        "tokenizer": "the base's own files, byte for byte",
        "pad token": {"in training": trained.pad_token, "of the base": own.pad_token},
    }
    write_json(partial / "merge.json", check)
    shutil.rmtree(args.run / "merged", ignore_errors=True)
    partial.rename(args.run / "merged")
    print(f"{args.run / 'merged'}: logits agree with adapter on base to {difference:.1e} (limit {limit}, the adapter moves them by {moved:.2f}), {len(texts)} prompts")


if __name__ == "__main__":
    entry(main)
