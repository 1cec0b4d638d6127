"""Writes the card of a generated data set and pushes both to the Hub in one commit, privately unless told otherwise.

    python -m train.publish data data/paper my-org/human-like-pairs --dry-run   # writes data/paper/publish/ and pushes nothing
    python -m train.publish data data/paper my-org/human-like-pairs             # or: make publish-data REPO=my-org/human-like-pairs

The card says what the folder's own files say: counts and reasons (ledger.json), models, sampling and prompts (its `settings`), tokens and money (its
`usage`), shortcuts (audit.json); and what the generators' licences ask (datagen/models.yaml). What is not recorded is said to be so.
The token comes from HF_TOKEN or `hf auth login`, and is never printed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import jinja2

from datagen import prices
from datagen.files import UserError, atomic, entry, iter_jsonl, read_json, read_text, sha256, write_text

UNKNOWN = "UNKNOWN: fill in"
COPIED = ("pairs.jsonl", "ledger.json", "rejects.jsonl", "audit.html", "topics.html")
SIZES = {1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M", 1e7: "1M<n<10M", 1e8: "10M<n<100M", 1e9: "100M<n<1B"}  # the Hub's names
# Licences that the Hub knows by these names; any other is `other` with a name.
HUB = re.compile(r"apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-4\.0|odc-by|odbl|gemma|llama3(\.[123])?|llama4")
# How keys look: OpenAI's and many after it, the Hub, Groq, Fireworks, Together, GitHub, GitLab, AWS, Google, Slack; in headers, addresses, key files.
SECRET = (
    r"\bsk-(?=[\w-]*\d)[\w-]{20,}|\bhf_\w{30,}|\b(?:gsk|fw|tgp_v1)_\w{20,}|\bgh[pousr]_\w{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{35}|\bxox[abprs]-[\w-]{10,}|\bBearer [\w.~+/-]{20,}|://[^/\s:@\"]+:[^/\s@\"]+@|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def refuse_secrets(path: Path) -> None:
    """Raises UserError, with the line but not the text, for what looks like a key or token, or is one that this shell holds."""
    own = [re.escape(value) for name, value in os.environ.items() if name.endswith(("_KEY", "_TOKEN")) and len(value) >= 12]
    forbidden = re.compile("|".join([SECRET, *own]))
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if forbidden.search(line):
                raise UserError(f"{path}:{number}: holds what looks like an API key or token; take it out before publishing, and withdraw it if it is yours")


def write_parquet(source: Path, target: Path) -> dict:
    """pairs.jsonl as Parquet, 5,000 rows at a time, because a set may be larger than memory. Returns what the card says of it: rows, kinds,
    mean words, and as example the row whose hash is least, so that no one chose it."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    seen, kinds, batch, writer, example = Counter(), Counter(), [], None, None
    with atomic(target, "wb") as file:
        for row in iter_jsonl(source, "pairs, from `make data`"):
            seen["rows"] += 1
            if not all(isinstance(row.get(k), str) and row[k].strip() for k in ("prompt", "chosen", "rejected")):
                raise UserError(f"{source}, row {seen['rows']}: prompt, chosen and rejected have to be texts")
            if example and [(k, type(row[k])) for k in row] != [(k, type(example[k])) for k in example]:
                raise UserError(f"{source}, row {seen['rows']}: its columns {', '.join(row)} differ in name, order or type from those before it")
            kinds[row.get("kind", "not given")] += 1
            seen.update({k: len(row[k].split()) for k in ("chosen", "rejected")})
            example = min(example or row, row, key=lambda row: sha256(row["prompt"]))
            batch.append(row)
            if len(batch) == 5000:
                writer = writer or ParquetWriter(file, pyarrow.Table.from_pylist(batch).schema)
                writer.write_table(pyarrow.Table.from_pylist(batch, writer.schema))
                batch = []
        if not seen["rows"]:
            raise UserError(f"{source}: holds no pairs, so there is nothing to publish")
        table = pyarrow.Table.from_pylist(batch, writer and writer.schema)
        with writer or ParquetWriter(file, table.schema) as writer:
            writer.write_table(table)
    return {"rows": seen["rows"], "kinds": dict(sorted(kinds.items())), "words": {k: seen[k] / seen["rows"] for k in ("chosen", "rejected")}, "example": example}


