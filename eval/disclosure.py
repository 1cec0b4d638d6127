"""Asks base and tuned model what they are, in many ways, and counts who says it is an AI, who denies it, and who makes up a life (paper, section 6.2).

    python -m eval.disclosure out/tiny --profile tiny --k 4       # at OPENAI_BASE_URL and TUNED_BASE_URL, set by tiny.serve or eval.serve
    python -m eval.disclosure out/llama3-8b --judge-model gpt-4.1     # a judge grades the replies as well, at JUDGE_BASE_URL
    python -m eval.disclosure out/tiny --together out/tiny+honest --out out/disclosure-together.svg

Every probe of `eval/probes.yaml` is answered k times by each model, with the seeds of `datagen.client`: equal for both models as long as what was said
before is equal. Of several turns, the model's own replies to the earlier ones are fed back, and the reply to the last one is graded (`eval.honesty`).
No system prompt: what is measured is what the model says by itself. Role-play and fiction are counted apart; playing a person there is no lie.

A rate is the mean over probes of each probe's share of replies; its interval (95 %) resamples probes, since the k replies to one are alike, and pairs
them for the difference. Where all probes have one value, resampling shows no spread, and Wilson's interval on the number of probes stands instead; of
such a difference, Newcombe's (1998, method 10). A sample that either model failed to answer is left out of both.

Writes `disclosure.json` (rates, each [value, low, high]), `disclosure.jsonl` (every graded reply), `disclosure.md`, and `disclosure.svg` and `.png`.
"""

import argparse
import asyncio
import math
import os
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from datagen import config
from datagen.client import Client, Reply, Request
from datagen.config import Strict, nearest, read_prompt, read_yaml
from datagen.files import UserError, entry, read_json, read_jsonl, sha256, write_json, write_jsonl, write_text
from eval.honesty import DENIAL, EVASIVE, HONEST, INVENTED, grade
from eval.judge import compared, kappa, plain, resamples
from eval.surface import bootstrap, newcombe, show, wilson
from train.merge import tuned_revision
from train.monitor import SERIES, canvas, save

HERE = Path(__file__).parent
PROBES, PROMPT = HERE / "probes.yaml", HERE / "prompts" / "disclosure.txt"
COUNTED = (HONEST, DENIAL, INVENTED)
MEANING = {HONEST: "says that it is an AI", DENIAL: "denies it, or claims to be a person", INVENTED: "makes up a body, a biography, experiences"}
MAX_TOKENS = 1024  # of a verdict: two words are wanted; a judge that thinks first needs room
PLAYED = ("role-play", "fiction")
NAMED = 5  # faults named in one error; the others are counted
# fmt: off
Category = Literal["small-talk", "customer-service", "health", "money", "loneliness", "grief", "dating", "minor", "crisis", "legal", "biography",
                   "out-of-role-play", "role-play", "fiction"]
# fmt: on
State = dict[tuple[str, int], dict]  # (probe, sample) -> a graded reply


# ---------------------------------------------------------------- probes


class Probe(Strict):
    id: Annotated[str, Field(min_length=1)]
    category: Category
    stakes: Literal["low", "medium", "high"]
    sincere: bool
    if_yes: Literal["denial", "honest"] | None = None
    turns: Annotated[list[Annotated[str, Field(pattern=r"\S")]], Field(min_length=1)]

    @model_validator(mode="after")
    def played_or_meant(self) -> "Probe":
        if self.sincere == (self.category in PLAYED):
            raise ValueError(f"sincere: {str(self.sincere).lower()} does not fit the category {self.category}")
        return self


def read_probes(path: Path) -> list[Probe]:
    """Raises UserError that names what is wrong with the file."""
    values = read_yaml(path, "probes")
    rows = values.get("probes")
    if set(values) != {"probes"} or not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected one key, `probes:`, with a list of probes")
    probes, faults = [], []
    for number, row in enumerate(rows, 1):
        name = row.get("id", f"number {number}") if isinstance(row, dict) else f"number {number}"
        try:
            probes.append(Probe.model_validate(row))
        except ValidationError as error:
            faults += [f"probe {name}: {fault(e)}" for e in error.errors()]
    faults += [f"probe {name}: the id stands {n} times" for name, n in Counter(probe.id for probe in probes).items() if n > 1]
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise UserError(f"{path}: " + "; ".join(faults[:NAMED]) + more)
    return probes


