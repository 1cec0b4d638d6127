"""Small evaluation items of our own, in the schemas of the six data sets behind lm-eval's 39 stock `leaderboard` tasks (lm-eval 0.4.11).

    python -m eval.items out/items --per-task 3

`datasets` prefers a folder <org>/<name> of the working directory to the Hub, so that lm-eval, started in the folder written here, runs the stock
tasks untouched on these items. They check the machinery; they are far too few to rank models. Right answers are computed (expressions evaluated,
walks simulated, arguments checked by truth table); texts stand in eval/items.yaml. The same seed gives the same bytes.
"""

import argparse
import calendar
import itertools
import json
import math
import random
from collections import Counter
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

import yaml

from datagen.files import UserError, entry, sha256, write_text

SEED = 2501
TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
NAMES, COLOURS = TEXTS["names"], TEXTS["colours"]
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def lettered(question: str, options: list[str], right: str) -> tuple[str, str]:
    """A BBH question with its options, and the letter of the right one."""
    lines = [f"({chr(65 + i)}) {option}" for i, option in enumerate(options)]
    return f"{question}\nOptions:\n" + "\n".join(lines), f"({chr(65 + options.index(right))})"


def mixed(rng: random.Random, options: list) -> list:
    return rng.sample(options, len(options))


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"


# ---------------------------------------------------------------- BBH: each returns (input, target)


def boolean_expressions(rng):
    def term(depth):
        if depth == 0:
            return rng.choice(["True", "False", "not True", "not False"])
        inner = f"{term(depth - 1)} {rng.choice(['and', 'or'])} {term(depth - 1)}"
        return f"{rng.choice(['', 'not '])}( {inner} )"

    text = f"{term(1)} {rng.choice(['and', 'or'])} {term(1)}"
    return text + " is", str(eval(text))


def causal_judgement(rng):
    story, question, answer = rng.choice(TEXTS["causal_judgement"])
    return f"What would most people say about the cause?\n{story} {question}\nOptions:\n- Yes\n- No", answer


def date_understanding(rng):
    today = date(rng.randint(1950, 2020), rng.randint(1, 12), rng.randint(1, 28))
    number, unit = rng.randint(2, 9), rng.choice(["day", "week"])
    days = number * (7 if unit == "week" else 1)
    back = rng.random() < 0.5
    right = today + timedelta(-days if back else days)
    wrong = {right + timedelta(n) for n in (-1, 1, 7, -7, 30, -30, 365, -365, 3650)} | {today}
    dates = mixed(rng, [right, *rng.sample(sorted(wrong - {right}), 5)])
    when = f"{number} {unit}s {'ago' if back else 'from now'}"
    question = f"Today is {calendar.month_name[today.month]} {today.day}, {today.year}. What is the date {when} in MM/DD/YYYY?"
    return lettered(question, [f"{d:%m/%d/%Y}" for d in dates], f"{right:%m/%d/%Y}")


def disambiguation_qa(rng):
    sentence, *readings, right = rng.choice(TEXTS["disambiguation_qa"])
    task = "Whom or what does the pronoun stand for in this sentence, or is that left open?"
    options = [*readings, "Ambiguous"]
    return lettered(f"{task}\nSentence: {sentence}", options, options[right])


def formal_fallacies(rng):
    """Premises and conclusion about every person; valid if none of the 2^3 kinds of person meets the premises and breaks the conclusion."""
    things = rng.sample(["a baker", "a swimmer", "a cousin of Ida", "a neighbour of Leo", "a chess player", "an early riser"], 3)
    forms = [
        ("Every person who is {0} is {1}", lambda x, y: not x or y),
        ("No person who is {0} is {1}", lambda x, y: not (x and y)),
        ("Whoever is not {0} is {1}", lambda x, y: x or y),
    ]
    (first, a), (second, b), (third, c) = (rng.choice(forms) for _ in range(3))
    kinds = itertools.product([False, True], repeat=3)
    valid = all(c(x, z) for x, y, z in kinds if a(x, y) and b(y, z))
    one, two, three = first.format(things[0], things[1]), second.format(things[1], things[2]), third.format(things[0], things[2])
    text = f'"Who does what in our street is not always easy to see. {one}. {two}. It follows: {three}."'
    ask = "Does the conclusion follow from what was said before it?\nOptions:\n- valid\n- invalid"
    return f"{text}\n{ask}", "valid" if valid else "invalid"


