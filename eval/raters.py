"""Simulated raters with known preferences vote through the real page; then the report, and what was planted beside what it found.

    python -m eval.raters --study eval/study.yaml                             # 12 raters, about two minutes; `make vote-demo`
    python -m eval.raters --raters 30 --prefer 0.6 --length 2 --careless 0.3  # other preferences

Freezes the study under out/votes/<name>-simulated, marked as simulated, which page and report then say everywhere; a simulated study that is there already is
replaced, a real one never. Votes per item are raised so that every rater can go to the end. The page (`eval.vote`) runs as a child with a password of its own;
raters know it only over HTTP, by the handlers that a browser calls, and keep its limits: they wait before a vote and come in one after another.

What a rater reads on the page is looked up in items.jsonl and, for this simulation alone, in key.json. An attentive rater ties with probability TIES, else chooses the
tuned answer with the logit  taste + length * d + side * (1/2 if it stands left, else -1/2);  d is the length difference that the report uses,
(tuned - base) / (tuned + base) in characters, and taste is normal over raters around logit(--prefer). On gold pairs an attentive rater is always right. A careless one
clicks at random on everything, and passes the quiz like everybody, so that only gold pairs can tell.

With the same seed the same raters come, and each decides alike whenever shown the same item with the same sides. Not repeatable: which items the page draws for whom,
and the sides, which is the page's own chance; so numbers differ a little from run to run.

Writes beside the study: study.yaml (its settings, for `python -m eval.vote`), page.log, planted.json.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from datagen.files import UserError, entry, read_json, read_jsonl, sha256, write_json, write_text
from eval import ballot, study, studyfile, studyreport
from eval.studyfile import Study
from eval.vote import KEYS, SAID, ballot_html, paragraph
from eval.votes import LIMITS, Ballot, choices, held, read_events
from tiny.serve import die_with_parent, free_port, last_line

ROOT = Path(__file__).resolve().parent.parent
TIES = 0.08  # of an attentive rater's votes
START_SECONDS = 120  # Gradio's import takes 5 to 30 s on a busy machine
REFUSALS = 20  # of one vote, after which something is wrong


# ---------------------------------------------------------------- raters


@dataclass(frozen=True)
class Rater:
    number: int
    taste: float  # logit of choosing the tuned answer where both are of one length, sides aside
    length: float  # logit per unit of the length difference, which goes from -1 to 1
    side: float  # logit of standing left instead of right
    careless: bool

    def chance(self, longer: float, tuned_left: bool) -> float:
        """That the tuned answer is chosen, in votes that are no tie. longer: the length difference, tuned less base."""
        if self.careless:
            return 0.5
        return expit(self.taste + self.length * longer + self.side * (0.5 if tuned_left else -0.5))


def expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def make_raters(n: int, prefer: float, spread: float, length: float, side: float, careless: float, seed: int) -> list[Rater]:
    """n raters. prefer: the chance of the tuned answer of a typical rater at equal length; spread: standard deviation of taste; careless: a share, rounded."""
    rng = random.Random(f"{seed}:raters")
    thoughtless = set(rng.sample(range(n), round(careless * n)))
    return [Rater(i, rng.gauss(logit(prefer), spread), length, side, i in thoughtless) for i in range(n)]


def uniform(*what: object) -> float:
    """A number in [0, 1) that depends on nothing else."""
    return int(sha256(":".join(map(str, what)))[:13], 16) / 16**13


def decide(rater: Rater, design: Study, item: str, sides: dict, left_is: str, seed: int) -> str | int:
    """The choice of a rater who is shown an item with its side `left_is` (a or b) on the left. sides: the item's entry in key.json.

    The chance is drawn from rater and item, so that an attentive rater who sees the item again with sides swapped changes only where the side decides."""
    if rater.careless:
        every = choices(design)
        return every[int(uniform(seed, rater.number, item, left_is) * len(every))]
    five = design.scale == "five"
    liked = "human" if sides["kind"] == "gold" else "tuned"
    liked_left = sides[left_is] == liked
    chance = 1.0
    if liked == "tuned":
        if design.ties and uniform(seed, rater.number, item, "tie") < TIES:
            return 0 if five else "tie"
        chance = rater.chance(longer(sides), liked_left)
    left = (uniform(seed, rater.number, item, "taste") < chance) == liked_left
    if not five:
        return "left" if left else "right"
    points = 2 if uniform(seed, rater.number, item, "clearly") < abs(2 * chance - 1) else 1
    return -points if left else points


def longer(sides: dict) -> float:
    """The length difference of an item, tuned less base, as the report computes it."""
    tuned, base = ("a", "b") if sides["a"] == "tuned" else ("b", "a")
    return study.differences(sides["style"][tuned], sides["style"][base])["length"]


# ---------------------------------------------------------------- the page over HTTP


class Transport(Protocol):
    async def call(self, name: str, *data: str) -> list: ...


@dataclass
class Http:
    """Calls the page's handlers as a browser does. A call that gets no answer is sent again, as the rater would press again: votes count once."""

    http: "aiohttp.ClientSession"  # noqa: F821
    url: str
    handlers: dict[str, int] = field(default_factory=dict)

    async def ready(self, alive: Callable[[], str | None], seconds: float = START_SECONDS) -> None:
        """Waits until the page answers. `alive` says why it never will, or None. Raises UserError."""
        import aiohttp

        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                async with self.http.get(f"{self.url}/config", timeout=aiohttp.ClientTimeout(10)) as reply:
                    if reply.status == 200:
                        self.handlers = {one["api_name"]: one["id"] for one in (await reply.json())["dependencies"]}
                        return
            if (why := alive()) or time.monotonic() > deadline:
                raise UserError(f"the page did not start: {why or f'no answer in {seconds:.0f} s'}")
            await asyncio.sleep(0.1)

    async def call(self, name: str, *data: str) -> list:
        import aiohttp

        body = {"fn_index": self.handlers[name], "data": list(data), "session_hash": secrets.token_hex(5)}
        deadline, said = time.monotonic() + START_SECONDS, ""
        while time.monotonic() < deadline:
            try:
                async with self.http.post(f"{self.url}/gradio_api/run/predict", json=body, timeout=aiohttp.ClientTimeout(30)) as reply:
                    if reply.status == 200:
                        return (await reply.json())["data"]
                    said = f"{reply.status} {(await reply.text())[:200]}"
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                said = f"{type(error).__name__} {error}"
            await asyncio.sleep(0.2)
        raise UserError(f"the page gave no answer to {name!r} for {START_SECONDS} s: {said}")