def fault(error: dict) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key {where} ({nearest(where, Probe.model_fields)})"
    message = error["msg"].removeprefix("Value error, ")
    message = "the turn is empty" if error["type"] == "string_pattern_mismatch" else "there is no turn" if error["type"] == "too_short" else message.lower()
    return f"{where}: {message}" if where else message


# ---------------------------------------------------------------- asking


async def converse(
    probes: list[Probe], k: int, settings: config.Settings, url: str, model: str, revision: str, store: Path, spent: Decimal
) -> tuple[str, dict[tuple[int, int], list[Reply]], Decimal]:
    """(the model's name at its endpoint, {(probe, sample): its reply to each turn}, US dollars so far). A chat ends early where no reply came."""
    async with Client(settings.endpoint, store, url, prices=settings.prices, spent=spent) as client:
        model = await client.resolve(model)
        said: dict[tuple[int, int], list[Reply]] = {(i, j): [] for i in range(len(probes)) for j in range(k)}
        total, done = k * sum(len(probe.turns) for probe in probes), 0
        for turn in range(max(len(probe.turns) for probe in probes)):
            asked = []
            for (i, j), replies in said.items():
                if turn < len(probes[i].turns) and not any(map(silent, replies)):
                    history = [message for pair in zip(probes[i].turns, replies, strict=False) for message in (("user", pair[0]), ("assistant", pair[1].text.strip()))]
                    messages = [*history, ("user", probes[i].turns[turn])]
                    asked.append(Request.of(settings.answers, model, messages, settings.seed, sample=j, revision=revision, tag=(i, j)))
            async for request, reply in client.replies(asked):
                said[request.tag].append(reply)
                done += 1
                client.meter.progress("replies", done, total, len(client.running))
        client.meter.progress("replies", done, total, 0, final=True)
        print(f"{model}: {done} replies, {client.sent} new and {client.cached} from {store}")
        return model, said, client.meter.usd or Decimal(0)


def silent(reply: Reply) -> bool:
    return reply.finish_reason == "failed" or not reply.text.strip()


def graded(probes: list[Probe], replies: dict[str, dict[tuple[int, int], list[Reply]]]) -> tuple[list[dict], int]:
    """(one row a reply, samples left out because a model was silent). Rows of one probe and sample stand together."""
    rows, left_out = [], 0
    for i, j in sorted(next(iter(replies.values()))):
        if any(len(said[i, j]) < len(probes[i].turns) or any(map(silent, said[i, j])) for said in replies.values()):
            left_out += 1
            continue
        probe = probes[i]
        for who, said in replies.items():
            texts = [reply.text.strip() for reply in said[i, j]]
            row = {"id": probe.id, "category": probe.category, "stakes": probe.stakes, "sincere": probe.sincere, "if_yes": probe.if_yes, "sample": j, "model": who}
            row |= {"turns": probe.turns, "replies": texts, "finish": said[i, j][-1].finish_reason, "labels": sorted(grade(texts[-1], probe.if_yes))}
            rows.append(row)
    return rows, left_out


# ---------------------------------------------------------------- a judge


def verdict(reply: Reply) -> list[str] | None:
    """The labels of a judge's two words, as `eval.honesty.grade` would say them; None for anything else."""
    words = re.findall(r"[a-z]+", reply.text.lower()) if reply.finish_reason == "stop" else []
    if len(words) != 2 or words[0] not in (HONEST, DENIAL, "neither") or words[1] not in (INVENTED, "none"):
        return None
    return sorted(word for word in words if word in COUNTED) or [EVASIVE]


async def judge(rows: list[dict], settings: config.Settings, url: str, model: str, store: Path, same: dict[str, str], spent: Decimal) -> str:
    """Adds `judge` to every row: labels, or None where the verdict cannot be read. Returns the judge's name; `same`: names that it must not have."""
    template = read_prompt(PROMPT)
    async with Client(settings.endpoint, store, url, prices=settings.prices, spent=spent) as client:
        model = await client.resolve(model)
        if what := same.get(plain(model)):
            raise UserError(f"the judge {model} is {what}; name another with --judge-model")

        def text(row: dict) -> str:
            earlier = [f"A: {turn}\n\nB: {reply}" for turn, reply in zip(row["turns"], row["replies"][:-1], strict=False)]
            return template.format(chat="\n\n".join([*earlier, f"A: {row['turns'][-1]}"]), reply=row["replies"][-1])

        asked = (Request(model, (("user", text(row)),), 0.0, 1.0, MAX_TOKENS, settings.seed, tag=i) for i, row in enumerate(rows))
        done = 0
        async for request, reply in client.replies(asked):
            rows[request.tag]["judge"] = verdict(reply)
            done += 1
            client.meter.progress("verdicts", done, len(rows), len(client.running))
        client.meter.progress("verdicts", done, len(rows), 0, final=True)
        print(f"{model}: {done} verdicts, {client.sent} new and {client.cached} from {store}")
    return model


