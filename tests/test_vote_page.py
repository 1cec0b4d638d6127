"""The voting page: text of models does nothing, and nothing says which model is which.  .venv/bin/python -m pytest tests/test_vote_page.py"""

import asyncio
import json
import re
from html.parser import HTMLParser

import pytest
from conftest import inside, one_line
from test_votes import fixed_clock, items, make, settings  # noqa: F401  (fixtures)

from datagen.files import sha256, write_json, write_jsonl
from eval import vote
from eval.votes import Ballot, choices

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div></section><style>body{display:none}</style>",
    "[press](javascript:alert(1)) and [this](http://192.0.2.1/) or ![beacon](http://192.0.2.1/b.png)",
    "<http://192.0.2.1/> http://192.0.2.1/ [ref]\n\n[ref]: http://192.0.2.1/",
    "![x][y]\n\n[y]: http://192.0.2.1/b.png",
    "&lt;script&gt; &#60;img src=x onerror=alert(1)&#62;",
    "${alert(1)} {{constructor}} `${alert(1)}` {% raw %} \\u003cscript\\u003e",
    '```"><script>alert(1)</script>\ncode\n```',
    "<iframe src='http://192.0.2.1/'></iframe><svg onload=alert(1)><a href=javascript:alert(1)>",
    "<!-- --><![CDATA[<b>]]><?php ?>",
    "a | b\n--|--\n<b onclick=alert(1)> | [x](javascript:alert(1))",
]
HARMLESS = {"div", "p", "em", "strong", "s", "ul", "ol", "li", "pre", "code", "blockquote", "br", "hr", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("how", ["text", "rendered"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_no_element_attribute_or_address(text, how):
    shown = vote.inert(text, how)
    for tag, attributes in Elements(shown).found:
        assert tag in HARMLESS and set(attributes) <= {"class", "dir", "start", "style"}
        assert attributes.get("class") in (None, "typed", "rendered") and re.fullmatch("(text-align:(left|right|center))?", attributes.get("style", ""))
    assert not set("${}`") & set(shown)  # no placeholder of a template


@pytest.mark.parametrize("text", HOSTILE)
def test_as_text_all_is_shown_as_it_was_typed(text):
    assert Elements(vote.inert(text, "text")).text == text


def test_markdown_is_rendered_with_headings_below_those_of_the_page():
    shown = vote.inert("# One\n\n**two** _three_\n\n1. four\n\n![five](http://192.0.2.1/b.png)", "rendered")
    assert "<h4>One</h4>" in shown and "<strong>two</strong> <em>three</em>" in shown and "<li>four</li>" in shown and "![five](http://192.0.2.1/b.png)" in shown


def test_what_turns_the_writing_direction_or_is_a_control_character_is_left_out_and_joiners_stay():
    bad = "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0, 7, 8, 0x1B, 0x7F, 0x9B, 0x2028]))
    for how in ("text", "rendered"):
        assert "xy" in vote.inert(f"x{bad}y", how) and 'dir="auto"' in vote.inert("x", how)
    assert "👨‍👩‍👧" in vote.inert("👨‍👩‍👧", "text") and "a\nb\tc" in vote.inert("a\r\nb\tc", "text")


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "[" * 50_000, "> " * 20_000 + "x", "*a **b " * 8_000, "\n" * 100_000], ids=["words", "brackets", "quotes", "stars", "lines"]
)
def test_a_hundred_kilobytes_are_shown_in_good_time(text):
    import time

    begin = time.process_time()
    for how in ("text", "rendered"):
        vote.inert(text, how)
    assert time.process_time() - begin < 5


def test_a_ballot_shows_both_sides_alike_and_no_more_than_the_texts():
    one, other = (vote.ballot_html(Ballot("t", "q?", left, right, 1, 2), "rendered") for left, right in (("tuned text", "base text"), ("base text", "tuned text")))
    plain = lambda shown: re.sub(r'data-shown="\w+"', "", shown)  # noqa: E731
    assert plain(one).replace("tuned text", "X").replace("base text", "X") == plain(other).replace("tuned text", "X").replace("base text", "X")
    assert "token" not in one and Elements(one).text == "Questionq?\nAnswer 1tuned text\nAnswer 2base text\n".replace("q?\n", "q?")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"seconds": [1], "layout": {}, "choice": "left", "rater": "x"}', "x" * 10**6, '{"seconds": NaN'])
def test_what_the_browser_says_of_a_vote_is_taken_only_where_it_makes_sense(text):
    assert vote.client_facts(text) == {}
    assert vote.client_facts('{"seconds": 1.5, "layout": "row", "input": "key", "choice": 2}') == {"seconds": 1.5, "layout": "row", "input": "key"}


def test_each_choice_has_a_key_of_its_own():
    for scale, keys in (("choice", "102"), ("five", "12345")):
        assert "".join(vote.KEYS[choice] for choice in choices(settings(scale=scale))) in (keys, "".join(sorted(keys)))
        assert len({vote.KEYS[choice] for choice in choices(settings(scale=scale, ties=False))}) == len(keys) - 1


def served(path, page=b"page"):
    """(status, headers, body) of a GET through the gate, with a server behind it that answers everything."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"1"), (b"x", b"y")]})
        await send({"type": "http.response.body", "body": page[:3], "more_body": True})
        await send({"type": "http.response.body", "body": page[3:]})

    async def send(message):
        sent.append(message)

    asyncio.run(vote.Gate(app)({"type": "http", "path": path, "headers": []}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def test_the_gate_serves_the_page_alone():
    for path in ("/", "/config", "/assets/a.js", "/gradio_api/run/predict", "/gradio_api/app_id"):  # the last: without it a page never finds back
        assert served(path)[0] == 200
    for path in (
        "/gradio_api/upload",
        "/gradio_api/file=eval/votes.py",
        "/gradio_api/proxy=http://192.0.2.1",
        "/monitoring",
        "/gradio_api/queue/join",
        "/assets/../x",
        "/key.json",
    ):
        assert served(path)[0] == 404
    headers = served("/config")[1]
    assert b"default-src 'self'" in headers[b"content-security-policy"] and headers[b"referrer-policy"] == b"no-referrer"


def test_the_gate_takes_foreign_scripts_and_fonts_out_of_the_page():
    ours = b'<script type="module" src="/assets/a.js"></script>'
    page = b'<link rel="preconnect" href="https://fonts.example" />\n' + ours + b'<script\n src="https://cdn.example/x.js" async\n></script>end'
    _, headers, body = served("/", page)
    assert body == b"\n" + ours + b"end" and headers[b"content-length"] == str(len(body)).encode() and headers[b"x"] == b"y"


def test_a_study_that_is_not_the_frozen_one_is_refused(tmp_path):
    folder = tmp_path / "tiny"
    assert "study.lock.json: there is no such file" in one_line(inside("eval.vote", folder, status=1))
    write_jsonl(folder / "items.jsonl", items())
    lock = {"study": "tiny", "simulated": False, "items_sha256": sha256((folder / "items.jsonl").read_bytes()), "settings": settings().settings()}
    write_json(folder / "study.lock.json", lock)
    assert "frozen with another gold_every, " in one_line(inside("eval.vote", folder, status=1))
    write_json(folder / "study.lock.json", lock | {"items_sha256": "0"})
    assert "as it was frozen" in one_line(inside("eval.vote", folder, status=1))


@pytest.mark.slow  # Gradio's import takes 4 to 7 seconds
def test_the_page_says_nothing_of_models_items_or_other_machines(make):  # noqa: F811
    vote.quiet_gradio()
    store = make(questionnaire=[{"key": "age", "text": "How old?", "options": ["young", "old"]}])
    (store.folder / "key.json").write_text("no page may read this")
    page = vote.build(store)
    config = json.dumps(page.get_config_file(), default=str)
    for word in ("tuned", "pair0", "gold", "expected", "i0.0", "a of i", "key.json"):
        assert word not in config
    assert not re.findall(r"https?://(?!127\.0\.0\.1)[^\"\\ ]+", config)
    # every input has a name, every handler does without the queue
    named = [component["props"] for component in page.get_config_file()["components"] if component["type"] in ("textbox", "radio", "button")]
    assert all(props.get("label") or props.get("value") for props in named)
    assert {dependency["queue"] for dependency in page.get_config_file()["dependencies"]} == {False}
    options = vote.options()
    assert options["ssr_mode"] is False and options["share"] is False and "http" not in options["head"] and options["theme"]._stylesheets == []


@pytest.mark.slow
def test_a_rater_goes_through_the_handlers_of_the_page_from_consent_to_the_end(make, monkeypatch):  # noqa: F811
    vote.quiet_gradio()
    monkeypatch.setenv("STUDY_PASSWORD", "sesame")
    ask = {"key": "age", "text": "How old?", "options": ["young", "old"], "ends": {"young": "Only for the old."}}
    store = make(questionnaire=[ask], quiz=[{"question": "What?", "options": ["this", "that"], "answer": "that"}])
    page = vote.build(store)
    handlers = {function.api_name: function for function in page.fns.values()}

    def call(name, *values):
        """Outputs of a handler, by place: rater, token, note, stage, progress, pair, farewell."""
        function = handlers[name]
        found = function.fn(None, *values)
        if isinstance(found, str):
            return [found]
        return [found.get(component) for component in function.outputs]

    stage = lambda out: re.search('data-stage="([^"]*)"', out[3])[1]  # noqa: E731
    assert stage(call("open", "")) == "consent" and stage(call("open", "0" * 32)) == "consent"
    assert "password is not right" in call("agree", "", "guess", "")[2]
    out = call("agree", "", "sesame", "")
    rater = out[0]
    assert stage(out) == "questions" and "every question" in call("answer", rater, None)[2]
    child = call("agree", "", "sesame", "")[0]
    out = call("answer", child, "young")
    assert stage(out) == "end ended" and "Only for the old." in out[2]
    assert stage(call("answer", rater, "old")) == "quiz" and "one more try" in call("quiz", rater, "this")[2]
    out = call("quiz", rater, "that")
    assert stage(out) == "ballot" and "1 of 13" in out[4] and "gold" not in out[5]
    first = out
    out = call("vote-1", rater, out[1], '{"seconds": 1}')
    assert "2 of 13" in out[4] and out[2] == ""
    assert "counted before" in call("vote-2", rater, first[1], "")[2] and "no longer open" in call("vote-2", rater, "x", None)[2]
    assert stage(call("stop", rater)) == "end break" and stage(call("go-on", rater)) == "ballot"
    while stage(out) == "ballot":
        out = call("vote-0", rater, out[1], "")
    assert stage(out) == "end done" and store.code(rater) in out[6]
    assert "not known" in call("withdraw", rater, "0")[2]
    out = call("withdraw", rater, store.code(rater))
    assert stage(out) == "end withdrawn" and "not set" in call("status", rater, "")[0]
