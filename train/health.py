"""Tells a run that only looks healthy from one that is: alarms over the trainer's log, its settings, its data and its answers.

    python -m train.health out/tiny --data data/tiny/tiny            # after a run; --strict ends with status 1 on a grave alarm
    STOP_ON_ALARM=1 make train MODEL=llama3-8b                       # train.launch asks the same checks at every step

Writes `out/<run>/health.json`. An alarm names the step at which it first fired, the figures, and what to try. Its level is `stop` where
what is trained on from here is lost time, and `look` where a person should judge. `STOP_ON_ALARM=1` ends a run on `stop` alone.

How a log is read. The trainer logs means over a batch; one batch of 2 to 32 pairs is too few to say anything, so most checks look at a
moving window of the last rows that hold 100 pairs together: with no error among 100, the true rate of errors is below 3 % with 95 %
confidence (the rule of three, Hanley and Lippman-Hand 1983). Where a difference is judged, it must exceed two standard errors.
A reward is beta x (log-probability under the trained model less that under the base), so a reward divided by beta is how far an answer's
log-probability has moved since the start, pair by pair: free of the noise of which answers happen to be in a batch.
"""

import argparse
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import UserError, entry, read_json, read_jsonl, read_text, write_json
from eval.surface import bootstrap, friendliness, wilson, words
from train.heldout import pairs_of
from train.monitor import read_log

WINDOW_PAIRS = 100  # see above
WINDOW_ROWS = 3  # with batches of 100 pairs and more: a spread needs some rows
EARLY = 0.1  # of an epoch: the other nine tenths then hold pairs that are ranked rightly already
# The gradient of DPO on a pair is beta x sigmoid(-margin) x (the difference of two gradients of a log-likelihood) (Rafailov et al. 2023,
# equation 7). sigmoid(-margin) starts at 1/2 and cannot pass 1, and the loss pushes it down: of a norm ten times that of the first steps, the loss
# itself explains a factor of 2. Our healthy run reaches 1.8. (Norms at the end are no yardstick: they shrink toward 0 with the loss.)
GRADIENT = 10
# Likelihood displacement (Razin et al. 2024; Pal et al. 2024): the margin grows while both answers become unlikely, and what gains is text in
# neither column. Some fall of the chosen answers is usual in DPO (Rafailov et al. 2024), so it has to be a tenth of the answers' own
# log-probability: as if every token's probability p had become p to the power of 1.1. At half of it the wording itself has been unlearnt.
FALL, GRAVE_FALL = 0.1, 0.5
# At a mean margin of 10 a pair's weight sigmoid(-margin) is 1/10,000 of what it was at the start, so the pairs have nothing left to teach, and each pair's odds
# have moved by e^100 at beta 0.1. The demo's healthy run ends at 4; its learning rate
# on real pairs, with answers several times as long, passed 20 at step 16 of 57.
OVERSHOOT, GRAVE_OVERSHOOT = 10, 20
DROP = 0.1  # of the best margin on held-out pairs: less is no reason to act, however sure
GAP = 2  # the margin in training over that on held-out pairs. Our healthy run ends at 1.0 times, ten rows repeated 34 times at 2.3
DUPLICATES, GRAVE_DUPLICATES = 0.05, 0.5  # exact copies of other rows. datagen.pairs makes none; C4 has 3 % near copies (Lee et al. 2022)
SHORT = 0.1  # of the rows with an answer of one character: more, and it is the rendering that is broken, not a few answers
LOST = 0.05  # of the rows: dropping more than that changes what the set is
SAMPLE = 1000  # rows, evenly spaced, for the rule of friendly talk: 0.8 ms each
UNWANTED = ("longer than sequence_len", "equal answers")  # the other reasons in stats.json are those of a variant that was asked for
LONGER = 0.1  # of the words: a smaller difference is no reason to act, however sure
END_OF_TURN = re.compile(r"\s*(<[^<>\s]{1,40}>\s*)+$")  # </s>, <|eot_id|>, <|im_end|>, …


