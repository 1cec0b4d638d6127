"""A judge model rates every text of a contrastive set on every trait of a rubric: whole numbers from 1 to 5, a machine's opinion.

    python -m datagen.traits.rate data/paper/pairs.jsonl data/traits/paper/ratings.jsonl --rubric datagen/traits/rubric.json --judge-model gpt-4.1
    python -m datagen.traits.rate data/paper/pairs.jsonl data/traits/paper/ratings.jsonl --profile paper --preview 6       # six texts, and what all would cost

One call a text, at temperature 0, at JUDGE_BASE_URL or else OPENAI_BASE_URL, with `prompts/traits/rate.txt`. The judge sees a talk and the traits under their ids, in
an order drawn by the text, so that no trait has a place of its own and neither side is told from the other. A reply must be one JSON object that holds every id
once, with a whole number from 1 to 5; anything else is asked for again in another order. Of a text without such a reply, the fullest one counts, and what it
lacks stays null: nothing is imputed. A share of the texts (`traits.retest`) is rated twice, in two orders, to see how far the judge agrees with itself.

Writes one row a text, `{id, side, text_sha256, judge, rubric_sha256, prompt_sha256, ratings, retest}`, and beside it a summary (.json). `read` takes them back, and
refuses ratings of another rubric or by two judges. Every reply is kept in the store: nothing is asked twice, and an interrupted run goes on.
"""

import argparse
import asyncio
import os
from collections import Counter
from pathlib import Path

import numpy as np

from datagen import config
from datagen.client import Client, Request, bare
from datagen.files import UserError, canonical, entry, read_json, read_jsonl, sha256, write_json, write_jsonl
from datagen.meter import estimate, spent, table
from datagen.traits import ask, rubric
from datagen.traits.contrast import SIDES, Pair, fingerprint, talk
from datagen.traits.contrast import read as read_pairs
from datagen.traits.rubric import OURS, SCALE, Rubric
from eval.judge import ratio, resamples, share

AGAIN = "again"  # the second rating of a text


def schema(ids: list[str]) -> dict:
    rating = {"type": "integer", "enum": list(range(SCALE[0], SCALE[1] + 1))}
    return {"type": "object", "properties": dict.fromkeys(ids, rating), "required": ids, "additionalProperties": False}


def order(text: str, ids: list[str], purpose: str, attempt: int) -> list[str]:
    """The traits as this text's judge is shown them."""
    return ask.shuffled(ids, sha256(text), purpose, attempt)


def read_reply(text: str, ids: list[str]) -> tuple[dict[str, int | None], str]:
    """({id: rating or None where there is none that counts}, what is wrong or ""). Raises Unusable for what is no JSON object."""
    value = ask.one_object(text)
    good = {id_: value[id_] if type(value.get(id_)) is int and SCALE[0] <= value[id_] <= SCALE[1] else None for id_ in ids}
    missing = [id_ for id_ in ids if id_ not in value]
    extra = sorted(set(value) - set(ids))
    outside = [id_ for id_ in ids if id_ in value and good[id_] is None]
    faults = [f"{len(missing)} ids were missing, such as {missing[0]}"] if missing else []
    faults += [f"{extra[0][:20]!r} is no id of the list"] if extra else []
    faults += (
        [f"{len(outside)} ratings were no whole numbers from {SCALE[0]} to {SCALE[1]}, such as {outside[0]}: {canonical(value[outside[0]])[:20]}"] if outside else []
    )
    return good, "; ".join(faults)


def fullest(values: list[dict[str, int | None]], ids: list[str]) -> dict[str, int | None]:
    return max(values, key=lambda value: sum(v is not None for v in value.values()), default=dict.fromkeys(ids))


class Judging:
    """The distinct talks of a set, and the requests that rate them. Equal talks are one talk: they are asked about once."""

    def __init__(self, pairs: list[Pair], rated: Rubric, settings: config.Settings):
        self.ids, self.statements, self.settings = rated.ids, rated.statements, settings
        self.template = ask.prompt(settings, "rate", "talk", "traits")
        self.talks = {sha256(words): words for pair in pairs for side in SIDES for words in [talk(pair, side)]}
        self.twice = [key for key in self.talks if ask.draw(AGAIN, key) < settings.traits.retest * 2**32]
        self.names = [(key, "") for key in self.talks] + [(key, AGAIN) for key in self.twice]

    def request(self, model: str, name: tuple[str, str], attempt: int, fault: str) -> Request:
        key, purpose = name
        listed = order(self.talks[key], self.ids, purpose, attempt)
        text = ask.fill(self.template, fault, talk=self.talks[key], traits="\n".join(f"{id_}: {self.statements[id_]}" for id_ in listed))
        return ask.request(self.settings, model, text, 2 * attempt + (purpose == AGAIN), schema(listed), name, temperature=0.0)

    async def asked(self, client: Client, model: str, names: list) -> dict[tuple[str, str], ask.Answer]:
        def make(name: tuple[str, str], attempt: int, fault: str) -> Request:
            return self.request(model, name, attempt, fault)

        return await ask.answers(client, self.settings, make, lambda _, text: read_reply(text, self.ids), names, "ratings")


