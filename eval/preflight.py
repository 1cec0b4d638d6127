"""Checks in seconds what would otherwise end an evaluation after hours. Run by .venv-eval's Python; `make eval` calls it.

    .venv-eval/bin/python -m eval.preflight out/tiny/leaderboard/5f0c…/settings.json …

Every fault is named at once, each with what to do: versions, IFEval's sentence data, chat templates, whether weights and adapter fit together (by names
and shapes, without reading them), access to GPQA, the server's log-probabilities, room on the disk.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from datagen.files import UserError, entry, quiet_libraries, read_json

GPQA, GIGABYTE = "Idavidrein/gpqa", 1 << 30
# lm-eval logs every prompt of every option: about 1 GB for the whole leaderboard (prompts of ~6 kB, 147,000 options), and its cache a third of that.
ROOM = {"whole": 2 * GIGABYTE, "part": GIGABYTE // 4}
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def pinned(requirements: Path) -> Iterator[str]:
    """Packages whose installed version is not the pinned one."""
    for line in requirements.read_text().splitlines():
        name, _, version = line.partition("==")
        if line.startswith("#") or not version:
            continue
        name = name.partition("[")[0]
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            why = "; with another antlr the paper's MATH column is silently 0" if "antlr" in name else ""
            yield f"{name} is {found} in this environment, {requirements} pins {version}{why}; remove .venv-eval, and `make eval` makes it again"


def sentences() -> Iterator[str]:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        yield "nltk has no punkt_tab, without which IFEval ends after all its answers are written; remove .venv-eval, and `make eval` makes it again"


def tokenizer_faults(name: str) -> Iterator[str]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        yield f"{name}: its tokenizer does not load ({first_line(error)})"
        return
    if not tokenizer.chat_template:
        yield f"{name}: its tokenizer has no chat template; an instruct model is needed"
        return
    try:
        tokenizer.apply_chat_template(SYSTEM, tokenize=False)
    except Exception:
        # lm-eval then leaves the task's description out: for base and tuned alike, as both use this template.
        print(f"  note  {name}: its template takes no system message, so BBH is asked without the descriptions of its tasks", flush=True)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all tensors in the folder's safetensors files; only their heads are read."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def weight_faults(settings: dict) -> Iterator[str]:
    """Whether weights of this machine are all there, and an adapter belongs to its base. A model of the Hub is looked up, not downloaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = settings["model_args"]["pretrained"]
    try:
        config = AutoConfig.from_pretrained(name, revision=settings["model_args"].get("revision", "main"))
    except Exception as error:
        yield f"{name}: its configuration does not load ({first_line(error)})"
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if Path(name).is_dir():
        stored, tied = shapes(Path(name)), {name for names in [model._tied_weights_keys or ()] for name in names}
        for tensor, value in model.state_dict().items():
            if tensor not in stored and tensor not in tied:
                yield f"{name}: the weight {tensor} is missing from its *.safetensors files"
                return
            if tensor in stored and stored[tensor] != tuple(value.shape):
                yield f"{name}: the weight {tensor} has the shape {list(stored[tensor])}, its config.json says {list(value.shape)}"
                return
    adapter = settings["model_args"].get("peft") or settings["model_args"].get("lora_local_path")
    if adapter:
        modules = dict(model.named_modules())
        for tensor, shape in shapes(Path(adapter)).items():
            module = tensor.removeprefix("base_model.model.").partition(".lora_")[0]
            weight = getattr(modules.get(module), "weight", None)
            side = 1 if ".lora_A." in tensor else 0
            if ".lora_" in tensor and (weight is None or shape[side] not in (weight.shape[side], weight.shape[1 - side])):
                yield f"{adapter}: {module} does not fit the base {name}; the adapter was trained on another model"
                return


def gpqa_faults() -> Iterator[str]:
    from huggingface_hub import HfApi, errors

    try:
        HfApi().auth_check(GPQA, repo_type="dataset")
    except errors.GatedRepoError:
        yield f"GPQA is gated: accept its terms at https://huggingface.co/datasets/{GPQA} and export HF_TOKEN, or give ITEMS=a folder that holds {GPQA}/"
    except Exception as error:
        from datasets import load_dataset_builder

        try:  # downloaded before, and no network now
            load_dataset_builder(GPQA, "gpqa_main")
        except Exception:
            yield f"the data set {GPQA} cannot be reached ({first_line(error)}); export HF_TOKEN, or give ITEMS=a folder that holds {GPQA}/"


def server_faults(settings: dict) -> Iterator[str]:
    """Multiple choice needs the log-probabilities of a prompt's own tokens, which chat-only servers do not give."""
    args = settings["model_args"]
    body = {"model": args["model"], "prompt": [1, 2, 3], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(args["base_url"], json.dumps(body).encode(), headers), timeout=60) as reply:
            probabilities = json.load(reply)["choices"][0]["logprobs"]["token_logprobs"]
        if len(probabilities) < 3 or not all(isinstance(p, float | int) for p in probabilities[1:3]):
            raise KeyError
    except urllib.error.HTTPError as error:
        yield f"{args['base_url']} answers {error.code} for the model {args['model']}; it must serve /v1/completions (vLLM and SGLang do)"
    except (KeyError, TypeError, ValueError, IndexError):
        yield f"{args['base_url']} gives no log-probabilities of the prompt (echo), which multiple choice needs; vLLM and SGLang do, chat-only services do not"
    except OSError as error:
        yield f"{args['base_url']} cannot be reached ({first_line(error)})"


def room_faults(settings: dict, folder: Path) -> Iterator[str]:
    needed, free = ROOM["part" if settings["limit"] or settings["items"] else "whole"], shutil.disk_usage(folder).free
    if free < needed:
        yield f"{folder}: {free / GIGABYTE:.1f} GB free, lm-eval's logs and cache need up to {needed / GIGABYTE:.1f} GB"


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def faults(settings: dict, folder: Path) -> Iterator[str]:
    """`settings` of one model, as eval.leaderboard writes them."""
    tasks, backend = settings["tasks"], settings["backend"]
    whole = any(task == "leaderboard" for task in tasks)
    yield from sentences()
    if (whole or any("gpqa" in task for task in tasks)) and not (settings["items"] and Path(settings["items"]["folder"], GPQA).is_dir()):
        yield from gpqa_faults()
    if backend == "vllm" and not importlib.util.find_spec("vllm"):
        yield "vLLM is not in .venv-eval; install it there: .venv-eval/bin/python -m pip install 'lm_eval[vllm]==0.4.11' (it brings a torch of its own)"
    yield from tokenizer_faults(settings["model_args"].get("tokenizer") or settings["model_args"]["pretrained"])
    yield from server_faults(settings) if backend == "endpoint" else weight_faults(settings)
    yield from room_faults(settings, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, nargs="+")
    args = parser.parse_args()
    found = list(pinned(Path("requirements-eval.txt")))
    if not found:
        quiet_libraries()
        for path in args.settings:
            found += [fault for fault in faults(read_json(path), path.parent) if fault not in found]
    if found:
        raise UserError("the evaluation would not come to its end: " + "; ".join(found))
    print("  ready: versions, sentence data, chat template, weights, data sets, disk")


if __name__ == "__main__":
    entry(main)
