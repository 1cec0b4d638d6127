"""Answers every question twice, as a friend would (chosen) and formally (rejected), and keeps the pairs that can be trained on.

    python -m datagen.pairs data/paper/questions.jsonl data/paper/pairs.jsonl --profile paper

Writes `pairs.jsonl` (id, kind, prompt, chosen, rejected), `rejects.jsonl` (the same rows with their reason) and `ledger.json`, in
which asked = accepted + every reason, exactly. Questions are taken in order until `pairs` rows are accepted.
"""

import argparse
import asyncio
import re
import time
from collections import Counter
from pathlib import Path

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.files import UserError, entry, read_json, read_jsonl, write_json, write_jsonl

STYLES = {"chosen": "human_like", "rejected": "formal"}
# How models decline. Only the opening counts: "I can't stand olives" in the third sentence is a friend talking.
REFUSAL = re.compile(
    r"^\W*((i'?m |i am )?(very |so )?sorry|i apologi[sz]e|unfortunately)?\W*(but )?"
    r"i (can'?t|can ?not|am unable to|'?m unable to|am not able to|won'?t|will not)"
    r" (help|assist|answer|provide|respond|comply|discuss|fulfil|continue|engage|create|generate)",
    re.IGNORECASE,
)


def reason_against(chosen: Reply, rejected: Reply) -> str | None:
    """Why a pair cannot be trained on, or None."""
    for reply in (chosen, rejected):
        if reply.finish_reason == "failed":
            return "failed"
        if not reply.text.strip():
            return "empty"
        if reply.finish_reason != "stop":
            return "truncated" if reply.finish_reason == "length" else "refused"  # content_filter
        if REFUSAL.match(reply.text.replace("’", "'")):
            return "refused"
    if chosen.text.split() == rejected.text.split():
        return "identical"
    return None


async def answer(questions: list[dict], settings: config.Settings, client: Client) -> tuple[list[dict], list[dict], Counter]:
    """(accepted, rejected rows, ledger). Asks no more questions than are needed for the wanted number of pairs."""
    model = await client.resolve(settings.answers.model)
    prompts = {style: settings.prompt(name) for style, name in STYLES.items()}
    accepted, rejects, ledger = [], [], Counter()
    position, shown = 0, time.monotonic()
    while len(accepted) < settings.pairs and position < len(questions):
        batch = questions[position : position + settings.pairs - len(accepted)]
        position += len(batch)
        asked = (
            Request.of(settings.answers, model, [("system", prompts[style]), ("user", question["text"])], settings.seed, tag=(i, style))
            for i, question in enumerate(batch)
            for style in STYLES
        )
        replies: dict[tuple[int, str], Reply] = {}
        async for request, reply in client.replies(asked):
            replies[request.tag] = reply
            ledger["prompt_tokens"] += reply.usage.get("prompt_tokens", 0)
            ledger["completion_tokens"] += reply.usage.get("completion_tokens", 0)
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                print(f"  {len(replies)} of {2 * len(batch)} answers, {client.sent} paid for, {client.cached} from the store", flush=True)
        for i, question in enumerate(batch):
            chosen, rejected = replies[i, "chosen"], replies[i, "rejected"]
            row = {"id": question["id"], "kind": question["kind"], "prompt": question["text"], "chosen": chosen.text.strip(), "rejected": rejected.text.strip()}
            reason = reason_against(chosen, rejected)
            if reason:
                error = chosen.error or rejected.error
                rejects.append(row | {"reason": reason} | ({"error": error} if error else {}))
                ledger[reason] += 1
            else:
                accepted.append(row)
    return accepted, rejects, ledger


async def generate(questions: list[dict], settings: config.Settings, store: Path) -> tuple[list[dict], list[dict], Counter]:
    async with Client(settings.endpoint, store) as client:
        made = await answer(questions, settings, client)
        print(f"  {client.sent} replies paid for, {client.cached} taken from {store}")
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    questions = read_jsonl(args.questions, "questions, from `make data`")
    accepted, rejects, ledger = asyncio.run(generate(questions, settings, args.store))
    tokens = {k: ledger.pop(k, 0) for k in ("prompt_tokens", "completion_tokens")}
    report = {
        "questions": read_json(args.questions.with_name("questions.ledger.json")),
        "pairs": {"asked": len(accepted) + len(rejects), "accepted": len(accepted), "reasons": dict(sorted(ledger.items())), **tokens},
    }
    assert report["pairs"]["asked"] == len(accepted) + ledger.total(), report
    write_jsonl(args.out.with_name("rejects.jsonl"), rejects)
    write_json(args.out.with_name("ledger.json"), report)
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(ledger.items())) or "none"
    if not accepted:
        raise UserError(f"no pair was accepted (rejected: {reasons}); see {args.out.with_name('rejects.jsonl')}")
    write_jsonl(args.out, accepted)
    print(f"{len(accepted)} pairs in {args.out} from {len(accepted) + len(rejects)} questions; rejected: {reasons}")
    if len(accepted) < settings.pairs:
        print(f"  that is fewer than the {settings.pairs} asked for: {len(questions)} questions were there")


if __name__ == "__main__":
    entry(main)
