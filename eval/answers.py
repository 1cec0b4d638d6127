"""Base and tuned model answer the same held-out questions: same template, sampling and seeds, through the same kind of endpoint.

    python -m eval.answers data/tiny/tiny/heldout.jsonl out/tiny            # OPENAI_BASE_URL and TUNED_BASE_URL are set by tiny.serve
    python -m eval.answers data/paper/llama3-8b/heldout.jsonl out/llama3-8b --base-model meta-llama/Meta-Llama-3-8B-Instruct --tuned-model tuned

Without a system prompt: what is measured is how the model answers by itself. Writes `answers.jsonl`: id, kind, messages, base, tuned.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.files import UserError, entry, read_jsonl, sha256, write_json, write_jsonl


async def answer(rows: list[dict], settings: config.Settings, url: str, model: str, revision: str, store: Path) -> tuple[str, list[Reply]]:
    """(the model's name at its endpoint, its replies in the order of `rows`)."""
    async with Client(settings.endpoint, store, url) as client:
        model = await client.resolve(model)
        asked = (
            Request.of(settings.answers, model, [(m["role"], m["content"]) for m in row["messages"]], settings.seed, revision=revision, tag=i)
            for i, row in enumerate(rows)
        )
        replies = {request.tag: reply async for request, reply in client.replies(asked)}
    print(f"{model}: {len(replies)} answers, {client.sent} new and {client.cached} from {store}")
    return model, [replies[i] for i in range(len(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--base-model", default="auto", help="name at the endpoint OPENAI_BASE_URL; auto: the one it lists")
    parser.add_argument("--tuned-model", default="auto", help="name at the endpoint TUNED_BASE_URL (default: the same endpoint)")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    rows = read_jsonl(args.heldout, "held-out questions, from `make format`")
    base_url = settings.endpoint.url
    tuned_url = os.environ.get("TUNED_BASE_URL") or base_url
    if base_url == tuned_url and args.base_model == args.tuned_model:
        raise UserError(f"base and tuned would be the same model {args.base_model!r} at one endpoint; set TUNED_BASE_URL, or BASE_MODEL and TUNED_MODEL")
    adapter = args.run / "adapter" / "adapter_model.safetensors"
    # A tuned model is often served under one name however often it is retrained: its weights tell its replies apart.
    revision = sha256(adapter.read_bytes())[:16] if adapter.exists() else ""
    base_name, base = asyncio.run(answer(rows, settings, base_url, args.base_model, "", args.store))
    tuned_name, tuned = asyncio.run(answer(rows, settings, tuned_url, args.tuned_model, revision, args.store))

    answers, left_out = [], 0
    for row, b, t in zip(rows, base, tuned, strict=True):
        if "failed" in (b.finish_reason, t.finish_reason) or not b.text.strip() or not t.text.strip():
            left_out += 1
            print(f"  left out {row['id']}: {b.error or t.error or 'an empty answer'}", file=sys.stderr)
            continue
        answers.append({k: row[k] for k in ("id", "kind", "messages")} | {"base": b.text.strip(), "tuned": t.text.strip(), "finish": [b.finish_reason, t.finish_reason]})
    if not answers:
        raise UserError(f"none of the {len(rows)} questions was answered by both models")
    meta = {
        "base": base_name,
        "tuned": tuned_name,
        "questions": len(rows),
        "answered by both": len(answers),
        "sampling": settings.answers.model_dump(exclude={"model"}) | {"seed": settings.seed},
        "system prompt": None,
        "heldout_sha256": sha256(args.heldout.read_bytes()),
    }
    write_json(args.run / "answers.meta.json", meta)
    write_jsonl(args.run / "answers.jsonl", answers)
    cut = sum("length" in row["finish"] for row in answers)
    print(f"{len(answers)} pairs of answers in {args.run / 'answers.jsonl'}; {left_out} left out, {cut} cut off at max_tokens")


if __name__ == "__main__":
    entry(main)
