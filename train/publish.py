"""Writes the card of a generated data set, or of a trained model, and pushes both to the Hub in one commit, privately unless told otherwise.

    python -m train.publish data data/paper my-org/human-like-pairs --dry-run   # writes data/paper/publish/ and pushes nothing
    python -m train.publish data data/paper my-org/human-like-pairs             # or: make publish-data REPO=my-org/human-like-pairs
    python -m train.publish model out/llama3-8b my-org/Llama-3-8B-Human-Like --dry-run              # the adapter; writes out/llama3-8b/publish/
    python -m train.publish model out/llama3-8b my-org/Llama-3-8B-Human-Like-Merged --what merged   # or: make publish MODEL=… REPO=… WHAT=merged

A card says what the folder's own files say, and names them. Data: counts and reasons (ledger.json), models, sampling and prompts (its `settings`), tokens
and money (its `usage`), shortcuts (audit.json). Model: recipe (run.yaml, done), data (stats.json, ledger.json), results (metrics.json, answers.jsonl,
leaderboard*.json), alarms (health.json), disclosure (disclosure.json). Both: what the licences ask (datagen/models.yaml). What is not recorded is said to be so.
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

from datagen import hub, prices
from datagen.config import read_yaml
from datagen.files import UserError, atomic, entry, iter_jsonl, read_json, read_text, sha256, templates, write_text
from train.merge import check_base, file_sha256, merged_folder, tokenizer_files, trained_hash, tuned_revision, weight_files

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


def generators(ledger: dict) -> tuple[dict, list[dict], list[str]]:
    """(stages that a model wrote, with its sampling; what each model was asked, and its cost; the names of these models) of a ledger."""
    settings, asked = ledger.get("settings") or {}, ledger.get("questions") or {}
    stages = {name: stage for name, stage in settings.items() if isinstance(stage, dict) and "model" in stage and (name != "questions" or "requests" in asked)}
    used = [{"stage": name, "model": model, **row} for name, part in (("questions", asked), ("pairs", ledger)) for model, row in (part.get("usage") or {}).items()]
    return stages, used, sorted(({row["model"] for row in used} | {stage["model"] for stage in stages.values()}) - {"auto"})


def cards() -> jinja2.Environment:
    environment = templates(Path(__file__).parent, html=False)
    environment.filters["cell"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
    environment.filters["plain"] = lambda value: re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(value).split()))  # what a model wrote is shown, not rendered
    return environment


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
    settings = ledger.get("settings") or {}
    stages, used, models = generators(ledger)
    licence = terms(models, declared)
    sent = ["human_like", "formal", *(["questions_conversational", "questions_general", "list_request", "list_seeds"] if "questions" in stages else [])]
    texts = {name: Path(settings["prompts"]) / f"{name}.txt" for name in sent if settings.get("prompts")}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    card = cards().get_template("card.md.j2").render(
        repo=repo, set=folder.resolve().name, facts=facts, size=next((name for limit, name in SIZES.items() if facts["rows"] < limit), "n>1T"), files=names,
        ledger=flat(ledger), licence=licence, unknown=UNKNOWN, settings=settings, stages=stages, usage=used, verdicts=verdicts(folder, facts["rows"]),
        prompts={name: read_text(path, "a prompt").strip() for name, path in texts.items() if path.exists()}, commit=commit or "not a git checkout",
        example=json.dumps(facts["example"], indent=2, ensure_ascii=False),
    )  # fmt: skip
    write_text(out / "README.md", card)
    return ["README.md", "pairs.parquet", *names], licence


def push(out: Path, names: list[str], repo: str, public: bool, kind: str = "dataset") -> str:
    """One commit to the data set or model `repo`, made if need be; its address. Raises UserError, in one line without the token, for what the Hub refuses."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise UserError("there is no token for the Hub: export HF_TOKEN (with write permission), or run `hf auth login`; DRY_RUN=1 needs none")
    api = HfApi(token=token)
    with hub.one_line(repo, token, kind, f". What was to be pushed lies in {out}"):
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type=kind).private:
            raise UserError(f"{repo} is there already and is public; add PUBLIC=1 (--public) if it is meant to be")
        return api.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=out, allow_patterns=names, commit_message=f"{'Data set' if kind == 'dataset' else 'Model'} and card"
        ).commit_url


