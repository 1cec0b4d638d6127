"""A rubric: traits that a judge looks for in a text. Every trait is known by an id that is the hash of its statement, never by its place.

    python -m datagen.traits.rubric datagen/traits/rubric.json                       # checks it, and shows its traits
    python -m datagen.traits.rubric mine.txt --out data/traits/mine/rubric.json      # makes one of your own statements, one a line

`datagen/traits/rubric.json` is ours and needs no model. A statement that is edited is another trait with another id: ratings of the old one say nothing about it,
so a file whose ids do not belong to their statements is refused. The order of the traits in the file means nothing.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from datagen.files import UserError, canonical, entry, read_json, read_text, sha256, write_json

OURS = Path(__file__).with_name("rubric.json")
SCALE = (1, 5)  # what prompts/traits/rate.txt asks for
KEYS = {"name", "traits", "scale", "prompt_sha256", "made_by"}
TRAIT_KEYS = {"id", "statement", "sha256", "from"}


@dataclass(frozen=True)
class Trait:
    id: str  # t- and the first six digits of sha256
    statement: str
    sha256: str  # of the statement
    source: tuple[str, ...] = ()  # ids of the proposed statements that it stands for: `from` in the file


@dataclass(frozen=True)
class Rubric:
    name: str
    traits: tuple[Trait, ...]  # sorted by id
    prompt_sha256: str | None  # of prompts/traits/merge.txt, where a model worded the traits
    made_by: dict

    @property
    def ids(self) -> list[str]:
        return [trait.id for trait in self.traits]

    @property
    def statements(self) -> dict[str, str]:
        return {trait.id: trait.statement for trait in self.traits}

    @property
    def sha256(self) -> str:
        """Of what a judge is asked: the statements under their ids, and the scale. Neither the order in the file nor the rubric's name counts."""
        return sha256(canonical([SCALE, [(trait.id, trait.sha256) for trait in self.traits]]))


def trait(statement: str, source: tuple[str, ...] = ()) -> Trait:
    digest = sha256(statement)
    return Trait(f"t-{digest[:6]}", statement, digest, source)


def make(name: str, traits: list[Trait], made_by: dict, prompt_sha256: str | None = None) -> Rubric:
    """A rubric of these traits. Raises UserError for fewer than two, or two with one id."""
    ids = [trait.id for trait in traits]
    if len(ids) < 2:
        raise UserError(f"{name}: a rubric needs at least two traits, got {len(ids)}")
    if doubled := {id_ for id_ in ids if ids.count(id_) > 1}:
        raise UserError(f"{name}: the same statement stands twice ({next(t.statement for t in traits if t.id in doubled)!r})")
    return Rubric(name, tuple(sorted(traits, key=lambda trait: trait.id)), prompt_sha256, made_by)


def save(path: Path, rubric: Rubric) -> None:
    traits = [{"id": t.id, "statement": t.statement, "sha256": t.sha256, "from": list(t.source)} for t in rubric.traits]
    write_json(path, {"name": rubric.name, "traits": traits, "scale": list(SCALE), "prompt_sha256": rubric.prompt_sha256, "made_by": rubric.made_by})


def load(path: Path) -> Rubric:
    """The rubric of a file. Raises UserError, one line, for unknown or missing keys, doubled ids, another scale, or an id that does not belong to its statement."""
    if not path.exists():
        raise UserError(f"{path}: there is no such rubric; `make traits` makes one of proposed statements, and {OURS.relative_to(OURS.parents[2])} is there without")
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a rubric, an object with {', '.join(sorted(KEYS))}")
    keys(value, KEYS, str(path))
    rows = value["traits"]
    if not isinstance(value["name"], str) or not value["name"] or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: name is text and traits is a list of objects")
    if value["scale"] != list(SCALE):
        raise UserError(f"{path}: scale: a judge rates from {SCALE[0]} to {SCALE[1]}, expected {list(SCALE)}, got {value['scale']!r}")
    if not isinstance(value["prompt_sha256"], str | None) or not isinstance(value["made_by"], dict):
        raise UserError(f"{path}: prompt_sha256 is a hash or null, and made_by an object")
    traits, seen = [], set()
    for number, row in enumerate(rows, 1):
        place = f"{path}: trait {number}"
        keys(row, TRAIT_KEYS, place)
        if not all(isinstance(row[key], str) and row[key].strip() for key in ("id", "statement", "sha256")):
            raise UserError(f"{place}: id, statement and sha256 are text")
        if not isinstance(row["from"], list) or not all(isinstance(id_, str) for id_ in row["from"]):
            raise UserError(f"{place}: from is a list of ids")
        right = trait(row["statement"], tuple(row["from"]))
        if row["id"] in seen:
            raise UserError(f"{path}: the id {row['id']} stands twice")
        seen.add(row["id"])
        if (row["id"], row["sha256"]) != (right.id, right.sha256):
            raise UserError(
                f"{path}: {row['id']} does not belong to its statement {row['statement'][:80]!r}, whose id is {right.id}: an edited statement is a new trait "
                "and needs a new rating. Restore it, or make a new rubric of the statements with `python -m datagen.traits.rubric`"
            )
        traits.append(right)
    if len(traits) < 2:
        raise UserError(f"{path}: a rubric needs at least two traits, got {len(traits)}")
    return make(value["name"], traits, value["made_by"], value["prompt_sha256"])


def keys(value: dict, wanted: set[str], place: str) -> None:
    faults = [f"unknown key {key}" for key in sorted(set(value) - wanted)] + [f"{key} is missing" for key in sorted(wanted - set(value))]
    if faults:
        raise UserError(f"{place}: {'; '.join(faults)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a rubric (.json), or statements, one a line (.txt)")
    parser.add_argument("--out", type=Path, help="where a rubric of the statements is written; its name is that of the folder")
    args = parser.parse_args()
    if (args.file.suffix == ".txt") != bool(args.out):
        raise UserError("statements (.txt) need --out, a rubric.json; a rubric (.json) is only shown")
    if args.out:
        lines = [" ".join(line.split()) for line in read_text(args.file, "statements, one a line").splitlines() if line.strip()]
        save(args.out, make(args.out.parent.name, [trait(line) for line in lines], {"stage": "written by hand"}))
    rubric = load(args.out or args.file)
    print("\n".join(f"{trait.id}  {trait.statement}" for trait in rubric.traits))
    print(f"{rubric.name}: {len(rubric.traits)} traits, rated from {SCALE[0]} to {SCALE[1]}; sha256 {rubric.sha256[:16]} ({args.out or args.file})")


if __name__ == "__main__":
    entry(main)
