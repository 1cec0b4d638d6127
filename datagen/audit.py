"""Says what is wrong with a preference set, in one page: answers on the wrong rows, shortcuts that DPO would learn, leftovers in prompts.

    python -m datagen.audit data/paper/pairs.jsonl data/paper/audit.html     # or: make audit PAIRS=some-org/some-set

Reads what `datagen.format` reads; a row that cannot be read is named, and the rest audited. Writes one self-contained page, and every
number and row number beside it as .json. No model is needed. All intervals are 95 %: Wilson for shares, normal over rows for means.
"""

import argparse
import hashlib
import itertools
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from datagen.alignment import FEW, LARGE, SEED, SIDES, answering, mean_interval, share
from datagen.balance import length
from datagen.emojis import found
from datagen.files import UserError, canonical, entry, sha256, templates, write_json, write_text
from datagen.filters import REFUSAL
from datagen.format import answer_text, conversation, read_pairs
from datagen.near import Near
from eval.surface import AI, CONTRACTION, FIRST_PERSON, MARKDOWN, asks_back, plain

NEAR = 0.7  # Jaccard similarity of word pairs, as in datagen/config.yaml
LONG = 2000  # characters above which prompts are compared by their two ends

# ------------------------------------------------------------------ reading


@dataclass
class Pairs:
    """The rows that could be read, in order; `numbers` are their line or row numbers in the source, counted from 1."""

    total: int = 0
    numbers: list[int] = field(default_factory=list)
    prompt: list[str] = field(default_factory=list)  # all that the user says
    last: list[str] = field(default_factory=list)  # the user's last message
    context: list[str] = field(default_factory=list)  # the whole conversation before the answer
    chosen: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    refused: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # reason -> rows
    spaced: dict[str, list[int]] = field(default_factory=lambda: {"prompt": [], "chosen": [], "rejected": []})


def clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a lone surrogate is legal JSON, and cannot be written


def read(rows: list[dict], places: list[str]) -> Pairs:
    """A row that `conversation` refuses is named under its reason, and the rest is audited."""
    pairs = Pairs(total=len(rows))
    for row, place in zip(rows, places, strict=True):
        number = int(re.search(r"\d+$", place)[0])
        try:
            messages, chosen, rejected = conversation(row, place)
        except UserError as error:
            pairs.refused[clean(re.sub(r"(?<=got ).*", "something else", str(error).removeprefix(f"{place}: ")))].append(number)
            continue
        said = [m["content"] for m in messages if m["role"] == "user"]
        for column, text in (("prompt", said[-1]), *((side, answer_text(row[side])) for side in SIDES)):
            if text != text.strip():
                pairs.spaced[column].append(number)
        pairs.numbers.append(number)
        texts = {"prompt": "\n".join(said), "last": said[-1], "context": "\n".join(m["content"] for m in messages), "chosen": chosen, "rejected": rejected}
        for column, text in texts.items():
            getattr(pairs, column).append(clean(text))
    return pairs