# ---------------------------------------------------------------- figures


def kappa(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[resamples] Cohen's (1968) kappa with quadratic weights of two ratings [n] of the same texts, each text taken counts [resamples, n] times.

    1 - sum(w O) / sum(w E) with w = (x - y)^2, whose sums are moments: 1 - E(x - y)^2 / (var x + var y + (mean x - mean y)^2). NaN where no disagreement is
    possible by chance (all ratings are one number)."""
    n = counts.sum(1)
    mx, my = counts @ x / n, counts @ y / n
    disagreement = counts @ ((x - y) ** 2) / n
    chance = (counts @ x**2 / n - mx**2) + (counts @ y**2 / n - my**2) + (mx - my) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance > 1e-9, 1 - disagreement / chance, np.nan)


def agreement(first: list[dict], second: list[dict], ids: list[str]) -> dict:
    """How far a judge agrees with itself on the texts that it rated twice; each row {id: rating or None}. Texts are resampled for the intervals."""
    x, y = (np.array([[np.nan if row[id_] is None else row[id_] for id_ in ids] for row in rows], dtype=float).reshape(-1, len(ids)) for rows in (first, second))
    both = ~(np.isnan(x) | np.isnan(y))
    gap = np.abs(x - y)
    found = {"texts": len(x), "exact": ratio(((gap == 0) & both).sum(1), both.sum(1)), "within 1": ratio(((gap <= 1) & both).sum(1), both.sum(1)), "kappa": {}}
    for i, id_ in enumerate(ids):
        a, b = x[both[:, i], i], y[both[:, i], i]
        value = float(kappa(a, b, np.ones((1, len(a))))[0]) if len(a) else np.nan
        told = bool(np.isfinite(value))
        many = kappa(a, b, resamples(len(a))) if told else np.array([])
        interval = [float(v) for v in np.nanpercentile(many, [2.5, 97.5])] if told else None
        found["kappa"][id_] = {"value": value if told else None, "interval": interval, "n": len(a)}
    return found


# ---------------------------------------------------------------- the stage


async def preview(judging: Judging, url: str, model: str, store: Path, show: int) -> None:
    """Rates the first few talks, which the store then holds, and says what all would take."""
    settings = judging.settings
    async with Client(settings.endpoint.model_copy(update={"batch": False}), store, url, prices=settings.prices) as client:
        model = await client.resolve(model)
        names = sorted((name for name in judging.names if not name[1]), key=lambda name: sha256(name[0]))[:show]
        found = await judging.asked(client, model, names)
        for name in names:
            print(f"{judging.talks[name[0]][:400]}\n  => {canonical(found[name].values[-1]) if found[name].values else ''} {found[name].fault}\n")
        calls = sum(answer.tries for answer in found.values())
        requests = round(len(judging.names) * calls / max(1, len(names)))
        batch = settings.endpoint.batch
        rows = [estimate("ratings", requests, client.meter.of(model), client.meter.latencies, client.window, batch)]
        print(f"{sum(bool(a.values) and not a.fault for a in found.values())} of {len(names)} texts have all ratings. What the whole would take:")
        print(table(rows, calls))


async def rate(pairs: list[Pair], rated: Rubric, settings: config.Settings, url: str, model: str, store: Path, before: object = 0) -> tuple[list[dict], dict]:
    """(rows, one for each side of each pair; summary)."""
    judging = Judging(pairs, rated, settings)
    async with Client(settings.endpoint, store, url, prices=settings.prices, spent=before) as client:
        model = await client.resolve(model)
        first = [judging.request(model, name, 0, "") for name in judging.names]
        print(ask.bill(client, first, f"ratings of {len(judging.talks):,} texts on {len(rated.ids)} traits, {len(judging.twice):,} of them twice"))
        found = await judging.asked(client, model, judging.names)
        usage, otherwise, where = client.meter.as_json(), client.meter.otherwise(), [bare(replica.url) for replica in client.replicas]
    ratings = {name: fullest(answer.values, rated.ids) for name, answer in found.items()}
    binding = {"judge": model, "rubric_sha256": rated.sha256, "prompt_sha256": sha256(judging.template)}
    rows = []
    for pair in pairs:
        for side, text in (("human", pair.human), ("other", pair.other)):
            key = sha256(talk(pair, side))
            row = {"id": pair.id, "side": side, "text_sha256": sha256(text)} | binding | {"ratings": ratings[key, ""]}
            rows.append(row | ({"retest": ratings[key, AGAIN]} if (key, AGAIN) in ratings else {}))
    once = [ratings[key, ""] for key in judging.talks]
    faults = Counter(answer.fault for (_, purpose), answer in found.items() if answer.fault and not purpose)
    summary = binding | {
        "what": "a judge model's opinion, not people's",
        "rubric": rated.name,
        "traits": rated.statements,
        "endpoint": where,
        "prompt": str(Path(settings.prompts) / "traits/rate.txt"),
        "sampling": {
            "temperature": 0.0,
            "top_p": settings.traits.top_p,
            "max_tokens": settings.traits.max_tokens,
            "seed": settings.seed,
            "schemas": settings.traits.schemas,
        },
        "pairs": {"sha256": fingerprint(pairs), "n": len(pairs), "texts": 2 * len(pairs), "distinct texts": len(once)},
        "missing ratings": ratio(np.array([sum(v is None for v in row.values()) for row in once]), np.full(len(once), len(rated.ids))),
        "texts with a fault": dict(faults.most_common()),
        "asked again": sum(answer.tries - 1 for answer in found.values()),
        "test-retest": agreement([ratings[key, ""] for key in judging.twice], [ratings[key, AGAIN] for key in judging.twice], rated.ids),
        "usage": usage,
    }
    return rows, summary | otherwise


def read(path: Path, rated: Rubric) -> tuple[dict[tuple[str, str], dict[str, int | None]], dict]:
    """({(id of the pair, side): {id of the trait: rating or None}}, {judge, rubric_sha256, prompt_sha256}) of a file of ratings.

    Raises UserError for ratings of another rubric, by two judges or prompts, for a text that stands twice, or for what is no rating."""
    found, bindings = {}, set()
    names = ("judge", "rubric_sha256", "prompt_sha256")
    for number, row in enumerate(read_jsonl(path, "ratings, from `make rate`"), 1):
        place, ratings = f"{path}: row {number}", row.get("ratings")
        if row.get("side") not in SIDES or not all(isinstance(row.get(key), str) for key in ("id", "text_sha256", *names)) or not isinstance(ratings, dict):
            raise UserError(f"{place}: not a row of ratings, which `make rate` writes")
        if row["rubric_sha256"] != rated.sha256:
            raise UserError(
                f"{place}: rated on another rubric ({row['rubric_sha256'][:16]}) than {rated.name} ({rated.sha256[:16]}); rate the texts anew with `make rate`"
            )
        if set(ratings) != set(rated.ids):
            raise UserError(f"{place}: its traits are not those of the rubric {rated.name}: {', '.join(sorted(set(ratings) ^ set(rated.ids))[:3])}")
        if bad := [id_ for id_, v in ratings.items() if v is not None and not (type(v) is int and SCALE[0] <= v <= SCALE[1])]:
            raise UserError(f"{place}: {bad[0]}: a rating is a whole number from {SCALE[0]} to {SCALE[1]} or null, got {ratings[bad[0]]!r}")
        if (row["id"], row["side"]) in found:
            raise UserError(f"{place}: the text {row['id']}, {row['side']} stands twice")
        found[row["id"], row["side"]] = ratings
        bindings.add(tuple(row[name] for name in names))
    if not found:
        raise UserError(f"{path}: holds no ratings; run `make rate`")
    if len(bindings) > 1:
        raise UserError(f"{path}: ratings by more than one judge or prompt ({'; '.join(sorted(b[0] for b in bindings))}); weights of one mean nothing for another")
    return found, dict(zip(names, bindings.pop(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="a contrastive set: see datagen.traits.contrast")
    parser.add_argument("out", type=Path, help="ratings.jsonl; the summary is written beside it")
    parser.add_argument("--rubric", type=Path, default=OURS)
    parser.add_argument("--judge-model", help="its name at JUDGE_BASE_URL, or else at OPENAI_BASE_URL; without it, the model of `traits`")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--preview", type=int, help="rates so many texts, shows them, says what the whole would take, and writes nothing else")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    if args.preview is not None and args.preview < 1:
        raise UserError(f"--preview (PREVIEW=) is a number of texts, at least 1, got {args.preview}")
    settings, pairs, rated = config.load(args.profile), read_pairs(args.pairs), rubric.load(args.rubric)
    url = (os.environ.get("JUDGE_BASE_URL") if args.judge_model else None) or settings.endpoint.url
    model = args.judge_model or settings.traits.model
    if args.preview:
        return asyncio.run(preview(Judging(pairs, rated, settings), url, model, args.store, args.preview))
    # What naming and merging cost counts against the same budget, where this rubric came from them.
    beside = [path for path in (args.rubric.with_name("statements.json"), args.rubric) if path.exists()]
    before = sum(spent(value if path != args.rubric else value["made_by"]) for path in beside for value in [read_json(path)])
    rows, summary = asyncio.run(rate(pairs, rated, settings, url, model, args.store, before))
    missing, retest = summary["missing ratings"], summary["test-retest"]
    for fault, n in list(summary["texts with a fault"].items())[:5]:
        print(f"  {n} texts: {fault}")
    if missing["value"] == 1:
        raise UserError(f"{summary['judge']} gave no rating that can be read; is it a chat model? Its replies are in {args.store}")
    write_jsonl(args.out, rows)
    write_json(args.out.with_suffix(".json"), {"file": args.pairs, "rubric file": str(args.rubric)} | summary)
    print(f"ratings by {summary['judge']}, a model's opinion: {missing['n']:,} of {summary['pairs']['distinct texts']:,} distinct texts, missing {share(missing)}")
    print(f"the same text twice ({retest['texts']} texts): equal in {share(retest['exact'])}, at most 1 apart in {share(retest['within 1'])}")
    print(f"{args.out}, {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    entry(main)