@dataclass(frozen=True)
class Alarm:
    name: str
    level: str  # "stop" or "look"
    step: int | None  # of the trainer's log; None for what was found in settings, data or answers
    reason: str
    advice: str

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        return f"ALARM ({self.level}) {self.name}{at}: {self.reason}. Try: {self.advice}"


class NotChecked(Exception):
    """A check lacks what it needs; its text says what."""


@dataclass
class Facts:
    """What is known of a run besides its log. None where it is not there."""

    config: dict  # run.yaml
    recipe: dict | None = None  # what run.yaml says it was composed from
    processes: int | None = None
    stats: dict | None = None
    train: list[dict] = field(default_factory=list)  # rendered pairs: prompt, chosen, rejected
    lines: int = 0  # of train.jsonl: twice the pairs where answers stand there one by one (KTO)
    val: list[dict] = field(default_factory=list)
    answers: list[dict] | None = None  # of base and tuned model
    heldout: list[dict] = field(default_factory=list)  # the same questions with the chosen and rejected answers, as they came

    @property
    def rows(self) -> int:
        """Rows to train on; 0 where that is not known."""
        return self.lines or len(self.train) or (self.stats or {}).get("train", 0)

    @property
    def batch(self) -> int:
        return self.config.get("micro_batch_size", 1) * self.config.get("gradient_accumulation_steps", 1) * (self.processes or 1)

    @property
    def window(self) -> int:
        """Logged rows that hold WINDOW_PAIRS pairs together."""
        pairs = self.batch * max(1, int(self.config.get("logging_steps") or 1))
        return max(WINDOW_ROWS, math.ceil(WINDOW_PAIRS / pairs))

    @property
    def beta(self) -> float:
        """Raises NotChecked where a reward is not beta x a sum of log-ratios: without a reference model, or normalised by length."""
        losses = self.config.get("dpo_loss_type") or ["sigmoid"]
        if self.config.get("rl") != "dpo" or "sigmoid" not in ([losses] if isinstance(losses, str) else losses):
            raise NotChecked(f"rewards of rl: {self.config.get('rl')} with the loss {losses} are not read as those of DPO")
        return float(self.config.get("rl_beta") or self.config.get("dpo_beta") or 0.1)


def number(value: object) -> float | None:
    return None if value is None or value == "" else float(value)


def tail(rows: list[dict], column: str, n: int) -> list[float] | None:
    """The last n values of a column, or None when there are not as many."""
    values = [value for row in rows[-n:] if (value := number(row.get(column))) is not None]
    return values if len(values) == n else None