def near_groups(texts: list[str]) -> list[int]:
    """For every text the first position of its group of equal and nearly equal texts. Long texts are compared by their two ends."""
    near, first, unique, parent = Near(NEAR), {}, [], []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, text in enumerate(texts):
        short = text if len(text) <= LONG else text[: LONG // 2] + " " + text[-LONG // 2 :]
        known = first.setdefault(" ".join(short.lower().split()), i)
        parent.append(known)
        if known == i:
            for position in near.matches(short):
                a, b = sorted((root(unique[position]), root(i)))
                parent[b] = a
            near.add(short)
            unique.append(i)
    return [root(i) for i in range(len(texts))]


# What a list of generated prompts leaves behind when it is cut into rows. Prompts of several lines may be formatted on purpose, so they are
# searched for template tokens only.
LETTER = r"[^\W\d_]"
LEFTOVERS = {
    "chat-template token": re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(start|end)_of_turn>|^#{2,3} ?(Instruction|Response|Human|Assistant):", re.MULTILINE),
    "bold or heading": re.compile(rf"^\W{{0,3}}\*\*[^*]+\*\*|\*\*[^*]+\*\*\W{{0,3}}$|^#{{1,6}} +{LETTER}"),
    "number or bullet in front": re.compile(rf"^(\(?\d{{1,3}}[.)]|[-*•]|Q(uestion)? ?\d+[.:)])\s+[\"“']?{LETTER}(?!.*\s\(?\d{{1,3}}[.)]\s)"),
    "preamble of a list": re.compile(r"^(sure|okay|certainly|of course|here (are|is)|below are)\b[^.?\n]{0,80}\b(questions?|prompts?)\b[^.?\n]{0,40}:", re.IGNORECASE),
    "HTML": re.compile(r"</?(p|br|b|i|em|strong|span|div|li|ul|ol|h[1-6])\s*/?>|&(nbsp|amp|quot|lt|gt|#\d+);", re.IGNORECASE),
    "unfilled placeholder": re.compile(r"(?<![\w\])])\[[a-z][A-Za-z /'-]{2,40}\](?![\w(\[])"),
}
ABOUT_CODE = re.compile(r"html|\btags?\b|css|markup|markdown|element|code|xml|regex|python|javascript|\w\(|[`{}=;\\]", re.IGNORECASE)


def leftover(prompt: str) -> str | None:
    """Which kind of leftover markup a prompt carries, or None."""
    text = prompt.strip()
    if LEFTOVERS["chat-template token"].search(text):
        return "chat-template token"
    if "\n" in text:
        return None
    for kind, pattern in list(LEFTOVERS.items())[1:]:
        if pattern.search(text) and not (kind in ("HTML", "unfilled placeholder") and ABOUT_CODE.search(text)):
            return kind
    if ABOUT_CODE.search(text):
        return None
    if len(re.findall(r"(?<!\w)\*\*(?=\w)|(?<=[\w.?!:])\*\*(?!\w)", text)) == 1:
        return "bold or heading"
    odd = text.count('"') % 2 and not re.search(r'\d"', text)  # 27" is a size
    return "unmatched quote" if odd or ("„" not in text and "“" in text and text.count("“") != text.count("”")) else None


# ------------------------------------------------------------------ what tells chosen from rejected?

QUESTION = re.compile("[?？؟]")
NAMED = re.compile(r"\b(language model|chatbot|an AI|AI assistant)\b", re.IGNORECASE)
MEASURES = {  # name: (of a text, whether it is a share of answers, upper edges of the bars of its histogram, None for those that follow the data)
    "words": (length, False, None),
    "emoji": (lambda text: len(found(text)), True, [0, 1, 2, 3, 4, 6, 9]),
    "markdown": (lambda text: len(MARKDOWN.findall(text)), True, [0, 1, 2, 4, 8, 16]),
    "question marks": (lambda text: len(QUESTION.findall(text)), True, [0, 1, 2, 3, 4]),
    "ends with a question": (lambda text: asks_back(QUESTION.sub("?", text)), True, []),
    "speaks of itself as an AI": (lambda text: bool(AI.search(plain(text))), True, []),
    "says “language model”, “chatbot” or “an AI”": (lambda text: bool(NAMED.search(text)), True, []),
    "refuses": (lambda text: bool(REFUSAL.match(plain(text))), True, []),
}
MORE = {
    "exclamation marks": lambda text: text.count("!") + text.count("！"),
    "line breaks": lambda text: text.count("\n"),
    "contractions": lambda text: len(CONTRACTION.findall(plain(text))),
    "first person": lambda text: len(FIRST_PERSON.findall(plain(text))),
}
ALONE = {"length": "words", "emoji": "emoji", "disclaimers": "speaks of itself as an AI", "markdown": "markdown"}
EVERYTHING = ("all surface features", "words of the answers")


def surface(pairs: Pairs) -> dict[str, np.ndarray]:
    """Per measure an array n x 2: chosen, rejected."""
    return {name: np.array([[float(of(pair[0])), float(of(pair[1]))] for pair in zip(pairs.chosen, pairs.rejected, strict=True)]) for name, (of, *_) in MEASURES.items()}


def ratio_of_means(values: np.ndarray) -> dict:
    """Mean of chosen over mean of rejected, paired; interval by the delta method."""
    x, y = values.T
    ratio = x.mean() / max(y.mean(), 1e-9)
    half = 1.96 * np.std(x - ratio * y) / max(y.mean(), 1e-9) / math.sqrt(len(x))
    return {"value": float(ratio), "low": float(ratio - half), "high": float(ratio + half), "n": len(x)}


def describe(values: dict[str, np.ndarray]) -> list[dict]:
    """For every measure both sides' mean and, where it is a share of answers, the share that has any; counts for the histogram."""
    result = []
    for name, (_, is_share, edges) in MEASURES.items():
        x, row = values[name], {"measure": name, "share": is_share}
        for i, side in enumerate(SIDES):
            row[side] = share(int((x[:, i] > 0).sum()), len(x)) if is_share else mean_interval(x[:, i])
        if not is_share:
            row["ratio"] = ratio_of_means(x)
            step = max(1, round(np.percentile(x, 98) / 14, -1 if np.percentile(x, 98) > 140 else 0))
            edges = [int(step * i) for i in range(1, 15)]
        if edges:
            cuts = [-1, *edges, math.inf]
            row["bars"] = [
                {"label": f"over {edges[-1]}" if b == math.inf else f"{int(a) + 1} to {b}" if b > a + 1 else str(b)}
                | {side: int(((x[:, i] > a) & (x[:, i] <= b)).sum()) for i, side in enumerate(SIDES)}
                for a, b in itertools.pairwise(cuts)
            ]
        result.append(row)
    return result


def tells(features: list[np.ndarray] | list[sparse.csr_matrix], groups: np.ndarray) -> dict:
    """Cross-validated accuracy of a logistic regression that sees one answer, and of its scores where it sees both answers of a pair (ties by half).

    `features`: one matrix for the chosen and one for the rejected answers. Five folds; pairs stay whole and groups of questions together.
    Intervals count groups, not answers.
    """
    chosen, rejected = features
    single, paired = np.zeros(len(groups)), np.zeros(len(groups))
    for train, test in GroupKFold(5).split(groups, groups=groups):
        y = np.repeat([1, 0], len(train))
        if sparse.issparse(chosen):
            model, scale = LogisticRegression(C=10, solver="liblinear"), None
            model.fit(sparse.vstack([chosen[train], rejected[train]]), y)
        else:
            model, scale = LogisticRegression(max_iter=2000), StandardScaler().fit(np.vstack([chosen[train], rejected[train]]))
            model.fit(scale.transform(np.vstack([chosen[train], rejected[train]])), y)
        a, b = (model.decision_function(scale.transform(side[test]) if scale else side[test]).round(9) for side in (chosen, rejected))
        single[test] = (np.sign(a) - np.sign(b) + 2) / 4
        paired[test] = (np.sign(a - b) + 1) / 2
    n = len(set(groups.tolist()))
    return {"answers": share(single.mean() * n, n), "pairs": share(paired.mean() * n, n)}


def shortcuts(pairs: Pairs, values: dict[str, np.ndarray], words: list[sparse.csr_matrix], near: list[int], exact: list[int]) -> dict:
    """{"n", "groups", "by": {what a classifier sees: accuracy}}; `by` is empty, with a "reason", where there are too few rows."""
    different = np.array([i for i in range(len(near)) if pairs.chosen[i] != pairs.rejected[i]], dtype=int)
    rows = np.sort(np.random.default_rng(SEED).permutation(different)[:LARGE])
    groups = np.array(near)[rows]
    if len(rows) and np.bincount(groups).max() > len(rows) / 2:  # prompts from one template: near-duplicates all
        groups = np.array(exact)[rows]
    n = len(set(groups.tolist()))
    result = {"n": len(rows), "groups": n, "sampled": len(different) > LARGE, "by": {}}
    if n < FEW:
        return result | {"reason": f"too few rows to say: {len(rows)} pairs of different answers to {n} different prompts; {FEW} are needed"}
    columns = {name: x[rows] for name, x in values.items()}
    columns |= {name: np.array([[of(pairs.chosen[r]), of(pairs.rejected[r])] for r in rows], dtype=float) for name, of in MORE.items()}

    def expand(names: list[str]) -> list[np.ndarray]:
        return [np.stack([f(columns[name][:, side]) for name in names for f in (np.log1p, lambda x: np.log1p(x) ** 2, lambda x: x > 0)], axis=1) for side in (0, 1)]

    for name, measure in ALONE.items():
        result["by"][name] = tells(expand([measure]), groups)
    result["by"][EVERYTHING[0]] = tells(expand(list(columns)), groups)
    both = [words[1][rows], words[2][rows]]
    counts = sum(np.asarray(m.sum(axis=0)).ravel() for m in both)
    used = np.flatnonzero(counts > 1)
    weight = sparse.diags(np.log(2 * len(rows) / counts[used] + 1e-9).astype(np.float64))
    weighted = [m[:, used] @ weight for m in both]
    scaled = [sparse.diags(1 / np.maximum(1e-9, np.sqrt(np.asarray(m.multiply(m).sum(axis=1)).ravel()))) @ m for m in weighted]
    if len(used):
        result["by"][EVERYTHING[1]] = tells([m.tocsr() for m in scaled], groups)
    return result


# ------------------------------------------------------------------ the page


def per_cent(value: dict, interval: bool = False) -> str:
    if value["value"] is None:
        return "–"
    v, low, high = (100 * value[k] for k in ("value", "low", "high"))
    digits = 0 if 1 <= v <= 99 or v in (0, 100) else 1
    return f"{v:.{digits}f} %" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if interval else "")


