"""Makes role-played dialogues: every persona of the config with every goal, once for each seed, as many at a time as the endpoints bear.

    python -m datagen.roleplay.run --profile tiny                          # data/roleplay/tiny/; `make roleplay PROFILE=tiny`
    python -m datagen.roleplay.run --config mine.yaml --store data/responses

A finished dialogue is one line of `dialogues.jsonl` at once; when all are done, the file is sorted into the order of the plan and `done` is written. After
an interruption of any kind the same command goes on: finished dialogues are kept, and the replies of unfinished ones come from the store. Dialogues that
ended because no reply came are tried again. Where settings, a prompt, a persona or a goal have changed, the dialogues they shaped are made anew; again the
store answers what it can. BUDGET_USD caps both endpoints together.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from datagen.client import Client, Reply, Request
from datagen.files import UserError, atomic, entry, write_json
from datagen.meter import EVERY, money
from datagen.roleplay import dialogue as play
from datagen.roleplay.record import END_REASONS, Dialogue, dialogue_id, line, read
from datagen.roleplay.settings import PATH, Address, Settings, load

OUT = Path("data/roleplay")


class Clients:
    """One client for each endpoint and key: parts played at one endpoint share what it bears, and all share the budget."""

    def __init__(self, settings: Settings, store: Path):
        self.settings, self.store, self.clients, self.stack = settings, store, {}, contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Clients":
        await self.stack.__aenter__()
        return self

    async def __aexit__(self, *error) -> None:
        for client in self.clients.values():
            await client.settle()
        await self.stack.__aexit__(*error)

    async def voice(self, part: str, address: Address) -> play.Voice:
        url = address.url(part)
        if (url, address.api_key_env) not in self.clients:
            client = Client(self.settings.client(address), self.store, url, prices=self.settings.prices)
            self.clients[url, address.api_key_env] = await self.stack.enter_async_context(client)
            everyone = list(self.clients.values())
            for one in everyone:
                one.share_budget([other for other in everyone if other is not one])
        client = self.clients[url, address.api_key_env]
        return play.Voice(client, await client.resolve(address.model), address)

    def usage(self) -> dict:
        """Usage per endpoint and model."""
        return {client.where: client.meter.as_json() for client in self.clients.values()}

    def line(self, done: int, wanted: int, started: float) -> str:
        meters = [client.meter for client in self.clients.values()]
        sent, cached = sum(m.sent for m in meters), sum(m.cached for m in meters)
        usd = None if any(m.usd is None for m in meters) else sum((m.usd for m in meters), Decimal(0))
        parts = [f"{done:,} of {wanted:,} dialogues", f"{sent:,} replies paid for, {cached:,} from the store", f"{sum(m.tokens for m in meters):,} tokens"]
        if usd or meters[0].cap is not None:
            parts.append(money(usd) + (f", cap {money(meters[0].cap)}" if meters[0].cap is not None else ""))
        if done < wanted:
            flying = sum(len(client.running) for client in self.clients.values())
            parts.append(f"{sent / max(time.monotonic() - started, 1e-9):.1f}/s, {flying} in flight")
        return "  " + "; ".join(parts)


def count_again(cast: play.Cast, kept: list[Dialogue]) -> None:
    """Dialogues of an earlier run cost what they cost: the budget is that of the data set."""
    for dialogue in kept:
        said = [(cast.inquirer, attempt) for turn in dialogue.turns for attempt in turn.attempts] + [(cast.responder, response) for response in dialogue.responses]
        for voice, reply in said:
            voice.client.meter.count(Request(voice.model, (("user", ""),), 0, 1, 1), Reply(reply.raw, reply.finish, reply.usage), cached=True)
        if cast.guard and dialogue.guard:
            cast.guard.client.meter.count(Request(cast.guard.model, (("user", ""),), 0, 1, 1), Reply("", "stop", dialogue.guard.usage), cached=True)


async def make(settings: Settings, store: Path, folder: Path) -> tuple[list[Dialogue], dict]:
    """(dialogues in the order of the plan, usage). Appends each to `dialogues.jsonl` as it ends."""
    plan, tones = settings.plan()
    path, shapes = folder / "dialogues.jsonl", {category: settings.shape(tones[category]) for category in {goal.category for _, goal, _ in plan}}
    wanted = {dialogue_id(persona, goal, seed): (persona, goal, seed) for persona, goal, seed in plan}
    async with Clients(settings, store) as clients:
        inquirer = await clients.voice("inquirer", settings.inquirer)
        responder = await clients.voice("responder", settings.responder)
        guard = await clients.voice("guard", settings.guard) if settings.guard else None
        cast = play.Cast(settings, tones, inquirer, responder, guard, versions())

        earlier = read(path, unfinished=True) if path.exists() else []
        finished = {
            dialogue.id: dialogue
            for dialogue in earlier
            if dialogue.settings == shapes.get(dialogue.goal.category)
            and (dialogue.inquirer.model, dialogue.responder.model) == (inquirer.model, responder.model)
            and (dialogue.persona, dialogue.goal, dialogue.seed) == wanted.get(dialogue.id)
            and dialogue.end_reason != "api_error"
        }
        if other := len(earlier) - len(finished):
            print(f"{path}: {other} of {len(earlier)} dialogues are of other settings, or ended without a reply; what is wanted of them is made anew")
        count_again(cast, list(finished.values()))
        # Rewritten once: a half-written last line would spoil the next one.
        with atomic(path) as file:
            file.writelines(map(line, finished.values()))

        missing = iter([key for key in wanted if key not in finished])
        started = shown = time.monotonic()
        with open(path, "a", encoding="utf-8") as file:

            async def work() -> None:
                nonlocal shown
                for key in missing:
                    made = await play.converse(*wanted[key], cast)
                    finished[key] = made
                    file.write(line(made))
                    file.flush()
                    if time.monotonic() - shown >= EVERY:
                        shown = time.monotonic()
                        print(clients.line(len(finished), len(wanted), started), file=sys.stderr, flush=True)

            workers = [asyncio.create_task(work()) for _ in range(min(settings.endpoint.concurrency, len(wanted) - len(finished)))]
            try:
                await asyncio.gather(*workers)
            finally:  # after an error or Ctrl-C: no dialogue goes on; what is being answered is paid for, and stored (Clients.__aexit__)
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        print(clients.line(len(wanted), len(wanted), started), file=sys.stderr)
        return [finished[key] for key in wanted], clients.usage()


def versions() -> dict[str, str]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {"commit": commit or "not a git checkout", "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=PATH)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all sets of dialogues (default: data/roleplay)")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    settings = load(args.config, args.profile)
    folder = args.out / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        (folder / "done").unlink(missing_ok=True)
        dialogues, usage = asyncio.run(make(settings, args.store, folder))
        with atomic(folder / "dialogues.jsonl") as file:
            file.writelines(map(line, dialogues))
        ends = Counter(dialogue.end_reason for dialogue in dialogues)
        summary = {"dialogues": len(dialogues), "ended": {reason: ends[reason] for reason in END_REASONS if ends[reason]}, "usage": usage}
        write_json(folder / "done", summary | {"settings": settings.model_dump()})
    turns = sum(len(dialogue.exchanges) for dialogue in dialogues)
    print(f"{len(dialogues)} dialogues, {turns} turns in {folder / 'dialogues.jsonl'}; ended: " + ", ".join(f"{n} {reason}" for reason, n in ends.most_common()))
    if failed := ends["api_error"]:
        print(f"{failed} dialogues ended because no reply came (such as: {next(d.end_detail for d in dialogues if d.end_reason == 'api_error')}); again tries those")


@contextlib.contextmanager
def locked(folder: Path):
    """Keeps a second run from writing into the same folder. The lock ends with the process, however that ends."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another run is writing there; wait for it, or give this one another `name`") from None
        file.write(str(os.getpid()))
        yield


if __name__ == "__main__":
    entry(main)
