"""Freezes a study before its first vote: which questions and answers raters see, and which of the two is which.

    python -m eval.ballot --study eval/study.yaml       # reads out/<run>/answers.jsonl of the study's runs

Writes to `out/votes/<name>/`, each file whole or not at all, the last one last:

  items.jsonl       all that the page ever reads: item, question_id, pair, kind (main, gold), question, text_a, text_b, expected (gold: a or b), sha256_a, sha256_b
  key.json          item -> run, models {a, b} (base, tuned; of gold pairs human, machine), style {a, b} before emoji are removed, removed {a, b}: emoji taken out
  study.lock.json   hashes of the settings, the answers and both files, the settings themselves, what was left out and why, `simulated`

A question is left out for all pairs as soon as an answer to it, of any of them, gives its model away (the names of models and makers, marks of a chat
template), was cut off, is empty, or equals the other one. Which answer is a and which is b depends only on the hashes of the two texts, so not even who has
this file and the study's seed can tell from a page which model is which.

After the first vote a study cannot be changed. Run again with nothing changed, this does nothing.
"""

import argparse
import contextlib
import json
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datagen import emojis
from datagen.config import read_yaml
from datagen.files import UserError, canonical, entry, read_json, read_jsonl, sha256, write_json, write_text
from eval import plain
from eval.studyfile import PATH, Sessions, Study, load
from eval.votes import held, read_events

FILES = ("items.jsonl", "key.json", "study.lock.json")
SIDES = ("base", "tuned")

# ---------------------------------------------------------------- what gives a model away

# Names that mean nothing else, as whole words.
NAMES = (
    r"chat[- ]?gpt|gpt|gpt[- ]?[2-9]\w*|openai|anthropic|deep[- ]?seek|deepmind|qwen[\d.]*|tongyi qianwen|alibaba cloud|mistral ai|mistral[- ]?nemo|mixtral|ministral"
    r"|(?:meta[- ])?llama[- ]?[1-9][\d.]*|meta ai|google ai|google bard|google gemini|hugging ?face|nous hermes|openhermes|moonshot ai|eleutherai"
)
# Names that are also animals, winds, star signs, first names, and firms that one talks about. They count only where the speaker says what it is, or who made it.
MODELS = "llama|alpaca|vicuna|claude|gemini|gemma|bard|grok|mistral|nemo|phi|falcon|copilot|kimi|olmo|orca|zephyr"
MAKERS = "google|meta|microsoft|alibaba|nvidia|amazon|apple|xai|cohere|baidu|tencent|bytedance|facebook|mistral"
MADE = rf"(?:developed|made|created|trained|built|designed) (?:by|at) (?:\w+ ){{0,4}}(?:{MAKERS})\b"
GIVES_AWAY = [
    rf"(?<![\w-])(?:{NAMES})(?![\w-])",
    rf"\b(?:i am|i['’]m|my name is|my name['’]s|call me) (?:an? (?:\w+ ){{0,3}}(?:model|ai|assistant|chatbot) (?:called |named )?)?(?:{MODELS})\b",
    rf"\bi(?: was| am|['’]m| have been) (?:\w+ly )?{MADE}",
    rf"\b(?:language model|ai(?: model| assistant)?|chatbot|assistant),? (?:\w+ )?{MADE}",
    rf"\bmy (?:developers|creators|makers) at (?:{MAKERS})\b",
]
GIVEAWAY = re.compile("|".join(GIVES_AWAY), re.IGNORECASE)
TEMPLATE = re.compile(r"<\|[\w ]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")
GENERIC = {"base", "tuned", "merged", "model", "auto", "adapter", "instruct", "chat", "tiny"}  # names under which models are served that say nothing


def own_names(names: list[str]) -> re.Pattern | None:
    """Matches what the study's own models are called, such as `some-org/Some-Base-7B`, with or without the organisation, hyphens as spaces or not at all."""
    parts = {part for name in names for part in (name, name.rstrip("/").split("/")[-1]) if len(part) > 3 and part.lower() not in GENERIC}
    patterns = [r"[-_ ./]?".join(map(re.escape, filter(None, re.split(r"[-_ ./]+", part)))) for part in sorted(parts)]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(patterns)})(?![\w-])", re.IGNORECASE) if patterns else None