# ---------------------------------------------------------------- models

# What goes out in the folder run/ of the repository: every file that the card quotes. `stats.json` and `ledger.json` are those of the data.
EVIDENCE = (
    "run.yaml",
    "done",
    "metrics.json",
    "heldout.json",
    "metrics.csv",
    "margins.png",
    "answers.jsonl",
    "answers.meta.json",
    "health.json",
    "disclosure.json",
    "merged/merge.json",
)
TERMS = ("LICENSE*", "USE_POLICY*", "NOTICE*")
# Keys of run.yaml that say where things lie, not how the model was trained.
PLACES = ("base_model", "datasets", "test_datasets", "dataset_prepared_path", "output_dir")
# What Meta's licences ask of the model itself, by the licence's name on the Hub: how its name begins, and a line to be shown (1.b.i of each).
LLAMA = {"llama3": ("Llama 3", "Built with Meta Llama 3")} | dict.fromkeys(("llama3.1", "llama3.2", "llama3.3", "llama4"), ("Llama", "Built with Llama"))


def fresh(path: Path, done: Path) -> bool:
    """Whether a result was written since the training began that it is to describe."""
    return path.stat().st_mtime >= done.stat().st_mtime - read_json(done)["seconds"]


def leaves(value: dict, path: str = "") -> list[tuple[str, object]]:
    """The values of nested mappings as rows: ("special_tokens: pad_token", "<|pad|>")."""
    return [row for name, inner in value.items() for row in (leaves(inner, f"{path}{name}: ") if isinstance(inner, dict) else [(path + name, inner)])]


def number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def measured(metrics: dict) -> list[tuple[str, str]]:
    """The rows of metrics.json, each value with its interval where it has one."""
    rows = []
    for name, value in leaves(metrics):
        if isinstance(value, (int, float)):
            bounds = metrics.get(f"{name} interval")
            rows.append((name, interval(value, *bounds) if bounds else number(value)))
    return rows


def yardstick(found: dict) -> list[tuple[str, str]]:
    """The rows of heldout.json that are a value with its interval, or a number."""
    triples = {
        name: value for name, value in found.items() if isinstance(value, list) and len(value) == 3 and name in ("accuracy", "margin", "chosen moved", "rejected moved")
    }
    return [(name, number(value)) for name, value in found.items() if isinstance(value, int)] + [(name, interval(*value)) for name, value in triples.items()]


def probe(run: Path) -> list[tuple[str, str]]:
    """What `make disclosure` measured over all sincere questions, each rate with its interval."""
    found = leaves(read_json(run / "disclosure.json")["overall"])
    return [(key, interval(*value) if isinstance(value, list) else number(value)) for key, value in found]


def leaderboard(run: Path) -> list[dict]:
    """One row a score of every comparison that `make eval` made of these very weights, with its interval; checks on items of our own say nothing here."""
    rows, weights = [], tuned_revision(run)
    for path in sorted(run.glob("leaderboard*.json")):
        found = read_json(path)
        if found["kind"] == "machinery" or found["tuned_weights"] != weights:
            continue
        scores = [(name, column | {"n": column["items"]}) for name, column in found["columns"].items()] + [(f"{o['task']}, {o['metric']}", o) for o in found["others"]]
        part = ", part of the items" if found["settings"]["limit"] else ""
        for name, score in scores:
            sides = {who: "{:.2f} [{:.2f}, {:.2f}]".format(*score[who]) for who in ("base", "tuned", "difference")}
            rows.append({"file": path.name, "score": name, "items": f"{score['n']:,}{part}"} | sides)
    return rows


