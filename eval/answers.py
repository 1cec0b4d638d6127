"""Base and tuned model answer the same held-out questions: same template, sampling and seeds, through the same engine.

    python -m eval.answers data/tiny/tiny/heldout.jsonl out/tiny            # OPENAI_BASE_URL and TUNED_BASE_URL are set by tiny.serve
    python -m eval.answers data/paper/llama3-8b/heldout.jsonl out/llama3-8b --base-model meta-llama/Meta-Llama-3-8B-Instruct --tuned-model tuned
    python -m eval.answers data/paper/llama3-8b/heldout.jsonl out/llama3-8b --engine vllm          # or transformers: no server needed

Engines: `endpoint` asks servers that run already; `vllm` starts one (`eval/serve.py`); `transformers` loads the models here (`eval/local.py`). Every
reply is in the store before anything else is done with it, so the same command goes on after an interruption of any kind.

Without a system prompt: what is measured is how the model answers by itself. Writes `answers.jsonl` (id, kind, messages, base, tuned, finish) and
`answers.meta.json`. `--limit N` asks the N questions with the smallest hashes, for a cheap look, and writes `answers-first-N.jsonl` instead; their
replies count for the whole set later.
"""

import argparse
import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.files import UserError, entry, read_jsonl, sha256, write_json, write_jsonl
from train.merge import tuned_revision


@dataclass
class Answers:
    base_name: str
    base: list[Reply]  # in the order of the questions
    tuned_name: str
    tuned: list[Reply]
    facts: dict  # for answers.meta.json: what else the answers depend on


def requests(rows: list[dict], settings: config.Settings, model: str, revision: str) -> list[Request]:
    chats = ([(m["role"], m["content"]) for m in row["messages"]] for row in rows)
    return [Request.of(settings.answers, model, chat, settings.seed, revision=revision, tag=i) for i, chat in enumerate(chats)]


# ---------------------------------------------------------------- engines


async def ask(rows: list[dict], settings: config.Settings, url: str, model: str, revision: str, store: Path) -> tuple[str, list[Reply]]:
    """(the model's name at its endpoint, its replies in the order of `rows`)."""
    async with Client(settings.endpoint, store, url, prices=settings.prices) as client:
        model, replies = await client.resolve(model), {}
        async for request, reply in client.replies(requests(rows, settings, model, revision)):
            replies[request.tag] = reply
            client.meter.progress("answers", len(replies), len(rows), len(client.running))
        client.meter.progress("answers", len(replies), len(rows), 0, final=True)
    print(f"{model}: {len(replies)} answers, {client.sent} new and {client.cached} from {store}")
    return model, [replies[i] for i in range(len(rows))]


def by_endpoint(args: argparse.Namespace, settings: config.Settings, rows: list[dict], urls: tuple[str, str], names: tuple[str, str]) -> Answers:
    if urls[0] == urls[1] and names[0] == names[1]:
        raise UserError(f"base and tuned would be the same model {names[0]!r} at one endpoint; set TUNED_BASE_URL, or BASE_MODEL and TUNED_MODEL")
    base = asyncio.run(ask(rows, settings, urls[0], names[0], "", args.store))
    tuned = asyncio.run(ask(rows, settings, urls[1], names[1], tuned_revision(args.run), args.store))
    return Answers(*base, *tuned, {})


def endpoint(args: argparse.Namespace, settings: config.Settings, rows: list[dict]) -> Answers:
    url = settings.endpoint.url
    return by_endpoint(args, settings, rows, (url, os.environ.get("TUNED_BASE_URL") or url), (args.base_model, args.tuned_model))


def vllm(args: argparse.Namespace, settings: config.Settings, rows: list[dict]) -> Answers:
    from eval.serve import served

    with served(args.run) as here:
        names = here.models.base_name, here.models.tuned_name
        answers = by_endpoint(args, settings, rows, (here.servers[0].url, here.servers[-1].url), names)
    answers.facts = {"versions": {"vllm": here.version}, "weights_sha256": here.models.hashes}
    return answers


def transformers(args: argparse.Namespace, settings: config.Settings, rows: list[dict]) -> Answers:
    from eval.local import Local

    local = Local(args.run, args.store, args.batch)
    base, tuned = (local.replies(who, requests(rows, settings, local.name(who), local.revision)) for who in ("base", "tuned"))
    local.close()
    return Answers(local.name("base"), base, local.name("tuned"), tuned, local.facts())


ENGINES = {"endpoint": endpoint, "vllm": vllm, "transformers": transformers}


# ---------------------------------------------------------------- the comparison's input


def first(rows: list[dict], limit: int) -> list[dict]:
    """The `limit` rows with the smallest hashes of their ids, in the order in which they stand: a sample that grows with `limit`."""
    chosen = {row["id"] for row in sorted(rows, key=lambda row: sha256(row["id"]))[:limit]}
    return [row for row in rows if row["id"] in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--engine", choices=ENGINES, default="endpoint", help="what answers (default: endpoint)")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--base-model", default=os.environ.get("BASE_MODEL") or "auto", help="endpoint: name at OPENAI_BASE_URL; auto: the one it lists")
    parser.add_argument("--tuned-model", default=os.environ.get("TUNED_MODEL") or "auto", help="endpoint: name at TUNED_BASE_URL (default: the same endpoint)")
    parser.add_argument("--batch", type=int, help="transformers: conversations at a time (default: 16 on a GPU, 8 on a CPU)")
    parser.add_argument("--limit", type=int, help="only so many questions")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    for name in ("batch", "limit"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: expected a number from 1 on")
    settings = config.load(args.profile)
    rows = read_jsonl(args.heldout, "held-out questions, from `make format`")
    if args.limit:
        rows = first(rows, args.limit)
    made = ENGINES[args.engine](args, settings, rows)

    answers, left_out = [], 0
    for row, b, t in zip(rows, made.base, made.tuned, strict=True):
        if "failed" in (b.finish_reason, t.finish_reason) or not b.text.strip() or not t.text.strip():
            left_out += 1
            print(f"  left out {row['id']}: {b.error or t.error or 'an empty answer'}", file=sys.stderr)
            continue
        answers.append({k: row[k] for k in ("id", "kind", "messages")} | {"base": b.text.strip(), "tuned": t.text.strip(), "finish": [b.finish_reason, t.finish_reason]})
    if not answers:
        raise UserError(f"none of the {len(rows)} questions was answered by both models")
    meta = {
        "base": made.base_name,
        "tuned": made.tuned_name,
        "engine": args.engine,
        "questions": len(rows),
        "answered by both": len(answers),
        "sampling": settings.answers.model_dump(exclude={"model"}) | {"seed": settings.seed},
        "system prompt": None,
        "heldout_sha256": sha256(args.heldout.read_bytes()),
    } | made.facts  # fmt: skip
    stem = f"answers-first-{args.limit}" if args.limit else "answers"
    write_json(args.run / f"{stem}.meta.json", meta)
    write_jsonl(args.run / f"{stem}.jsonl", answers)
    cut = sum("length" in row["finish"] for row in answers)
    print(f"{len(answers)} pairs of answers in {args.run / f'{stem}.jsonl'}; {left_out} left out, {cut} cut off at max_tokens")


if __name__ == "__main__":
    entry(main)