def number(value: dict, digits: int = 1) -> str:
    if value["low"] is None:
        return "–" if value["value"] is None else f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def row_list(rows: list[int], most: int = 60) -> str:
    """ "3, 7, 12–15 and 40 more": runs of three and more as ranges."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    texts, shown = [], 0
    for a, b in runs[:most]:
        texts += [f"{a}–{b}"] if b > a + 1 else [str(r) for r in range(a, b + 1)]
        shown += b - a + 1
    return ", ".join(texts) + (f" and {len(rows) - shown} more" if shown < len(rows) else "")


def named(rows: str) -> str:
    return ("rows " if re.search("[,–]", rows) else "row ") + rows


def initial(text: str) -> str:
    return text[:1].upper() + text[1:]


def excerpt(text: str, most: int = 220) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


def findings(a: dict) -> list[dict]:
    """The lines at the top, the most serious first: {level: fault | warning | note | sound, text, section}."""
    lines: list[dict] = []

    def say(level: str, section: str, text: str) -> None:
        lines.append({"level": level, "section": section, "text": text})

    wrong, between = [side for side in SIDES if a["answering"][side]["parts"]], a["answering"]["between"]
    where = {side: "; ".join(part["what"] for part in a["answering"][side]["parts"]) for side in wrong}
    together = len(wrong) == 2 and (between["low"] or 0) > 0.55
    if together:
        say("fault", "answering", f"The prompts stand on the wrong rows: chosen and rejected belong together, but not to their prompts. {initial(where['chosen'])}.")
    for side in SIDES:
        one = a["answering"][side]
        nothing, shuffled, single = per_cent(one["nothing in common"]), per_cent(one["if shuffled"]), one["misplaced"]
        if side in wrong and not together:
            as_many = one["nothing in common"]["high"] >= one["if shuffled"]["low"]
            against = f"as many as if shuffled ({shuffled})" if as_many else f"{shuffled} would if shuffled"
            say("fault", "answering", f"The {side} answers stand on the wrong rows: {where[side]}. {nothing} share no content word with their prompt, {against}.")
        if single:
            rows = row_list([m["row"] for m in single], 10)
            say("fault", "answering", f"Single {side} answers fit the prompt of another row, and not their own: {len(single)}, on {named(rows)}.")
    if a["refused"]:
        rows = sorted(r for group in a["refused"].values() for r in group)
        say("fault", "rows", f"{len(rows)} of {a['rows']} rows cannot be read as pairs: {named(row_list(rows, 10))}.")
    if a["equal"]:
        say("fault", "rows", f"{len(a['equal'])} of {a['read']} rows have equal chosen and rejected answers, which teach nothing: {named(row_list(a['equal'], 10))}.")
    by = a["shortcuts"]["by"]
    top = max((by[name]["pairs"]["value"] for name in EVERYTHING if name in by), default=1.0)
    options = {"length": "`balance: {length: matched}`", "emoji": "`balance: {emoji: stripped}`"}
    for name in sorted(ALONE, key=lambda name: -by[name]["pairs"]["value"] if name in by else 0):
        if name not in by or by[name]["pairs"]["low"] < 0.65:
            continue
        told, alone = by[name]["pairs"], "AI self-reference" if name == "disclaimers" else name.capitalize()
        line = f"{alone} alone tells chosen from rejected in {per_cent(told)} of pairs"
        helped = f"{options[name]} builds a variant without it" if name in options else "no `balance:` option takes it out; drop or regenerate such answers"
        if told["value"] - 0.5 >= 0.9 * (top - 0.5):
            say("warning", "shortcuts", f"{line}, nearly as often as everything together ({100 * top:.0f} %): DPO will learn that shortcut. {initial(helped)}.")
        elif told["low"] >= 0.7:
            say("warning", "shortcuts", f"{line}; {helped}.")
    leftovers = {kind: rows for kind, rows in a["leftovers"].items() if kind != "unfilled placeholder"}
    if count := sum(map(len, leftovers.values())):
        kinds = ", ".join(f"{len(rows)} {kind}" for kind, rows in leftovers.items())
        say("warning", "prompts", f"{count} {'prompt carries' if count == 1 else 'prompts carry'} leftover markup: {kinds}.")
    if rows := a["leftovers"].get("unfilled placeholder"):
        say("warning", "prompts", f"{len(rows)} {'prompt has' if len(rows) == 1 else 'prompts have'} an unfilled placeholder: {named(row_list(rows, 12))}.")
    if rows := sorted({r for group in a["spaced"].values() for r in group}):
        say("note", "prompts", f"{len(rows)} rows have white space around a text ({', '.join(f'{len(v)} {k}' for k, v in a['spaced'].items() if v)}).")
    if a["near"]["rows"]:
        say("note", "near", f"{a['near']['rows']} of {a['read']} rows repeat the prompt of another row, or nearly; a split has to keep them on one side.")
    for side in SIDES:
        if (verdict := a["answering"][side]["verdict"]) not in ("sound", "misaligned"):
            say("note", "answering", f"Whether the {side} answers stand on the right rows: {verdict}.")
    if "reason" in a["shortcuts"]:
        say("note", "shortcuts", f"What tells chosen from rejected: {a['shortcuts']['reason']}.")
    if not any(line["level"] in ("fault", "warning") for line in lines):
        lines.insert(0, {"level": "sound", "section": "answering", "text": "No finding."})
    return lines


def audit(raw: list[dict], places: list[str]) -> tuple[dict, Pairs]:
    """(everything that the page says, as JSON, with row numbers; the rows that could be read)."""
    pairs = read(raw, places)
    if not pairs.numbers:
        reasons = "; ".join(f"{len(rows)} x {reason}" for reason, rows in list(pairs.refused.items())[:3])
        raise UserError(f"no row can be read as a pair ({reasons or 'it holds none'})")
    near = near_groups(pairs.context)
    members = defaultdict(list)
    for i, group in enumerate(near):
        members[group].append(pairs.numbers[i])
    repeated = sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))
    leftovers = defaultdict(list)
    for row, text in zip(pairs.numbers, pairs.last, strict=True):
        if kind := leftover(text):
            leftovers[kind].append(row)
    answers, words, exact = answering(pairs.prompt, pairs.chosen, pairs.rejected, pairs.numbers)
    values = surface(pairs)
    a = {
        "rows": pairs.total,
        "read": len(pairs.numbers),  # n of everything that follows, where none is named
        "refused": dict(pairs.refused),
        "equal": [row for row, c, r in zip(pairs.numbers, pairs.chosen, pairs.rejected, strict=True) if c == r],
        "answering": answers,
        "surface": describe(values),
        "shortcuts": shortcuts(pairs, values, words, near, exact),
        "leftovers": {kind: leftovers[kind] for kind in [*LEFTOVERS, "unmatched quote"] if kind in leftovers},
        "spaced": pairs.spaced,
        "near": {"threshold": NEAR, "groups": repeated, "rows": sum(map(len, repeated))},
        "seed": SEED,
    }
    return {"verdicts": findings(a)} | a, pairs


def render(a: dict, pairs: Pairs, source: str, digest: str, beside: str) -> str:
    """The page. Texts of the data set are escaped: they are shown, never run."""
    environment = templates(Path(__file__).parent, html=True)
    environment.filters |= {"percent": lambda v: per_cent(v, True), "number": number, "rows": row_list, "excerpt": excerpt}
    environment.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    at = {row: i for i, row in enumerate(pairs.numbers)}
    texts = {row: {"prompt": pairs.last[i], "chosen": pairs.chosen[i], "rejected": pairs.rejected[i]} for row, i in at.items()}
    samples = {side: sorted(sorted(a["answering"][side]["rows"], key=lambda row: sha256(f"{row} {texts[row]['prompt']}"))[:6]) for side in SIDES}
    names = {"source": source, "sha256": digest, "texts": texts, "samples": samples, "last": pairs.numbers[-1], "lines": source.endswith(".jsonl"), "beside": beside}
    return environment.get_template("audit.html.j2").render(a, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="a file, or the id of a Hub data set")
    parser.add_argument("out", type=Path, help="the page; its numbers go beside it, as .json")
    args = parser.parse_args()
    raw, places = read_pairs(args.pairs)
    path = Path(args.pairs)
    digest = hashlib.sha256(path.read_bytes() if path.exists() else canonical(raw).encode("utf-8", "replace")).hexdigest()
    a, pairs = audit(raw, places)
    write_json(args.out.with_suffix(".json"), {"source": args.pairs, "sha256": digest} | a)
    write_text(args.out, render(a, pairs, args.pairs, digest, args.out.with_suffix(".json").name))
    for line in a["verdicts"]:
        print(f"{line['level']:9} {line['text']}")
    print(f"{args.out} and {args.out.with_suffix('.json').name}: {len(pairs.numbers)} of {len(raw)} rows")


if __name__ == "__main__":
    entry(main)
