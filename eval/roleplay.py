"""What role-played dialogues are like: turns, tokens, failures of both sides, lexical diversity by persona feature, for any number of inquirers side by side.

    python -m eval.roleplay data/roleplay/tiny                                  # out/roleplay/tiny/report.html, .md, .json; `make roleplay-report`
    python -m eval.roleplay data/roleplay/a data/roleplay/b --tokenizer tiny/model/tokenizer.json

After Tables 1, 2 and 7 and Figure 8 of LLM Roleplay (arXiv 2407.03974), whose published values stand beside ours. Definitions, fixed before any data:
- Turns: prompts with an answer that are part of the dialogue. Mean over dialogues; standard deviation (SD) over dialogues, by n (ddof 0).
- Tokens: as the server counted them (`completion_tokens` of the whole output, quotes and reasoning included), or, with --tokenizer, of the prompt or
  answer itself by that tokenizer. The paper names none. SD over prompts or answers, by n.
- Failure rates: mean count over seeds / mean number of outputs over seeds, both of the inquirer's first attempts (of the responder's answers for its own
  rate), so that repeated attempts change nothing. In parentheses the SD over seeds by n, divided by the same mean: both as in the paper, cut (not
  rounded) to two decimals as there. The paper's published SDs can only come from a division by n.
- In brackets, beside every mean and rate: 95 % intervals that resample dialogues. Where all dialogues agree, resampling shows no spread: of a rate, Wilson's
  interval on the number of dialogues stands instead; that of a mean has no width. Dialogues of one persona or goal are alike, so these are too narrow for
  claims about other personas or goals.
- Saved: of the first attempts that failed, those after which a repeated one gave a prompt or the stop word.
- Lexical diversity: of all that the inquirer said in a dialogue (eval.lexical). Only the moving-average TTR compares groups whose dialogues differ in length.

Self-replies are counted by markers, as the paper does; but a chat endpoint consumes special tokens, so expect fewer than the paper has.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datagen.files import UserError, entry, read_json, sha256, templates, write_json, write_text
from datagen.filters import stems
from datagen.roleplay import detect
from datagen.roleplay.record import END_REASONS, Attempt, Dialogue, read
from eval import fairness
from eval.compare import embedded
from eval.judge import ratio, resamples
from eval.lexical import WINDOW, distinct, mattr, tokens
from eval.surface import show, wilson
from train.monitor import SERIES, canvas, save

HERE = Path(__file__).parent
SHOWN = 4  # dialogues printed in full
FEW = 10  # dialogues of a group: with fewer, its interval is only a rough guide

# Tamoyan, Schuff and Gurevych 2025 (arXiv 2407.03974v4), Table 1: (mean, SD) of turns and tokens, and failure rates in % with their SD over three seeds.
PAPER = {
    "Llama-2": [(2.62, 1.54), (77.77, 46.20), (347.50, 142.14), (6.82, 1.48), (8.79, 0.95), (3.12, 0.30), (5.50, 3.25), (0.56, 0.57)],
    "Mixtral": [(3.86, 2.19), (50.82, 26.47), (302.47, 151.30), (0.97, 0.57), (8.40, 1.52), (0.13, 0.09), (5.99, 1.43), (1.16, 0.19)],
    "Vicuna": [(7.12, 3.79), (75.19, 92.43), (228.29, 163.92), (7.90, 0.54), (6.08, 0.41), (0.79, 0.10), (69.39, 5.77), (8.01, 0.93)],
    "GPT4": [(7.60, 3.08), (68.13, 60.37), (267.69, 147.26), (0.17, 0.04), (39.21, 2.38), (0.03, 0.04), (5.48, 0.09), (7.50, 0.35)],
}
SIZES = ("turns per dialogue", "tokens per prompt", "tokens per response")
Hits = Callable[[Dialogue], tuple[int, int]]  # (how often, of how many) in one dialogue


def first_attempts(test: Callable) -> Hits:
    return lambda dialogue: (sum(bool(test(attempt)) for attempt in dialogue.outputs), len(dialogue.outputs))


def extracted(attempt: Attempt) -> bool:
    """Whether the paper's code would have looked for a prompt in it: not after incoherence or the stop word."""
    return attempt.found_strict is not None and not attempt.stop and not attempt.repeats_strict


def answers(test: Callable) -> Hits:
    return lambda dialogue: (sum(bool(test(response)) for response in dialogue.responses), len(dialogue.responses))