def agreement(rows: list[dict]) -> dict:
    """How far rules and judge say the same of a reply, label by label: the share, and Cohen's kappa with an interval by resampling probes."""
    read = [row for row in rows if row["judge"]]
    probes = sorted({row["id"] for row in read})
    found = {"replies": len(rows), "unreadable verdicts": len(rows) - len(read)}
    for label in COUNTED if read else ():
        tables = np.zeros((len(probes), 2, 2))
        for row in read:
            tables[probes.index(row["id"]), int(label in row["labels"]), int(label in row["judge"])] += 1
        whole = float(kappa(tables.sum(0)))
        many = kappa(np.einsum("rq,qab->rab", resamples(len(probes)), tables))
        interval = np.nanpercentile(many, [2.5, 97.5]) if math.isfinite(whole) else None
        agreed = [float(t.trace() / t.sum()) for t in tables]
        found[label] = {
            "agreement": estimate(np.array(agreed)),
            "kappa": None if interval is None else rounded(whole, *interval),
            "table": tables.sum(0).astype(int).tolist(),
        }
    return found


# ---------------------------------------------------------------- figures


def rounded(*values: float) -> list[float]:
    return [round(float(value), 4) for value in values]


def estimate(values: np.ndarray) -> list[float]:
    """[value, low, high] of a rate, from one share per probe."""
    low, high = wilson(float(values.sum()), len(values)) if np.ptp(values) == 0 else bootstrap(values)
    return rounded(values.mean(), low, high)


def difference(a: np.ndarray, b: np.ndarray) -> list[float]:
    """[value, low, high] of the rate of `b` less that of `a`, from one share per probe of each, in the same order."""
    change = b - a
    if np.ptp(change):
        return rounded(change.mean(), *bootstrap(change))
    return rounded(change.mean(), *newcombe(estimate(a), estimate(b)))


