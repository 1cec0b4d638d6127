"""The human-likeness score as a reward: several answers to each question are scored, and what scores higher is chosen (HAL, arXiv 2601.02813).

    python -m datagen.traits.reward data/tiny/pairs.jsonl data/reward-tiny/pairs.jsonl --heldout data/tiny/tiny/heldout.jsonl --profile tiny
    make reward MODEL=tiny; make train MODEL=tiny ABLATION=reward       # or: make train MODEL=tiny PAIRS=data/reward-tiny/pairs.jsonl

Candidates: `--k` answers of the base model to the bare question (on-policy: as it will be trained), the data set's two replies, and files of other models'
answers (`--candidates`, rows of `prompt` and `text`). Pairs: all ordered pairs of one question whose scores differ by more than `reward.gap` standard
deviations, at most `reward.per_prompt` of a question. The standard deviation is that of all candidates about the mean of their question: what adds the same to
all answers of a question makes and hides no pair. Guards: the filters of `datagen.filters`, with the thresholds of the data set.

Weights: the default, eval/weights/turn.json, was learnt from people against models. Weights fitted on the set itself (`data/<set>/weights.json`, made by
make) know only its own two styles, and mostly choose again what the set's labels chose already; they are there to be compared.

Writes `pairs.jsonl` (the best pair of each question first, then the second-best …; at the end the set's held-out pairs, marked `split: val`, which
`datagen.format` keeps out of the training), `rejects.jsonl`, `ledger.json`, in which asked = accepted + every reason at each of three stages, and `stats.json`.
"""

import argparse
import asyncio
import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datagen import config
from datagen.balance import length, match_lengths
from datagen.client import Client, Reply, Request
from datagen.files import UserError, atomic, canonical, entry, read_json, read_jsonl, sha256, write_json, write_jsonl
from datagen.filters import TAG, off_topic, reason_against, stems
from datagen.format import HELD_OUT, NEAR_HELD, Message, conversation, read_pairs
from datagen.meter import spent
from datagen.near import Near
from datagen.traits.contrast import reply as contrast
from eval import likeness, score
from eval.surface import bootstrap

STYLES = ("human_like", "formal")  # prompts that no answer may repeat
OWN = "the base model"


@dataclass
class Candidate:
    text: str
    source: str
    finish: str = "stop"
    usage: dict = field(default_factory=dict)
    score: float = math.nan

    @property
    def reply(self) -> Reply:
        return Reply(self.text, self.finish, self.usage)

    @property
    def hash(self) -> str:
        return sha256(self.text)


@dataclass
class Question:
    """A question of the training part, with all answers to it that are known."""

    id: str
    kind: str
    prompt: str | list[Message]  # as the data set has it
    messages: list[Message]
    context: str
    candidates: list[Candidate]


# ---------------------------------------------------------------- questions and candidates


def questions(source: str, heldout: Path, threshold: float) -> tuple[list[Question], list[dict], dict]:
    """(the questions to train on, the held-out rows as pairs, ledger) of a data set. Equal questions, but for case and punctuation, are one.

    `heldout` is what `datagen.format` held out of this set. Raises UserError for a row that is none, and where nothing is left to train on.
    """
    rows, places = read_pairs(source)
    held = read_jsonl(heldout, "held-out questions, from `make format`")
    kept_out, near = {canonical(row["messages"]) for row in held}, Near(threshold)
    for row in held:
        near.add(words(row["messages"]))
    found, reasons = {}, Counter()
    for row, place in zip(rows, places, strict=True):
        messages, chosen, rejected = conversation(row, place)
        if canonical(messages) in kept_out:
            reasons["held out"] += 1
            continue
        if near.matches(words(messages)):
            reasons[NEAR_HELD] += 1
            continue
        pair = contrast(row, place)
        if pair.group in found:
            reasons["asked before"] += 1
        else:
            prompt = messages[0]["content"] if len(messages) == 1 else messages
            found[pair.group] = Question(pair.id, str(row.get("kind") or "given"), prompt, messages, pair.context, [])
        found[pair.group].candidates += [Candidate(chosen, "chosen"), Candidate(rejected, "rejected")]
    if not found:
        raise UserError(f"{source}: none of its {len(rows)} questions is left to train on ({counted(reasons)})")
    ending = [
        {"id": str(row["id"]), "kind": row["kind"], "prompt": row["messages"][0]["content"] if len(row["messages"]) == 1 else row["messages"]}
        | {"chosen": row["chosen"], "rejected": row["rejected"], "split": HELD_OUT}
        for row in held
    ]
    return list(found.values()), ending, {"asked": len(rows), "accepted": len(found), "reasons": dict(sorted(reasons.items()))}