# The paper's failure cases (section 3.3), by its own readings. None of a dialogue in JSON mode, which has no quotes to look for.
FAILURES: dict[str, Hits] = {
    "no prompt": first_attempts(lambda a: extracted(a) and a.found_strict == 0),
    "several prompts": first_attempts(lambda a: extracted(a) and a.found_strict > 1),
    "incoherent": first_attempts(lambda a: a.repeats_strict),
    "self-reply": first_attempts(lambda a: "markers" in a.self_reply),
    "incoherent (responder)": answers(lambda r: r.repeats_strict),
}


def astray(dialogue: Dialogue) -> tuple[int, int]:
    """Whether the dialogue opens without one content word of its goal (datagen.filters.stems): crude, since other words may say the same."""
    first = dialogue.exchanges[:1]
    return sum(not stems(prompt) & stems(dialogue.goal.text) for prompt, _ in first), len(first)


def unrelated(dialogue: Dialogue) -> tuple[int, int]:
    """Answers without one content word of their prompt."""
    return sum(not stems(prompt) & stems(answer) for prompt, answer in dialogue.exchanges), len(dialogue.exchanges)


QUOTES = ("no prompt", "several prompts")
# What the paper has no rule for, and its cases by rules without their false positives. These decide what a dialogue does.
OTHERS: dict[str, Hits] = {
    "no prompt, as meant": first_attempts(lambda a: a.failure == "no_prompt"),
    "several prompts, as meant": first_attempts(lambda a: (a.found or 0) > 1),
    "loop": first_attempts(lambda a: a.repeats),
    "loop (responder)": answers(lambda r: r.repeats),
    "self-reply by structure": first_attempts(lambda a: "structural" in a.self_reply),
    "echo of what it read": first_attempts(lambda a: "echo" in a.self_reply),
    "offers help itself": first_attempts(lambda a: "role_flip" in a.self_reply),
    "ends without the stop word": first_attempts(lambda a: a.stop_failure),
    "cut off": first_attempts(lambda a: a.failure == "truncated"),
    "empty": first_attempts(lambda a: a.failure == "empty"),
    "refused or filtered": first_attempts(lambda a: a.failure == "refusal_or_filter"),
    "answer cut off (responder)": answers(lambda r: r.finish == "length"),
    "opens without a word of its goal": astray,
    "answer without a word of its prompt (responder)": unrelated,
}
LEXICAL = {"TTR": distinct, "distinct-2": lambda words: distinct(words, 2), f"MATTR {WINDOW}": mattr}


# ---------------------------------------------------------------- numbers


def cut(value: float) -> str:
    """To two decimals, cut as in the paper's tables. The tiny addition keeps 0.29, held as 0.28999…, from becoming 0.28."""
    return f"{math.floor(value * 100 + 1e-9) / 100:.2f}"


def over_seeds(counts: list[int], totals: list[int]) -> dict:
    """The paper's figures from one count and total per seed: mean count, its SD by n, mean total, and both as shares of it (None of no output)."""
    count, sd, total = float(np.mean(counts)), float(np.std(counts)), float(np.mean(totals))
    return {"count": count, "sd": sd, "total": total, "rate": count / total if total else None, "rate sd": sd / total if total else None, "seeds": len(counts)}


def average(sums: np.ndarray, counts: np.ndarray) -> dict | None:
    """sum(sums) / sum(counts) with the 95 % interval that resamples dialogues; None of nothing. `sums` and `counts`: [dialogues]."""
    sums, counts = sums[counts > 0].astype(float), counts[counts > 0].astype(float)
    if not len(counts):
        return None
    drawn = resamples(len(counts))
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return {"value": float(sums.sum() / counts.sum()), "interval": [float(low), float(high)], "n": int(counts.sum()), "dialogues": len(counts)}


def rate(dialogues: list[Dialogue], hits: Hits) -> dict | None:
    """One failure rate of a set: the paper's figures over seeds, with our interval. None where no output could have failed so."""
    pairs = np.array([hits(dialogue) for dialogue in dialogues])
    seeds = sorted({dialogue.seed for dialogue in dialogues})
    each = [pairs[[d.seed == seed for d in dialogues]].sum(0) for seed in seeds]
    found = ratio(pairs[:, 0], pairs[:, 1])
    return found and over_seeds([int(c) for c, _ in each], [int(n) for _, n in each]) | {"interval": found["interval"], "n": found["n"], "dialogues": found["questions"]}


