"""Builds the second embedded model, the inquirer: it plays a person with an everyday goal who talks with the first one.

    python -m tiny.inquirer                 # writes tiny/inquirer/ (5 minutes beside other work, on one thread); `make tiny-inquirer`
    python -m tiny.inquirer --show          # prints a few of the dialogues that it learns from
    python -m tiny.inquirer --out FOLDER    # elsewhere, to compare with the stored weights

It starts from the weights of tiny/model, with the same shape and tokenizer, and learns from dialogues that are put together from `tiny/people/*.txt`
(what a person says) and `tiny/text/*.txt` (what is asked and answered), as messages in the very form that datagen.roleplay sends: persona and goal
first, every answer inside the forwarding prompt, its own words in quotes. Only its own words are learnt.

In `tiny/people`, `== goal` opens a goal of goals.yaml there: `> topic kind` are the units whose questions it asks, in order, `O` how it opens,
`A` what it tells when asked back. `== anyone` holds `R`, what is said to an answer, `M`, to one that has nothing to do with the question, and `D`, to a
remark about being an AI. `== feature option` holds `T`, what persons with that option tell of themselves. Only age and native language have such
lines: gender changes nothing in what this model has learnt.

The answers that it learns from are friendly or formal, and one in six is about something else: then it says so, and asks again. After the answer to its
last question it says the stop word. Some goals are answered by a unit that fits them loosely: the embedded model has few topics.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # before torch: threads that spin longer starve everything else

import argparse
import hashlib
import inspect
import json
import math
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from datagen.files import UserError, entry, quiet_libraries, sha256, write_json
from datagen.roleplay.personas import Choice, choose, read_goals
from datagen.roleplay.record import Goal, Persona
from datagen.roleplay.settings import Settings, fill, load
from tiny import corpus

HERE = Path(__file__).parent
PEOPLE, BASE, OUT = HERE / "people", HERE / "model", HERE / "inquirer"
STEPS, ROWS, LENGTH = 320, 4, 900  # a row is one dialogue of at most so many tokens
OPENINGS = 12  # every other step learns from so many first prompts instead: short rows, in which nothing but persona and goal says what to ask
RATES = {"matrices": 0.02, "others": 0.006}
SHARPEN = 1.3  # as in tiny.build, by less: what persons say is to vary
SEED = 20240702  # the day the paper on role-play appeared
HELD_OUT = 40  # dialogues
SKIP, ASTRAY, FRIENDLY = 0.3, 1 / 6, 0.4  # shares: second questions left out, answers about something else, answers in a friend's manner
TELLS, REACTS, ABOUT_AI, OF_ONESELF = 0.7, 0.45, 0.4, 0.35
CUT = 0.3  # of dialogues whose oldest exchanges are left out, as they are where the context is full
MARKS = ("O", "A", "R", "M", "D", "T")


@dataclass
class Part:
    """The lines of one `==` section, by their mark, and the units that a goal's questions come from."""

    lines: dict[str, list[str]] = field(default_factory=lambda: {mark: [] for mark in MARKS})
    asks: list[tuple[str, str]] = field(default_factory=list)


def read_people(folder: Path = PEOPLE) -> dict[str, Part]:
    """Sections by name. A fault names its file and line (ValueError)."""
    parts: dict[str, Part] = {}
    part = None
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            mark, _, text = line.strip().partition(" ")
            if not line.strip():
                continue
            if mark == "==" and text and text not in parts:
                part = parts[text] = Part()
            elif mark == ">" and part and len(text.rsplit(" ", 1)) == 2:
                part.asks.append(tuple(text.rsplit(" ", 1)))
            elif mark in MARKS and part:
                part.lines[mark].append(text)
            else:
                raise ValueError(f"{path}:{number}: expected a new `== section`, `> topic kind` or a line starting with {', '.join(MARKS)}")
    return parts