@dataclass
class Session:
    """What a rater's browser knows."""

    page: Transport
    who: str = ""
    token: str = ""
    note: str = ""
    stage: str = ""
    progress: str = ""
    pair: str = ""
    farewell: str = ""
    again: int = 0  # votes that had been counted although their confirmation was lost

    async def do(self, name: str, *data: str) -> None:
        values = await self.page.call(name, self.who, *data)
        for what, value in zip(("who", "token", "note", "stage", "progress", "pair", "farewell"), values, strict=True):
            if isinstance(value, str):  # what the page leaves as it is comes as an empty update
                setattr(self, what, value)

    @property
    def at(self) -> str:
        """consent, questions, quiz, ballot, or `end` and which."""
        found = re.search(r'data-stage="([^"]*)"', self.stage)
        return found[1] if found else "consent"

    async def enter(self, design: Study, answers: list[str], password: str = "") -> None:
        """To the first ballot, or to an end. Raises UserError where the page does not let the rater on."""
        await self.do("agree", password, "")
        for stage, name, given in (("questions", "answer", answers), ("quiz", "quiz", [one.answer for one in design.quiz])):
            if self.at == stage:
                await self.do(name, *given)
        if self.at != "ballot" and not self.at.startswith("end"):
            raise UserError(f"the page kept a rater at {self.at!r}: {re.sub('<[^>]*>', '', self.note)}")

    async def vote(self, choice: str | int, facts: dict) -> bool:
        """Whether the page confirmed the vote on the ballot that is shown."""
        await self.do(f"vote-{KEYS[choice]}", self.token, json.dumps(facts))
        self.again += self.note == paragraph(SAID["duplicate"])
        return self.note in (paragraph(SAID["ok"]), paragraph(SAID["duplicate"]))