def geometric_shapes(rng):
    names = ["circle", "heptagon", "hexagon", "kite", "line", "octagon", "pentagon", "rectangle", "sector", "triangle"]
    sides = {"line": 2, "triangle": 3, "pentagon": 5, "hexagon": 6, "heptagon": 7, "octagon": 8}
    name = rng.choice(sorted(sides))
    turn = rng.random()
    points = [(50 + 30 * math.cos(2 * math.pi * (i + turn) / sides[name]), 50 + 20 * math.sin(2 * math.pi * (i + turn) / sides[name])) for i in range(sides[name])]
    closed = points if name == "line" else [*points, points[0]]
    path = " L ".join(f"{x:.2f},{y:.2f}" for x, y in closed)
    return lettered(f'What does <path d="M {path}"/> draw in an SVG file?', names, name)


def hyperbaton(rng):
    kinds = TEXTS["adjectives"]
    words = [rng.choice(kinds[i]) for i in sorted(rng.sample(range(len(kinds)), rng.randint(3, 4)))]
    noun = rng.choice(["bag", "boat", "hat", "box"])
    wrong = words
    while wrong == words:
        wrong = mixed(rng, words)
    right, other = (" ".join([*order, noun]) for order in (words, wrong))
    return lettered("Whose adjectives stand in their usual order?", mixed(rng, [right, other]), right)


def logical_deduction(rng, n):
    """True clues are added until one order is left of the n! possible ones."""
    things = rng.sample(COLOURS, n)
    orders = list(itertools.permutations(range(n)))
    place = rng.choice(orders)  # place[i]: the position of thing i, from the left
    clues = []
    while len(orders) > 1:
        i, j = rng.sample(range(n), 2)
        if rng.random() < 0.3:
            left = [o for o in orders if o[i] == place[i]]
            clue = f"The {things[i]} book is number {place[i] + 1} from the left."
        else:
            left = [o for o in orders if (o[i] < o[j]) == (place[i] < place[j])]
            clue = f"The {things[i]} book is to the {'left' if place[i] < place[j] else 'right'} of the {things[j]} book."
        if len(left) < len(orders):
            orders, clues = left, [*clues, clue]
    asked = rng.randrange(n)
    where = "the leftmost" if asked == 0 else "the rightmost" if asked == n - 1 else f"number {asked + 1} from the left"
    text = f"{COUNTS[n].capitalize()} books stand on a shelf: {listed([f'{article(t)} book' for t in things])}. {' '.join(clues)}"
    options = [f"The {thing} book is {where}" for thing in things]
    return lettered(text, options, options[place.index(asked)])


def movie_recommendation(rng):
    kind, *others = mixed(rng, sorted(TEXTS["movies"]))
    *liked, right = rng.sample(TEXTS["movies"][kind], 5)
    options = mixed(rng, [right, *(rng.choice(TEXTS["movies"][other]) for other in others[:3])])
    return lettered(f"Which film would someone like who liked {', '.join(liked)}:", options, right)


def navigate(rng):
    place, facing, steps = 0, 1j, []
    for _ in range(rng.randint(4, 6)):
        name, turn = rng.choice([("Turn left", 1j), ("Turn right", -1j), ("Turn around", -1), ("", 1)])
        n = rng.randint(1, 3)
        facing *= turn
        place += n * facing
        steps += [name] * bool(name) + [f"Take {n} step{'s' * (n > 1)}"]
    text = f"Do these steps lead back to where they began? {'. '.join(steps)}.\nOptions:\n- Yes\n- No"
    return text, "Yes" if place == 0 else "No"


def object_counting(rng):
    kinds = TEXTS["things"]
    asked, other = rng.sample(sorted(kinds), 2)
    counts = {thing: rng.randint(1, 3) for thing in rng.sample(kinds[asked], rng.randint(2, 5)) + rng.sample(kinds[other], 2)}
    parts = [article(thing) if n == 1 else f"{COUNTS[n]} {thing}s" for thing, n in mixed(rng, list(counts.items()))]
    return f"I have {listed(parts)}. How many {asked} do I have?", str(sum(counts[thing] for thing in counts if thing in kinds[asked]))