class Writer:
    """Puts dialogues together."""

    def __init__(self, settings: Settings, goals: list[Goal], people: dict[str, Part], personas: list[Persona]):
        self.settings, self.people, self.personas, self.prompts = settings, people, personas, settings.texts("neutral")
        self.goals = [goal for goal in goals if goal.id in people]
        units = corpus.read_units()
        self.units = {(unit.topic, unit.kind): (unit, common) for unit, common in units if unit.kind != "identity"}
        for goal in self.goals:
            if missing := [ask for ask in people[goal.id].asks if ask not in self.units]:
                raise ValueError(f"{goal.id}: tiny/text has no unit {missing[0]}")

    def told(self, persona: Persona, rng: random.Random) -> list[str]:
        """Something that the persona says of itself, or nothing."""
        own = [line for feature, option in persona.features.items() for line in self.people.get(f"{feature} {option}", Part()).lines["T"]]
        return corpus.pick(own, rng) if own and rng.random() < OF_ONESELF else []

    def answered(self, ask: tuple[str, str], rng: random.Random) -> str:
        unit, common = self.units[ask]
        return corpus.friend_answer(unit, common, rng) if rng.random() < FRIENDLY else corpus.formal_answer(unit, common, rng)

    def dialogue(self, rng: random.Random) -> tuple[Persona, Goal, list[tuple[str, str]]]:
        """(persona, goal, [(prompt, answer) …, (stop word, "")])."""
        persona, goal = rng.choice(self.personas), rng.choice(self.goals)
        part, anyone = self.people[goal.id].lines, self.people["anyone"].lines
        asks = [ask for i, ask in enumerate(self.people[goal.id].asks) if i != 1 or rng.random() >= SKIP]
        said, before = [], [*corpus.pick(part["O"], rng), *self.told(persona, rng)]
        while asks:
            prompt = " ".join([*before, corpus.question(self.units[asks[0]][0], rng)])
            astray = rng.random() < ASTRAY
            answer = self.answered(rng.choice([ask for ask in self.units if ask[0] != asks[0][0]]) if astray else asks[0], rng)
            said.append((prompt, answer))
            if astray:
                before = corpus.pick(anyone["M"], rng)
                continue
            asks.pop(0)
            before = []
            if "AI " in answer or "language model" in answer or "artificial" in answer:
                before += corpus.pick(anyone["D"], rng) if rng.random() < ABOUT_AI else []
            elif rng.random() < REACTS:
                before += corpus.pick(anyone["R"], rng)
            if answer.rstrip().endswith("?") and rng.random() < TELLS:
                before += corpus.pick(part["A"], rng)
            elif said and not before:
                before += self.told(persona, rng)
        return persona, goal, [*said, (self.settings.stop, "")]

    def messages(self, persona: Persona, goal: Goal, said: list[tuple[str, str]], drop: int = 0) -> list[tuple[str, str]]:
        """The inquirer's whole view of a dialogue, as `datagen.roleplay.dialogue` sends it; its own words are the assistant's."""
        texts, form = self.prompts, self.prompts.get("form", "")
        reminder = " " + fill(texts["reminder"], stop=self.settings.stop) if "reminder" in texts else ""
        made = [
            ("system", fill(texts["inquirer_system"], persona=persona.text, stop=self.settings.stop)),
            ("user", fill(texts["inquirer_first"], goal=goal.text, form=form)),
        ]
        for number, (words, answer) in enumerate(said):
            own = words if words == self.settings.stop else f'"{words}"'
            after = [("user", fill(texts["forward"], response=answer, form=form, reminder=reminder))] if answer else []
            if number >= drop:
                made += [("assistant", own), *after]
        return made


def writer(held_out: bool = False) -> Writer:
    """The dialogues of the profile `tiny`: every persona that its features allow, and its goals.

    A fifth of the personas, by their id, is only met in the held-out loss."""
    settings = load(profile="tiny")
    people = read_people()
    personas = [p for p in choose(Choice(file=settings.personas.file, use="all", features=settings.personas.features)) if (int(p.id, 16) % 5 == 0) == held_out]
    return Writer(settings, read_goals(Path(settings.goals.file), settings.goals.categories)[0], people, personas)


def sources() -> str:
    """One hash over what the weights depend on: the base's weights, the settings and code of training, and the dialogues themselves, of which the first
    300 stand for all: a change of text, prompt, goal, persona or grammar shows in them."""
    made, rng = writer(), random.Random(SEED)
    values = [json.loads((BASE / "manifest.json").read_text())["weights_sha256"], STEPS, ROWS, OPENINGS, LENGTH, RATES, SHARPEN, SEED, CUT]
    values += [inspect.getsource(part) for part in (train, loss_of, batch, encode)]
    values += [made.messages(*made.dialogue(rng)) for _ in range(300)]
    return sha256(json.dumps(values))


# ---------------------------------------------------------------- training