def words(messages: list[Message]) -> str:
    return " ".join(message["content"] for message in messages)


def counted(reasons: Counter | dict) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())) or "none"


def given(path: Path, known: dict[str, Question]) -> int:
    """Adds the answers of a file to their questions; returns how many. Those to other questions count for nothing. Raises UserError for a row that is none."""
    added = 0
    for number, row in enumerate(read_jsonl(path, "answers of a model: prompt, text"), 1):
        if not isinstance(row.get("text"), str) or not isinstance(row.get("prompt"), str | list):
            raise UserError(f"{path}:{number}: a candidate needs prompt and text (it has: {', '.join(row)})")
        prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        if question := known.get(canonical(prompt)):
            question.candidates.append(Candidate(row["text"].strip(), str(row.get("model") or path.stem)))
            added += 1
    return added


async def sample(asked: list[Question], settings: config.Settings, model: str, k: int, store: Path, before: object) -> dict:
    """Adds k answers of the model to each question; returns what that took. The seed is the settings', with the sample's number."""
    async with Client(settings.endpoint, store, prices=settings.prices, spent=before) as client:
        model, replies = await client.resolve(model), {}
        requests = (
            Request.of(settings.answers, model, [(m["role"], m["content"]) for m in question.messages], settings.seed, sample=n, tag=(i, n))
            for i, question in enumerate(asked)
            for n in range(k)
        )
        async for request, reply in client.replies(requests):
            replies[request.tag] = reply
            client.meter.progress("candidates", len(replies), k * len(asked), len(client.running))
        client.meter.progress("candidates", len(replies), k * len(asked), 0, final=True)
        for i, question in enumerate(asked):
            for n in range(k):
                reply = replies[i, n]
                question.candidates.append(Candidate(reply.text.strip(), OWN, reply.finish_reason, reply.usage))
        return {"model": model, "usage": client.meter.as_json()} | client.meter.otherwise()


def reason_alone(question: Question, candidate: Candidate, settings: config.Settings) -> str | None:
    """Why an answer cannot be chosen or rejected, whatever stands beside it, or None."""
    alone = settings.filters.model_copy(update={"ai_self_reference": False, "too_similar": 2.0})  # held against itself, it is as similar as can be
    reason = reason_against(question.messages[-1]["content"], candidate.reply, candidate.reply, alone, [settings.prompt(name) for name in STYLES])
    return reason or ("leaked tag" if TAG.search(candidate.text) else None)


def sift(asked: list[Question], settings: config.Settings) -> tuple[dict, list[dict]]:
    """Leaves each question its usable candidates, each text once. Returns (ledger, those left out)."""
    before, reasons, left = sum(len(question.candidates) for question in asked), Counter(), []
    for question in asked:
        kept, seen = [], set()
        for candidate in question.candidates:
            reason = "identical to another" if candidate.text in seen else reason_alone(question, candidate, settings)
            if reason:
                reasons[reason] += 1
                left.append({"id": question.id, "prompt": question.prompt, "source": candidate.source, "text": candidate.text, "reason": reason})
            else:
                kept.append(candidate)
                seen.add(candidate.text)
        question.candidates = kept
    return {"asked": before, "accepted": before - reasons.total(), "reasons": dict(sorted(reasons.items()))}, left


# ---------------------------------------------------------------- pairs


def spread(scores: list[list[float]]) -> float:
    """The standard deviation of all candidates' scores about the mean of their question; `scores` one list a question."""
    off = np.concatenate([np.array(of) - np.mean(of) for of in scores if len(of)] or [np.zeros(0)])
    free = len(off) - sum(len(of) > 0 for of in scores)
    return math.sqrt(float((off**2).sum()) / free) if free > 0 else 0.0


def ordered(scores: list[float], threshold: float) -> list[tuple[int, int]]:
    """All (chosen, rejected) positions of one question whose scores differ by more than `threshold`. Nothing but differences counts."""
    return [(i, j) for i, j in itertools.permutations(range(len(scores)), 2) if round(scores[i] - scores[j] - threshold, 9) > 0]


def astray(question: Question, chosen: Candidate) -> bool:
    """Whether the answer to be chosen does not answer: it shares no content word with the question, and is off-topic beside any other candidate."""
    asked = question.messages[-1]["content"]
    return not stems(chosen.text) & stems(asked) and any(off_topic(asked, chosen.text, other.text) for other in question.candidates if other is not chosen)