def counter(tokenizer: Path | None) -> tuple[Callable[[Dialogue], list[tuple[int, int]]], str]:
    """(tokens of each complete turn's prompt and response, how they were counted). Raises UserError for a tokenizer that cannot be read."""
    if tokenizer:
        from tokenizers import Tokenizer

        try:
            model = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{tokenizer}: cannot be read as a tokenizer.json ({str(error).splitlines()[0]})") from None

        def by_tokenizer(dialogue: Dialogue) -> list[tuple[int, int]]:
            return [tuple(len(model.encode(text, add_special_tokens=False).ids) for text in pair) for pair in dialogue.exchanges]

        return by_tokenizer, f"of the prompt and the answer alone, by {tokenizer}, sha256 {sha256(tokenizer.read_bytes())[:16]}"

    def by_server(dialogue: Dialogue) -> list[tuple[int, int]]:
        return [(turn.attempts[-1].usage.get("completion_tokens", 0), turn.response.usage.get("completion_tokens", 0)) for turn in dialogue.turns if turn.complete]

    return by_server, "completion_tokens of the whole output, as the server counted them"


def sizes(dialogues: list[Dialogue], count: Callable) -> dict:
    """Turns, tokens per prompt and per response: each a mean with interval, and the SD over dialogues or utterances. None where the server did not count."""
    turns = np.array([len(dialogue.exchanges) for dialogue in dialogues])
    counted = [count(dialogue) for dialogue in dialogues]
    found = {SIZES[0]: average(turns, np.ones(len(turns))) | {"sd": float(turns.std())}}
    for side, name in enumerate(SIZES[1:]):
        all_ = np.array([pair[side] for pairs in counted for pair in pairs])
        known = len(all_) and all_.all()  # the server counts every output, or its figure is no mean of them
        value = average(np.array([sum(pair[side] for pair in pairs) for pairs in counted]), np.array([len(pairs) for pairs in counted])) if known else None
        found[name] = value and value | {"sd": float(all_.std())}
    return found


def saved(dialogues: list[Dialogue]) -> dict | None:
    """Of the inquirer's first attempts that failed, the share that a repeated one repaired."""
    failed = [[turn for turn in dialogue.turns if turn.attempts[0].failure] for dialogue in dialogues]
    return ratio(np.array([sum(turn.attempts[-1].failure is None for turn in turns) for turns in failed]), np.array(list(map(len, failed))))


def diversity(dialogues: list[Dialogue]) -> dict:
    """Each measure as a mean over dialogues with interval, and how many dialogues were too short for it."""
    found = {}
    said = [tokens(" ".join(prompt for prompt, _ in dialogue.exchanges)) for dialogue in dialogues]
    for name, measure in LEXICAL.items():
        values = [value for words in said if (value := measure(words)) is not None]
        found[name] = average(np.array(values), np.ones(len(values)))
    return found | {"words per dialogue": average(np.array([len(words) for words in said]), np.ones(len(said)))}


def by_feature(dialogues: list[Dialogue], count: Callable) -> dict:
    """Sizes and diversity for each option of each persona feature: {feature: {option: …}}."""
    groups: dict[str, dict[str, list[Dialogue]]] = defaultdict(lambda: defaultdict(list))
    for dialogue in dialogues:
        for feature, option in dialogue.persona.features.items():
            groups[feature][option].append(dialogue)
    return {
        feature: {
            option: {"dialogues": len(some), "personas": len({d.persona.id for d in some})} | sizes(some, count) | diversity(some)
            for option, some in sorted(options.items())
        }
        for feature, options in sorted(groups.items())
    }


def ends(dialogues: list[Dialogue]) -> dict:
    times = Counter(dialogue.end_reason for dialogue in dialogues)
    return {reason: {"count": times[reason], "interval": list(wilson(times[reason], len(dialogues))), "n": len(dialogues)} for reason in END_REASONS if times[reason]}


def toxicity(dialogues: list[Dialogue]) -> dict | None:
    """Dialogues that the guard model called unsafe, with their share; None where no guard was asked, which says nothing about them."""
    asked = [dialogue.guard for dialogue in dialogues if dialogue.guard]
    if not asked:
        return None
    times = Counter(guard.verdict for guard in asked)
    found = {"guard": ", ".join(sorted({guard.model for guard in asked})), "dialogues": len(asked), "not asked": len(dialogues) - len(asked), **times}
    return found | {"unsafe": times["unsafe"], "interval": list(wilson(times["unsafe"], len(asked)))}


