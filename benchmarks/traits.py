"""Surface traits of many texts on one core: seconds, beside plain counting of words of the same texts in the same run.

    python -m benchmarks.traits              # 100,000 texts of 150 words; --texts 10000 for a quick look

The reference splits each text at white space and counts its words (`str.split`, `collections.Counter`): the least that any count of words takes. The traits take
the text apart once and count all of them. Processor seconds of this process stand beside the clock's, because a machine that is shared lends less than a core.
"""

import argparse
import random
import time
from collections import Counter

from datagen.files import UserError, entry
from eval import traits

WORDS = 150
SPELT = (sorted(traits.COMMON), sorted(traits.SHORTHAND), sorted(traits.FORMAL), ["weather", "garden", "yesterday's", "don't", "extraordinary", "café", "lol", "7"])


def texts(count: int) -> list[str]:
    """Texts of 150 words by seed: common words, words of chats and of offices, punctuation, capitals, an emoji in some."""
    rng, made = random.Random(1), []
    for _ in range(count):
        words = rng.choices(rng.choices(SPELT, (8, 1, 1, 3), k=1)[0], k=30) + rng.choices(SPELT[0], k=WORDS - 30)
        rng.shuffle(words)
        for i in range(rng.randint(6, 14), WORDS, rng.randint(6, 14)):
            words[i] = words[i].capitalize()
            words[i - 1] += rng.choice([".", "!", "?", ",", " 😊", "..."])
        made.append(" ".join(words))
    return made


def timed(of, items: list[str]) -> tuple[float, float]:
    """(seconds by the clock, seconds of this process)."""
    clock, used = time.perf_counter(), time.process_time()
    for text in items:
        of(text)
    return time.perf_counter() - clock, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    args = parser.parse_args()
    if args.texts < 1:
        raise UserError(f"--texts {args.texts}: expected a number from 1 on")
    made = texts(args.texts)
    rows = {
        "splitting and counting words": timed(lambda text: Counter(text.split()), made),
        f"{len(traits.IDS)} surface traits": timed(lambda text: traits.values(traits.counted("reply", text, "What about the weather?")), made),
    }
    print(f"{args.texts:,} texts of {WORDS} words, one core")
    for name, (clock, used) in rows.items():
        print(f"{name:30} {clock:7.1f} s by the clock, {used:7.1f} s of the processor, {1e6 * used / args.texts:7.0f} µs a text")
    (_, least), (_, mine) = rows.values()
    print(f"the traits take {mine / max(least, 1e-9):.0f} times as long as the reference")


if __name__ == "__main__":
    entry(main)