def spread(values: list[float]) -> float:
    """Standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


# ---------------------------------------------------------------- the log: each check is asked after every row, of what is known by then


def not_finite(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    wrong = [name for name in ("loss", "grad_norm", "margin", "logp_chosen", "logp_rejected") if (v := number(row.get(name))) is not None and not math.isfinite(v)]
    if wrong:  # the trainer replaces a loss that is NaN by the mean of those before it, so the other columns are looked at too
        yield Alarm(
            "not-finite", "stop", row["step"], f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} NaN or infinite; no later step can mend the weights",
            "a lower learning_rate, a longer warmup_steps, max_grad_norm: 1.0, or bf16 instead of fp16; and look for empty answers in the data",
        )  # fmt: skip


def gradient(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    n = WINDOW_ROWS  # few: a run that breaks does so within its warm-up, and a norm needs no hundred pairs
    early, late = ([v for r in part if (v := number(r["grad_norm"])) is not None and math.isfinite(v)] for part in (train[:n], train[-n:]))
    if row["split"] == "val" or len(train) <= n or not early or not late:
        return
    first, last, now = statistics.median(early), number(row["grad_norm"]), statistics.median(late)
    usual = f"the median of the first {n} is {first:.3g}"
    if first and now > GRADIENT * first:
        yield Alarm(
            "gradient-explosion", "stop", row["step"], f"the median gradient norm of the last {n} logged steps is {now:.3g}; {usual}",
            "a tenth of the learning_rate, or a longer warmup_steps",
        )  # fmt: skip
    elif first and last is not None and last > GRADIENT * first:
        yield Alarm(
            "gradient-spike", "look", row["step"], f"a gradient norm of {last:.3g}; {usual}",
            "nothing, if it stays alone and the loss goes on as before; else max_grad_norm: 1.0 or a lower learning_rate, and look at the rows of that batch",
        )  # fmt: skip


def shortcut(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    """Every one of the last 100 pairs and more ranked rightly before a tenth of the first epoch: something simpler than the content tells the columns apart."""
    if facts.rows and facts.rows * EARLY < WINDOW_PAIRS:
        raise NotChecked(f"a tenth of {facts.rows} rows is fewer than {WINDOW_PAIRS} pairs")
    right = tail(train, "accuracy", facts.window)
    if row["split"] == "train" and row["epoch"] <= EARLY and right and min(right) >= 1:
        pairs = facts.window * facts.batch * max(1, int(facts.config.get("logging_steps") or 1))
        yield Alarm(
            "style-shortcut", "look", row["step"], f"all of the last {pairs} pairs are ranked rightly after {row['epoch']:.3f} of an epoch",
            "`make audit` says what tells the columns apart (length, emoji, an opening phrase); `balance:` in datagen/config.yaml takes it away. "
            "Where a style is what the run is to teach, as here, a small part of the data may be enough",
        )  # fmt: skip


def both_falling(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    beta, n = facts.beta, facts.window
    chosen, rejected, logp = (tail(train, column, n) for column in ("reward_chosen", "reward_rejected", "logp_chosen"))
    if row["split"] == "val" or not chosen or not rejected or not logp:
        return
    fell, noise = -statistics.mean(chosen) / beta, spread(chosen) / beta
    start = abs(statistics.mean(logp) + fell)  # what the base gives these very answers
    other = -statistics.mean(rejected) / beta
    if fell > FALL * start and fell > 2 * noise and other > 2 * spread(rejected) / beta:
        yield Alarm(
            "both-falling", "stop" if fell > GRAVE_FALL * start else "look", row["step"],
            f"chosen answers have lost {fell:.1f} nats (standard error {noise:.1f}) of the {-start:.1f} they started from, rejected ones {other:.1f}: "
            "what gains is text in neither column",
            "a term that holds the chosen answers (rpo_alpha: 1.0), a lower learning_rate, or a higher rl_beta; and read some answers",
        )  # fmt: skip


def overshoot(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    beta = facts.beta
    margins = tail(train, "margin", facts.window) if row["split"] == "train" else [number(row["margin"])]
    if not margins or margins[0] is None or not statistics.mean(margins) > OVERSHOOT:
        return
    margin = statistics.mean(margins)
    yield Alarm(
        "overshoot", "stop" if margin > GRAVE_OVERSHOOT else "look", row["step"],
        f"the mean margin is {margin:.1f}: a pair weighs {2 / (1 + math.exp(min(margin, 700))):.0e} of what it weighed at the start, and its odds have moved by "
        f"{margin / beta:.0f} nats",
        "a lower learning_rate or fewer steps; and read some answers of the tuned model before anything else",
    )  # fmt: skip


def held_out(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    """Margin or accuracy on held-out pairs worse than at an earlier evaluation, beyond their noise; or below chance."""
    if row["split"] == "train" or number(row.get("accuracy")) is None:
        return
    if not (n := held_out_pairs(facts)):
        raise NotChecked("the number of held-out pairs is not known")
    moved = [r for r in val if r["step"] > 0]  # before the first step every pair ties, which the trainer counts as wrong
    if not moved:
        return
    accuracy, margin = float(row["accuracy"]), float(row["margin"])
    low, high = wilson(round(accuracy * n), n) if math.isfinite(accuracy) else (0, 1)
    if high < 0.5 and margin < 0:
        yield Alarm(
            "held-out-reversed", "stop", row["step"], f"{accuracy:.1%} of {n} held-out pairs are ranked rightly [{low:.1%}, {high:.1%}]: worse than chance",
            "chosen and rejected are swapped in train.jsonl or in val.jsonl; compare a row of each",
        )  # fmt: skip
    before = moved[:-1]
    if not before:
        return
    best = max(before, key=lambda r: float(r["accuracy"]))
    was = float(best["accuracy"])
    # The same pairs are ranked both times, so this interval, of two samples, errs on the quiet side.
    if was - accuracy > 2 * math.sqrt((was * (1 - was) + accuracy * (1 - accuracy)) / n) and was > accuracy:
        yield falling(row, f"accuracy on {n} held-out pairs fell from {was:.1%} at step {best['step']} to {accuracy:.1%}")
        return
    best, noise = max(before, key=lambda r: float(r["margin"])), margin_noise(train, facts, n)
    was = float(best["margin"])
    if was - margin > max(DROP * was, 2 * math.sqrt(2) * noise):
        yield falling(row, f"the margin on {n} held-out pairs fell from {was:.2f} at step {best['step']} to {margin:.2f} (standard error about {noise:.2f})")


def falling(row: dict, reason: str) -> Alarm:
    return Alarm("held-out-falling", "look", row["step"], reason, "take the checkpoint before (saves_per_epoch), a lower learning_rate, or fewer epochs")


def held_out_pairs(facts: Facts) -> int:
    return (facts.stats or {}).get("val") or len(facts.val)


def margin_noise(train: list[dict], facts: Facts, n: int) -> float:
    """Standard error of a mean margin over n pairs, from how much batches of known size differ. The trainer does not log the spread over pairs."""
    margins = tail(train, "margin", facts.window)
    return statistics.stdev(margins) * math.sqrt(facts.batch / n) if margins else math.inf


def memorised(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    if row["split"] == "train" or row["step"] == 0:
        return
    margins, there = tail(train, "margin", facts.window), number(row["margin"])
    if not (n := held_out_pairs(facts)):
        raise NotChecked("the number of held-out pairs is not known")
    if not margins or there is None:
        return
    here, noise = statistics.mean(margins), math.hypot(spread(margins), margin_noise(train, facts, n))
    if here > GAP * max(there, 0) and here - there > 2 * noise and here > 1:
        yield Alarm(
            "memorised", "look", row["step"], f"margin {here:.2f} on the last {facts.window} training batches, {there:.2f} on {n} held-out pairs",
            "look for repeated rows (`make audit`), more varied questions, or fewer epochs",
        )  # fmt: skip


def base_prefers_chosen(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    """Before training, an instruct model finds formal answers the likelier ones, letter for letter: they are its own manner."""
    if row["split"] == "train" or len(val) > 1 or number(row["logp_chosen"]) is None:
        return
    if not facts.val:
        raise NotChecked("there is no val.jsonl")
    beta, nats = facts.beta, {}
    for column in ("chosen", "rejected"):
        letters = sum(len(words_of(r[column])) for r in facts.val) / len(facts.val)
        nats[column] = (float(row[f"logp_{column}"]) - float(row[f"reward_{column}"]) / beta) / max(1, letters)
    if nats["chosen"] > nats["rejected"]:
        yield Alarm(
            "base-prefers-chosen", "look", row["step"],
            f"the untrained base gives chosen answers {nats['chosen']:.3f} nats a letter and rejected ones {nats['rejected']:.3f}: it is taught its own manner",
            "read three rows of train.jsonl: are chosen and rejected swapped?",
        )  # fmt: skip


def learning_rate(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    wanted, seen = number((facts.recipe or facts.config).get("learning_rate")), number(row.get("learning_rate"))
    if wanted is None:
        raise NotChecked("neither run.yaml nor its recipe names a learning_rate")
    if row["split"] == "train" and seen is not None and seen > 1.01 * wanted:
        yield rate_alarm(row["step"], f"the trainer's learning rate is {seen:.3g}, the recipe's {wanted:.3g}")


def rate_alarm(step: int | None, reason: str) -> Alarm:
    return Alarm("learning-rate", "stop", step, reason, "see what differs between run.yaml and axolotl/<base>.yaml; a change on purpose belongs in axolotl/ablations/")


def steps_an_epoch(train: list[dict], val: list[dict], facts: Facts, row: dict) -> Iterator[Alarm]:
    """Rows = steps x effective batch, up to the last batch of an epoch. Fewer steps than rows: rows were dropped, or the batch is larger than meant."""
    rows = facts.rows
    if not rows or facts.processes is None:
        raise NotChecked("the number of training rows or of processes is not known")
    if row["split"] == "val" or not row["epoch"] or len(train) < WINDOW_ROWS:
        return
    batch, steps = facts.batch, row["step"] / row["epoch"]
    wanted = math.ceil(rows / batch)
    # One step for how the last batch is counted, and what the epoch, logged with four digits, cannot tell.
    slack = 1 + steps * 0.0001 / row["epoch"] + 0.01 * wanted
    if abs(steps - wanted) <= slack:
        return
    ratio = wanted / steps
    said = f"{steps:.0f} steps an epoch, where {rows} rows in batches of {batch} make {wanted}"
    if ratio < 1 or (round(ratio) > 1 and abs(steps * round(ratio) - wanted) <= slack * round(ratio)):
        yield batch_alarm(row["step"], f"{said}: the effective batch is about {rows / steps:.0f}")
    else:
        yield Alarm(
            "rows-dropped", "stop" if 1 - 1 / ratio > LOST else "look", row["step"], f"{said}: about {rows - steps * batch:.0f} rows are not trained on",
            "look in train.log for what was dropped; sequence_len may be too small for these rows (excess_length_strategy: raise makes that an error)",
        )  # fmt: skip


def batch_alarm(step: int | None, reason: str) -> Alarm:
    return Alarm(
        "effective-batch", "stop", step, reason, "compose the run again with GPUS= as many as it is launched on; micro_batch_size x accumulation x GPUs must stay"
    )


# ---------------------------------------------------------------- the end of the log


def peak_reached(train: list[dict], val: list[dict], facts: Facts) -> Iterator[Alarm]:
    wanted = number((facts.recipe or facts.config).get("learning_rate"))
    warmup = facts.config.get("warmup_steps") or 0
    seen = [v for r in train if (v := number(r["learning_rate"])) is not None]
    # Where not every step is logged, the highest one may lie between two rows, a little below the peak.
    if wanted and seen and train[-1]["step"] > 2 * warmup and max(seen) < 0.9 * wanted:
        yield rate_alarm(train[-1]["step"], f"the highest learning rate was {max(seen):.3g}, the recipe's {wanted:.3g} was never reached")


def nothing_learnt(train: list[dict], val: list[dict], facts: Facts) -> Iterator[Alarm]:
    n, moved = held_out_pairs(facts), [r for r in val if r["step"] > 0]
    if not moved or not n or number(moved[-1]["accuracy"]) is None or not math.isfinite(float(moved[-1]["accuracy"])):
        raise NotChecked("the log holds no evaluation on held-out pairs")
    accuracy = float(moved[-1]["accuracy"])
    low, high = wilson(round(accuracy * n), n)
    if low <= 0.5 <= high:
        yield Alarm(
            "nothing-learnt", "look", moved[-1]["step"], f"{accuracy:.1%} of {n} held-out pairs are ranked rightly [{low:.1%}, {high:.1%}]: no better than chance",
            "`make audit` (answers on the wrong rows, columns swapped in a part of the set), a higher learning_rate, or more pairs",
        )  # fmt: skip


# ---------------------------------------------------------------- settings and data: before a run as well


def settings(facts: Facts) -> Iterator[Alarm]:
    if facts.recipe is None:
        raise NotChecked("run.yaml does not say what it was composed from")
    rates = [number(c.get("learning_rate")) for c in (facts.recipe, facts.config)]
    if rates[0] != rates[1]:
        yield rate_alarm(None, f"run.yaml has learning_rate {rates[1]:.3g}, its recipe {rates[0]:.3g}")
    wanted = facts.recipe["effective batch"]
    if facts.processes is not None and wanted is not None and facts.batch != wanted:
        yield batch_alarm(None, f"micro {facts.config['micro_batch_size']} x accumulation {facts.config['gradient_accumulation_steps']} x {facts.processes} processes = "
                                f"{facts.batch}, the recipe's is {wanted}")  # fmt: skip


def dropped(facts: Facts) -> Iterator[Alarm]:
    if not facts.stats or not facts.train:
        raise NotChecked("there is no stats.json or no train.jsonl")
    stats = facts.stats
    if facts.rows != stats["train"]:
        yield Alarm(
            "rows-dropped", "stop", None, f"train.jsonl holds {facts.rows} rows, stats.json says {stats['train']}",
            "run `make format` again: the file was changed or cut since",
        )  # fmt: skip
    lost = {reason: count for reason, count in stats.get("dropped", {}).items() if count and reason in UNWANTED}
    total = stats.get("rows") or stats["train"] + stats["val"] + sum(lost.values())
    if sum(lost.values()) > LOST * total:
        why = ", ".join(f"{count} {reason}" for reason, count in lost.items())
        yield Alarm(
            "rows-dropped", "look", None, f"{sum(lost.values())} of {total} rows were left out of the training data: {why}",
            "a larger sequence_len in axolotl/<base>.yaml, or pairs with shorter answers",
        )  # fmt: skip


def words_of(completion: str) -> str:
    """An answer without the end-of-turn token that the template put behind it."""
    return END_OF_TURN.sub("", completion).strip()


def short_answers(facts: Facts) -> Iterator[Alarm]:
    rows = need_rows(facts)
    short = [r for r in rows if min(len(words_of(r["chosen"])), len(words_of(r["rejected"]))) <= 1]
    if short:
        example = min((words_of(short[0][c]) for c in ("chosen", "rejected")), key=len)
        level = "stop" if len(short) > SHORT * len(rows) else "look"
        yield Alarm(
            "one-character-answers", level, None, f"{len(short)} of {len(rows)} rows have an answer of one character or none, such as {example!r}",
            "render the rows with datagen.format: Axolotl's own chat_template cuts answers with white space around them to one character",
        )  # fmt: skip


def identical_columns(facts: Facts) -> Iterator[Alarm]:
    rows = need_rows(facts)
    if same := sum(words_of(r["chosen"]) == words_of(r["rejected"]) for r in rows):
        yield Alarm(
            "identical-columns", "stop" if same > LOST * len(rows) else "look", None, f"{same} of {len(rows)} rows have the same text as chosen and rejected",
            "run `make format`, which leaves such rows out, and look at where the pairs came from",
        )  # fmt: skip


def duplicated(facts: Facts) -> Iterator[Alarm]:
    rows = need_rows(facts)
    counts = Counter((r["prompt"], r["chosen"], r["rejected"]) for r in rows)
    copies = len(rows) - len(counts)
    if copies > DUPLICATES * len(rows):
        yield Alarm(
            "duplicated-rows", "stop" if copies > GRAVE_DUPLICATES * len(rows) else "look", None,
            f"{copies} of {len(rows)} rows are copies of others (one stands there {max(counts.values())} times): the run sees {len(counts)} pairs, not {len(rows)}",
            "take the copies out; to see the pairs more than once, num_epochs says so and counts right",
        )  # fmt: skip


def swapped(facts: Facts) -> Iterator[Alarm]:
    """The rule for a friend's talk (eval.surface), on the data. It knows only this project's goal: 971 of 972 real pairs of the paper go its way."""
    rows = need_rows(facts)
    rows = rows[:: -(-len(rows) // SAMPLE)]
    signs = [friendliness(words_of(r["chosen"])) - friendliness(words_of(r["rejected"])) for r in rows]
    friend, office = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
    if office and wilson(friend, friend + office)[1] < 0.5:
        yield Alarm(
            "swapped-columns", "stop", None, f"the rejected answer is the friendlier one in {office} of {len(rows)} rows, the chosen one in {friend}",
            "swap chosen and rejected; nothing, if a more formal model is what you want",
        )  # fmt: skip


def need_rows(facts: Facts) -> list[dict]:
    if not facts.train:
        raise NotChecked("there is no train.jsonl")
    return facts.train


# ---------------------------------------------------------------- the answers of the tuned model


def longer(facts: Facts) -> Iterator[Alarm]:
    """DPO likes long answers beyond what its data asks for (Park et al. 2024). So: longer than the base's, and longer than the chosen ones it learnt from."""
    import numpy as np

    answers = need_answers(facts)
    base, tuned = (np.array([words(row[who]) for row in answers], dtype=float) for who in ("base", "tuned"))
    low, high = bootstrap(tuned - base)
    taught = [words(row["chosen"]) for row in facts.heldout]
    limit = (1 + LONGER) * (statistics.mean(taught) if taught else 0)
    if low > LONGER * base.mean() and tuned.mean() > limit:
        told = f"; the held-out chosen ones have {statistics.mean(taught):.1f}" if taught else ""
        more = f"{(tuned - base).mean():+.1f} [{low:+.1f}, {high:+.1f}]"
        yield Alarm(
            "longer-answers", "look", None, f"tuned answers have {tuned.mean():.1f} words, the base's {base.mean():.1f}: {more}{told}",
            "`balance:` with matched lengths, a length-normalised loss, a higher rl_beta or fewer steps; see whether answers end at all",
        )  # fmt: skip