def measure(path: Path, count: Callable) -> dict:
    """Everything about one set of dialogues. Raises UserError for one that is empty or unfinished."""
    if not (path / "done").exists():
        raise UserError(f"{path}: not finished, or no set of dialogues; `make roleplay` makes one")
    dialogues, made = read(path / "dialogues.jsonl"), read_json(path / "done")
    if not dialogues:
        raise UserError(f"{path / 'dialogues.jsonl'}: holds no dialogue")
    by_json = made["settings"]["extraction"] == "json"
    return {
        "name": path.name,
        "file": str(path / "dialogues.jsonl"),
        "sha256": sha256((path / "dialogues.jsonl").read_bytes()),
        "settings": made["settings"],
        "inquirer": dialogues[0].inquirer.model,
        "responder": dialogues[0].responder.model,
        "seeds": sorted({dialogue.seed for dialogue in dialogues}),
        "personas": len({(dialogue.persona.id, dialogue.persona.index) for dialogue in dialogues}),
        "goals": len({dialogue.goal.id for dialogue in dialogues}),
        "dialogues": len(dialogues),
        "incoherent after": {part: made["settings"][part]["incoherent"] for part in ("inquirer", "responder")},
        "sizes": sizes(dialogues, count),
        "failures": {name: None if by_json and name in QUOTES else rate(dialogues, hits) for name, hits in FAILURES.items()},
        "others": {name: None if by_json and name.startswith(QUOTES) else rate(dialogues, hits) for name, hits in OTHERS.items()},
        "saved": saved(dialogues),
        "ends": ends(dialogues),
        "mutual thanks": ratio(np.array([detect.appreciation_loop(d.exchanges, 2) for d in dialogues], dtype=float), np.ones(len(dialogues))),
        "toxicity": toxicity(dialogues),
        "diversity": diversity(dialogues),
        "features": by_feature(dialogues, count),
        "fairness": fairness.of_set(dialogues),
        "usage": made["usage"],
    }


# ---------------------------------------------------------------- tables


def interval(found: dict | None, share: bool = False, digits: int = 1) -> str:
    """A mean or a rate with its interval, as text."""
    if found is None:
        return "not defined"
    if share:
        return show((found["value"], *found["interval"]), True)
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(found["value"], *found["interval"], d=digits)


def size_cell(found: dict | None) -> str:
    return f"{cut(found['value'])} ({cut(found['sd'])}) [{found['interval'][0]:.2f}, {found['interval'][1]:.2f}]" if found else "not counted"


def rate_cell(found: dict | None) -> str:
    if found is None:
        return "not defined"
    low, high = (100 * bound for bound in found["interval"])
    return f"{cut(100 * found['rate'])} % ({cut(100 * found['rate sd'])}) [{low:.2f}, {high:.2f}]"


def count_cell(found: dict | None) -> str:
    return f"{cut(found['count'])} ({cut(found['sd'])})/{cut(found['total'])}" if found else "not defined"


