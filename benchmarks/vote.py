"""The voting page under load: 50 people at once with 40 votes each, while the server is killed and restarted three times.

    python -m benchmarks.vote              # about 3 minutes on two cores
    python -m benchmarks.vote --quick      # 10 people with 10 votes each, killed once

A study of the paper's size (500 questions, three pairs) is frozen from made-up answers in a temporary folder. Sessions go through the page's own HTTP handlers, from
consent to vote after vote without a pause; whenever another part of all votes is confirmed, the server gets SIGKILL and is started again. A call without an
answer is sent again, as a browser's user would press again. Then every vote that the page confirmed must be in the events exactly once, with the choice that
was made, and nothing else; the database, made anew from the events, and the export must hold as many. Else this ends with an error.

Reference in the same run: the bare `eval.votes.Store`, the same ballots and votes by one thread without page and HTTP. Read the ratio; rates depend on the
machine and its other users. Votes come only while the server is up, so rates are given without the time in which it was down, too.

Measured on two CPU cores shared with other work (load average 4): 2,000 of 2,000 votes confirmed and each kept once, 56 of them sent again after a kill; 20.6
votes/s in all, 34.8 while the server was up (40 of 97 s down), 1.2 s a vote (median; 50 people who never pause wait for each other); the store alone 119.1
votes/s, 3.4 times as many. People who take 5 s a vote, 50 of them, cast 10 votes/s.
"""

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import yaml

from datagen.files import UserError, entry, write_jsonl, write_text
from eval import ballot, studyfile, votes
from eval.raters import Http, Server, Session, Vote, serving, unlike
from eval.studyfile import Study

QUESTIONS, RUNS = 500, ("one", "two", "three")
TEXT = "the rain kept on and we walked home past the bakery because nobody had thought of the bus which was late anyway so what would you have done"
WORDS = TEXT.split()


def answers(out: Path) -> None:
    """answers.jsonl of three runs, of about 1,000 characters an answer."""
    rng = random.Random(1)
    text = lambda: " ".join(rng.choice(WORDS) for _ in range(200))  # noqa: E731
    for run in RUNS:
        questions = [f"Question {i}: what about {WORDS[i % len(WORDS)]}?" for i in range(QUESTIONS)]
        rows = [
            {"id": f"q{i}", "messages": [{"role": "user", "content": asked}], "base": text(), "tuned": text(), "finish": ["stop", "stop"]}
            for i, asked in enumerate(questions)
        ]
        write_jsonl(out / run / "answers.jsonl", rows)