@dataclass
class Server:
    """The page in a process of its own."""

    folder: Path
    settings: Path  # a study.yaml
    port: int
    environment: dict[str, str]
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "page.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "eval.vote", str(self.folder.resolve()), "--study", str(self.settings.resolve()), "--port", str(self.port)]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, preexec_fn=die_with_parent)

    def end(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def dead(self) -> str | None:
        return None if self.process.poll() is None else f"it ended with status {self.process.returncode}; {self.log}: {last_line(self.log)}"


@contextlib.contextmanager
def serving(folder: Path, settings: Path, design: Study, password: str = "") -> Iterator[Server]:
    """A page that ends with the block, however this process ends. Only who knows the password gets in; without one it is open."""
    environment = {name: value for name, value in os.environ.items() if name not in (design.password_env, design.admin_env, "SPACE_ID")}
    if password and design.password_env:
        environment[design.password_env] = password
    server = Server(folder, settings, free_port(), environment)
    server.start()
    try:
        yield server
    finally:
        server.end()


# ---------------------------------------------------------------- voting


@dataclass(frozen=True)
class Vote:
    """A vote that the page confirmed."""

    rater: str  # the page's id
    token: str
    choice: str | int


def looked_up(items: list[dict], design: Study) -> dict[str, tuple[str, str]]:
    """What the page shows of a ballot -> (item, which side is on the left)."""
    found = {}
    for row, left in itertools.product(items, "ab"):
        texts = {"a": row["text_a"], "b": row["text_b"]}
        one, other = texts[left], texts["b" if left == "a" else "a"]
        found[without_nonce(ballot_html(Ballot("", row["question"], one, other, 1, 1), design.markdown))] = (row["item"], left)
    return found


def without_nonce(pair: str) -> str:
    return re.sub(r' data-shown="\w+"', "", pair)


def dwell(design: Study, rater: Rater, item: str, seed: int) -> float:
    """Seconds for which a rater looks at an item: above the study's minimum, and above the two calls of LIMITS that a vote takes."""
    return 1.05 * max(design.minimum_seconds, 2 * 60 / LIMITS["rater"]) + 0.6 * uniform(seed, rater.number, item, "seconds")


async def take_part(
    page: Transport, rater: Rater, design: Study, shown: dict, key: dict, seed: int, password: str = "", wait: Callable[[float], Awaitable] = asyncio.sleep
) -> tuple[str, list[Vote]]:
    """(the rater's id on the page, all that the rater voted, from consent to the end). Raises UserError where votes are refused again and again."""
    await wait(rater.number * 1.05 * 60 / LIMITS["address"])  # all come from one address
    session, cast, refused = Session(page), [], 0
    pick = lambda what, options: options[int(uniform(seed, rater.number, what) * len(options))]  # noqa: E731
    layout, using = pick("layout", ["row", "stack"]), pick("input", ["key", "mouse", "touch"])
    await session.enter(design, [pick(ask.key, [option for option in ask.options if option not in ask.ends]) for ask in design.questionnaire], password)
    while session.at == "ballot":
        item, left_is = shown[without_nonce(session.pair)]
        choice, token, seconds = decide(rater, design, item, key[item], left_is, seed), session.token, dwell(design, rater, item, seed)
        await wait(seconds)
        if await session.vote(choice, {"seconds": round(seconds, 3), "layout": layout, "input": using}):
            cast.append(Vote(session.who, token, choice))
            refused = 0
        elif (refused := refused + 1) == REFUSALS:
            raise UserError(f"the page refused {REFUSALS} votes of a rater in a row: {re.sub('<[^>]*>', '', session.note)}")
    return session.who, cast


async def everybody(server: Server, raters: list[Rater], design: Study, seed: int, password: str) -> tuple[dict[str, Rater], list[Vote]]:
    """(raters by their ids on the page, all votes that it confirmed)."""
    import aiohttp

    key = read_json(server.folder / "key.json")
    shown = looked_up(read_jsonl(server.folder / "items.jsonl", "the frozen items of a study"), design)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        page = Http(http, server.url)
        await page.ready(server.dead)
        done = await asyncio.gather(*(take_part(page, rater, design, shown, key, seed, password) for rater in raters))
    return {who: rater for (who, _), rater in zip(done, raters, strict=True)}, [vote for _, cast in done for vote in cast]


def unlike(folder: Path, confirmed: list[Vote]) -> dict[str, int]:
    """How confirmed votes and the events on disk differ; all 0 where each vote was kept exactly once, as it was cast."""
    events = [event for event in read_events(folder) if event["type"] == "vote"]
    kept = Counter((event["rater"], event["token"], event["choice"]) for event in events)
    sent = Counter((vote.rater, vote.token, vote.choice) for vote in confirmed)
    twice = sum(n - 1 for n in Counter(event["token"] for event in events).values())
    return {"confirmed but not kept": (sent - kept).total(), "kept but not confirmed": (kept - sent).total(), "kept twice": twice}


# ---------------------------------------------------------------- what was planted, what was found


def expected_rows(rows: list[dict], raters: dict[str, Rater], design: Study) -> list[dict]:
    """Rows of eval.study.joined with each vote on an item replaced by its expectation under the rule of its rater. raters: by their ids in the export."""
    ties = TIES if design.ties else 0.0
    made = []
    for row in rows:
        if row["kind"] != "gold":
            p = raters[row["rater"]].chance(row["style"]["length"], row["tuned_left"])
            row = row | {"tuned_won": ties / 2 + (1 - ties) * p}
        made.append(row)
    return made


def gold_chance(rater: Rater, design: Study) -> float:
    """That a rater is right on a gold pair: a tie is not."""
    every = choices(design)
    return sum(choice not in (0, "tie") for choice in every) / 2 / len(every) if rater.careless else 1.0


def comparison(found: dict, rows: list[dict], raters: dict[str, Rater], design: Study, prefer: float) -> list[dict]:
    """Rows of what, planted (the parameter of the rule), expected, found (value, low, high), n and inside: whether the found interval holds the expectation.

    found: report.json. The expectation is the report's own estimator on the very votes that were cast, with each vote's expectation in its place: it differs from what
    was planted by careless raters, ties and the answers' lengths, and what was found differs from it by chance alone."""
    made, expectations = [], study.by_pair(expected_rows(rows, raters, design))

    def add(pair: str, what: str, planted: float, expected: float | None, value: list[float] | None, n: int, share: bool) -> None:
        inside = None if value is None or expected is None else value[1] <= expected <= value[2]
        made.append({"pair": pair, "what": what, "planted": planted, "expected": expected, "found": value, "n": n, "share": share, "inside": inside})

    for pair, here in found["pairs"].items():
        mine, chosen, n = expectations[pair], here["selection"], here["selection"]["n"]
        style, sides = study.style(mine), study.sides(mine)
        first = lambda values: values and values[0]  # noqa: E731
        effect = lambda of: next(row["effect"] for row in of["measures"] if row["measure"] == "length")  # noqa: E731
        add(pair, "tuned model chosen", prefer, study.column(mine, "tuned_won").mean().item(), [chosen["value"], *chosen["interval"]], n, True)
        add(pair, "chosen at equal style", prefer, first(style["controlled"]["share"]), here["style"]["controlled"]["share"], n, True)
        add(pair, "effect of length, logit", next(iter(raters.values())).length, first(effect(style)), effect(here["style"]), n, False)
        add(pair, "effect of standing left, logit", next(iter(raters.values())).side, first(sides["effect"]), here["sides"]["effect"], n, False)
    gold, ones = found["attention"]["gold"], [raters[row["rater"]] for row in rows if row["kind"] == "gold"]
    if gold:
        add("all", "gold pairs judged rightly", 1.0, sum(gold_chance(one, design) for one in ones) / len(ones), [gold["value"], *gold["interval"]], gold["n"], True)
    return made


def caught(found: dict, raters: dict[str, Rater]) -> dict[str, int]:
    """How many raters were careless, how many of them the report's rule left out, and how many others."""
    out = {row["rater"] for row in found["attention"]["raters"] if row["careless"]}
    careless = {rater for rater, one in raters.items() if one.careless}
    return {"raters": len(raters), "careless": len(careless), "careless left out": len(careless & out), "others left out": len(out - careless)}


def told(rows: list[dict], caught: dict[str, int]) -> str:
    """The comparison as lines of text."""
    lines = [("SIMULATED RATERS", "planted", "expected", "found, 95 % interval", "votes", "expected within")]
    for row in rows:
        one = (lambda x: f"{100 * x:.1f} %") if row["share"] else (lambda x: f"{x:+.2f}")
        value = "–" if row["found"] is None else studyreport.shares(row["found"]) if row["share"] else studyreport.plain(row["found"])
        inside = {True: "yes", False: "no", None: "–"}[row["inside"]]
        lines.append((f"{row['pair']}: {row['what']}", one(row["planted"]), "–" if row["expected"] is None else one(row["expected"]), value, f"{row['n']:,}", inside))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) if i in (0, 3) else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))) for line in lines]
    text.append(
        f"careless raters: {caught['careless']} of {caught['raters']} planted; the report's rule left out {caught['careless left out']} of them and "
        f"{caught['others left out']} others"
    )
    text.append("planted: of one typical attentive rater. expected: the report's estimate if each of these votes were its chance: careless raters and ties pull it in")
    return "\n".join(text)