def giveaway(text: str, own: re.Pattern | None) -> str | None:
    """Why an answer gives its model away, or None."""
    if TEMPLATE.search(text):
        return "marks of a chat template"
    if GIVEAWAY.search(text) or (own and own.search(text)):
        return "names a model or its maker"
    return None


# ---------------------------------------------------------------- questions


@dataclass
class Run:
    name: str
    sha256: str  # of its answers.jsonl
    models: dict[str, str]  # base, tuned: as served
    rows: dict[str, dict]  # by question
    own: re.Pattern | None


def read_run(name: str, out: Path) -> Run:
    path = out / name / "answers.jsonl"
    rows = read_jsonl(path, f"the answers of run {name!r}; make them with `make answers`")
    by_id = {}
    for number, row in enumerate(rows, 1):
        if missing := [key for key in ("id", "messages", *SIDES, "finish") if key not in row]:
            raise UserError(f"{path}:{number}: lacks {', '.join(missing)}; rows are those of `make answers`")
        if row["id"] in by_id:
            raise UserError(f"{path}:{number}: the question {row['id']} stands twice")
        by_id[row["id"]] = row
    if not by_id:
        raise UserError(f"{path}: holds no answers; run `make answers`")
    meta, recipe = out / name / "answers.meta.json", out / name / "run.yaml"
    served = read_json(meta) if meta.exists() else {}
    models = {who: str(served.get(who, who)) for who in SIDES}
    base = [str(read_yaml(recipe, "the configuration of a run").get("base_model", ""))] if recipe.exists() else []
    return Run(name, sha256(path.read_bytes()), models, by_id, own_names([*models.values(), *base]))


def question_text(row: dict) -> str | None:
    """What the rater reads; None where a conversation is no single question."""
    users = [message["content"] for message in row["messages"] if message["role"] == "user"]
    return users[0].strip() if len(row["messages"]) == len(users) == 1 else None


def shown(text: str, study: Study) -> tuple[str, int]:
    """(the text as raters see it, emoji removed)."""
    return emojis.remove(text) if study.emoji == "removed" else (text, 0)


def reason_to_leave_out(row: dict, own: re.Pattern | None, study: Study) -> str | None:
    if not question_text(row):
        return "not a single question"
    if any(finish != "stop" for finish in row["finish"]):
        return "cut off"
    if any("\ud800" <= character <= "\udfff" for who in SIDES for character in row[who]):
        return "broken characters"
    if reason := next(filter(None, (giveaway(row[who], own) for who in SIDES)), None):
        return reason
    base, tuned = (" ".join(shown(row[who], study)[0].split()) for who in SIDES)
    if not base or not tuned:
        return "empty"
    return "identical answers" if base == tuned else None


def choose(runs: list[Run], study: Study) -> tuple[list[str], Counter]:
    """(ids of the questions to show, by hash order; how many were left out, by reason). A question counts under its first reason."""
    left, out = [], Counter()
    everything = dict.fromkeys(question for run in runs for question in run.rows)
    for question in everything:
        rows = [run.rows.get(question) for run in runs]
        if None in rows:
            out["not answered in every run"] += 1
        elif len({question_text(row) for row in rows}) > 1:
            raise UserError(f"the question {question} has another text in one of the runs {', '.join(study.runs)}: they were not asked the same questions")
        elif reason := next(filter(None, (reason_to_leave_out(row, run.own, study) for row, run in zip(rows, runs, strict=True))), None):
            out[reason] += 1
        else:
            left.append(question)
    left.sort(key=lambda question: sha256(f"{study.seed}:question:{question}"))
    if not left:
        raise UserError(f"none of the {len(everything)} questions is left: {counted(out)}")
    if study.questions and study.questions > len(left):
        raise UserError(f"questions: {study.questions} are asked for, and {len(left)} of {len(everything)} are left ({counted(out)}); lower it, or answer more questions")
    if study.questions:
        out["more than asked for"] = len(left) - study.questions
    return left[: study.questions], +out