def flat(value: dict, path: str = "") -> list[tuple[str, object]]:
    """The counts of a nested ledger as rows: ("pairs: rejected: empty", 3)."""
    rows = []
    for name, inner in value.items():
        if name not in ("settings", "usage"):
            rows += flat(inner, f"{path}{'rejected' if name == 'reasons' else name}: ") if isinstance(inner, dict) else [(path + name, inner)]
    return rows


def terms(models: list[str], declared: str | None) -> dict:
    """The licence of a set of these models' answers: the strictest of theirs; `other` where one is unknown, or several equally strict ones differ."""
    known = {model: prices.licence(model) for model in models}
    found = sorted({licence.name: licence for licence in known.values() if licence}.values(), key=lambda licence: (-licence.strictness, licence.id))
    strictest = [licence for licence in found if licence.strictness == found[0].strictness > 0] or found[:1]
    derived = " and ".join(licence.name for licence in strictest) if found and None not in known.values() else UNKNOWN
    one = strictest[0] if len(strictest) == 1 and derived != UNKNOWN and not declared else None
    slug = re.sub(r"[^a-z0-9.]+", "-", (declared or derived).lower()).strip("-")
    identifier = one.id if one else declared if HUB.fullmatch(declared or "") else "other"
    restricted = bool(found) and found[0].strictness == 4
    return {"id": identifier, "slug": slug, "link": one and one.url, "derived": derived, "declared": declared, "known": known, "restricted": restricted}


def verdicts(folder: Path, rows: int) -> list[str] | str:
    """The lines at the top of the audit (datagen/audit.py), or why there are none."""
    path = folder / "audit.json"
    if not path.exists():
        return "No audit was run on these pairs, so it is not known how far length, emoji or stock phrases alone tell chosen from rejected; `make audit` finds out."
    audit = read_json(path)
    if audit.get("rows") != rows or path.stat().st_mtime < (folder / "pairs.jsonl").stat().st_mtime:
        return "The audit that lies beside the pairs describes another state of them and is not quoted here; `make audit` makes a new one."
    return [line["text"] for line in audit["verdicts"]] or "The audit found none."


def write_data(folder: Path, repo: str, declared: str | None) -> tuple[list[str], dict]:
    """Writes folder/publish/; returns the names of its files and the licence. Raises UserError for what must not go out."""
    names, out = [name for name in COPIED if (folder / name).exists()], folder / "publish"
    if not {"pairs.jsonl", "ledger.json"} <= set(names):
        raise UserError(f"{folder}: pairs.jsonl and ledger.json have to lie there; `make data` writes both")
    for name in names:
        refuse_secrets(folder / name)
    facts, ledger = write_parquet(folder / "pairs.jsonl", out / "pairs.parquet"), read_json(folder / "ledger.json")
    accepted = ledger.get("pairs", {}).get("accepted")
    if accepted != facts["rows"]:
        raise UserError(f"{folder}: ledger.json counts {accepted} accepted pairs, pairs.jsonl holds {facts['rows']}; run `make data` again to make them agree")
    for name in names:
        with open(folder / name, "rb") as source, atomic(out / name, "wb") as target:
            shutil.copyfileobj(source, target)
    settings, asked = ledger.get("settings") or {}, ledger.get("questions") or {}
    stages = {name: stage for name, stage in settings.items() if isinstance(stage, dict) and "model" in stage and (name != "questions" or "requests" in asked)}
    used = [{"stage": name, "model": model, **row} for name, part in (("questions", asked), ("pairs", ledger)) for model, row in (part.get("usage") or {}).items()]
    licence = terms(sorted(({row["model"] for row in used} | {stage["model"] for stage in stages.values()}) - {"auto"}), declared)
    sent = ["human_like", "formal", *(["questions_conversational", "questions_general", "list_request", "list_seeds"] if "questions" in stages else [])]
    texts = {name: Path(settings["prompts"]) / f"{name}.txt" for name in sent if settings.get("prompts")}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    card = environment.get_template("card.md.j2").render(
        repo=repo, set=folder.resolve().name, facts=facts, size=next((name for limit, name in SIZES.items() if facts["rows"] < limit), "n>1T"), files=names,
        ledger=flat(ledger), licence=licence, unknown=UNKNOWN, settings=settings, stages=stages, usage=used, verdicts=verdicts(folder, facts["rows"]),
        prompts={name: read_text(path, "a prompt").strip() for name, path in texts.items() if path.exists()}, commit=commit or "not a git checkout",
        example=json.dumps(facts["example"], indent=2, ensure_ascii=False),
    )  # fmt: skip
    write_text(out / "README.md", card)
    return ["README.md", "pairs.parquet", *names], licence