def tables(sets: list[dict], counted: str) -> list[dict]:
    """Tables of text, each {title, head, rows, notes}; a head that ends in * is a column of numbers."""
    names = [f"{found['name']}*" for found in sets]
    seeds = ", ".join(f"{found['name']} {len(found['seeds'])}" for found in sets)
    own = "; ".join(
        f"{found['name']}: inquirer ({found['incoherent after']['inquirer']['max_n']}, {found['incoherent after']['inquirer']['r']}), "
        f"responder ({found['incoherent after']['responder']['max_n']}, {found['incoherent after']['responder']['r']})"
        for found in sets
    )
    published = [f"{model} (paper)*" for model in PAPER]
    labels = [*SIZES, *(f"{name}, %" for name in FAILURES)]
    rows = [
        [label, *(size_cell(found["sizes"][label]) for found in sets), *(f"{cut(PAPER[m][i][0])} ({cut(PAPER[m][i][1])})" for m in PAPER)]
        for i, label in enumerate(SIZES)
    ]
    rows += [
        [label, *(rate_cell(found["failures"][name]) for found in sets), *(f"{cut(PAPER[m][i][0])} % ({cut(PAPER[m][i][1])})" for m in PAPER)]
        for i, (label, name) in enumerate(zip(labels[3:], FAILURES, strict=True), 3)
    ]
    made = [
        {
            "title": "Dialogues and failure cases (as the paper's Table 1)",
            "head": ["", *names, *published],
            "rows": [["dialogues", *(f"{found['dialogues']:,}" for found in sets), *[""] * len(PAPER)], *rows],
            "notes": [
                "Mean (SD) of turns and tokens; rate (SD over seeds, both divided by n) of failures. In brackets: 95 % intervals that resample dialogues. "
                f"Seeds: {seeds}. Tokens: {counted}.",
                "The paper's columns are its published values (Llama-2-13B-chat as responder, a tokenizer that it does not name): a yardstick for the shape, not for the "
                f"size. Incoherence is Algorithm 2 with (max_n, r) of {own}; other parameters find other rates, as between the paper's own columns.",
            ],
        },
        {
            "title": "The same as counts (as Table 7)",
            "head": ["", *names],
            "rows": [
                ["utterances per dialogue", *(f"{cut(2 * s['sizes'][SIZES[0]]['value'])} ({cut(2 * s['sizes'][SIZES[0]]['sd'])})" for s in sets)],
                *([name, *(count_cell(found["failures"][name]) for found in sets)] for name in FAILURES),
            ],
            "notes": ["Mean count over seeds (SD over seeds, by n)/mean number of outputs: first attempts of the inquirer, or answers of the responder."],
        },
        {
            "title": "Failures that the paper has no rule for, and its own without false positives",
            "head": ["", *names],
            "rows": [
                *([name, *(rate_cell(found["others"][name]) for found in sets)] for name in OTHERS),
                [
                    "failed outputs saved by repeating",
                    *(f"{interval(found['saved'], True)}{f' of {n}' if (n := (found['saved'] or {}).get('n')) else ''}" for found in sets),
                ],
                ["dialogues that end in mutual thanks", *(interval(found["mutual thanks"], True) for found in sets)],
                ["dialogues a guard model calls unsafe", *(guarded(found["toxicity"]) for found in sets)],
            ],
            "notes": [
                "Self-replies by structure, echoes and offers of help are what chat endpoints leave of the paper's self-replies; do not compare them with its row. "
                "Where no guard model was asked, nothing is known about toxicity: that is not the same as safe."
            ],
        },
        {
            "title": "How the dialogues ended",
            "head": ["", *names],
            "rows": [
                [reason, *(ended(found["ends"].get(reason), found["dialogues"]) for found in sets)]
                for reason in END_REASONS
                if any(reason in found["ends"] for found in sets)
            ],
            "notes": ["Share of dialogues with Wilson's 95 % interval. Only `finished` is an end of the inquirer's own; turns of all others are cut short by it."],
        },
        {
            "title": "Lexical diversity of what the inquirer said (as Table 2)",
            "head": ["", *names],
            "rows": [[name, *(interval(found["diversity"][name], digits=3) for found in sets)] for name in LEXICAL]
            + [
                ["words per dialogue", *(interval(found["diversity"]["words per dialogue"]) for found in sets)],
                [f"dialogues with {WINDOW} words", *(f"{(found['diversity'][f'MATTR {WINDOW}'] or {'n': 0})['n']} of {found['dialogues']}" for found in sets)],
            ],
            "notes": [
                f"Per dialogue; mean over dialogues. TTR (which is also distinct-1) and distinct-2 fall with the number of words, so only MATTR {WINDOW} compares sets "
                f"or groups whose dialogues differ in length; it needs {WINDOW} words."
            ],
        },
    ]
    for found in sets:
        for feature, options in found["features"].items():
            few = [option for option, group in options.items() if group["dialogues"] < FEW]
            made.append(
                {
                    "title": f"{found['name']}: by {feature.replace('_', ' ')}",
                    "head": [feature.replace("_", " "), "dialogues*", "personas*", "turns*", "tokens per prompt*", *(f"{name}*" for name in LEXICAL)],
                    "rows": [
                        [option, str(group["dialogues"]), str(group["personas"]), interval(group[SIZES[0]]), interval(group[SIZES[1]])]
                        + [interval(group[name], digits=3) for name in LEXICAL]
                        for option, group in options.items()
                    ],
                    "notes": [
                        "Differences between rows are also differences between their personas' other features, unless all combinations were played."
                        + (f" Fewer than {FEW} dialogues: {', '.join(few)}; intervals there are a rough guide only." if few else "")
                    ],
                }
            )
    for found in sets:
        made += fairness.tables(found["name"], found["fairness"])
    return made


def guarded(found: dict | None) -> str:
    return f"{show((found['unsafe'] / found['dialogues'], *found['interval']), True)} ({found['guard']})" if found else "no guard model was asked: unknown"


def ended(found: dict | None, n: int) -> str:
    count, bounds = (found["count"], found["interval"]) if found else (0, wilson(0, n))
    return f"{count}, {show((count / n, *bounds), True)}"


