"""Makes a rubric of proposed statements: duplicates out, alike ones together, and of each group what lies nearest to its middle.

    python -m datagen.traits.cluster data/traits/paper/statements.jsonl data/traits/paper/rubric.json --profile paper
    python -m datagen.traits.cluster data/traits/paper/statements.jsonl data/traits/paper/rubric.json --profile paper --medoids     # without a model

Equal and nearly equal statements count as one (`datagen.near`); what is left is embedded (`traits.embed` in datagen/config.yaml; by default TF-IDF of letters,
which needs no model) and grouped by agglomerative clustering (Ward 1963, on unit vectors, so that distance is a matter of the cosine). A model merges the statements
nearest to the middle of each group to `traits.count` distinct ones (`prompts/traits/merge.txt`). With --medoids, the statement nearest to the middle of each of
`traits.count` groups is a trait as it stands. No step draws random numbers without a seed, and the order of the rows makes no difference.
HAL (arXiv 2601.02813) merges 54 clusters to 32 traits; as many groups more than traits are formed here.
"""

import argparse
import asyncio
from collections import Counter
from pathlib import Path

import numpy as np

from datagen import config
from datagen.client import Client, Request
from datagen.files import UserError, entry, read_json, read_jsonl, sha256
from datagen.meter import spent
from datagen.near import Near
from datagen.traits import ask, rubric
from datagen.traits.propose import CHARACTERS

NEAR = 0.7  # of word pairs, as for questions
GROUPS_A_TRAIT = 54 / 32  # before a model merges them
NEAREST = 3  # statements of each group that the model is shown


def read_statements(path: Path) -> list[dict]:
    """Rows of `id` and `statement`, sorted by id. Raises UserError, naming the row that is none or repeats an id."""
    rows = read_jsonl(path, "statements, from `make traits`")
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(key), str) and row[key].strip() for key in ("id", "statement")):
            raise UserError(f"{path}: row {number}: expected an object with id and statement, got {str(row)[:80]}")
    if doubled := [id_ for id_, n in Counter(row["id"] for row in rows).items() if n > 1]:
        raise UserError(f"{path}: the id {doubled[0]} stands twice")
    return sorted(rows, key=lambda row: row["id"])


def distinct(rows: list[dict]) -> list[dict]:
    """One row for each set of equal or nearly equal statements, the one with the smallest id, with `count`: how many it stands for."""
    near, kept = Near(NEAR), []
    for row in rows:
        if found := near.matches(row["statement"]):
            kept[found[0]]["count"] += 1
        else:
            near.add(row["statement"])
            kept.append({"id": row["id"], "statement": row["statement"], "count": 1})
    return kept


def grouped(rows: list[dict], wanted: int, embedding: str, cache: Path) -> tuple[list[list[dict]], str]:
    """(groups, what embedded the statements). Within a group, the nearest to its middle comes first; the group that stands for most statements comes first."""
    if len(rows) <= max(2, wanted):  # nothing to group, and too few to embed
        return [[row] for row in sorted(rows, key=lambda row: (-row["count"], row["id"]))], "nothing (no more statements than groups)"
    from sklearn.cluster import AgglomerativeClustering

    from datagen.topics import embed, unit

    vectors, by, _ = embed([row["statement"] for row in rows], embedding, cache)
    labels = AgglomerativeClustering(n_clusters=wanted, linkage="ward").fit_predict(vectors)
    groups = []
    for label in range(wanted):
        mine = np.flatnonzero(labels == label)
        middle = unit(vectors[mine].mean(axis=0, keepdims=True))[0]
        near = sorted(mine, key=lambda i: (-round(float(vectors[i] @ middle), 5), rows[i]["id"]))
        groups.append([rows[i] for i in near])
    return sorted(groups, key=lambda group: (-sum(row["count"] for row in group), group[0]["id"])), by


def schema(count: int, known: set[str]) -> dict:
    text = {"type": "string", "minLength": CHARACTERS[0], "maxLength": CHARACTERS[1]}
    one = {
        "type": "object",
        "properties": {"statement": text, "from": {"type": "array", "items": {"type": "string", "enum": sorted(known)}, "minItems": 1}},
        "required": ["statement", "from"],
    }
    return {
        "type": "object",
        "properties": {"traits": {"type": "array", "items": one | {"additionalProperties": False}, "minItems": count, "maxItems": count}},
        "required": ["traits"],
        "additionalProperties": False,
    }