def penguins_in_a_table(rng):
    names = rng.sample(NAMES, 5)
    columns = {"age": rng.sample(range(2, 15), 5), "height (cm)": rng.sample(range(45, 95, 5), 5), "weight (kg)": rng.sample(range(9, 18), 5)}
    table = "  ".join(f"{name}, {', '.join(map(str, row))}" for name, row in zip(names, zip(*columns.values(), strict=True), strict=True))
    head = f"A table of penguins, its columns first:  name, {', '.join(columns)}  {table}"
    most, column = rng.choice([("oldest", "age"), ("tallest", "height (cm)"), ("heaviest", "weight (kg)")])
    if rng.random() < 0.5:
        return lettered(f"{head}  Which is the {most} penguin?", names, names[columns[column].index(max(columns[column]))])
    age = sorted(columns["age"])[rng.randint(1, 4)]
    return lettered(f"{head}  How many penguins are less than {age} years old?", list("12345"), str(sum(a < age for a in columns["age"])))


def reasoning_about_colored_objects(rng):
    things, colours = rng.sample(["pen", "mug", "keyring", "plate", "scarf", "notebook", "spoon"], 4), rng.sample(COLOURS, 4)
    i = rng.randrange(3)
    ask, right = rng.choice(
        [(f"What color is the {things[i]}?", colours[i]), (f"What is the color of the object directly to the right of the {things[i]}?", colours[i + 1])]
    )
    row = listed([f"{article(c)} {t}" for c, t in zip(colours, things, strict=True)])
    return lettered(f"A row of things on a table, from left to right: {row}. {ask}", COLOURS, right)


def ruin_names(rng):
    name = rng.choice(sorted(TEXTS["ruin_names"]))
    wrong = set()
    while len(wrong) < 3:  # a letter doubled somewhere is a misprint, not a joke
        at = rng.choice([i for i, letter in enumerate(name) if letter.isalpha()])
        wrong.add(name[:at] + name[at] + name[at:])
    right = TEXTS["ruin_names"][name]
    return lettered(f"Which of these makes a joke of the name '{name}'?", mixed(rng, [right, *sorted(wrong)]), right)


def salient_translation_error_detection(rng):
    text = rng.choice(TEXTS["salient_translation_error_detection"])
    kinds = ["Modifiers or Adjectives", "Numerical Values", "Negation or Antonyms", "Named Entities", "Dropped Content", "Facts"]
    kind = rng.choice(kinds)
    task = f"One thing went wrong in this translation into English. Source: {text['source']}\nTranslation: {text[kind]}"
    return lettered(f"{task}\nWhat went wrong concerns", kinds, kind)


def snarks(rng):
    pair = rng.choice(TEXTS["snarks"])
    return lettered("Which statement is sarcastic?", sorted(pair), pair[0])


def sports_understanding(rng):
    own, other = rng.sample(sorted(TEXTS["sports"]), 2)
    plausible = rng.random() < 0.5
    who, act = rng.choice(TEXTS["sports"][own]["people"]), rng.choice(TEXTS["sports"][own if plausible else other]["acts"])
    return f'Could this have happened in a game? "{who} {act}."', "yes" if plausible else "no"


def temporal_sequences(rng):
    def clock(hour):
        return f"{(hour - 1) % 12 + 1}{'am' if hour < 12 else 'pm'}"

    who, *seen_by = rng.sample(NAMES, 5)
    hours = sorted(rng.sample(range(6, 22), 5))
    spans = [f"{clock(a)} to {clock(b)}" for a, b in itertools.pairwise(hours)]
    free = rng.randrange(4)
    acts = mixed(rng, ["reading in the library", "waiting at the airport", "playing tennis", "buying shoes", "sitting in the café"])
    seen = [f"{seen_by[i]} saw {who} {acts[i]} from {span}." for i, span in enumerate(spans) if i != free]
    place = rng.choice(["museum", "beach", "market", "swimming pool"])
    lines = [f"{who} went to the {place} today.", f"{who} woke up at {clock(hours[0])}.", *seen]
    lines += [f"The {place} was closed after {clock(hours[-1])}.", f"When can {who} have been at the {place}?"]
    return lettered("\n".join(lines), mixed(rng, spans), spans[free])