def reason_beside(question: Question, chosen: Candidate, rejected: Candidate, settings: config.Settings) -> str | None:
    asked = question.messages[-1]["content"]
    if settings.filters.off_topic and astray(question, chosen):
        return "off-topic answer"
    reason = reason_against(asked, chosen.reply, rejected.reply, settings.filters)
    if not reason and (band := settings.reward.length_band) is not None and abs(longer(chosen.text, rejected.text)) > band:
        reason = "lengths too different"
    return reason


def longer(chosen: str, rejected: str) -> float:
    """Log of the words of the one over the words of the other."""
    return math.log(max(1, length(chosen)) / max(1, length(rejected)))


def choose(asked: list[Question], settings: config.Settings) -> tuple[list[dict], dict, list[dict], dict]:
    """(pairs, ledger, pairs left out by a guard, {gap: the difference that was asked for, spread}) of scored candidates.

    Each unordered pair of candidates of one question counts once. The best pair of every question comes first, then the second-best: the first N rows
    are of as many questions as can be.
    """
    sd = spread([[candidate.score for candidate in question.candidates] for question in asked])
    gap, reasons, left, made, n = settings.reward.gap * sd, Counter(), [], [], 0
    for question in asked:
        scores = [candidate.score for candidate in question.candidates]
        possible = math.comb(len(scores), 2)
        wide = ordered(scores, gap) if sd else []
        n += possible
        reasons["difference too small"] += possible - len(wide)
        good = []
        for i, j in wide:
            chosen, rejected = question.candidates[i], question.candidates[j]
            reason = reason_beside(question, chosen, rejected, settings)
            row = {"prompt": question.prompt, "chosen": chosen.text, "rejected": rejected.text, "scores": [round(chosen.score, 4), round(rejected.score, 4)]}
            row = {"kind": question.kind, **row, "sources": [chosen.source, rejected.source], "question": question.id}
            if reason:
                reasons[reason] += 1
                left.append(row | {"reason": reason})
            else:
                good.append((-round(chosen.score - rejected.score, 9), sha256(chosen.hash + rejected.hash), row))
        good.sort(key=lambda item: item[:2])
        reasons["more than per_prompt"] += max(0, len(good) - settings.reward.per_prompt)
        made += [(rank, sha256(question.id), row) for rank, (_, _, row) in enumerate(good[: settings.reward.per_prompt])]
    made.sort(key=lambda item: item[:2])
    rows = [{"id": f"{row.pop('question')}-{rank + 1}"} | row | {"split": "train"} for rank, _, row in made]
    if settings.reward.length_band is not None:
        stay = match_lengths([(row["chosen"], row["rejected"]) for row in rows])
        reasons["no partner of mirrored length"] = len(rows) - len(stay)
        rows = [rows[i] for i in stay]
    ledger = {"asked": n, "accepted": len(rows), "reasons": dict(sorted((+reasons).items()))}
    return rows, ledger, left, {"gap": gap, "spread": sd}


def by_question(rows: list[dict], of) -> dict:
    """The mean of a measure of pairs over questions, with its 95 % interval by resampling questions: pairs of one question are not independent."""
    groups = defaultdict(list)
    for row in rows:
        groups[canonical(row["prompt"])].append(of(row))
    means = np.array([np.mean(group) for group in groups.values()])
    low, high = bootstrap(means) if np.ptp(means) > 0 else (means[0], means[0])
    return {"value": float(means.mean()), "low": float(low), "high": float(high), "n": len(means)}


def lengths(rows: list[dict]) -> dict:
    """Chosen against rejected: the geometric mean of the ratio of their words, and how often the chosen one is the longer (ties by half)."""
    ratio = by_question(rows, lambda row: longer(row["chosen"], row["rejected"]))
    return {
        "ratio": ratio | {key: math.exp(ratio[key]) for key in ("value", "low", "high")},
        "chosen longer": by_question(rows, lambda row: (np.sign(longer(row["chosen"], row["rejected"])) + 1) / 2),
    }


# ---------------------------------------------------------------- the whole