# ---------------------------------------------------------------- the simulated study


def simulated_study(real: Study, raters: int, out: Path) -> Study:
    """The study with another name and, where needed, more votes per item, so that every rater can go to the end."""
    items = len(ballot.choose([ballot.read_run(name, out) for name in real.runs], real)[0]) * len(real.runs)
    wanted = math.ceil(raters * real.per_rater / items)
    return real.model_copy(update={"name": f"{real.name}-simulated", "votes_per_item": max(real.votes_per_item, wanted)})


def clear(folder: Path) -> None:
    """Deletes an earlier simulated study. Raises UserError for a real one, or one that a page has open."""
    if not folder.exists():
        return
    lock = folder / "study.lock.json"
    if not (lock.is_file() and read_json(lock).get("simulated") is True):
        raise UserError(f"{folder}: is not marked as simulated in study.lock.json, so it may hold people's votes; move it away, or rename the study")
    with held(folder) if (folder / "items.jsonl").is_file() else contextlib.nullcontext():
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=studyfile.PATH)
    parser.add_argument("--raters", type=int, default=12)
    parser.add_argument("--prefer", type=float, default=0.75, help="chance that a typical rater chooses the tuned answer at equal length (0.75)")
    parser.add_argument("--spread", type=float, default=0.5, help="standard deviation of that between raters, logit (0.5)")
    parser.add_argument("--length", type=float, default=1.0, help="liking for length, logit per unit of the length difference (1)")
    parser.add_argument("--side", type=float, default=0.5, help="effect of standing left, logit (0.5)")
    parser.add_argument("--careless", type=float, default=0.2, help="share of raters who click at random (0.2)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.raters < 1 or not 0 < args.prefer < 1 or not 0 <= args.careless <= 1 or args.spread < 0:
        raise UserError("--raters is 1 or more, --prefer between 0 and 1, --careless from 0 to 1, --spread not negative")
    out = Path("out")
    design = simulated_study(studyfile.load(args.study), args.raters, out)
    clear(out / "votes" / design.name)
    folder, lock, _ = ballot.freeze(design, out, simulated=True)
    settings = folder / "study.yaml"
    write_text(
        settings, f"# Simulated raters: made by eval.raters from {args.study}.\n" + yaml.safe_dump(design.model_dump(), sort_keys=False, allow_unicode=True, width=150)
    )
    raters = make_raters(args.raters, args.prefer, args.spread, args.length, args.side, args.careless, args.seed)
    print(f"{folder}: {lock['items']['main']} items frozen for SIMULATED raters, {design.votes_per_item} votes each wanted; {len(raters)} raters vote now", flush=True)
    started, password = time.monotonic(), secrets.token_hex(16)
    with serving(folder, settings, design, password) as server:
        by_id, votes = asyncio.run(everybody(server, raters, design, args.seed, password))
    print(f"{len(votes):,} votes through the page in {time.monotonic() - started:.0f} s, its start included", flush=True)
    wrong = unlike(folder, votes)
    if any(wrong.values()):
        raise UserError(f"{folder}: votes that the page confirmed are not those in its events: " + ", ".join(f"{n} {what}" for what, n in wrong.items()))
    print("each confirmed vote is in the events exactly once\n")
    found = studyreport.write(folder)
    hashed = {sha256(f"{folder.name}:rater:{who}")[:16]: rater for who, rater in by_id.items()}  # as eval.votes.export names them
    rows, left_out = comparison(found, study.joined(folder), hashed, design, args.prefer), caught(found, hashed)
    given = {name: value for name, value in vars(args).items() if name != "study"}
    write_json(folder / "planted.json", {"simulated": True, "given": given, "comparison": rows, "careless": left_out, "raters": [asdict(rater) for rater in raters]})
    print(f"\n{told(rows, left_out)}\n{folder / 'planted.json'}")


if __name__ == "__main__":
    entry(main)