def formal_direction(facts: Facts) -> Iterator[Alarm]:
    answers = need_answers(facts)
    signs = [friendliness(row["tuned"]) - friendliness(row["base"]) for row in answers]
    friend, office = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
    if office and wilson(friend, friend + office)[1] < 0.5:
        yield Alarm(
            "formal-direction", "stop", None, f"the tuned answer is less like a friend's than the base's on {office} of {len(answers)} questions, more on {friend}",
            "look whether chosen and rejected are swapped, or base and tuned model at the endpoints",
        )  # fmt: skip


def need_answers(facts: Facts) -> list[dict]:
    if not facts.answers:
        raise NotChecked("there is no answers.jsonl (`make answers`)")
    return facts.answers


STEP_CHECKS: list[Callable[..., Iterator[Alarm]]] = [
    not_finite, gradient, shortcut, both_falling, overshoot, held_out, memorised, base_prefers_chosen, learning_rate, steps_an_epoch,
]  # fmt: skip
END_CHECKS = [peak_reached, nothing_learnt]
DATA_CHECKS = [settings, dropped, short_answers, identical_columns, duplicated, swapped]
ANSWER_CHECKS = [longer, formal_direction]


class Watch:
    """Follows a run row by row. Each alarm is given once, at its first step, and once more if it turns from `look` to `stop`."""

    def __init__(self, facts: Facts):
        self.facts, self.train, self.val = facts, [], []
        self.alarms: list[Alarm] = []
        self.made: set[str] = set()
        self.skipped: dict[str, str] = {}

    def ask(self, checks: list[Callable[..., Iterator[Alarm]]], *what: object) -> list[Alarm]:
        new = []
        for check in checks:
            try:
                found = list(check(*what))
            except NotChecked as reason:
                self.skipped[check.__name__] = str(reason)
                continue
            self.made.add(check.__name__)
            for alarm in found:
                if not any(old.name == alarm.name and (old.level == alarm.level or old.level == "stop") for old in self.alarms):
                    self.alarms.append(alarm)
                    new.append(alarm)
        return new

    def data(self) -> list[Alarm]:
        return self.ask(DATA_CHECKS, self.facts)

    def step(self, row: dict) -> list[Alarm]:
        (self.val if row["split"] == "val" else self.train).append(row)
        return self.ask(STEP_CHECKS, self.train, self.val, self.facts, row)

    def next_step(self, evaluation: bool) -> int:
        """The step of the row to come, which the trainer does not print: an evaluation stands at the step before it."""
        last = self.train[-1]["step"] if self.train else 0
        return last if evaluation else last + max(1, int(self.facts.config.get("logging_steps") or 1))

    def end(self) -> list[Alarm]:
        return self.ask(END_CHECKS, self.train, self.val, self.facts) if self.train else []

    def answers(self) -> list[Alarm]:
        return self.ask(ANSWER_CHECKS, self.facts)