# ---------------------------------------------------------------- figure, pages


def radar(sets: list[dict], out: Path) -> None:
    """Figure 8: each statistic on an axis of its own, as a share of the largest of all models drawn, the paper's four dashed. Small is better but for turns."""
    import matplotlib.pyplot as plt

    labels = [*SIZES, *FAILURES]
    rows = {found["name"]: [*((found["sizes"][name] or {}).get("value") for name in SIZES), *rates(found)] for found in sets}
    published = {f"{model} (paper)": [mean for mean, _ in values] for model, values in PAPER.items()}
    largest = [max([values[i] or 0 for values in (rows | published).values()]) or 1 for i in range(len(labels))]
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    plt.close(canvas(1, 1, (1, 1))[0])  # sets the look that all figures share
    fig = plt.figure(figsize=(7.5, 5), layout="constrained")
    axis = fig.add_subplot(projection="polar")
    for n, (name, values) in enumerate((published | rows).items()):
        known = [i for i, value in enumerate(values) if value is not None]
        turns = [*known, *known[:1]]
        ours = name in rows
        axis.plot(
            angles[turns],
            [values[i] / largest[i] for i in turns],
            color=SERIES[(n - len(published) if ours else n + 3) % len(SERIES)],
            lw=2 if ours else 0.9,
            ls="-" if ours else "--",
            label=name,
        )
    axis.set_xticks(angles, [f"{label}\n(max {cut(most)}{' %' if i > 2 else ''})" for i, (label, most) in enumerate(zip(labels, largest, strict=True))], fontsize=7)
    axis.set(ylim=(0, 1.05), yticks=[0.25, 0.5, 0.75, 1])
    axis.tick_params(axis="x", pad=12)
    axis.tick_params(axis="y", labelsize=6)
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.15, 1.05))
    save(fig, out)


def rates(found: dict) -> list[float | None]:
    return [None if found["failures"][name] is None else 100 * found["failures"][name]["rate"] for name in FAILURES]


def sample(path: Path) -> list[dict]:
    """A few dialogues in full, in the order of the hashes of their ids: chosen by no one."""
    chosen = sorted(read(path / "dialogues.jsonl"), key=lambda dialogue: sha256(dialogue.id))[:SHOWN]
    return [
        {
            "id": d.id,
            "set": path.name,
            "persona": d.persona.text,
            "goal": d.goal.text,
            "turns": d.exchanges,
            "end": d.end_reason,
            "last": None if d.exchanges else d.turns[0].attempts[-1].raw,
        }
        for d in chosen
    ]


def pages(sets: list[dict], samples: list[dict], counted: str, svg: str) -> tuple[str, str]:
    """(HTML, Markdown). What models said is escaped in both: it is shown, never run."""
    context = {"sets": sets, "tables": tables(sets, counted), "samples": samples, "title": ", ".join(found["name"] for found in sets)}
    html = templates(HERE, html=True).get_template("roleplay.html.j2").render(context, figure=embedded(svg))
    return html, templates(HERE, html=False).get_template("roleplay.md.j2").render(context, figure="radar.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="data/roleplay/<name>, from `make roleplay`")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, to count tokens by (default: as the server counted)")
    parser.add_argument("--out", type=Path, help="folder (default: out/roleplay/<name>, of several <name>+<name>)")
    args = parser.parse_args()
    if len({path.name for path in args.sets}) < len(args.sets):
        raise UserError(f"two sets have one name: {', '.join(path.name for path in args.sets)}")
    out = args.out or Path("out/roleplay") / "+".join(path.name for path in args.sets)[:100]
    count, counted = counter(args.tokenizer)
    sets = [measure(path, count) for path in args.sets]
    radar(sets, out / "radar.svg")
    html, markdown = pages(sets, [one for path in args.sets for one in sample(path)], counted, (out / "radar.svg").read_text(encoding="utf-8"))
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    write_json(
        out / "report.json", {"tokens": counted, "sets": sets, "paper": {model: dict(zip([*SIZES, *FAILURES], values, strict=True)) for model, values in PAPER.items()}}
    )
    for found in sets:
        turns = interval(found["sizes"][SIZES[0]])
        print(
            f"{found['name']}: {found['dialogues']} dialogues of {found['inquirer']} with {found['responder']}; turns {turns}; ended: "
            + ", ".join(f"{e['count']} {r}" for r, e in found["ends"].items())
        )
    print(f"{out / 'report.html'}, report.md and report.json")


if __name__ == "__main__":
    entry(main)
