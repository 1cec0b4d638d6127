"""Asks a judge model which of two answers, the base's or the tuned model's, sounds more like a person talking. A PROXY: a judge model's opinion, not people's.

    python -m eval.judge out/llama3-8b --judge-model gpt-4.1          # at JUDGE_BASE_URL, or else at OPENAI_BASE_URL

Each pair of `answers.jsonl` is judged in both orders, at temperature 0, with the prompt `eval/prompts/judge.txt`; a verdict is `A`, `B` or `tie`, and
anything else counts as unreadable. A model wins a question when both orders prefer it; orders that contradict each other, and those of which one or
both are a tie, make a tie; a question with an unreadable or missing verdict is left out and counted. Win rate: wins and half of the ties.

Judges like long answers, so the win rate is also given at equal length, after AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475, section 3): with
y in {0, 1/2, 1} the tuned model's result on a question and d the difference in characters, tuned less base,

    logit P(y) = theta + phi * tanh(d / sd(d)),        length-controlled win rate = 1 / (1 + exp(-theta)), the prediction at d = 0.

Left out of theirs is the term for the difficulty of an instruction, which needs many models on the same questions. Half results enter as fractions
(Papke and Wooldridge 1996). Theirs is fitted with an L1 penalty chosen by cross-validation, ours with a weak normal prior on theta and phi (ridge,
standard deviation 5), so that a fit exists even where length, or the model, tells every result; it pulls 100 % to 99.6 % with 60 questions.
All intervals are 95 %, by resampling questions; where all questions have one value, resampling shows none, and Wilson's stands instead.

Where `out/<run>/votes.jsonl` holds votes of people ({"id": question, "preferred": "base", "tuned" or "tie"}, several a question), the judge is held
against them. Writes `judge.json` and `judge.md`. Every reply is kept in the store, so nothing is asked twice.
"""

import argparse
import asyncio
import itertools
import os
from pathlib import Path

import numpy as np

from datagen import config
from datagen.client import Client, Reply, Request, bare
from datagen.config import read_prompt, read_yaml
from datagen.files import UserError, entry, iter_jsonl, read_json, sha256, write_json, write_text
from eval.surface import bootstrap, read_answers, show, wilson

PROXY = "a judge model's opinion, not people's"
PROMPT = Path(__file__).parent / "prompts" / "judge.txt"
MAX_TOKENS = 1024  # one word is wanted; a model that thinks first needs room
ORDERS = (("base", "tuned"), ("tuned", "base"))
RESAMPLES, SEED = 2000, 1
PRIOR = 5.0  # standard deviation of the normal prior of theta and phi; a logit of 5 is odds of 148 to 1
CHOICES = ("base", "tie", "tuned")


# ---------------------------------------------------------------- asking


def verdict(text: str) -> str | None:
    """ "A", "B" or "tie"; None for anything else. White space, quotation marks, asterisks and one full stop around the word are no part of it."""
    word = text.strip().strip("*\"'`").removesuffix(".").strip("*\"'`")
    return {"a": "A", "b": "B", "tie": "tie"}.get(word.casefold())


def preferred(reply: Reply, order: tuple[str, str]) -> str | None:
    """ "base", "tuned", "tie", or None where the reply is missing, cut off or unreadable."""
    word = verdict(reply.text) if reply.finish_reason == "stop" else None
    return {"A": order[0], "B": order[1], "tie": "tie", None: None}[word]


def result(first: str | None, second: str | None) -> float | None:
    """1 where both orders prefer the tuned answer, 0 where both prefer the base's, else 1/2; None where a verdict is missing."""
    if first is None or second is None:
        return None
    return {"tuned": 1.0, "base": 0.0, "tie": 0.5}[first] if first == second else 0.5