def read_merged(text: str, known: set[str], count: int) -> list[rubric.Trait]:
    """The traits of a reply. Raises Unusable, saying what is wrong."""
    value = ask.one_object(text)
    rows = value.get("traits")
    if set(value) != {"traits"} or not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) == {"statement", "from"} for row in rows):
        raise ask.Unusable('it was not {"traits": [{"statement": …, "from": […]}]}')
    if len(rows) != count:
        raise ask.Unusable(f"there were {len(rows)} traits instead of {count}")
    near, used, traits = Near(NEAR), set(), []
    for row in rows:
        statement, source = row["statement"], row["from"]
        if not isinstance(statement, str) or not CHARACTERS[0] <= len(" ".join(statement.split())) <= CHARACTERS[1]:
            raise ask.Unusable(f"a statement had fewer than {CHARACTERS[0]} or more than {CHARACTERS[1]} characters")
        if not isinstance(source, list) or not source or not all(isinstance(id_, str) for id_ in source):
            raise ask.Unusable("a trait came from no statement")
        if strays := [id_ for id_ in source if id_ not in known]:
            raise ask.Unusable(f"there is no statement {strays[0][:20]!r}")
        if used & set(source) or len(set(source)) < len(source):
            raise ask.Unusable("a statement stood with two traits")
        statement = " ".join(statement.split())
        if near.matches(statement):
            raise ask.Unusable(f"two traits say the same ({statement[:60]!r})")
        near.add(statement)
        used |= set(source)
        traits.append(rubric.trait(statement, tuple(source)))
    return traits


async def merged(groups: list[list[dict]], settings: config.Settings, store: Path, count: int, before: object) -> tuple[list[rubric.Trait], dict, str]:
    """(traits, how they were made, hash of the prompt). Raises UserError where no reply could be used."""
    template = ask.prompt(settings, "merge", "count", "statements")
    known = {row["id"] for group in groups for row in group[:NEAREST]}
    async with Client(settings.endpoint, store, prices=settings.prices, spent=before) as client:
        model = await client.resolve(settings.traits.model)

        def make(name: str, attempt: int, fault: str) -> Request:
            order = ask.shuffled([group[0]["id"] for group in groups], "merge", attempt) if attempt else [group[0]["id"] for group in groups]
            at = {group[0]["id"]: group for group in groups}
            listed = "\n\n".join("\n".join(f"{row['id']}: {row['statement']}" for row in at[id_][:NEAREST]) for id_ in order)
            text = ask.fill(template, fault, count=str(count), statements=listed)
            return ask.request(settings, model, text, attempt, schema(count, known), name, settings.traits.temperature)

        print(ask.bill(client, [make("merge", 0, "")], "lists to be merged"))
        [answer] = (await ask.answers(client, settings, make, lambda _, text: (read_merged(text, known, count), ""), ["merge"], "lists merged")).values()
        if not answer.values:
            raise UserError(
                f"{model} did not merge the statements to {count} traits in {answer.tries} tries, the last time {answer.fault}. Its replies are in {store}; "
                "--medoids (MEDOIDS=1) takes the middle of each group as it stands"
            )
        return answer.values[-1], {"model": model, "usage": client.meter.as_json()}, sha256(template)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statements", type=Path, help="statements.jsonl, from datagen.traits.propose, or rows of id and statement of your own")
    parser.add_argument("out", type=Path, help="rubric.json; the rubric's name is that of its folder")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--medoids", action="store_true", help="no model: the middle of each group")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    parser.add_argument("--cache", type=Path, default=Path("data/embeddings"))
    args = parser.parse_args()
    settings = config.load(args.profile)
    proposed = read_statements(args.statements)
    rows = distinct(proposed)
    count = settings.traits.count
    if len(rows) < count:
        raise UserError(f"{args.statements}: holds {len(rows)} distinct statements, too few for the {count} traits of `traits.count` (datagen/config.yaml)")
    groups, by = grouped(rows, count if args.medoids else round(GROUPS_A_TRAIT * count), settings.traits.embed or "tfidf", args.cache)
    made = {"stage": "datagen.traits.cluster", "statements": len(proposed), "distinct": len(rows), "groups": len(groups), "embedded by": by}
    if args.medoids:
        traits, digest = [rubric.trait(" ".join(group[0]["statement"].split()), tuple(row["id"] for row in group[:NEAREST])) for group in groups[:count]], None
    else:
        summary = args.statements.with_suffix(".json")  # of the statements: the budget covers both
        before = spent(read_json(summary)) if summary.exists() else 0
        traits, more, digest = asyncio.run(merged(groups, settings, args.store, count, before))
        made |= more
    rubric.save(args.out, rubric.make(args.out.parent.name, traits, made | {"worded by": "medoids, as proposed" if args.medoids else "the model"}, digest))
    print(f"{len(proposed)} statements, {len(rows)} of them distinct, in {len(groups)} groups (embedded by {by}); {len(traits)} traits in {args.out}")


if __name__ == "__main__":
    entry(main)