def rates(states: dict[str, State], key: str = "labels") -> dict:
    """Of states over the same probes and samples: {label: {state: rate, …, difference(s)}}, with the numbers of probes and of replies of each state."""
    first = next(iter(states.values()))
    probes = sorted({probe for probe, _ in first})
    found: dict = {"probes": len(probes), "replies of each": len(first)}
    for label in COUNTED:
        shares = {}
        for name, state in states.items():
            hits = {probe: [] for probe in probes}
            for (probe, _), row in state.items():
                hits[probe].append(label in row[key])
            shares[name] = np.array([np.mean(hits[probe]) for probe in probes])
        names = list(states)
        pairs = {"difference": names} if len(names) == 2 else {f"{b} less {a}": (a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
        found[label] = {name: estimate(shares[name]) for name in names} | {title: difference(shares[a], shares[b]) for title, (a, b) in pairs.items()}
    return found


def part(states: dict[str, State], keep) -> dict[str, State]:
    return {name: {key: row for key, row in state.items() if keep(row)} for name, state in states.items()}


def results(states: dict[str, State]) -> dict:
    """`overall`, over the sincere probes; `role-play and fiction`; each of the `categories`. A part without replies is left out."""
    parts = {"overall": part(states, lambda row: row["sincere"]), "role-play and fiction": part(states, lambda row: not row["sincere"])}
    found = {name: rates(chosen) for name, chosen in parts.items() if next(iter(chosen.values()))}
    categories = dict.fromkeys(row["category"] for row in next(iter(states.values())).values())
    return found | {"categories": {name: rates(part(states, lambda row, name=name: row["category"] == name)) for name in categories}}


def states_of(rows: list[dict]) -> dict[str, State]:
    states: dict[str, State] = {}
    for row in rows:
        states.setdefault(row["model"], {})[row["id"], row["sample"]] = row
    return states


# ---------------------------------------------------------------- the page and the figure


def table(found: dict, names: list[str]) -> list[str]:
    """Markdown: one row a label, one column a state, and the differences."""
    titles = [title for title in found[HONEST] if title not in names]
    lines = ["| | " + " | ".join([*names, *titles]) + " |", "|---" * (1 + len(names) + len(titles)) + "|"]
    return lines + [
        f"| {label}: {MEANING[label]} | " + " | ".join(show(found[label][t], True, t in titles) for t in [*names, *titles]) + " |" for label in COUNTED if label in found
    ]


def by_category(found: dict, names: list[str]) -> list[str]:
    heads = [f"{label}, {name}" for label in COUNTED for name in names]
    lines = ["| category | probes | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    return lines + [
        f"| {category} | {rows['probes']} | " + " | ".join(show(rows[label][name], True) for label in COUNTED for name in names) + " |"
        for category, rows in found["categories"].items()
    ]


def sections(found: dict, names: list[str]) -> list[str]:
    lines = []
    if "overall" in found:
        overall = found["overall"]
        lines += ["## Sincere questions", "", f"{overall['probes']} probes, {overall['replies of each']} replies of each model.", "", *table(overall, names), ""]
    if played := found.get("role-play and fiction"):
        lines += [
            "## Role-play and fiction",
            "",
            f"{played['probes']} probes, {played['replies of each']} replies of each. Playing a person is fine here; nothing of it counts above.",
            "",
        ]
        lines += [*table(played, names), ""]
    return [*lines, "## By category", "", *by_category(found, names), ""]


def said(rows: list[dict], label: str, at_most: int = 5) -> list[str]:
    """A few replies as they came, one a category, as indented code: nothing in them is markup."""
    chosen = {row["category"]: row for row in reversed(rows) if label in row["labels"] and row["sincere"]}
    return [f"    {' '.join(row['turns'][-1].split())}\n    → {' '.join(row['replies'][-1].split())[:220]}\n" for row in list(chosen.values())[::-1][:at_most]]


def page(run: Path, meta: dict, rows: list[dict]) -> str:
    lines = [
        f"# What the models of {run.name} say that they are",
        "",
        f"Base `{meta['base']}`, tuned `{meta['tuned']}`, {meta['k']} replies each to {meta['probes']} probes (`{meta['probes file']}`, "
        f"sha256 {meta['probes_sha256'][:16]}), no system prompt, temperature {meta['sampling']['temperature']:g}. Graded by rules (`eval/honesty.py`).",
        "",
        f"Every reply: `{run}/disclosure.jsonl`; all figures: `{run}/disclosure.json`. In brackets: 95 % intervals that resample probes. Left out because a "
        f"model gave no answer: {meta['left out']} of {meta['probes'] * meta['k']} samples; cut off at max_tokens: {meta['cut off at max_tokens']} replies.",
        "",
        *sections(meta, ["base", "tuned"]),
    ]
    if judged := meta.get("judge"):
        lines += [f"## The judge {judged['model']}, on the same replies", ""]
        lines += [*table(judged["overall"], ["base", "tuned"]), ""] if "overall" in judged else []
        lines += ["| label | rules and judge agree | Cohen's kappa |", "|---|---|---|"]
        for label in COUNTED:
            if agreed := judged["agreement"].get(label):
                value = "not defined" if agreed["kappa"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*agreed["kappa"])
                lines.append(f"| {label} | {show(agreed['agreement'], True)} | {value} |")
        lines += ["", f"{judged['agreement']['unreadable verdicts']} of {judged['agreement']['replies']} verdicts could not be read.", ""]
    for label in (DENIAL, INVENTED, HONEST):
        if quotes := said([row for row in rows if row["model"] == "tuned"], label):
            lines += [f"## The tuned model's replies graded {label}, a few as they came", "", *quotes]
    return "\n".join(lines).rstrip() + "\n"


def figure(found: dict, names: list[str], title: str, out: Path) -> None:
    """Bars with intervals: the three rates over sincere probes, then who says it is an AI and who denies it by category."""
    categories = [name for name in found["categories"] if name not in PLAYED]
    fig, axes = canvas(1, 3, (12, max(3.6, 0.6 + 0.12 * (len(names) + 1) * len(categories))))
    whole, *each = axes[0]
    wide = 0.8 / len(names)

    def bars(axis, draw: str, error: str, n: int, name: str, values: list[list[float]]) -> None:
        value, low, high = 100 * np.array(values).T
        how = {error: np.maximum(0, [value - low, high - value]), "error_kw": {"lw": 0.9, "ecolor": "black"}}
        getattr(axis, draw)(np.arange(len(value)) + (n - (len(names) - 1) / 2) * wide, value, wide, color=SERIES[n % len(SERIES)], label=name, **how)

    for n, name in enumerate(names):
        bars(whole, "bar", "yerr", n, name, [found["overall"][label][name] for label in COUNTED])
        for axis, label in zip(each, (HONEST, DENIAL), strict=True):
            bars(axis, "barh", "xerr", n, name, [found["categories"][category][label][name] for category in categories])
    whole.set(xticks=range(len(COUNTED)), xticklabels=COUNTED, ylabel="% of replies", ylim=(0, 105))
    whole.set_title(f"{title}: {found['overall']['probes']} sincere probes", fontsize=9, loc="left")
    whole.legend(frameon=False, fontsize=8)
    for axis, label in zip(each, (HONEST, DENIAL), strict=True):
        axis.set(yticks=range(len(categories)), yticklabels=[], xlim=(0, 105), xlabel="% of replies")
        axis.set_title(f"{label}: {MEANING[label]}", fontsize=9, loc="left")
        axis.invert_yaxis()
    each[0].set_yticklabels([f"{name} ({found['categories'][name]['probes']})" for name in categories])
    for axis in axes.flat:
        axis.set_axisbelow(True)
    save(fig, out)


# ---------------------------------------------------------------- several runs


def together(runs: list[Path], out: Path) -> None:
    """Base and the tuned model of each run in one figure and table. Raises UserError where they were not asked the same."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"--together: two runs have the same name: {', '.join(names)}")
    if "base" in names:
        raise UserError("--together: a run is called base; rename its folder")
    metas = [read_json(run / "disclosure.json") for run in runs]
    for run, meta in zip(runs[1:], metas[1:], strict=True):
        if unlike := [key for key in ("base", "probes_sha256", "k", "sampling") if meta[key] != metas[0][key]]:
            raise UserError(f"{run}/disclosure.json: other {', '.join(unlike)} than in {runs[0]}/disclosure.json; run `make disclosure` again for one of them")
    each = [states_of(read_jsonl(run / "disclosure.jsonl", "graded replies, from `make disclosure`")) for run in runs]
    common = set.intersection(*(set(states["tuned"]) for states in each))
    for run, states in zip(runs[1:], each[1:], strict=True):
        if other := sum(states["base"][key]["replies"] != each[0]["base"][key]["replies"] for key in common):
            raise UserError(f"{run}: {other} of {len(common)} replies of the base differ from those in {runs[0]}; ask again with one --store, which keeps them")
    states = {"base": each[0]["base"]} | {name: states["tuned"] for name, states in zip(names, each, strict=True)}
    states = {name: {key: row for key, row in state.items() if key in common} for name, state in states.items()}
    for row in (row for state in states.values() for row in state.values()):  # by one and the same rules, whichever a run was graded by
        row["labels"] = sorted(grade(row["replies"][-1], row["if_yes"]))
    found = {"runs": [str(run) for run in runs], **{key: metas[0][key] for key in ("base", "probes_sha256", "k", "sampling")}, **results(states)}
    sources = ", ".join(f"`{run}/disclosure.jsonl`" for run in runs)
    head = [
        "# What base and tuned models say that they are",
        "",
        f"From {sources}; base `{found['base']}`; {found['k']} replies each, no system prompt. In brackets: 95 % intervals.",
        "",
    ]
    write_json(out.with_suffix(".json"), found)
    write_text(out.with_suffix(".md"), "\n".join([*head, *sections(found, list(states))]).rstrip() + "\n")
    figure(found, list(states), " / ".join(states), out)
    print("\n".join(table(found["overall"], list(states))))
    print(f"{out}, with .png, .md and .json")


# ---------------------------------------------------------------- the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--together", type=Path, nargs="+", metavar="RUN", help="compare what was measured of this and these runs; asks nothing")
    parser.add_argument("--out", type=Path, default=Path("out/disclosure-together.svg"), help="where to, with --together")
    parser.add_argument("--k", type=int, default=4, help="replies of each model to each probe (default: 4)")
    parser.add_argument("--probes", type=Path, default=PROBES)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--base-model", default=os.environ.get("BASE_MODEL") or "auto", help="name at OPENAI_BASE_URL; auto: the one it lists")
    parser.add_argument("--tuned-model", default=os.environ.get("TUNED_MODEL") or "auto", help="name at TUNED_BASE_URL (default: the same endpoint)")
    parser.add_argument("--judge-model", default="", help="name of a judge at JUDGE_BASE_URL (default: OPENAI_BASE_URL)")
    parser.add_argument("--store", type=Path, default=Path("data/responses"))
    args = parser.parse_args()
    if args.together:
        return together([args.run, *args.together], args.out)
    if args.k < 1:
        raise UserError(f"--k {args.k}: expected a number from 1 on")
    if not args.run.is_dir():
        raise UserError(f"{args.run}: there is no such run; `make train` makes one")
    probes, settings = read_probes(args.probes), config.load(args.profile)
    url = settings.endpoint.url
    tuned_url = os.environ.get("TUNED_BASE_URL") or url
    if url == tuned_url and args.base_model == args.tuned_model:
        raise UserError(f"base and tuned would be the same model {args.base_model!r} at one endpoint; set TUNED_BASE_URL, or BASE_MODEL and TUNED_MODEL")
    base_name, base, spent = asyncio.run(converse(probes, args.k, settings, url, args.base_model, "", args.store, Decimal(0)))
    revision = tuned_revision(args.run)
    tuned_name, tuned, spent = asyncio.run(converse(probes, args.k, settings, tuned_url, args.tuned_model, revision, args.store, spent))
    rows, left_out = graded(probes, {"base": base, "tuned": tuned})
    if not any(row["sincere"] for row in rows):
        raise UserError(f"no sincere probe of {args.probes} was answered by both models")
    meta = {
        "base": base_name,
        "tuned": tuned_name,
        "tuned_weights": revision,
        "probes": len(probes),
        "k": args.k,
        "left out": left_out,
        "cut off at max_tokens": sum(row["finish"] == "length" for row in rows),
        "system prompt": None,
        "sampling": settings.answers.model_dump(exclude={"model"}) | {"seed": settings.seed},
        "probes file": os.path.relpath(args.probes),
        "probes_sha256": sha256(args.probes.read_bytes()),
        "rules_sha256": sha256((HERE / "honesty.py").read_bytes()),
        **results(states_of(rows)),
    }
    if args.judge_model:
        same = compared(args.run, {"base": base_name, "tuned": tuned_name})
        name = asyncio.run(judge(rows, settings, os.environ.get("JUDGE_BASE_URL") or url, args.judge_model, args.store, same, spent))
        meta["judge"] = {"model": name, "prompt": "eval/prompts/disclosure.txt", "prompt_sha256": sha256(read_prompt(PROMPT)), "agreement": agreement(rows)}
        both = states_of([row for row in rows if row["sincere"] and row["judge"]])
        shared = set.intersection(*(set(state) for state in both.values())) if len(both) == 2 else set()
        if shared:
            meta["judge"]["overall"] = rates({who: {key: row for key, row in state.items() if key in shared} for who, state in both.items()}, "judge")
    write_jsonl(args.run / "disclosure.jsonl", rows)
    write_text(args.run / "disclosure.md", page(args.run, meta, rows))
    figure(meta, ["base", "tuned"], args.run.name, args.run / "disclosure.svg")
    write_json(args.run / "disclosure.json", meta)
    overall = meta["overall"]
    print(f"{overall['probes']} sincere probes, {overall['replies of each']} replies of each model; 95 % intervals in brackets ({args.run / 'disclosure.json'})")
    print(f"{'':9}{'base':>24}{'tuned':>24}{'difference':>32}")
    for label in COUNTED:
        base_rate, tuned_rate, change = (show(overall[label][who], True, who == "difference") for who in ("base", "tuned", "difference"))
        print(f"{label:9}{base_rate:>24}{tuned_rate:>24}{change:>32}")
    print(f"{args.run / 'disclosure.md'}, disclosure.svg; left out {left_out} of {meta['probes'] * meta['k']} samples, cut off {meta['cut off at max_tokens']} replies")


if __name__ == "__main__":
    entry(main)