async def ask(
    answers: list[dict], settings: config.Settings, url: str, model: str, template: str, store: Path, same: dict[str, str]
) -> tuple[str, list[list[Reply]], dict]:
    """(the judge's name at its endpoint, replies [questions][2 orders], what they cost). `same`: names that the judge must not have."""
    async with Client(settings.endpoint, store, url, prices=settings.prices) as client:
        model = await client.resolve(model)
        if what := same.get(plain(model)):
            raise UserError(f"the judge {model} is {what}: models prefer their own answers; name another with --judge-model (JUDGE_MODEL=)")

        def text(row: dict, order: tuple[str, str]) -> str:
            question = "\n\n".join(m["content"] if len(row["messages"]) == 1 else f"{m['role']}: {m['content']}" for m in row["messages"])
            return template.format(question=question, first=row[order[0]], second=row[order[1]])

        asked = (
            Request(model, (("user", text(row, order)),), 0.0, 1.0, MAX_TOKENS, settings.seed, tag=(i, j))
            for i, row in enumerate(answers)
            for j, order in enumerate(ORDERS)
        )
        replies: list[list[Reply]] = [[None, None] for _ in answers]
        done = 0
        async for request, reply in client.replies(asked):
            i, j = request.tag
            replies[i][j] = reply
            done += 1
            client.meter.progress("verdicts", done, 2 * len(answers), len(client.running))
        client.meter.progress("verdicts", done, 2 * len(answers), 0, final=True)
        print(f"{model}: {done} verdicts, {client.sent} new and {client.cached} from {store}")
        return model, replies, client.meter.as_json()


# ---------------------------------------------------------------- figures


def resamples(n: int) -> np.ndarray:
    """[RESAMPLES, n] how often each of n questions was drawn."""
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES)


def ratio(hits: np.ndarray, of: np.ndarray) -> dict | None:
    """The share sum(hits) / sum(of), with both given per question (so that what belongs to one question is drawn together); None of nothing."""
    hits, of = hits[of > 0].astype(float), of[of > 0].astype(float)
    if not len(of):
        return None
    share = hits.sum() / of.sum()
    if np.ptp(hits / of) == 0:
        low, high = wilson(share * len(of), len(of))
    else:
        counts = resamples(len(of))
        low, high = np.percentile((counts @ hits) / (counts @ of), [2.5, 97.5])
    return {"value": float(share), "interval": [float(low), float(high)], "n": int(of.sum()), "questions": len(of)}


def mean(values: np.ndarray) -> dict:
    low, high = wilson(values.mean() * len(values), len(values)) if np.ptp(values) == 0 else bootstrap(values)
    return {"value": float(values.mean()), "interval": [float(low), float(high)], "n": len(values)}