def encode(tokenizer, messages: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """(ids, labels) of a conversation by the chat template; labels are -100 but for what the inquirer says, its end token included."""
    ids, labels = [tokenizer.bos_token_id], [-100]
    for role, content in messages:
        turn = [tokenizer.convert_tokens_to_ids(f"<|{role}|>"), *tokenizer(" " + content.strip(), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids += turn
        labels += [-100, *turn[1:]] if role == "assistant" else [-100] * len(turn)
    return ids, labels


def batch(tokenizer, source: Writer, rng: random.Random, rows: int, opening: bool = False):
    """(ids, labels) of `rows` dialogues, or of their first prompts, each (rows, tokens), padded on the right: what is learnt never looks to the right."""
    import torch

    made = []
    while len(made) < rows:
        persona, goal, said = source.dialogue(rng)
        said = [(said[0][0], "")] if opening else said
        drop = rng.randrange(1, len(said) - 1) if len(said) > 2 and rng.random() < CUT else 0
        ids, labels = encode(tokenizer, source.messages(persona, goal, said, drop))
        if len(ids) <= LENGTH:
            made.append((ids, labels))
    longest = max(len(ids) for ids, _ in made)
    pad = tokenizer.pad_token_id
    return (
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in made]),
        torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in made]),
    )


def loss_of(model, ids, labels):
    """(summed loss in nats, number of tokens) of what the inquirer says."""
    import torch

    hidden = model.model(input_ids=ids)[0]
    wanted = labels[:, 1:].reshape(-1)
    keep = wanted != -100
    logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[keep])
    return torch.nn.functional.cross_entropy(logits, wanted[keep], reduction="sum"), int(keep.sum())


def held_out_loss(model, tokenizer) -> float:
    """Mean loss in nats a token on dialogues of personas that training never meets, drawn with a seed of their own."""
    import torch

    rng, source, total, count = random.Random(SEED + 1), writer(held_out=True), 0.0, 0
    with torch.no_grad():
        for _ in range(HELD_OUT // ROWS):
            loss, n = loss_of(model, *batch(tokenizer, source, rng, ROWS))
            total, count = total + loss.item(), count + n
    return total / count


def train():
    """(model, tokenizer, held-out loss), from the weights of tiny/model."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from tiny import build

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # a second one gains little on rows like these, and waiting for it costs minutes when the cores are busy
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="sdpa")
    with torch.no_grad():
        model.model.norm.weight.div_(build.SHARPEN)  # as it was learnt; sharpened again when this one is done
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [build.Muon(inner, lr=RATES["matrices"]), torch.optim.AdamW(others, lr=RATES["others"], betas=(0.9, 0.95), weight_decay=0.0)]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    rng, source, started, recent = random.Random(SEED), writer(), time.time(), []
    print(f"{model.num_parameters():,} parameters, {STEPS} steps", flush=True)
    for step in range(STEPS):
        loss, count = loss_of(model, *batch(tokenizer, source, rng, *((OPENINGS, True) if step % 2 else (ROWS, False))))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = min((step + 1) / 20, 1.0, 2 * (1 - step / STEPS))  # warm-up, constant, linear to zero over the second half
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item() / count)
        if (step + 1) % 40 == 0:
            print(f"step {step + 1:4}  loss {sum(recent) / len(recent):.3f}  {time.time() - started:.0f} s", flush=True)
            recent = []
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPEN)
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # as it will be stored
    return model, tokenizer, held_out_loss(model, tokenizer)


def show(count: int = 3) -> None:
    source, rng = writer(), random.Random(0)
    print(f"{len(source.goals)} goals, {len(source.personas)} personas, {sum(len(lines) for part in source.people.values() for lines in part.lines.values())} lines")
    for _ in range(count):
        persona, goal, said = source.dialogue(rng)
        print(f"\n[{persona.text}; {goal.id}]")
        for words, answer in said:
            print(f"> {words}\n{answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    if args.show:
        return show()
    if not (BASE / "model.safetensors").exists():
        raise UserError(f"{BASE}: has no weights; `make tiny` builds them")
    import torch

    quiet_libraries()
    started, out, of = time.time(), args.out, sources()
    model, tokenizer, loss = train()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    manifest = {
        "sources_sha256": of,
        "weights_sha256": hashlib.sha256((partial / "model.safetensors").read_bytes()).hexdigest(),
        "held_out_loss": round(loss, 4),
        "parameters": model.num_parameters(),
        "steps": STEPS,
        "seed": SEED,
        "torch": torch.__version__,
    }
    write_json(partial / "manifest.json", manifest)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"held-out loss {loss:.4f} (perplexity {math.exp(loss):.2f}), {size:.1f} MB in {out}, {time.time() - started:.0f} s")


if __name__ == "__main__":
    entry(main)