def frozen(place: Path, sessions: int, each: int) -> tuple[Path, Path, Study]:
    """(folder, settings, study) of a study in which `sessions` people can cast `each` votes. Without a shortest time between votes."""
    answers(place / "out")
    wanted = max(2, -(-sessions * each // (QUESTIONS * len(RUNS))) + 1)
    values = {"name": "load", "runs": list(RUNS), "questions": None, "per_rater": each, "votes_per_item": wanted, "minimum_seconds": 0.0, "quotas": {}}
    study = Study(**studyfile.load(Path(__file__).parent.parent / "eval/study.yaml").model_dump() | values)
    folder, _, _ = ballot.freeze(study, place / "out", simulated=True)
    write_text(folder / "study.yaml", yaml.safe_dump(study.model_dump(), sort_keys=False, allow_unicode=True))
    return folder, folder / "study.yaml", study


async def load(server: Server, study: Study, sessions: int, each: int, kills: int) -> dict:
    """Votes as described above: confirmed (list of Vote), times (seconds of each), seconds in all, down (seconds of each restart), again."""
    import aiohttp

    confirmed, times, down, made = [], [], [], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        page = Http(http, server.url)
        await page.ready(server.dead)

        async def one(number: int) -> None:
            rng, session = random.Random(number), Session(page)
            made.append(session)
            await session.enter(study, [next(option for option in ask.options if option not in ask.ends) for ask in study.questionnaire])
            for _ in range(each):
                token, choice, begin = session.token, rng.choice(votes.choices(study)), time.perf_counter()
                if not await session.vote(choice, {"seconds": 1, "layout": "row", "input": "key"}):
                    raise UserError(f"the page refused a vote: {session.note}")
                times.append(time.perf_counter() - begin)
                confirmed.append(Vote(session.who, token, choice))

        async def killer() -> None:
            for i in range(kills):
                while len(confirmed) < (i + 1) * sessions * each // (kills + 1):
                    await asyncio.sleep(0.005)
                begin = time.perf_counter()
                server.end(signal.SIGKILL)
                server.start()
                await Http(http, server.url).ready(server.dead)
                down.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(killer(), *map(one, range(sessions)))
        return {"confirmed": confirmed, "times": times, "seconds": time.perf_counter() - begin, "down": down, "again": sum(session.again for session in made)}


def bare(folder: Path, study: Study, sessions: int, each: int) -> list[float]:
    """Seconds of each vote, the next ballot included, by the store alone."""
    store, times = votes.Store(folder, study), []
    try:
        raters = [store.join() for _ in range(sessions)]
        for rater in raters:
            store.answer(rater, {ask.key: next(option for option in ask.options if option not in ask.ends) for ask in study.questionnaire})
            store.quiz(rater, [one.answer for one in study.quiz])
        ballots = {rater: store.next(rater) for rater in raters}
        for rater in raters * each:
            begin = time.perf_counter()
            if store.cast(rater, ballots[rater].token, votes.choices(study)[0]) != "ok":
                raise UserError("the store refused a vote")
            ballots[rater] = store.next(rater)
            times.append(time.perf_counter() - begin)
    finally:
        store.close()
    return times


def check(folder: Path, study: Study, confirmed: list[Vote]) -> None:
    """Raises UserError unless events, a database made anew, the export and the database that the page left hold exactly these votes."""
    wrong = {what: n for what, n in unlike(folder, confirmed).items() if n}
    if exported := len(votes.export(folder)) - len(confirmed):
        wrong["votes too many in the export"] = exported
    left = kept(folder)
    (folder / "votes.db").unlink()
    votes.Store(folder, study).close()
    tokens = {vote.token for vote in confirmed}
    for name, there in (("the page's database", left), ("the database made anew", kept(folder))):
        if sorted(there) != sorted(tokens):
            wrong[f"votes differ in {name}"] = len(set(there) ^ tokens)
    if wrong:
        raise UserError(f"of {len(confirmed)} confirmed votes: " + ", ".join(f"{n} {what}" for what, n in wrong.items()))


def kept(folder: Path) -> list[str]:
    db = sqlite3.connect(folder / "votes.db")
    try:
        return [token for (token,) in db.execute("SELECT token FROM vote")]
    finally:
        db.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 people with 10 votes each, killed once")
    sessions, each, kills = (10, 10, 1) if parser.parse_args().quick else (50, 40, 3)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folder, settings, study = frozen(place / "page", sessions, each)
        alone, _, _ = frozen(place / "bare", sessions, each)
        for name in filter(None, (study.password_env, study.admin_env)):
            os.environ.pop(name, None)
        reference = bare(alone, study, sessions, each)
        with serving(folder, settings, study) as server:
            found = asyncio.run(load(server, study, sessions, each, kills))
        check(folder, study, found["confirmed"])
        boots = len(list(folder.glob("events-*.jsonl")))
    n, seconds, times = len(found["confirmed"]), found["seconds"], sorted(found["times"])
    up = seconds - sum(found["down"])
    print(f"{sessions} sessions, {each} votes each, server killed {len(found['down'])} times ({boots} files of events): {n:,} votes confirmed, each kept exactly once")
    print(f"{found['again']} votes were on disk when the server was killed before it could say so; sent again, they were not counted again")
    milliseconds = lambda share: 1000 * times[min(n - 1, int(share * n))]  # noqa: E731
    print(f"{'page over HTTP':16} {n / seconds:8.1f} votes/s in all, {n / up:.1f} while the server was up ({sum(found['down']):.0f} of {seconds:.0f} s down)")
    print(f"{'':16} {1000 * statistics.median(times):8.0f} ms a vote (median), {milliseconds(0.9):.0f} ms 90 %, {times[-1]:.1f} s longest, restarts included")
    rate = n / sum(reference)
    print(f"{'store alone':16} {rate:8.1f} votes/s, {1000 * statistics.median(reference):.1f} ms a vote (median), one thread, fsync included")
    print(f"ratio of votes/s: store alone / page = {rate / (n / up):.1f}; {QUESTIONS * len(RUNS):,} items")


if __name__ == "__main__":
    entry(main)