def logistic(t: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[fits, 2] theta and phi of logit P(y) = theta + phi t, for each row of `counts` [fits, n], how often each observation is taken.

    By Newton's method on the log-likelihood less (theta^2 + phi^2) / (2 PRIOR^2), which is strictly concave: there is one answer, and it is finite."""
    beta, moving = np.zeros((len(counts), 2)), np.arange(len(counts))
    while len(moving):
        taken, now = counts[moving], beta[moving]
        p = 1 / (1 + np.exp(-(now[:, :1] + now[:, 1:] * t)))
        s0, s1 = ((taken * (y - p) * x).sum(1) - now[:, k] / PRIOR**2 for k, x in enumerate((1, t)))
        a, b, c = ((taken * p * (1 - p) * x).sum(1) for x in (1, t, t * t))
        a, c = a + 1 / PRIOR**2, c + 1 / PRIOR**2
        step = np.stack([c * s0 - b * s1, a * s1 - b * s0], 1) / (a * c - b * b)[:, None]
        largest = np.abs(step).max(1)
        beta[moving] = now + step / np.maximum(1, largest)[:, None]  # at most 1 at a time: from afar, a whole step can overshoot
        moving = moving[largest > 1e-8]
    return beta


def length_controlled(difference: np.ndarray, y: np.ndarray) -> dict:
    """The win rate at equal length. `difference`: characters, tuned less base; y: results. `value` is None where it cannot be told."""
    longer, shorter = int((difference > 0).sum()), int((difference < 0).sum())
    found = {"value": None, "interval": None, "n": len(y), "tuned answer longer": longer, "tuned answer shorter": shorter}
    if len(y) < 3 or np.ptp(difference) == 0:
        return found | {"note": "all pairs differ by the same length: its effect cannot be told from the models'"}
    t = np.tanh(difference / difference.std(ddof=1))
    theta, phi = logistic(t, y, np.ones((1, len(y))))[0]
    if np.ptp(y) == 0:
        low, high = wilson(y.mean() * len(y), len(y))
    else:
        low, high = np.percentile(1 / (1 + np.exp(-logistic(t, y, resamples(len(y)))[:, 0])), [2.5, 97.5])
    found |= {"value": float(1 / (1 + np.exp(-theta))), "interval": [float(low), float(high)], "theta": float(theta), "phi": float(phi)}
    rarer, count = min(("longer", longer), ("shorter", shorter), key=lambda pair: pair[1])
    if count < len(y) / 10:  # such data hardly show how the judge treats the other case
        found["note"] = f"mostly extrapolated: the tuned answer is the {rarer} one on {count} of {len(y)} questions"
    return found


def judged(answers: list[dict], verdicts: list[tuple[str | None, str | None]]) -> dict:
    """All figures about the judge alone. `verdicts`: for each question what it preferred in each of ORDERS."""
    results = [result(*pair) for pair in verdicts]
    kept = [i for i, y in enumerate(results) if y is not None]
    missing = np.array([sum(v is None for v in pair) for pair in verdicts])
    found = {"questions": len(answers), "judged": len(kept), "unreadable or missing verdicts": ratio(missing, np.full(len(answers), 2))}
    if not kept:
        return found
    y = np.array([results[i] for i in kept])
    difference = np.array([len(answers[i]["tuned"]) - len(answers[i]["base"]) for i in kept], dtype=float)
    n = len(kept)
    contradicting = sum(set(verdicts[i]) == {"base", "tuned"} for i in kept)
    # Each verdict that is no tie, readable ones of half-judged questions included: did it name the answer that was shown first?
    firsts = np.array([sum(v == order[0] for v, order in zip(pair, ORDERS, strict=True)) for pair in verdicts])
    clear = np.array([sum(v in ("base", "tuned") for v in pair) for pair in verdicts])
    told = (y != 0.5) & (difference != 0)
    return found | {
        "win rate": mean(y),
        "wins": ratio_of(int((y == 1).sum()), n),
        "losses": ratio_of(int((y == 0).sum()), n),
        "ties": ratio_of(int((y == 0.5).sum()), n),
        "contradicting orders": ratio_of(contradicting, n),
        "prefers the first answer": ratio(firsts, clear),
        "length-controlled win rate": length_controlled(difference, y),
        "longer answer wins": ratio_of(int(((difference > 0) == (y == 1))[told].sum()), int(told.sum())),
    }


def ratio_of(hits: int, n: int) -> dict | None:
    """A share of independent items, with Wilson's interval; None of nothing."""
    return {"value": hits / n, "interval": list(wilson(hits, n)), "n": n, "count": hits} if n else None


# ---------------------------------------------------------------- against people


def read_votes(path: Path) -> list[tuple[str, str]]:
    """(question, choice). Raises UserError that names the line of a vote that is none."""
    votes = []
    for number, row in enumerate(iter_jsonl(path, "votes of people"), 1):
        if not isinstance(row.get("id"), str) or row.get("preferred") not in CHOICES:
            raise UserError(f'{path}: vote {number}: expected {{"id": a question, "preferred": "base", "tuned" or "tie"}}, got {row}')
        votes.append((row["id"], row["preferred"]))
    return votes


def kappa(table: np.ndarray) -> np.ndarray:
    """Cohen's (1960) kappa of [..., k, k] tables of counts; NaN where chance alone would agree always."""
    n = table.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        agreed = np.trace(table, axis1=-2, axis2=-1) / n
        chance = (table.sum(-1) * table.sum(-2)).sum(-1) / n**2
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def against_people(votes: list[tuple[str, str]], results: dict[str, float | None]) -> dict:
    """How far the judge's result on a question agrees with each vote on it: the share among those in which neither is a tie, and kappa over
    base, tie and tuned. Votes on one question are drawn together."""
    tables: dict[str, np.ndarray] = {}
    for question, choice in votes:
        if results.get(question) is not None:
            table = tables.setdefault(question, np.zeros((3, 3)))
            table[round(2 * results[question]), CHOICES.index(choice)] += 1
    found = {"votes": len(votes), "votes on judged questions": int(sum(t.sum() for t in tables.values())), "questions": len(tables)}
    if not tables:
        return found
    stack = np.array([tables[question] for question in sorted(tables)])
    clear = stack[:, [0, 0, 2, 2], [0, 2, 0, 2]]  # base-base, base-tuned, tuned-base, tuned-tuned
    whole = float(kappa(stack.sum(0)))
    many = kappa(np.einsum("rq,qab->rab", resamples(len(stack)), stack))
    told = bool(np.isfinite(whole))
    interval = [float(x) for x in np.nanpercentile(many, [2.5, 97.5])] if told else None
    return found | {
        "agreement without ties": ratio(clear[:, 0] + clear[:, 3], clear.sum(1)),
        "kappa": {"value": whole if told else None, "interval": interval, "n": int(stack.sum())},
        "table": {"rows": "judge", "columns": "people", "order": list(CHOICES), "counts": stack.sum(0).astype(int).tolist()},
    }


# ---------------------------------------------------------------- the page


def share(found: dict | None) -> str:
    if found is None or found["value"] is None:
        return "–"
    return show((found["value"], *found["interval"]), True)


def page(run: Path, found: dict) -> str:
    """judge.md"""
    judge, figures = found["judge"], found["figures"]
    lines = [
        f"# Which answer sounds more like a person: {PROXY}",
        "",
        f"A proxy. {judge['model']} judged {figures['judged']} of {figures['questions']} pairs of answers to the same held-out questions, each in both orders "
        f"(`{run}/answers.jsonl`; prompt `{judge['prompt']}`, sha256 {judge['prompt_sha256'][:16]}). In brackets: 95 % intervals. All figures: `{run}/judge.json`.",
        "",
        *[f"**{warning}**\n" for warning in found["warnings"]],
    ]
    if "win rate" in figures:
        controlled = figures["length-controlled win rate"]
        rows = [
            ("win rate of the tuned model (a tie is half)", "win rate", f"{figures['win rate']['n']} questions"),
            ("wins: both orders prefer it", "wins", ""),
            ("losses: both orders prefer the base", "losses", ""),
            ("ties", "ties", ""),
            ("of these, orders that contradict each other, of all questions", "contradicting orders", ""),
            ("win rate at equal length", "length-controlled win rate", controlled.get("note", "")),
            ("the longer answer wins, where one wins", "longer answer wins", ""),
            ("the answer shown first is preferred (50 %: no position bias)", "prefers the first answer", "verdicts that are no tie"),
            ("verdicts that cannot be read", "unreadable or missing verdicts", "left out with their questions"),
        ]
        lines += ["| proxy | | n | |", "|---|---|---|---|"]
        lines += [f"| {title} | {share(figures[key])} | {figures[key]['n'] if figures[key] else 0} | {note} |" for title, key, note in rows]
    else:
        lines += ["No pair has two verdicts that can be read."]
    lines += ["", "## Against people", ""]
    people = found["people"]
    if people is None:
        lines += [f"Not known: there are no votes of people (`{run}/votes.jsonl`)."]
    elif not people["questions"]:
        lines += [f"None of the {people['votes']} votes in `{run}/votes.jsonl` is on a question that was judged."]
    else:
        k = people["kappa"]
        value = "not defined" if k["value"] is None else f"{k['value']:.2f} [{k['interval'][0]:.2f}, {k['interval'][1]:.2f}]"
        agreed = people["agreement without ties"]
        lines += [
            f"{people['votes on judged questions']} votes on {people['questions']} judged questions (`{run}/votes.jsonl`): the judge agrees with "
            f"{share(agreed)} of the {agreed['n'] if agreed else 0} in which neither is a tie; Cohen's kappa over base, tie and tuned: {value}.",
        ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the command


def plain(name: str) -> str:
    """A model's name without its organisation, in small letters: hosts write the rest in many ways."""
    return name.casefold().rsplit("/", 1)[-1]


def compared(run: Path, meta: dict) -> dict[str, str]:
    """The names of the models that are compared, with what they are: neither may be the judge."""
    names = {meta["base"]: "the base model itself", meta["tuned"]: "the tuned model itself"}
    if (run / "run.yaml").exists():
        names[str(read_yaml(run / "run.yaml", "the run's configuration")["base_model"])] = "the base model itself"
    return {plain(name): what for name, what in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--judge-model", required=True, help="its name at JUDGE_BASE_URL, or else at OPENAI_BASE_URL; auto: the one it lists")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    if not args.judge_model.strip():
        raise UserError("no judge is named: --judge-model (JUDGE_MODEL=) is its name at the endpoint, and it should be neither the base nor the tuned model")
    settings, template = config.load(args.profile), read_prompt(PROMPT)
    url = os.environ.get("JUDGE_BASE_URL") or settings.endpoint.url
    answers, meta = read_answers(args.run / "answers.jsonl"), read_json(args.run / "answers.meta.json")
    model, replies, usage = asyncio.run(ask(answers, settings, url, args.judge_model, template, args.store, compared(args.run, meta)))
    own = plain(model) == plain(settings.answers.model)
    warnings = [f"The judge {model} wrote the answers that the tuned model learnt from: it may prefer its own manner."] if own else []
    verdicts = [tuple(preferred(reply, order) for reply, order in zip(pair, ORDERS, strict=True)) for pair in replies]
    results = {row["id"]: result(*pair) for row, pair in zip(answers, verdicts, strict=True)}
    votes = args.run / "votes.jsonl"
    found = {
        "what": f"PROXY: {PROXY}",
        "judge": {
            "model": model,
            "endpoint": [bare(part.strip()) for part in url.split(",") if part.strip()],
            "prompt": str(PROMPT.relative_to(Path(__file__).parent.parent)),
            "prompt_sha256": sha256(template),
            "sampling": {"temperature": 0.0, "top_p": 1.0, "max_tokens": MAX_TOKENS, "seed": settings.seed},
            "usage": usage,
        },
        "answers": {"base": meta["base"], "tuned": meta["tuned"], "answers_sha256": sha256((args.run / "answers.jsonl").read_bytes())},
        "warnings": warnings,
        "figures": judged(answers, verdicts),
        "people": against_people(read_votes(votes), results) if votes.exists() else None,
        "verdicts": [{"id": row["id"], "base first": pair[0], "tuned first": pair[1]} for row, pair in zip(answers, verdicts, strict=True)],
    }
    unreadable = list(itertools.islice((r.error or r.text for pair in replies for r, v in zip(pair, ORDERS, strict=True) if preferred(r, v) is None), 1))
    write_json(args.run / "judge.json", found)
    write_text(args.run / "judge.md", page(args.run, found))
    figures = found["figures"]
    for warning in warnings:
        print(f"warning: {warning}")
    if unreadable:
        count = sum(pair.count(None) for pair in verdicts)
        print(f"  {count} of {2 * len(answers)} verdicts cannot be read, the first: {unreadable[0][:100]!r}")
    if "win rate" not in figures:
        raise UserError(f"{model} gave no pair two verdicts that can be read; is it a chat model? Its replies are in {args.store}")
    print(f"PROXY, {PROXY}: win rate of the tuned model {share(figures['win rate'])}, at equal length {share(figures['length-controlled win rate'])}")
    print(f"the first answer is preferred in {share(figures['prefers the first answer'])} of verdicts, the longer one wins in {share(figures['longer answer wins'])}")
    print(f"{args.run / 'judge.md'} and judge.json")


if __name__ == "__main__":
    entry(main)
