"""The page of a detection study: two dialogues side by side, one of a person, one of a program. Which is artificial, how sure, and what gave it away?

    python -m eval.detect out/detect/NAME                    # on this machine: http://127.0.0.1:7860; `make detect`
    python -m eval.detect out/detect/NAME --host 0.0.0.0     # for others, behind a server that speaks https
    python -m eval.detect out/detect/NAME --invites 20       # prints 20 invites, to be put behind the page's address

The questions are those of LLM Roleplay (arXiv 2407.03974, section 3.4). Consent, questionnaire, quiz, attention checks, breaks, return, password, invites, organiser and
withdrawal are those of the voting page (`eval.vote`), in whose frame this one stands, and so is what keeps it safe: the texts do nothing, and the browser is
sent a random token, the utterances and n of m; which dialogue is simulated, and by what model, stays here.

An answer that is begun is kept in the tab, so reloading loses nothing. Under "not sure" confidence is asked for all the same, as the paper counts it, and no
utterance. The utterance may lie in either dialogue; which one, and its number from 1, is kept.
"""

import html
import json
import secrets
from collections.abc import Callable
from functools import partial

from datagen.files import entry, sha256
from eval import studyfile, vote
from eval.detectdesign import PATH, Detection
from eval.detection import CONFIDENCE
from eval.detectstore import DetectStore
from eval.vote import ENDS, SAID, Task, arguments, client_facts, inert, serve
from eval.votes import Ballot

CHOICES = {"left": ("1", "Dialogue 1"), "tie": ("0", "Not sure"), "right": ("2", "Dialogue 2")}
KEYS = dict(zip(CONFIDENCE, "789", strict=True))
LEGEND = "Green: what the person, or the program in their place, wrote. Grey: the assistant's answers, which are a program's in both."


def utterance(side: str, number: int, who: str, text: str, how: str) -> str:
    """One utterance, which can be pointed at by its number or anywhere."""
    place = f"utterance {number} of dialogue {1 if side == 'left' else 2}"
    speaker = "Person or program" if who == "inquirer" else "Assistant"
    pick = f'<button type="button" class="pick" aria-pressed="false" aria-label="{place.capitalize()} gave it away">{number}</button>'
    return f'<div class="utterance {who}" data-side="{side}" data-number="{number}">{pick}<b class="unseen">{speaker}:</b>{inert(text, how)}</div>'


def pair_html(ballot: Ballot, how: str) -> str:
    """Both dialogues. `data-ballot` names the pair for the tab's own memory and says nothing of it; `data-shown` is new each time."""
    sides = []
    for n, (side, said) in enumerate((("left", ballot.left), ("right", ballot.right)), 1):
        inner = "".join(utterance(side, number, who, text, how) for number, (who, text) in enumerate(said, 1))
        sides.append(f'<section class="answer"><h2>Dialogue {n}</h2><div class="scroll" tabindex="0" role="region" aria-label="Dialogue {n}">{inner}</div></section>')
    mark = sha256(f"shown:{ballot.token}")[:16]
    return f'<div id="pair" data-shown="{secrets.token_hex(4)}" data-ballot="{mark}"><p>{LEGEND}</p><div class="answers dialogues">{"".join(sides)}</div></div>'


def bar_html() -> str:
    """The three questions. What is chosen lives in the browser (detect.js) until the button sends it."""

    def button(kind: str, value: object, key: str, name: str) -> str:
        return f'<button type="button" data-{kind}="{value}" data-key="{key}" aria-pressed="false">{html.escape(name)}</button>'

    which = "".join(button("choice", choice, key, name) for choice, (key, name) in CHOICES.items())
    sure = "".join(button("confidence", level, KEYS[level], name.capitalize()) for level, name in CONFIDENCE.items())
    return (
        f'<div id="answer"><fieldset><legend>Which dialogue is artificial?</legend>{which}</fieldset><fieldset><legend>How confident are you?</legend>{sure}</fieldset>'
        '<p id="picked" role="status"></p></div>'
    )


def answer_of(facts: str) -> dict:
    """What the browser says of an answer, as DetectStore.say takes it: of anything else, nothing."""
    try:
        value = json.loads(facts[:500])
    except ValueError:
        return {}
    kinds = {"choice": str, "confidence": int, "side": str, "number": int}
    return client_facts(facts) | {name: value[name] for name, kind in kinds.items() if isinstance(value, dict) and isinstance(value.get(name), kind)}


def detecting(store: DetectStore) -> Task:
    import gradio as gr

    def said(rater: str, token: str, facts: str) -> str:
        try:
            return SAID[store.say(rater, token, answer_of(facts))].replace("vote", "answer")
        except ValueError:  # no page sends that, but a tab that shows an older pair may
            return SAID["unknown"]

    def controls() -> dict[str, tuple[gr.Button, Callable]]:
        gr.HTML(bar_html())
        return {"say": (gr.Button("Next", elem_id="say", elem_classes="vote", min_width=0), said)}

    which, sure = ", ".join(key for key, _ in CHOICES.values()), ", ".join(KEYS.values())
    keys = f"Keys: {which} for the dialogue, {sure} for confidence, arrows up and down for the utterance, Enter to go on. "
    below = f'<span class="keys">{keys}</span>Sides are a matter of chance. On a narrow screen dialogue 1 stands above dialogue 2. '
    ends = {name: text.replace("votes", "answers") for name, text in ENDS.items()}
    shown = partial(pair_html, how=store.study.markdown)
    return Task("Which dialogue is artificial?", "detect", shown, controls, "window.detect.facts()", below, "answers", ends)


def main() -> None:
    given = arguments(__doc__, "out/detect/NAME, frozen by eval.detectdesign", PATH)
    study = studyfile.load(given.study, Detection)
    vote.quiet_gradio()
    serve(given, study, "eval.detectdesign", lambda: DetectStore(given.folder, study), detecting)


if __name__ == "__main__":
    entry(main)