def counted(reasons: Counter) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())) or "none left out"


# ---------------------------------------------------------------- items


def item(study: Study, kind: str, pair: str, question_id: str, question: str, texts: dict[str, str]) -> tuple[dict, dict]:
    """(a row of items.jsonl, its entry in key.json). `texts` holds two models' texts by the models' names. a is the text whose hash, under the study's
    seed, is smaller: a rule that treats both alike, so knowing it tells nothing."""
    ready = {who: shown(text, study) for who, text in texts.items()}
    a, b = sorted(texts, key=lambda who: sha256(f"{study.seed}:{pair}:{question_id}:{ready[who][0]}"))
    row = {
        "item": sha256(f"{study.seed}:item:{kind}:{pair}:{question_id}")[:12],
        "question_id": question_id,
        "pair": pair,
        "kind": kind,
        "question": question,
        "text_a": ready[a][0],
        "text_b": ready[b][0],
        "expected": ("a" if a == "human" else "b") if kind == "gold" else None,
        "sha256_a": sha256(ready[a][0]),
        "sha256_b": sha256(ready[b][0]),
    }
    key = {
        "kind": kind,
        "run": pair if kind == "main" else None,
        "a": a,
        "b": b,
        "style": {"a": plain.style(texts[a]), "b": plain.style(texts[b])},
        "removed": {"a": ready[a][1], "b": ready[b][1]},
    }
    return row, key


def build(study: Study, out: Path) -> tuple[list[dict], dict, dict]:
    """(rows of items.jsonl, key.json, what study.lock.json says of answers and of what was left out)."""
    runs = [read_run(name, out) for name in study.runs]
    questions, left_out = choose(runs, study)
    made = []
    for run in runs:
        for question in questions:
            row = run.rows[question]
            made.append(item(study, "main", run.name, question, question_text(row), {who: row[who] for who in SIDES}))
    for gold in study.gold:
        made.append(item(study, "gold", "gold", "gold-" + sha256(gold.question)[:12], gold.question, {"human": gold.human, "machine": gold.machine}))
    made.sort(key=lambda both: both[0]["item"])
    key = {row["item"]: entry_ for row, entry_ in made}
    asked = len({question for run in runs for question in run.rows})
    facts = {
        "answers": {run.name: {"sha256": run.sha256, "models": run.models} for run in runs},
        "questions": {"answered": asked, "shown": len(questions), "left out": dict(sorted(left_out.items()))},
        "items": dict(Counter(entry_["kind"] for entry_ in key.values())),
    }
    return [row for row, _ in made], key, facts


# ---------------------------------------------------------------- the frozen study


def begun(folder: Path) -> str | None:
    """What has been done in a study that forbids to change it, or None."""
    votes = 0
    if (folder / "votes.db").exists():
        try:
            db = sqlite3.connect(f"{(folder / 'votes.db').resolve().as_uri()}?mode=ro", uri=True)
            if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'vote'").fetchone()[0]:
                votes = db.execute("SELECT count(*) FROM vote").fetchone()[0]
            db.close()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{folder / 'votes.db'}: {error}; delete it, it is made anew from the events") from None
    events = Counter(event["type"] for event in read_events(folder))
    if votes := max(votes, events["vote"]):
        return f"{votes} vote(s)"
    return f"{events['served']} item(s) shown to raters" if events["served"] else None


