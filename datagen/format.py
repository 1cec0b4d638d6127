"""Renders pairs with the base model's own chat template, lints every row as the trainer will tokenise it, and splits by question.

    python -m datagen.format data/paper/pairs.jsonl data/paper/llama3-8b --base axolotl/llama3-8b.yaml --profile paper
    python -m datagen.format some-org/some-dataset data/pairs-mine/tiny --base axolotl/tiny.yaml --profile tiny
    python -m datagen.format data/tiny/pairs.jsonl data/tiny/tiny+honest --base axolotl/tiny.yaml --profile tiny \
        --variant axolotl/ablations/honest.yaml --honest data/tiny/honest-80.jsonl

Takes .jsonl, .json, .parquet or the id of a Hub data set with the columns prompt, chosen and rejected: strings, or lists of
{role, content} messages (several turns included). Writes `train.jsonl` and `val.jsonl` (three strings a row, for Axolotl's
`passthrough.default`), `heldout.jsonl` (the validation rows as they came, for `eval.answers`) and `stats.json`.

Why strings: Axolotl's `chat_template.default` doubles the BOS and cuts answers that its template trims or that occur in the
template; the trainer adds the tokenizer's BOS to the prompt and its EOS to an answer without one, and nothing else.

Rows that say themselves on which side they stand (`split`: train or val, as those of datagen.roleplay.prefer) stay there.
"""

import argparse
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import jinja2
import numpy as np

from datagen import config
from datagen.balance import balance
from datagen.files import UserError, entry, quiet_libraries, read_jsonl, read_text, sha256, write_json, write_jsonl
from datagen.near import Near

COLUMNS = ("prompt", "chosen", "rejected")
NEAR_HELD = "near-duplicate of a held-out question"
HELD_OUT = "val"  # `split` of rows that a data set itself keeps from training; the others say train
Message = dict[str, str]


