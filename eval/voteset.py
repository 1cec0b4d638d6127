"""The votes of a study as a data set for others: what may leave, its card, and the push. `python -m eval.votes out/votes/NAME --push org/name` runs it.

Written to out/votes/NAME/publish/: votes.parquet and votes.jsonl, items.jsonl (what was shown, and who wrote which side), study.lock.json (the frozen design)
and README.md, the card. What identifies raters is left out: raters and votes are numbered in an order drawn anew, so no number leads to the store, an earlier
export or the time of a vote; of times only the day is kept, of durations tenths of a second; of the questionnaire only those questions whose answers, taken
together, are shared by TOGETHER raters or more (Sweeney 2002, k-anonymity). Votes that were withdrawn are not there.
"""

import random
import re
from collections import Counter
from pathlib import Path

from datagen.files import UserError, read_json, read_jsonl, templates, write_json, write_jsonl, write_text
from eval.ballot import frozen
from eval.study import COLUMNS, join
from eval.studyfile import Careless
from eval.votes import counts, export, replayed, write_parquet

TOGETHER = 5  # raters who share the published answers to the questionnaire, at least
UNKNOWN = "UNKNOWN: fill in"
FILES = ("votes.parquet", "votes.jsonl", "items.jsonl", "study.lock.json")


def shared(raters: list[dict], keys: list[str]) -> list[str]:
    """Those of `keys`, taken in turn while it holds, whose answers together are each shared by TOGETHER raters or more. raters: answers by key."""
    kept = []
    for key in keys:
        if min(Counter(tuple(rater.get(one) for one in [*kept, key]) for rater in raters).values(), default=0) >= TOGETHER:
            kept.append(key)
    return kept


def anonymous(rows: list[dict], key: dict, keys: list[str], rng: random.Random) -> tuple[list[dict], list[str]]:
    """(rows to publish, by rater and position, questions of the questionnaire that are kept) of eval.votes.export. keys: of the questionnaire."""
    people = sorted({row["rater"] for row in rows})
    kept = shared([next(row for row in rows if row["rater"] == rater) for rater in people], keys)
    rng.shuffle(people)
    order = sorted(range(len(rows)), key=lambda i: (people.index(rows[i]["rater"]), rows[i]["position"]))
    number = {rows[i]["vote"]: n for n, i in enumerate(order, 1)}
    joined, made = join(rows, key), []
    for i in order:
        row, more = rows[i], joined[i]
        same = ("item", "question_id", "pair", "kind", "position", "left_is", "choice", "chosen", "layout", "input", "quiz_tries", "gold_right", "repeat_same")
        made.append(
            {"vote": number[row["vote"]], "rater": people.index(row["rater"]) + 1, "day": row["received_at"]}
            | {name: row[name] for name in same}
            | {"tuned_left": more["tuned_left"], "tuned_won": more["tuned_won"], "repeat_of": number.get(row["repeat_of"])}
            | {name: None if row[name] is None else round(row[name], 1) for name in ("seconds_server", "seconds_client")}
            | {name: row.get(name) for name in kept}
        )
    return made, kept


def shown(items: list[dict], key: dict) -> list[dict]:
    """What raters saw, with who wrote which side."""
    same = ("item", "question_id", "pair", "kind", "question", "text_a", "text_b")
    return [{name: item[name] for name in same} | {"writer_a": key[item["item"]]["a"], "writer_b": key[item["item"]]["b"]} for item in items]


def write(folder: Path, repo: str, found: str | None, licence: str | None, rng: random.Random | None = None) -> list[str]:
    """Writes folder/publish/; what has to be mended before it may go out. Raises UserError where there is nothing to publish.

    found: how the raters were found, in the publisher's words."""
    lock, out, key, rows = frozen(folder), folder / "publish", read_json(folder / "key.json"), export(folder)
    if not rows:
        raise UserError(f"{folder}: holds no votes, so there is nothing to publish")
    settings = lock["settings"]
    asked = [ask["key"] for ask in settings["questionnaire"]]
    votes, kept = anonymous(rows, key, asked, rng or random.SystemRandom())
    db = replayed(folder)
    told = counts(db)
    db.close()
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    write_parquet(votes, out / "votes.parquet")
    write_jsonl(out / "votes.jsonl", votes)
    write_jsonl(out / "items.jsonl", shown(read_jsonl(folder / "items.jsonl", "the frozen items of a study"), key))
    write_json(out / "study.lock.json", lock)
    days = sorted({row["day"] for row in votes})
    card = templates(Path(__file__).parent, False).get_template("voteset.md.j2").render(
        repo=repo, lock=lock, settings=settings, kinds=Counter(row["kind"] for row in votes), raters=len({row["rater"] for row in votes}), total=len(votes),
        days=days, told=told, kept=kept, withheld=[name for name in asked if name not in kept], together=TOGETHER, rule=Careless(**settings["careless"]),
        found=found, licence=licence, unknown=UNKNOWN, columns=sorted(set(votes[0]) - COLUMNS - {"day", "tuned_left", "tuned_won", "repeat_of"}),
    )  # fmt: skip
    write_text(out / "README.md", card)
    return [] if found or lock["simulated"] else ["say how the raters were found with FOUND='…' (--found): a set of votes without that says little"]


def publish(folder: Path, repo: str, found: str | None, licence: str | None, public: bool, dry: bool) -> None:
    """Writes the set and pushes it, privately unless `public`; a dry run pushes nothing. Raises UserError for what must not go out."""
    from train.publish import push, refuse_secrets  # imports what draws and trains

    repo = repo or (f"your-org/{folder.resolve().name}" if dry else "")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise UserError(f"REPO={repo}: expected organisation/name, such as REPO=my-org/votes")
    wrong, out = write(folder, repo, found, licence), folder / "publish"
    for name in FILES[1:]:
        refuse_secrets(out / name)
    print(f"{out}: {', '.join((*FILES, 'README.md'))}")
    if dry:
        print("".join(f"  before a push: {line}\n" for line in wrong) + f"  nothing was pushed; read {out / 'README.md'}")
        return
    if wrong:
        raise UserError("; ".join(wrong))
    print(f"  pushed: {push(out, [*FILES, 'README.md'], repo, public)}")
