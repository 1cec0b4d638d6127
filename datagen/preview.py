"""Shows what a run would make, for cents: a handful of questions, both answers, what the filters say of them, and what the whole would cost.

    python -m datagen.preview --profile paper
    python -m datagen.preview --profile paper --from my-questions.txt --show 10

Its replies are kept in the store: `make data` does not pay for the questions again. The questions shown are the first ones, which a run holds
out from training where `held_out` is set; then the answers to them are what the preview costs.
"""

import argparse
import asyncio
import textwrap
from pathlib import Path

from datagen import config
from datagen.client import Client
from datagen.files import UserError, entry
from datagen.meter import estimate, table
from datagen.pairs import STYLES, pair_of, requests_for
from datagen.questions import KINDS, Source, take


async def preview(settings: config.Settings, store: Path, given: list[dict] | None, show: int) -> None:
    endpoint = settings.endpoint.model_copy(update={"batch": False})
    questions, stages = given or [], []
    if not given:
        async with Client(endpoint, store, prices=settings.prices) as client:
            source = Source(settings, client)
            model = await client.resolve(settings.questions.model)
            goals = dict.fromkeys(KINDS, settings.questions.per_request)
            asked = [source.request(kind, model, 0) for kind in KINDS]
            for request, reply in sorted([pair async for pair in client.replies(asked)], key=lambda pair: pair[0].tag):
                source.read(request, reply, goals)
            questions = [question for two in zip(*[[r for r in source.collector.rows if r["kind"] == kind] for kind in KINDS], strict=False) for question in two]
            print(f"{len(source.collector.rows)} questions from {len(asked)} requests; left out: {source.collector.reasons() or 'none'}\n")
            if not questions:
                raise UserError(f"{client.where}: {model} returned no question that could be read; its replies are kept in {store}")
            wanted = settings.questions.count + settings.questions.held_out
            requests = round(wanted * len(asked) / len(source.collector.rows))
            stages.append(estimate("questions", requests, client.meter.usage[model], client.meter.latencies, client.window, settings.endpoint.batch))
    async with Client(endpoint, store, prices=settings.prices) as client:
        model = await client.resolve(settings.answers.model)
        questions = questions[:show]
        asked = [request for i, question in enumerate(questions) for request in requests_for(question, settings, model, i)]
        replies = {request.tag: reply async for request, reply in client.replies(asked)}
        good = 0
        for i, question in enumerate(questions):
            row, reason = pair_of(question, {style: replies[i, style] for style in STYLES}, settings)
            good += not reason
            print(f"[{question['kind']}] {question['text']}")
            for style in STYLES:
                text = row[style] or f"({replies[i, style].error or replies[i, style].finish_reason})"
                print(textwrap.indent(textwrap.fill(text, 130), "    ").replace("   ", "  +" if style == "chosen" else "  -", 1))
            print(f"  => {'left out: ' + reason if reason else 'accepted'}\n")
        requests = round(len(asked) * settings.pairs / max(good, 1))
        stages.append(estimate("answers", requests, client.meter.usage[model], client.meter.latencies, client.window, settings.endpoint.batch))
        seen = client.meter.sent + client.meter.cached
    print(f"{good} of {len(questions)} pairs would be accepted. What {settings.pairs:,} pairs would take:")
    print(table(stages, seen + (0 if given else len(KINDS))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--from", dest="source", help="your own questions instead of generated ones")
    parser.add_argument("--show", type=int, default=6, help="how many questions")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    given = take(Path(args.source), settings).rows if args.source else None
    asyncio.run(preview(settings, args.store, given, args.show))


if __name__ == "__main__":
    entry(main)