def check(rows: list[dict], facts: Facts) -> Watch:
    """All checks, in the order in which they could have been made."""
    watch = Watch(facts)
    watch.data()
    for row in rows:
        watch.step(row)
    watch.end()
    watch.answers()
    return watch


# ---------------------------------------------------------------- files


def recipe_of(run_yaml: str, config: dict, gpus: int | None) -> dict | None:
    """What the files named in the first line of run.yaml give together; None when it names none, or they are gone."""
    named = [Path(name) for name in re.findall(r"\baxolotl/[\w./+-]+\.yaml", run_yaml.split("\n", 1)[0])]
    if not named or not all(path.exists() for path in named):
        return None
    from train.recipe import REFERENCE_GPUS, effective_batch, overlay

    base, *deltas = (read_yaml(path, "an Axolotl configuration") for path in named)
    made = base
    for delta in deltas:
        made = overlay(made, delta)
    # The batch is held on any number of GPUs and with any micro-batch, but for an ablation of the batch itself.
    batch = made if any("gradient_accumulation_steps" in delta for delta in deltas) else base
    return made | {"effective batch": None if gpus is None else effective_batch(batch, REFERENCE_GPUS if gpus else 1)}


def gather(run: Path, data: Path | None = None, gpus: int | None = None, processes: int | None = None) -> Facts:
    """Reads what there is. `gpus` and `processes` of all machines together; where they are not given, a finished run says them."""
    text = read_text(run / "run.yaml", "the run's configuration")
    config = read_yaml(run / "run.yaml", "the run's configuration")
    if gpus is None and (run / "done").exists():
        done = read_json(run / "done")
        gpus, processes = done.get("gpus"), done.get("processes")
    data = data or Path(config["datasets"][0]["path"]).parent
    train, val, heldout = (path if (path := data / f"{name}.jsonl").exists() else None for name in ("train", "val", "heldout"))
    lines = 0
    if train:
        with open(train, "rb") as file:
            lines = sum(1 for line in file if line.strip())
    return Facts(
        config=config,
        recipe=recipe_of(text, config, gpus),
        processes=processes or (None if gpus is None else max(1, gpus)),
        stats=read_json(data / "stats.json") if (data / "stats.json").exists() else None,
        answers=read_jsonl(run / "answers.jsonl") if (run / "answers.jsonl").exists() else None,
        train=pairs_of(train) if train else [],
        lines=lines,
        val=pairs_of(val) if val else [],
        heldout=read_jsonl(heldout) if heldout else [],
    )