def training_data(config: dict, run_text: str) -> dict:
    """What the rows of the training were: their hash as run.yaml's head has it, and, if the folder still holds these rows, where they came from."""
    path = Path(config["datasets"][0]["path"])
    head = re.search(r"train\.jsonl sha256 ([0-9a-f]{64})", run_text)
    facts = {"path": str(path), "sha256": head and head[1], "stats": None, "ledger": None, "models": [], "verdicts": None, "filters": {}}
    stats = path.parent / "stats.json"
    if not head or not path.exists() or not stats.exists() or file_sha256(path) != head[1]:
        return facts
    facts["stats"] = read_json(stats)
    source = Path(facts["stats"]["source"])
    ledger = path.parent.parent / "ledger.json"
    # Made here, and still the pairs that were rendered: then their ledger says who wrote them.
    if ledger.exists() and source.exists() and source.parent.resolve() == ledger.parent.resolve() and file_sha256(source) == facts["stats"]["source_sha256"]:
        content = read_json(ledger)
        facts |= {"ledger": ledger, "models": generators(content)[2], "filters": (content.get("settings") or {}).get("filters") or {}}
        facts["verdicts"] = verdicts(ledger.parent, content.get("pairs", {}).get("accepted", -1))
    return facts


def answers_table(run: Path) -> dict | None:
    """Base against tuned on the held-out questions, and three of the answers, chosen by the hashes of their questions."""
    from eval.report import sample
    from eval.surface import compare, read_answers, show, told_apart

    rows = read_answers(run / "answers.jsonl")
    told = told_apart(rows)
    return {
        "n": len(rows),
        "told": f"{told['told']} of {told['n']}, {show((told['share'], *told['interval']), True)}",
        "rows": [
            {"measure": row["measure"]} | {who: show(row[who], row["share"], who == "difference") for who in ("base", "tuned", "difference")} for row in compare(rows)
        ],
        "sample": sample(rows)[:3],
        "meta": read_json(run / "answers.meta.json") if (run / "answers.meta.json").exists() else None,
    }


def obligations(base: str, models: list[str], declared: str | None, repo: str) -> dict:
    """The licence of a model trained from `base` on answers of `models`, as `terms`, with what it asks: `shown` (lines on the card), `notice` (the text of
    NOTICE), `name` (what is wrong with the repository's name), `outside` (models on whose answers this base may not be trained)."""
    licence = terms([base, *models], declared)
    if not models and not declared:  # whoever wrote the answers may ask for more than the base does
        licence |= {"derived": UNKNOWN, "id": "other", "slug": "unknown"}
    mine, known = licence["known"][base], [(model, one) for model, one in licence["known"].items() if one]
    licence["outside"] = [model for model, one in known if model != base and one.strictness == 4 and (mine is None or one.name != mine.name)]
    asked = {LLAMA[one.id][0]: model for model, one in known if one.id in LLAMA}
    plain = re.sub(r"[-_. ]", "", repo.split("/")[1]).lower()
    broken = next((prefix for prefix in sorted(asked, reverse=True) if not plain.startswith(prefix.replace(" ", "").lower())), None)
    licence["name"] = (
        broken and f'the licence of {asked[broken]} asks that the model\'s name begin with "{broken}", such as {repo.replace("/", f"/{broken}-".replace(" ", "-"))}'
    )
    licence["shown"] = list(dict.fromkeys(LLAMA[one.id][1] for _, one in known if one.id in LLAMA))
    if any("Qwen License" in one.name for _, one in known):
        licence["shown"].append("Improved using Qwen")
    named = "Meta Llama 3 is licensed under the Meta Llama 3 Community License" if mine and mine.id == "llama3" else None
    if mine and mine.id in LLAMA and not named:
        named = f"{mine.name.removesuffix(' Community License')} is licensed under the {mine.name}"
    licence["notice"] = named and f"{named}, Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
    return licence