def tracking_shuffled_objects(rng, n):
    people, balls = NAMES[:n], [f"{colour} ball" for colour in rng.sample(COLOURS, n)]
    held = dict(zip(people, balls, strict=True))
    start, swaps = listed([f"{p} has {article(b)}" for p, b in held.items()]), []
    for i in range(n):
        a, b = rng.sample(people, 2)
        held[a], held[b] = held[b], held[a]
        swaps.append(f"{'First' if i == 0 else 'Finally' if i == n - 1 else 'Then'}, {a} and {b} swap balls.")
    asked = rng.choice(people)
    text = f"{listed(people)} each hold a ball. {start}.\nThen they swap, two at a time."
    return lettered(f"{text} {' '.join(swaps)} In the end {asked} holds the", balls, held[asked])


def web_of_lies(rng):
    people = rng.sample(NAMES, 5)
    honest = rng.random() < 0.5
    said = [f"{people[0]} {'tells the truth' if honest else 'lies'}."]
    for before, person in itertools.pairwise(people):
        claim = rng.random() < 0.5  # that the person before tells the truth
        said.append(f"{person} says {before} {'tells the truth' if claim else 'lies'}.")
        honest = claim == honest
    return f"Question: {' '.join(said)} Does {people[-1]} tell the truth?", "Yes" if honest else "No"


BBH = {
    maker.__name__: maker
    for maker in (
        boolean_expressions, causal_judgement, date_understanding, disambiguation_qa, formal_fallacies, geometric_shapes, hyperbaton, movie_recommendation,
        navigate, object_counting, penguins_in_a_table, reasoning_about_colored_objects, ruin_names, salient_translation_error_detection, snarks,
        sports_understanding, temporal_sequences, web_of_lies,
    )
}  # fmt: skip
for _n in (3, 5, 7):
    BBH[f"logical_deduction_{COUNTS[_n]}_objects"] = lambda rng, n=_n: logical_deduction(rng, n)
    BBH[f"tracking_shuffled_objects_{COUNTS[_n]}_objects"] = lambda rng, n=_n: tracking_shuffled_objects(rng, n)


# ---------------------------------------------------------------- MATH: each returns (problem, steps, answer in LaTeX)


def latex(value: Fraction | int) -> str:
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    return f"{'-' * (value < 0)}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def algebra(rng):
    s, p = rng.randint(3, 12), rng.randint(1, 15)
    steps = f"$a + b = {s}$ and $ab = -{p}$, so $a^2 + b^2 = (a + b)^2 - 2ab$."
    return f"Let $a$ and $b$ be the roots of $x^2 - {s}x - {p} = 0$. Find $a^2 + b^2$.", steps, s * s + 2 * p


def counting_and_probability(rng):
    red, blue = rng.randint(3, 7), rng.randint(2, 6)
    total = math.comb(red + blue, 2)
    text = f"A bag holds ${red}$ red and ${blue}$ blue balls. Two are drawn without replacement. What is the probability that both have the same colour?"
    same = math.comb(red, 2) + math.comb(blue, 2)
    return text, f"There are ${total}$ pairs, and ${same}$ of one colour.", Fraction(same, total)


def geometry(rng):
    m, n = rng.choice([(2, 1), (3, 2), (4, 1), (4, 3), (5, 2), (5, 4)])
    k = rng.randint(1, 4)
    a, b, c = k * (m * m - n * n), k * 2 * m * n, k * (m * m + n * n)
    steps = f"Since ${a}^2 + {b}^2 = {c}^2$, the angle opposite the longest side is right, and the altitude is the product of the legs over the hypotenuse."
    return f"A triangle has sides ${a}$, ${b}$ and ${c}$. Find the length of the altitude to the longest side.", steps, Fraction(a * b, c)


def intermediate_algebra(rng):
    a, b, c, r = rng.randint(2, 5), rng.randint(2, 6), rng.randint(1, 9), rng.choice([-3, -2, 2, 3])
    text = f"Find the remainder when ${a}x^5 + {b}x^3 - {c}$ is divided by $x {'-' if r > 0 else '+'} {abs(r)}$."
    return text, f"The remainder is the value of the polynomial at $x = {r}$.", a * r**5 + b * r**3 - c


def number_theory(rng):
    base, power, modulus = rng.randint(2, 12), rng.randint(20, 200), rng.choice([7, 11, 13, 17, 19])
    return f"Find the remainder when ${base}^{{{power}}}$ is divided by ${modulus}$.", "Reduce the power step by step, by squaring.", pow(base, power, modulus)