def texts_of(rows: list[dict], key: dict) -> dict[str, str]:
    """The contents of items.jsonl and key.json."""
    return {"items.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "key.json": json.dumps(key, indent=1, ensure_ascii=False) + "\n"}


def lock_of(study: Sessions, texts: dict[str, str], facts: dict, simulated: bool) -> dict:
    settings = study.settings()
    return {
        "study": study.name,
        "simulated": simulated,
        "settings_sha256": sha256(canonical(settings)),
        "items_sha256": sha256(texts["items.jsonl"]),
        "key_sha256": sha256(texts["key.json"]),
    } | facts | {"settings": settings}  # fmt: skip


def frozen(folder: Path) -> dict:
    """The lock of a study, after a check that its files are those that were frozen. Raises UserError where there is none, or a file differs."""
    if not (folder / "study.lock.json").is_file():
        raise UserError(f"{folder}: no frozen study there; run `python -m eval.ballot` first")
    lock = read_json(folder / "study.lock.json")
    for file in ("items.jsonl", "key.json"):
        name = f"{Path(file).stem}_sha256"
        if not (folder / file).is_file() or sha256((folder / file).read_bytes()) != lock.get(name):
            raise UserError(f"{folder / file}: is not the file that the study was frozen with ({name} in study.lock.json); put that one back")
    if sha256(canonical(lock.get("settings"))) != lock.get("settings_sha256"):
        raise UserError(f"{folder / 'study.lock.json'}: its settings are not those that the study was frozen with; put that file back")
    return lock


def check_settings(study: Sessions, lock: dict) -> None:
    """Raises UserError that names the settings in which the study's file differs from what was frozen."""
    if changed := differing(study.settings(), lock["settings"]):
        raise UserError(f"study {study.name!r} was frozen with another {', '.join(changed)}; put back what it was, or freeze a new study under another name")


def differing(new: dict, old: dict) -> list[str]:
    return sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))


def freeze(study: Study, out: Path = Path("out"), simulated: bool = False) -> tuple[Path, dict, bool]:
    """As `keep`, of the answers under `out`."""
    return keep(out / "votes" / study.name, study, *build(study, out), simulated)


def keep(folder: Path, study: Sessions, rows: list[dict], key: dict, facts: dict, simulated: bool) -> tuple[Path, dict, bool]:
    """(folder of the study, its lock, whether anything was written). Raises UserError where the study has begun and would change, or a page has it open."""
    texts = texts_of(rows, key)
    lock = lock_of(study, texts, facts, simulated)
    if all((folder / name).is_file() for name in FILES) and read_json(folder / "study.lock.json") == lock and unchanged(folder, texts):
        return folder, lock, False
    refuse_if_begun(folder, lock)
    with held(folder) if (folder / "items.jsonl").is_file() else contextlib.nullcontext():  # no page may have it open
        refuse_if_begun(folder, lock)  # a vote may have come since
        (folder / "study.lock.json").unlink(missing_ok=True)  # without it the folder counts as not frozen, until all is written
        for name, text in texts.items():
            write_text(folder / name, text)
        write_json(folder / "study.lock.json", lock)
    return folder, lock, True


def refuse_if_begun(folder: Path, lock: dict) -> None:
    """Raises UserError that says what of the study would change."""
    if not folder.is_dir() or not (what := begun(folder)):
        return
    old = read_json(folder / "study.lock.json") if (folder / "study.lock.json").is_file() else {}
    settings = [f"setting {name}" for name in differing(lock["settings"], old.get("settings", {}))]
    changed = settings or list(dict.fromkeys(name.removesuffix("_sha256") for name in differing(lock, old))) or ["its files"]
    raise UserError(f"{folder}: has {what} and can no longer change (what differs: {', '.join(changed)}); put it back, or give the new study another name")


def unchanged(folder: Path, texts: dict[str, str]) -> bool:
    return all((folder / name).read_bytes() == text.encode() for name, text in texts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=PATH)
    args = parser.parse_args()
    study = load(args.study)
    folder, lock, written = freeze(study)
    questions = lock["questions"]
    print(f"{questions['shown']} of {questions['answered']} questions for {len(study.runs)} pair(s); left out: {counted(Counter(questions['left out']))}")
    if study.emoji == "removed":
        key = [one for one in read_json(folder / "key.json").values() if one["kind"] == "main"]
        for who in SIDES:
            removed = [one["removed"][side] for one in key for side in "ab" if one[side] == who]
            print(f"emoji removed from {who} answers: {sum(removed)}, in {sum(n > 0 for n in removed)} of {len(removed)}")
    print(
        f"{folder}: {lock['items']['main']} items and {lock['items'].get('gold', 0)} gold pairs "
        + ("frozen" if written else "were frozen already, and nothing has changed")
    )


if __name__ == "__main__":
    entry(main)