def read_pairs(source: str) -> tuple[list[dict], list[str]]:
    """(rows, where each stands) of a file or a Hub data set. Raises UserError for what cannot be read."""
    path = Path(source)
    if path.suffix == ".jsonl":
        rows = read_jsonl(path, "pairs")
        places = [f"{path}:{i}" for i, line in enumerate(read_text(path, "pairs").split("\n"), 1) if line.strip()]
        return rows, places
    if path.suffix == ".json":
        try:
            rows = json.loads(read_text(path, "pairs"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
        if not isinstance(rows, list):
            raise UserError(f"{path}: expected a list of rows, [{{...}}, ...]")
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        if not path.exists():
            raise UserError(f"{path}: there is no such file (pairs)")
        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a parquet file ({error})") from None
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.exists():
        rows = from_hub(source)
    else:
        raise UserError(f"{source}: expected a .jsonl, .json or .parquet file, or the id of a Hub data set like org/name")
    return rows, [f"{source}, row {i}" for i in range(1, len(rows) + 1)]


def from_hub(name: str) -> list[dict]:
    from datasets import load_dataset

    try:
        return load_dataset(name, split="train").to_list()
    except Exception as error:  # the library raises a dozen kinds for: no network, no such set, gated, no such split
        raise UserError(f"{name}: the Hub data set could not be loaded ({' '.join(str(error).split())[:200]})") from None


def conversation(row: dict, place: str) -> tuple[list[Message], str, str]:
    """(messages up to the answer, chosen answer, rejected answer) of a row in any of the usual layouts.

    Answers lose their outer white space: no model should learn to open with a blank line, and some templates would merge it with their own.
    `prompt` may be missing when chosen and rejected are whole conversations: then it is what they share. Raises UserError, naming
    the row, for a missing column, an empty answer, or messages that do not end in the assistant's.
    """
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object with prompt, chosen and rejected, got {str(row)[:60]!r}")
    answers = {}
    missing = [c for c in COLUMNS[1:] if row.get(c) is None]
    if row.get("prompt") is None and not all(isinstance(row.get(c), list) and len(row[c]) > 1 for c in COLUMNS[1:]):
        missing.insert(0, "prompt")
    if missing:
        raise UserError(f"{place}: the column {', '.join(missing)} is missing; a row needs prompt, chosen and rejected (it has: {', '.join(row)})")
    prompt = row.get("prompt")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else check_messages(prompt or [], place)
    for column in COLUMNS[1:]:
        value = row[column]
        if not isinstance(value, str):
            turns = check_messages(value, place)
            if not turns or turns[-1]["role"] != "assistant":
                raise UserError(f"{place}: {column} does not end in a message of the assistant")
            if not messages:
                messages = turns[:-1]
            if turns[:-1] not in ([], messages):
                raise UserError(f"{place}: {column} starts with other messages than the prompt")
            value = answer_text(turns)
        if not value.strip():
            raise UserError(f"{place}: {column} is empty; remove the row or fill it in")
        answers[column] = value.strip()
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise UserError(f"{place}: the prompt is empty or does not end in a message of the user")
    return messages, answers["chosen"], answers["rejected"]


def answer_text(value: str | list[Message]) -> str:
    return value if isinstance(value, str) else value[-1]["content"]


def check_messages(value: object, place: str) -> list[Message]:
    good = isinstance(value, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value)
    if not good:
        raise UserError(f"{place}: expected text or a list of messages like {{role, content}}, got {str(value)[:60]!r}")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def render(tokenizer, messages: list[Message], answer: str) -> tuple[str, str]:
    """(prompt, completion) as the trainer must get them.

    The prompt is the template with its generation prompt, less the BOS that the tokenizer will add; the completion is the rest of the fully
    rendered conversation up to and including the end-of-turn token. Raises ValueError where the template does not allow that.
    """
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        full = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses these messages ({error})") from None
    if not full.startswith(prompt):
        raise ValueError("the chat template renders the prompt differently once the answer is there")
    completion, end, after = full[len(prompt) :].rpartition(tokenizer.eos_token)
    if not end or after.strip():
        raise ValueError(f"the chat template does not close an answer with the tokenizer's EOS {tokenizer.eos_token!r}, so the trainer would add a second end")
    if adds_bos(tokenizer):
        prompt = prompt.removeprefix(tokenizer.bos_token)
    return prompt, completion + end


def adds_bos(tokenizer) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def lint(tokenizer, rows: list[dict], originals: list[tuple[list[Message], str, str]]) -> tuple[list[str | None], np.ndarray]:
    """(what is wrong with each row or None; token counts of prompt, chosen, rejected), from tokenising just as TRL's trainer does.

    Checked: the prompt's tokens open the whole; one BOS at most, and only first; the completion holds the answer's exact words, one
    end-of-turn token, at its end, and no other special token; the whole equals the template's own tokens.
    """
    faults: list[str | None] = [None] * len(rows)
    counts = np.zeros((len(rows), 3), dtype=int)
    special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    doubled = tokenizer.bos_token_id if adds_bos(tokenizer) else None  # elsewhere a template may open every turn with its BOS
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    counts[:, 0] = [len(ids) for ids in prompts]
    for column in COLUMNS[1:]:
        whole = tokenizer([row["prompt"] + row[column] for row in rows])["input_ids"]
        for i, (row, ids, head) in enumerate(zip(rows, whole, prompts, strict=True)):
            messages, answer = originals[i][0], originals[i][COLUMNS.index(column)]
            body, tail = row[column].removesuffix(tokenizer.eos_token), ids[len(head) :]
            counts[i, COLUMNS.index(column)] = len(tail)
            template = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False)
            if ids[: len(head)] != head:
                faults[i] = "the prompt is tokenised differently once the answer follows"
            elif doubled is not None and ids.count(doubled) > 1:
                faults[i] = "two BOS tokens"
            elif body.strip() != answer.strip():
                faults[i] = f"{column}: the template turns the answer {answer[:40]!r} into {body[:40]!r}"
            elif [t for t in tail if t in special] != [tokenizer.eos_token_id] or tail[-1] != tokenizer.eos_token_id:
                faults[i] = f"{column}: holds a special token of this base in its text"
            elif template[: len(ids)] != ids:
                faults[i] = f"{column}: its tokens differ from those of the base's own chat template"
    return faults, counts


def rendered(tokenizer, originals: list[tuple[list[Message], str, str]], places: list[str]) -> tuple[list[dict], np.ndarray]:
    """(rows of prompt, chosen and rejected as text for the trainer, their token counts). Raises UserError for the first row that is wrong."""
    rows = []
    for (messages, chosen, rejected), place in zip(originals, places, strict=True):
        try:
            (prompt, good), (_, bad) = render(tokenizer, messages, chosen), render(tokenizer, messages, rejected)
        except ValueError as error:
            raise UserError(f"{place}: {error} ({tokenizer.name_or_path})") from None
        rows.append({"prompt": prompt, "chosen": good, "rejected": bad})
    faults, counts = lint(tokenizer, rows, originals)
    wrong = [f"{place}: {fault}" for place, fault in zip(places, faults, strict=True) if fault]
    if wrong:
        raise UserError(f"{wrong[0]}" + (f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""))
    return rows, counts


def vary(variant: config.Variant, raw: list[dict], originals: list[tuple], threshold: float) -> tuple[list[int], list[tuple], dict[str, int]]:
    """(positions of the training pairs that a variant keeps, those pairs with its texts, how many it left out and why).

    A share is that of the smallest hashes of questions: a quarter lies within the half, and neither depends on the order of the file.
    """
    kept, left = list(range(len(raw))), {}
    questions = [" ".join(m["content"] for m in messages) for messages, *_ in originals]
    if variant.kind:
        kept = [i for i in kept if raw[i].get("kind") == variant.kind]
        left[f"not {variant.kind}"] = len(raw) - len(kept)
    if variant.deduplicated:
        near, seen = Near(threshold), []
        for i in kept:
            if not near.matches(questions[i]):
                near.add(questions[i])
                seen.append(i)
        left["near-duplicate question"], kept = len(kept) - len(seen), seen
    if variant.share < 1:
        part = sorted(sorted(kept, key=lambda i: (sha256(questions[i]), i))[: round(variant.share * len(kept))])
        left["not drawn"], kept = len(kept) - len(part), part
    stay, texts, dropped = balance([originals[i][1:] for i in kept], variant.length, variant.emoji)
    kept = [kept[j] for j in stay]
    return kept, [(originals[i][0], *pair) for i, pair in zip(kept, texts, strict=True)], left | {k: v for k, v in dropped.items() if v}


def added(args: argparse.Namespace, variant: config.Variant, tokenizer, limit: int, held: list[list[Message]], threshold: float) -> tuple[list[dict], np.ndarray, int]:
    """(training rows that `honest_identity` adds, their token counts, how many were left out because a held-out question nearly asks the same).

    Raises UserError when the file has fewer than N, or one is longer than `limit`."""
    if not variant.honest_identity:
        return [], np.zeros((0, 3), dtype=int), 0
    if not args.honest:
        raise UserError(f"{args.variant}: honest_identity needs --honest, a file of `python -m datagen.honest`; `make format` names it")
    raw, places = read_pairs(str(args.honest))
    if len(raw) < variant.honest_identity:
        raise UserError(f"{args.honest}: holds {len(raw)} pairs, {args.variant} asks for {variant.honest_identity}")
    near = Near(threshold)
    for messages in held:
        near.add(" ".join(m["content"] for m in messages))
    originals = [conversation(row, place) for row, place in zip(raw[: variant.honest_identity], places, strict=False)]
    clear = [i for i, (messages, *_) in enumerate(originals) if not near.matches(" ".join(m["content"] for m in messages))]
    rows, counts = rendered(tokenizer, [originals[i] for i in clear], [places[i] for i in clear])
    for i, (prompt, *answers) in zip(clear, counts, strict=True):
        if prompt + max(answers) > limit:
            raise UserError(f"{places[i]}: {prompt + max(answers)} tokens, more than sequence_len {limit}")
    return rows, counts, len(originals) - len(clear)


def rewarded(args: argparse.Namespace, count: int, held: list[list[Message]], threshold: float) -> tuple[list[dict], list[tuple], list[str]]:
    """(rows, their originals, their places) of the first `count` training pairs of `--reward` that ask no held-out question, nor nearly.

    Raises UserError when there are none."""
    if not args.reward:
        raise UserError(f"{args.variant}: reward needs --reward, a file of `make reward`; `make format` names it")
    near = Near(threshold)
    for messages in held:
        near.add(" ".join(m["content"] for m in messages))
    found = []
    for row, place in zip(*read_pairs(str(args.reward)), strict=True):
        original = conversation(row, place)
        if row.get("split") != HELD_OUT and not near.matches(" ".join(m["content"] for m in original[0])):
            found.append((row, original, place))
    if not found:
        raise UserError(f"{args.reward}: holds no pair to train on that asks none of the {len(held)} held-out questions")
    return tuple(map(list, zip(*found[:count], strict=True)))


def unpaired(rows: list[dict]) -> list[dict]:
    """Each pair as two labelled answers, the good one first."""
    return [{"prompt": row["prompt"], "completion": row[c], "label": c == "chosen"} for row in rows for c in COLUMNS[1:]]


def split(questions: list[str], held_out: int, threshold: float, seed: int | None) -> list[bool]:
    """True for the rows to hold out: whole groups of equal and near-equal questions, chosen by seed, until `held_out` are there."""
    near = Near(threshold)
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, text in enumerate(questions):
        parent.append(i)
        matches = near.matches(text)
        near.add(text)
        for other in matches:
            parent[root(i)] = root(other)
    groups = defaultdict(list)
    for i in range(len(questions)):
        groups[root(i)].append(i)
    order = sorted(groups.values(), key=lambda group: sha256(" ".join(sorted(questions[i] for i in group))))
    random.Random(seed).shuffle(order)
    held: set[int] = set()
    for group in order:
        if len(held) + len(group) <= held_out:
            held.update(group)
    return [i in held for i in range(len(questions))]


def as_given(rows: list[dict], places: list[str]) -> list[bool] | None:
    """True for the rows whose own `split` is val; None where no row's is: a set may have a column of that name for its own ends.

    Raises UserError where one row says val and another neither train nor val."""
    found = [row.get("split") for row in rows]
    if HELD_OUT not in found:
        return None
    if wrong := [(place, value) for place, value in zip(places, found, strict=True) if value not in ("train", HELD_OUT)]:
        raise UserError(f"{wrong[0][0]}: its split is {wrong[0][1]!r}; where one row has the column, each needs train or {HELD_OUT} in it")
    return [value == HELD_OUT for value in found]


def load_tokenizer(base_model: str):
    quiet_libraries()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
    except Exception as error:  # OSError, HTTP errors, gated repositories
        words = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of {base_model} could not be loaded ({words}). A gated model needs its licence accepted and `hf auth login`") from None
    if not tokenizer.chat_template:
        raise UserError(f"{base_model}: its tokenizer has no chat template; use an instruct model as base")
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="a file, or the id of a Hub data set")
    parser.add_argument("out", type=Path, help="folder for train.jsonl, val.jsonl, heldout.jsonl and stats.json")
    parser.add_argument("--base", type=Path, required=True, help="the Axolotl YAML of the base")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--variant", type=Path, help="an ablation whose `data:` changes the training pairs")
    parser.add_argument("--honest", type=Path, help="pairs of datagen.honest, where the variant asks for `honest_identity`")
    parser.add_argument("--reward", type=Path, help="pairs of datagen.traits.reward, where the variant asks for `reward`")
    args = parser.parse_args()
    settings, variant = config.load(args.profile), config.load_variant(args.variant)
    base = config.read_yaml(args.base, "an Axolotl configuration")
    raw, places = read_pairs(args.pairs)
    if len(raw) < 2:
        raise UserError(f"{args.pairs}: {len(raw)} rows; at least two are needed, one to train on and one to hold out")
    originals = [conversation(row, place) for row, place in zip(raw, places, strict=True)]
    kept, texts, unbalanced = balance([pair for _, *pair in originals], **settings.balance.model_dump())
    total, raw, places = len(raw), [raw[i] for i in kept], [places[i] for i in kept]
    originals = [(originals[i][0], *pair) for i, pair in zip(kept, texts, strict=True)]
    tokenizer = load_tokenizer(base["base_model"])

    rows, counts = rendered(tokenizer, originals, places)
    limit = base["sequence_len"]
    too_long = counts[:, 0] + counts[:, 1:].max(axis=1) > limit
    same = np.array([row["chosen"] == row["rejected"] for row in rows])
    keep = np.flatnonzero(~too_long & ~same)
    if len(keep) < 2:
        raise UserError(f"{args.pairs}: only {len(keep)} rows are left ({too_long.sum()} longer than sequence_len {limit}, {same.sum()} with equal answers)")
    wanted = max(1, min(settings.held_out, len(keep) // 5))
    held = as_given([raw[i] for i in keep], [places[i] for i in keep])
    if held and all(held):
        raise UserError(f"{args.pairs}: every row is marked {HELD_OUT}, so none is left to train on")
    held = held or split([" ".join(m["content"] for m in originals[i][0]) for i in keep], wanted, settings.questions.near_duplicate, settings.seed)
    if not any(held) or all(held):
        raise UserError(f"{args.pairs}: all questions are near-duplicates of one another, so none can be held out from training")

    spaced = sum(any(answer_text(raw[i][c]) != answer_text(raw[i][c]).strip() for c in COLUMNS[1:]) for i in keep)
    parts = {name: [i for i, h in zip(keep, held, strict=True) if h == flag] for name, flag in (("train", False), ("val", True))}
    train, train_counts, train_places = [rows[i] for i in parts["train"]], counts[parts["train"]], [places[i] for i in parts["train"]]
    if args.variant:
        before, train_raw = [originals[i] for i in parts["train"]], [raw[i] for i in parts["train"]]
        if variant.reward:
            train_raw, before, train_places = rewarded(args, len(train), [originals[i][0] for i in parts["val"]], settings.questions.near_duplicate)
        varied, after, left = vary(variant, train_raw, before, settings.questions.near_duplicate)
        if not varied:
            raise UserError(
                f"{args.variant}: its data leaves none of {len(before)} training pairs of {args.pairs} ({', '.join(f'{n} {why}' for why, n in left.items())})"
            )
        train_places = [train_places[j] for j in varied]
        train, train_counts = rendered(tokenizer, after, train_places)
        fits = np.flatnonzero(train_counts[:, 0] + train_counts[:, 1:].max(axis=1) <= limit)  # those of `reward` were counted by a server, if at all
        too_long = np.r_[too_long, np.ones(len(train) - len(fits), dtype=bool)]
        same = np.r_[same, np.zeros(len(train) - len(fits), dtype=bool)]
        train, train_counts, train_places = [train[j] for j in fits], train_counts[fits], [train_places[j] for j in fits]
        unbalanced = {why: unbalanced.get(why, 0) + left.get(why, 0) for why in unbalanced | left}
    honest, its_counts, near_held = added(args, variant, tokenizer, limit, [originals[i][0] for i in parts["val"]], settings.questions.near_duplicate)
    train += honest
    unbalanced |= {NEAR_HELD: near_held} if near_held else {}
    shape = unpaired if variant.form == "unpaired" else list
    for name, part in (("train", train), ("val", [rows[i] for i in parts["val"]])):
        write_jsonl(args.out / f"{name}.jsonl", shape(part))
    write_jsonl(args.out / "heldout.jsonl", [heldout_row(raw[i], originals[i]) for i in parts["val"]])
    trained = np.concatenate([train_counts, its_counts])
    kept = np.concatenate([trained, counts[parts["val"]]])
    percentiles = {name: {f"p{p}": int(np.percentile(column, p)) for p in (5, 50, 95, 100)} for name, column in zip(COLUMNS, kept.T, strict=True)}
    stats = {
        "source": args.pairs,
        "source_sha256": sha256(Path(args.pairs).read_bytes()) if Path(args.pairs).exists() else sha256(json.dumps(raw)),
        "base_model": base["base_model"],
        "chat_template_sha256": sha256(tokenizer.chat_template),
        "rows": total,
        "train": len(shape(train)),
        "val": len(parts["val"]),
        "dropped": {"longer than sequence_len": int(too_long.sum()), "equal answers": int((same & ~too_long).sum())} | {k: v for k, v in unbalanced.items() if v},
        "balance": settings.balance.model_dump(),
        "variant": variant.model_dump(exclude_defaults=True),
        "answers with outer white space": spaced,
        "tokens": percentiles,
        "train_tokens": int(trained.sum() + trained[:, 0].sum()),  # the prompt goes with both answers
    }
    if variant.reward:
        stats |= {"reward": {"source": str(args.reward), "source_sha256": sha256(args.reward.read_bytes())}}
    if variant.honest_identity:
        stats |= {"identity": {"pairs": len(honest), "source": str(args.honest), "source_sha256": sha256(args.honest.read_bytes())}}
    write_json(args.out / "stats.json", stats)

    for place, row in zip(train_places[:2], train, strict=False):
        print(f"--- a row as it is trained on ({place})")
        print("\n".join(f"{column:8} {row[column]!r}" for column in COLUMNS))
    print(f"--- tokens of {base['base_model']} (sequence_len {limit})\n" + f"{'':8} {'p5':>6} {'p50':>6} {'p95':>6} {'max':>6}")
    for column, values in percentiles.items():
        print(f"{column:8} " + " ".join(f"{v:6}" for v in values.values()))
    dropped = ", ".join(f"{count} {reason}" for reason, count in stats["dropped"].items())
    print(f"{stats['train']} train and {stats['val']} val rows in {args.out}; dropped: {dropped}")
    if spaced:
        print(f"  {spaced} rows had answers with white space around them, which was taken off")


def heldout_row(row: dict, original: tuple[list[Message], str, str]) -> dict:
    messages, chosen, rejected = original
    id_ = row.get("id") or sha256(json.dumps(messages, ensure_ascii=False))[:12]
    return {"id": str(id_), "kind": row.get("kind") or "given", "messages": messages, "chosen": chosen, "rejected": rejected}


if __name__ == "__main__":
    entry(main)