def prealgebra(rng):
    a, b = rng.sample(range(2, 16), 2)
    steps = f"Together they fill $\\frac{{1}}{{{a}}} + \\frac{{1}}{{{b}}}$ of the tank in an hour."
    return f"One pipe fills a tank in ${a}$ hours, another in ${b}$ hours. How many hours do both need together?", steps, Fraction(a * b, a + b)


def precalculus(rng):
    tangent = Fraction(*rng.sample(range(1, 15), 2))
    text = f"If $\\tan \\theta = {latex(tangent)}$ and $\\theta$ is acute, find $\\cos 2\\theta$."
    return text, "$\\cos 2\\theta = \\frac{1 - \\tan^2 \\theta}{1 + \\tan^2 \\theta}$.", (1 - tangent**2) / (1 + tangent**2)


MATH = {maker.__name__: maker for maker in (algebra, counting_and_probability, geometry, intermediate_algebra, number_theory, prealgebra, precalculus)}


# ---------------------------------------------------------------- GPQA: computed science, wrong options from usual slips; (question, right, three wrong)


def gpqa(rng):
    n = rng.randint(3, 5)
    mass, life = 2**n * rng.randint(3, 9), rng.randint(3, 20)
    q = rng.randint(10, 40)
    z, line = rng.randint(2, 6), rng.choice([486, 500, 656])
    f = rng.randint(4, 12)
    return rng.choice(
        [
            (f"A sample holds {mass} mg of an isotope with a half-life of {life} days. How much of it is left after {n * life} days?",
             f"{mass >> n} mg", f"{mass >> (n - 1)} mg", f"{mass - (mass >> n)} mg", f"{mass / n:.1f} mg"),
            (f"A recessive disorder affects 1 in {q * q} people of a population in Hardy-Weinberg equilibrium. What share of the population carries one copy?",
             f"{2 * (q - 1)}/{q * q}", f"1/{q}", f"{q - 1}/{q * q}", f"{(q - 1) ** 2}/{q * q}"),
            (f"A galaxy emits a line at {line} nm and has redshift z = {z}. At what wavelength is the line observed?",
             f"{line * (1 + z)} nm", f"{line * z} nm", f"{line / (1 + z):.0f} nm", f"{line + z} nm"),
            (f"A thin lens has a focal length of {f} cm; an object stands {3 * f} cm before it. How far behind the lens is the image?",
             f"{1.5 * f:.1f} cm", f"{3 * f:.1f} cm", f"{0.75 * f:.2f} cm", f"{2 * f:.1f} cm"),
            (f"Two plants differ in {n} unlinked genes with full dominance and are pure-breeding. What share of their F2 shows the recessive form of all {n}?",
             f"1/{4**n}", f"1/{2**n}", f"1/{4 * n}", f"{3**n}/{4**n}"),
            (f"How many electrons can the shell with principal quantum number {n + 1} of an atom hold?",
             f"{2 * (n + 1) ** 2}", f"{(n + 1) ** 2}", f"{2 * (2 * n + 3)}", f"{4 * (n + 1) ** 2}"),
        ]
    )  # fmt: skip


# ---------------------------------------------------------------- MuSR: each returns (narrative, question, choices, right)


def murder_mysteries(rng):
    """Both suspects have the means and one more thing; only the murderer has motive, means and opportunity."""
    text = TEXTS["murder"]
    victim, scene, weapon = rng.choice(text["victims"]), rng.choice(text["scenes"]), rng.choice(sorted(text["weapons"]))
    suspects = rng.sample(text["people"], 2)
    guilty, lacking = rng.choice(suspects), rng.choice(["motive", "opportunity"])
    pages = []
    for person in suspects:
        kinds = [kind if person == guilty or kind != lacking else f"no_{kind}" for kind in ("motive", "means", "opportunity")]
        told = [rng.choice(text[kind]).format(p=person, v=victim, s=scene, o=weapon, w=text["weapons"][weapon]) for kind in mixed(rng, kinds)]
        pages.append(" ".join(told))
    start = f"At ten in the evening, {victim} was found dead in {scene}, killed with {weapon}. The detective questioned two people."
    return "\n\n".join([start, *pages]), "Who is the most likely murderer?", suspects, guilty