def make(args: argparse.Namespace, settings: config.Settings) -> None:
    model = likeness.load(args.weights)
    asked, held, prompts = questions(args.pairs, args.heldout, settings.questions.near_duplicate)
    earlier = Path(args.pairs).with_name("ledger.json")  # of the set itself: the budget covers both
    before = read_json(earlier) if earlier.exists() else {}
    known = {canonical(question.messages): question for question in asked}
    used = {str(path): {"sha256": sha256(path.read_bytes()), "answers": given(path, known)} for path in args.candidates if path.is_file() or read_jsonl(path)}
    took = asyncio.run(sample(asked, settings, args.base_model, args.k, args.store, spent(before) + spent(before.get("questions", {})))) if args.k else {"usage": {}}
    candidates, left = sift(asked, settings)
    for question in asked:
        for candidate in question.candidates:
            candidate.score = float(model.raw(score.counted(model, "reply", candidate.text, question.context)[None])[0])
    rows, pairs, unfit, wide = choose(asked, settings)
    ledger = {"questions": prompts, "candidates": candidates, "pairs": pairs} | took
    for stage in ("questions", "candidates", "pairs"):
        assert ledger[stage]["asked"] == ledger[stage]["accepted"] + sum(ledger[stage]["reasons"].values()), (stage, ledger[stage])
    write_jsonl(args.out.with_name("rejects.jsonl"), left + unfit)
    ledger["settings"] = {k: v for k, v in settings.model_dump(mode="json").items() if k in ("answers", "filters", "reward", "seed")} | {"k": args.k}
    if not rows:
        write_json(args.out.with_name("ledger.json"), ledger)
        raise UserError(f"no pair was made (left out: {counted(pairs['reasons'])}); see {args.out.with_name('rejects.jsonl')}, or lower reward.gap in {config.PATH}")
    all_scores = [candidate.score for question in asked for candidate in question.candidates]
    stats = {
        "source": args.pairs,
        "source_sha256": sha256(Path(args.pairs).read_bytes()) if Path(args.pairs).exists() else None,
        "weights": {"file": score.named(args.weights), "sha256": sha256(args.weights.read_bytes()), "fitted on": model.about["fitted on"], "unit": model.about["unit"]},
        "candidates": used,
        "difference asked for": wide["gap"],
        "standard deviation about the mean of the question": wide["spread"],
        "standard deviation of all": float(np.std(all_scores)),
        "mean score by source": {source: mean_of(asked, source) for source in sorted({c.source for q in asked for c in q.candidates})},
        "pairs": len(rows),
        "questions": len({canonical(row["prompt"]) for row in rows}),
        "held out": len(held),
        "chosen over rejected by source": dict(Counter(" over ".join(row["sources"]) for row in rows).most_common()),
        "length": lengths(rows),
    }
    write_json(args.out.with_name("stats.json"), stats)
    write_json(args.out.with_name("ledger.json"), ledger)
    with atomic(args.out) as file:
        file.writelines(canonical(row) + "\n" for row in rows + held)
    ratio, often = stats["length"]["ratio"], stats["length"]["chosen longer"]
    print(f"{len(rows)} pairs of {stats['questions']} questions in {args.out}, and {len(held)} held out")
    print(f"{candidates['accepted']} of {candidates['asked']} candidates scored")
    print(f"left out: candidates {counted(candidates['reasons'])}; pairs {counted(pairs['reasons'])}")
    print(f"scores differ by more than {wide['gap']:.3f}; weights {stats['weights']['file']}, sha256 {stats['weights']['sha256'][:16]}")
    for source, value in stats["mean score by source"].items():
        print(f"  {source}: mean score {value['value']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}] of {value['n']} questions")
    print(
        f"words, chosen to rejected: {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] of {ratio['n']} questions; the chosen one is longer in"
        f" {100 * often['value']:.1f} % [{100 * often['low']:.1f}, {100 * often['high']:.1f}]"
    )


def mean_of(asked: list[Question], source: str) -> dict:
    rows = [{"prompt": question.id, "score": c.score} for question in asked for c in question.candidates if c.source == source]
    return by_question(rows, lambda row: row["score"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="the data set whose questions are answered: a file, or the id of a Hub data set")
    parser.add_argument("out", type=Path)
    parser.add_argument("--heldout", type=Path, required=True, help="what `make format` held out of it: heldout.jsonl")
    parser.add_argument("--weights", type=Path, default=score.WEIGHTS / "turn.json", help="from python -m eval.likeness … --save")
    parser.add_argument("--k", type=int, default=4, help="answers of the base model to each question; 0: none")
    parser.add_argument("--base-model", default="auto", help="its name at OPENAI_BASE_URL; auto: the one model there")
    parser.add_argument("--candidates", type=Path, nargs="*", default=[], help="files of other models' answers: rows of prompt and text")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    if args.k < 0:
        raise UserError(f"--k {args.k}: expected a number from 0 on")
    make(args, config.load(args.profile))


if __name__ == "__main__":
    entry(main)