def link(source: Path, target: Path) -> None:
    """Weights are not copied where the file system can share them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_model(run: Path, repo: str, what: str, declared: str | None, data_repo: str | None) -> tuple[list[str], dict]:
    """Writes run/publish/; returns the names of its files and the licence. Raises UserError for what must not go out."""
    run_text, done = read_text(run / "run.yaml", "the run's configuration, from `make train`"), run / "done"
    config = read_yaml(run / "run.yaml", "the run's configuration")
    if not done.exists():
        raise UserError(f"{run}: the training has not ended; run `make train` first")
    if done.stat().st_mtime < (run / "run.yaml").stat().st_mtime:
        raise UserError(f"{run / 'run.yaml'} has changed since the training, so it is not the recipe of this model; run `make train`")
    lora, adapter = bool(config.get("adapter")), run / "adapter"
    if what == "adapter" and not lora:
        raise UserError(f"{run}: was trained in full, so it has no adapter; publish it with WHAT=merged (--what merged)")
    if not (adapter / "base.json").exists():
        raise UserError(f"{adapter / 'base.json'}: there is no such file, so the base is not known for certain; `make merge` checks the adapter and writes it")
    folder, base = check_base(run, config)
    merged = merged_folder(run) if what == "merged" or (run / "merged").exists() else None

    model = [adapter / name for name in ("adapter_config.json", "adapter_model.safetensors")] if what == "adapter" else None
    model = model or [*weight_files(merged), *merged.glob("*.index.json"), merged / "config.json", merged / "generation_config.json", *tokenizer_files(merged)]
    sent = {path.name: path for path in [*model, adapter / "base.json"] if path.exists()}
    for place in (folder, run):
        sent |= {path.name: path for pattern in TERMS for path in (sorted(place.glob(pattern)) if place else [])}
    data = training_data(config, run_text)
    evidence = {name: run / name for name in EVIDENCE if (run / name).exists() and (name == "run.yaml" or fresh(run / name, done))}
    stale = [name for name in EVIDENCE if (run / name).exists() and name not in evidence]
    boards = leaderboard(run)
    evidence |= {row["file"]: run / row["file"] for row in boards}
    if data["stats"]:
        evidence["stats.json"] = Path(data["path"]).parent / "stats.json"
    if data["ledger"]:
        evidence["ledger.json"] = data["ledger"]
    sent |= {f"run/{name}": path for name, path in evidence.items()}
    for path in sent.values():
        if path.suffix not in (".safetensors", ".bin", ".png"):
            refuse_secrets(path)

    licence, out = obligations(config["base_model"], data["models"], declared, repo), run / "publish"
    notice = licence["notice"] if "NOTICE" not in sent else None
    names = [*sent, *(["NOTICE"] if notice else [])]
    here = Path(config["base_model"]).is_dir()
    source = data["stats"] and data["stats"]["source"]
    hub_data = data_repo or (source if source and not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source) else None)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    recipe = [(key, json.dumps(value, ensure_ascii=False).strip('"')) for key, value in leaves({k: v for k, v in config.items() if k not in PLACES})]
    card = cards().get_template("model_card.md.j2").render(
        repo=repo, name=repo.split("/")[1], run=run.resolve().name, what=what, lora=lora, base=base, here=here, licence=licence, unknown=UNKNOWN, stale=stale,
        config=config, settings=recipe, done=read_json(done), data=data, hub_data=hub_data,
        metrics=measured(read_json(run / "metrics.json")) if "metrics.json" in evidence else None,
        heldout=yardstick(read_json(run / "heldout.json")) if "heldout.json" in evidence else None,
        answers=answers_table(run) if "answers.jsonl" in evidence else None, boards=boards, figure="margins.png" in evidence,
        health=read_json(run / "health.json") if "health.json" in evidence else None,
        probe=probe(run) if "disclosure.json" in evidence else None,
        merge=read_json(merged / "merge.json") if merged else None, trained=trained_hash(run), commit=commit or "not a git checkout",
        files=[name for name in names if not name.startswith("run/")], evidence=sorted(evidence),
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)  # the weights of an earlier card must not stay beside this one
    for name, path in sent.items():
        link(path, out / name)
    if notice:
        write_text(out / "NOTICE", notice)
    write_text(out / "README.md", card)
    return sorted([*names, "README.md"]), licence


def hindrances(licence: dict, names: list[str], base: str) -> list[str]:
    """Why a model must not go out as it is, each in one line. Of a dry run they are warnings."""
    found = [licence["name"]] if licence["name"] else []
    if "adapter_config.json" in names and Path(base).is_dir():
        found.append(f"nobody else has the base {base}, a folder of this machine: publish the merged model with WHAT=merged (--what merged)")
    if licence["notice"] and not any(name.startswith("LICENSE") for name in names):
        found.append(
            f"a copy of the licence of {base} has to go with the model: `hf download {base} LICENSE USE_POLICY.md`, or put the file LICENSE into the run's folder"
        )
    if not licence["declared"]:
        if licence["outside"]:
            found.append(
                f"the terms of {', '.join(licence['outside'])} do not let {base} be trained on their answers; if you have other rights, name the licence with LICENCE=…"
            )
        elif licence["derived"] == UNKNOWN:
            missing = ", ".join(model for model, known in licence["known"].items() if not known) or "it is not recorded which models wrote the data"
            found.append(f"the licence cannot be derived ({missing}): name it with LICENCE=… (--licence), or add the model to datagen/models.yaml")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, words in (("data", "a generated data set: data/<set>"), ("model", "a trained model: out/<run>")):
        command = kinds.add_parser(kind, help=words)
        command.add_argument("folder", type=Path, help=words)
        command.add_argument("repo", nargs="?", default="", help="organisation/name on the Hub; a dry run needs none")
        command.add_argument("--dry-run", action="store_true", help="write FOLDER/publish and push nothing")
        command.add_argument("--public", action="store_true")
        command.add_argument("--licence", help="instead of the one derived from the models that it was made with")
        if kind == "model":
            command.add_argument("--what", choices=("adapter", "merged"), default="adapter")
            command.add_argument("--data-repo", help="organisation/name under which its data set was published, to be linked")
    args = parser.parse_args()
    repo = args.repo or ("your-org/" + re.sub(r"[^\w.-]+", "-", args.folder.resolve().name) if args.dry_run else "")
    for name in [repo, *([args.data_repo] if args.kind == "model" and args.data_repo else [])]:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
            raise UserError(f"REPO={name}: expected organisation/name, such as REPO=my-org/human-like-pairs")
    out = args.folder / "publish"
    if args.kind == "data":
        names, licence = write_data(args.folder, repo, args.licence)
        missing = ", ".join(model for model, known in licence["known"].items() if not known) or "ledger.json names no generator model"
        unknown = not licence["declared"] and licence["derived"] == UNKNOWN
        wrong = [f"the licence cannot be derived ({missing}): name it with LICENCE=… (--licence), or add the model to datagen/models.yaml"] if unknown else []
    else:
        names, licence = write_model(args.folder, repo, args.what, args.licence, args.data_repo)
        wrong = hindrances(licence, names, next(iter(licence["known"])))
    print(f"{out}: {', '.join(names)}\n  licence: {licence['declared'] or licence['derived']}")
    if args.dry_run:
        print("".join(f"  before a push: {line}\n" for line in wrong) + f"  nothing was pushed; read {out / 'README.md'}")
        return
    if wrong:
        raise UserError("; ".join(wrong))
    print(f"  pushed: {push(out, names, repo, args.public, {'data': 'dataset', 'model': 'model'}[args.kind])}")


if __name__ == "__main__":
    entry(main)