def object_placements(rng):
    """A person looks where they last put the thing, saw it, or know it stood at the beginning."""
    text = TEXTS["placement"]
    people, things, places = rng.sample(text["people"], 3), rng.sample(text["things"], 2), list(text["places"])
    where = {thing: rng.choice(places) for thing in things}
    belief = {person: dict(where) for person in people}
    start = " and ".join(f"the {thing} is {text['places'][place]} the {place}" for thing, place in where.items())
    told = [f"{listed(people)} all know that {start}."]
    for _ in range(3):
        mover, one, two = mixed(rng, people)
        thing, watched = rng.choice(things), rng.random() < 0.5
        where[thing] = rng.choice([place for place in places if place != where[thing]])
        for person in [mover, one] if watched else [mover]:
            belief[person][thing] = where[thing]
        seen = f"{one} stood beside and watched; {two} was out." if watched else f"{one} and {two} were out and saw nothing."
        told.append(f"{mover} put the {thing} {text['places'][where[thing]]} the {where[thing]}. {seen}")
    person, thing = rng.choice(people), rng.choice(things)
    return " ".join(told), f"Which location is the most likely place {person} would look to find the {thing} given the story?", places, belief[person][thing]


def team_allocation(rng):
    """One person does the first task, two the second; the best sum of skills and of how the two get on is unique."""
    text = TEXTS["team"]
    people, tasks = rng.sample(text["people"], 3), rng.choice(text["tasks"])
    skill = {(person, task): rng.randint(0, 2) for person in people for task in tasks}
    pairs = {pair: rng.randint(0, 2) for pair in itertools.combinations(people, 2)}
    scores = {person: skill[person, tasks[0]] + sum(pairs[pair] + sum(skill[p, tasks[1]] for p in pair) for pair in pairs if person not in pair) for person in people}
    if sorted(scores.values())[-1] == sorted(scores.values())[-2]:
        return team_allocation(rng)
    told = [f"There is {tasks[0]} to do, for one person, and {tasks[1]}, for the other two."]
    told += [f"{p} {text['skill'][skill[p, tasks[0]]].format(t=tasks[0])} and {text['skill'][skill[p, tasks[1]]].format(t=tasks[1])}." for p in people]
    told += [text["together"][level].format(a=a, b=b) for (a, b), level in pairs.items()]
    choices = [f"{tasks[0].capitalize()}: {p}, {tasks[1]}: {' and '.join(q for q in people if q != p)}" for p in people]
    best = max(people, key=scores.get)
    return " ".join(told), "Given the story, how should the three be allocated so that both tasks are done best?", choices, choices[people.index(best)]


MUSR = {maker.__name__: maker for maker in (murder_mysteries, object_placements, team_allocation)}


# ---------------------------------------------------------------- MMLU-Pro: (question, options, letter, category)


def mmlu_pro(rng, rows):
    category, key, right = rng.choice(rows)
    facts = TEXTS["facts"][category]
    options = mixed(rng, [right, *rng.sample([value for value in facts["rows"].values() if value != right], 9)])
    return facts["ask"].format(key), options, "ABCDEFGHIJ"[options.index(right)], category


# ---------------------------------------------------------------- drawing and writing


def draw(make, name: str, n: int, gold=lambda item: item[-1]) -> list[tuple]:
    """n different items of which no more than half, rounded up, have the same answer; fewer where the written texts run out."""
    rng, items, texts, answers = random.Random(f"{SEED} {name}"), [], set(), Counter()
    for _ in range(1000 + 200 * n):
        item = make(rng)
        if item[0] not in texts and answers[gold(item)] < (n + 1) // 2:
            items.append(item)
            texts.add(item[0])
            answers[gold(item)] += 1
        if len(items) == n:
            break
    return items


def bbh_rows(n: int) -> dict:
    return {(name, "test"): [dict(input=text, target=target) for text, target in draw(make, name, n)] for name, make in BBH.items()}


def math_rows(n: int) -> dict:
    """A row to train on, and n rows to test on with one of Level 4, which the stock code has to leave out."""
    splits = {}
    for name, make in MATH.items():
        made = [(text, f"{steps} The answer is $\\boxed{{{latex(answer)}}}$.") for text, steps, answer in draw(make, name, n + 2)]
        rows = [dict(problem=text, level="Level 5", type=name.replace("_", " ").capitalize(), solution=solution) for text, solution in made]
        splits[name, "train"], splits[name, "test"] = rows[:1], [rows[1] | {"level": "Level 4"}, *rows[2:]]
    return splits