def push(out: Path, names: list[str], repo: str, public: bool) -> str:
    """One commit to the data set `repo`, made if need be; its address. Raises UserError, in one line without the token, for what the Hub refuses."""
    import httpx
    from huggingface_hub import HfApi, constants, errors, get_token

    token = get_token()
    if not token:
        raise UserError("there is no token for the Hub: export HF_TOKEN (with write permission), or run `hf auth login`; DRY_RUN=1 needs none")
    api = HfApi(token=token)
    try:
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type="dataset").private:
            raise UserError(f"{repo} is there already and is public; add PUBLIC=1 (--public) if it is meant to be")
        return api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=out, allow_patterns=names, commit_message="Data set and card").commit_url
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {401: "the token was refused", 403: "the token may not write there", 404: "there is no such user, organisation or data set"}
        words = f"{reasons.get(status, 'the Hub refused')} ({status}: {error.server_message or 'no reason given'})"
    except (httpx.HTTPError, ConnectionError) as error:
        words = f"{constants.ENDPOINT} cannot be reached ({error})"
    except ValueError as error:  # a name or a card that breaks the Hub's rules
        words = f"the Hub does not take it ({error})"
    raise UserError(f"{repo}: {' '.join(words.replace(token, '***').split())[:400]}. What was to be pushed lies in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_subparsers(dest="what", required=True).add_parser("data", help="a generated data set")
    data.add_argument("folder", type=Path)
    data.add_argument("repo", nargs="?", default="", help="organisation/name on the Hub; a dry run needs none")
    data.add_argument("--dry-run", action="store_true", help="write FOLDER/publish and push nothing")
    data.add_argument("--public", action="store_true")
    data.add_argument("--licence", help="of the data set, instead of the one derived from its generator models")
    args = parser.parse_args()
    repo = args.repo or ("your-org/" + args.folder.resolve().name if args.dry_run else "")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise UserError(f"REPO={repo}: expected organisation/name, such as REPO=my-org/human-like-pairs")
    out = args.folder / "publish"
    names, licence = write_data(args.folder, repo, args.licence)
    print(f"{out}: {', '.join(names)}\n  licence: {licence['declared'] or licence['derived']}")
    if args.dry_run:
        return print(f"  nothing was pushed; read {out / 'README.md'}")
    if not licence["declared"] and licence["derived"] == UNKNOWN:
        missing = ", ".join(model for model, known in licence["known"].items() if not known) or "ledger.json names no generator model"
        raise UserError(f"the licence cannot be derived ({missing}): name it with LICENCE=… (--licence), or add the model to datagen/models.yaml")
    print(f"  pushed: {push(out, names, repo, args.public)}")


if __name__ == "__main__":
    entry(main)