def stop_wanted() -> bool:
    """STOP_ON_ALARM=1 in the environment."""
    return os.environ.get("STOP_ON_ALARM", "") not in ("", "0")


def write(run: Path, watch: Watch, stopped: bool = False) -> None:
    skipped = {name: why for name, why in sorted(watch.skipped.items()) if name not in watch.made}
    write_json(run / "health.json", {"alarms": [asdict(a) for a in watch.alarms], "checks": sorted(watch.made), "not checked": skipped, "stopped": stopped})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, help="its rendered data: data/<set>/<base> (default: where run.yaml says)")
    parser.add_argument("--strict", action="store_true", help="status 1 when an alarm of level `stop` is there")
    args = parser.parse_args()
    if not args.run.is_dir():
        raise UserError(f"{args.run}: there is no such run")
    watch = check(read_log(args.run / "adapter"), gather(args.run, args.data))
    write(args.run, watch)
    for alarm in watch.alarms:
        print(alarm)
    skipped = json.loads((args.run / "health.json").read_text())["not checked"]
    print(f"{len(watch.alarms) or 'no'} alarm{'s' * (len(watch.alarms) > 1)}, {len(watch.made)} checks; {args.run / 'health.json'}")
    for name, why in skipped.items():
        print(f"  not checked: {name.replace('_', ' ')} ({why})")
    if args.strict and any(alarm.level == "stop" for alarm in watch.alarms):
        raise UserError(f"{args.run}: {sum(a.level == 'stop' for a in watch.alarms)} grave alarm(s); see above")


if __name__ == "__main__":
    entry(main)