def gpqa_rows(n: int) -> dict:
    """Nested as the real ones: diamond (n rows) is part of main (n + 1), main of extended (n + 2)."""
    made = draw(gpqa, "gpqa", n + 2, gold=lambda item: item[1])
    rows = [{"Question": text, "Correct Answer": right} | {f"Incorrect Answer {i}": slip for i, slip in enumerate(slips, 1)} for text, right, *slips in made]
    return {(f"gpqa_{name}", "train"): rows[: n + more] for name, more in (("diamond", 0), ("main", 1), ("extended", 2))}


def musr_rows(n: int) -> dict:
    return {
        ("default", name): [
            dict(narrative=story, question=question, choices=str(choices), answer_index=choices.index(right), answer_choice=right)
            for story, question, choices, right in draw(make, name, n, gold=lambda item: item[2].index(item[3]))
        ]
        for name, make in MUSR.items()
    }


def mmlu_pro_rows(n: int) -> dict:
    """The first row of the first five tables shows how (validation); test rows ask about the others."""
    tables = {name: [(name, key, right) for key, right in table["rows"].items()] for name, table in TEXTS["facts"].items()}
    shown = [mmlu_pro(random.Random(f"{SEED} {name}"), rows[:1]) for name, rows in list(tables.items())[:5]]
    asked = draw(lambda rng: mmlu_pro(rng, [row for rows in tables.values() for row in rows[1:]]), "mmlu_pro", n, gold=lambda item: item[2])
    columns = ("question", "options", "answer", "category")
    return {
        ("default", split): [
            {"question_id": first + i, **dict(zip(columns, item, strict=True)), "answer_index": ord(item[2]) - ord("A"), "cot_content": "", "src": "own"}
            for i, item in enumerate(items)
        ]
        for split, items, first in (("validation", shown, 0), ("test", asked, len(shown)))
    }


def ifeval_rows() -> dict:
    """One row for each text: together they hold every kind of instruction, whatever n is. Only tests read `right` and `wrong`."""
    rows = []
    for key, text in enumerate(TEXTS["ifeval"], 1):
        asked = text["instructions"]
        rows.append({name: text[name] for name in ("prompt", "right", "wrong")} | {"key": key, "instruction_id_list": list(asked), "kwargs": list(asked.values())})
    return {("default", "train"): rows}


def write(folder: Path, n: int) -> dict[str, int]:
    """Writes the six data sets; returns the number of rows of each file.

    File names carry a hash of their content: `datasets` 4.8.4 keys its cache on the last folder's name and the file names in the README, so that
    changed items under an unchanged name, even in another folder, would silently be the old ones.
    """
    sets = {
        "wis-k/instruction-following-eval": ifeval_rows(),
        "SaylorTwift/bbh": bbh_rows(n),
        "DigitalLearningGmbH/MATH-lighteval": math_rows(n),
        "Idavidrein/gpqa": gpqa_rows(n),
        "TAUR-Lab/MuSR": musr_rows(n),
        "TIGER-Lab/MMLU-Pro": mmlu_pro_rows(n),
    }
    counts = {}
    for name, splits in sets.items():
        configs: dict[str, list] = {}
        for (config, split), rows in splits.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file = f"{config}-{split}.{sha256(text)[:8]}.jsonl"
            write_text(folder / name / file, text)
            counts[f"{name}/{file}"] = len(rows)
            configs.setdefault(config, []).append({"split": split, "path": file})
        card = yaml.safe_dump({"configs": [{"config_name": config, "data_files": files} for config, files in configs.items()]}, sort_keys=False)
        write_text(folder / name / "README.md", f"---\n{card}---\nItems made by eval/items.py in the schema of {name}: a check of the machinery. Not the real data.\n")
        for old in set((folder / name).glob("*.jsonl")) - {folder / file for file in counts}:
            old.unlink()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=3, help="items of each task (IFEval always has its written ones)")
    args = parser.parse_args()
    if args.per_task < 1:
        raise UserError(f"--per-task {args.per_task}: expected 1 or more")
    counts = write(args.folder, args.per_task)
    print(f"{sum(counts.values())} rows in {len(counts)} files under {args.folder}")
    for file, rows in counts.items():
        if rows < args.per_task and "validation" not in file and "train" not in file:
            print(f"  {file}: {rows}, all that the texts in eval/items.yaml give")


if __name__ == "__main__":
    entry(main)
