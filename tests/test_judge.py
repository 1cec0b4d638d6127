"""The judge: its verdicts, its figures, and what it may not be.  .venv/bin/python -m pytest tests/test_judge.py"""

import json

import numpy as np
import pytest
from conftest import Endpoint, inside, one_line

from eval import judge

KEY = "sk-judge-5c1f0e"


@pytest.fixture(scope="module")
def server():
    """One for all tests: to end one takes half a second."""
    server = Endpoint()
    server.server.socket.listen(64)  # connections that wait in line; with the default of 5, some are made only after a second
    yield server
    server.close()


@pytest.fixture
def endpoint(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.delenv("JUDGE_BASE_URL", raising=False)
    server.bodies.clear()
    server.keys.clear()
    return server


@pytest.fixture
def folder(tmp_path):
    """A run with 20 questions; the tuned answer is the longer one on 14 of them; lengths differ by 10 to 160 characters."""
    run = tmp_path / "out/r"
    run.mkdir(parents=True)
    rows = []
    for i in range(20):
        base, tuned = ("b" * 300, "t" * (310 + 10 * i)) if i < 14 else ("b" * (310 + 30 * (i - 14)), "t" * 300)
        rows.append({"id": f"q{i}", "kind": "general", "messages": [{"role": "user", "content": f"Why {i}?"}], "base": base, "tuned": tuned})
    (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "answers.meta.json").write_text(json.dumps({"base": "base-1", "tuned": "tuned-1"}))
    (run / "run.yaml").write_text("base_model: some-org/Some-Base\n")
    return run


def shown(body):
    """The two replies as the judge sees them."""
    text = body["messages"][0]["content"]
    return [text.split(f"<reply_{who}>\n")[1].split(f"\n</reply_{who}>")[0] for who in "AB"]


def ask(run, model="judge-1", profile="tiny", status=0):
    return inside("eval.judge", run, "--judge-model", model, "--store", run / "store", "--profile", profile, status=status)


def figures(run):
    ask(run)
    return json.loads((run / "judge.json").read_text())["figures"]


def prefers(who):
    return lambda body: "AB"[[reply[0] for reply in shown(body)].index(who)]


def test_a_judge_that_always_takes_the_first_gives_one_half_and_full_position_bias(folder, endpoint):
    endpoint.script = lambda body: "A"
    found = figures(folder)
    assert found["win rate"]["value"] == 0.5 and found["ties"]["value"] == 1.0 and found["contradicting orders"]["value"] == 1.0
    bias = found["prefers the first answer"]
    assert bias["value"] == 1.0 and bias["n"] == 40 and bias["questions"] == 20 and [round(x, 3) for x in bias["interval"]] == [0.839, 1.0]
    assert found["length-controlled win rate"]["value"] == 0.5 and found["longer answer wins"] is None
    assert found["win rate"]["interval"] == pytest.approx([0.299, 0.701], abs=1e-3)


def test_a_judge_that_prefers_the_tuned_model_gives_one_hundred_percent(folder, endpoint):
    endpoint.script = prefers("t")
    found = figures(folder)
    assert found["win rate"] == {"value": 1.0, "interval": pytest.approx([0.839, 1.0], abs=1e-3), "n": 20}
    assert found["wins"]["count"] == 20 and found["losses"]["count"] == found["ties"]["count"] == 0
    assert found["prefers the first answer"]["value"] == 0.5 and found["longer answer wins"]["value"] == 0.7
    assert found["length-controlled win rate"]["value"] > 0.98


def test_a_judge_that_prefers_length_has_a_high_raw_rate_and_one_near_half_at_equal_length(folder, endpoint):
    endpoint.script = lambda body: "AB"[int(len(shown(body)[1]) > len(shown(body)[0]))]
    found = figures(folder)
    assert found["win rate"]["value"] == 0.7 and found["longer answer wins"]["value"] == 1.0
    controlled = found["length-controlled win rate"]
    assert controlled["value"] < 0.61 and controlled["phi"] > 3
    assert controlled["interval"][0] < 0.5 < controlled["interval"][1] and (controlled["tuned answer longer"], controlled["tuned answer shorter"]) == (14, 6)


def test_each_pair_is_shown_in_both_orders_at_temperature_zero(folder, endpoint):
    endpoint.script = lambda body: "tie"
    found = figures(folder)
    assert len(endpoint.bodies) == 40 and {body["temperature"] for body in endpoint.bodies} == {0.0} and {body["model"] for body in endpoint.bodies} == {"judge-1"}
    assert sorted("".join(reply[0] for reply in shown(body)) for body in endpoint.bodies) == ["bt"] * 20 + ["tb"] * 20
    assert all(f"Why {i}?" in "".join(b["messages"][0]["content"] for b in endpoint.bodies) for i in range(20))
    assert found["ties"]["value"] == 1.0 and found["contradicting orders"]["value"] == 0.0 and found["prefers the first answer"] is None


def test_nothing_is_asked_twice(folder, endpoint):
    endpoint.script = prefers("t")
    ask(folder)
    first = (folder / "judge.json").read_text()
    ask(folder)
    assert len(endpoint.bodies) == 40 and (folder / "judge.json").read_text() == first


def test_garbage_is_counted_and_its_questions_left_out(folder, endpoint):
    def script(body):
        text = body["messages"][0]["content"]
        if "Why 3?" in text:
            return "Reply A, because it is warmer."
        if "Why 4?" in text and shown(body)[0][0] == "t":
            return ("A", "length")
        return prefers("t")(body)

    endpoint.script = script
    done = ask(folder)
    found = json.loads((folder / "judge.json").read_text())
    assert "3 of 40 verdicts cannot be read, the first: 'Reply A, because it is warmer.'" in done.stdout
    assert found["figures"]["judged"] == 18 and found["figures"]["unreadable or missing verdicts"]["value"] == 3 / 40 and found["figures"]["win rate"]["value"] == 1.0
    assert found["verdicts"][3] == {"id": "q3", "base first": None, "tuned first": None}
    assert found["verdicts"][4] == {"id": "q4", "base first": "tuned", "tuned first": None}


def test_a_judge_without_one_readable_verdict_is_one_line(folder, endpoint):
    endpoint.script = lambda body: "I would rather not say."
    assert "gave no pair two verdicts that can be read" in one_line(ask(folder, status=1))
    assert "No pair has two verdicts that can be read." in (folder / "judge.md").read_text()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("A", "A"), (" b.\n", "B"), ("**Tie**", "tie"), ('"A".', "A"), ("A or B", None), ("Reply A", None), ("", None), ("AB", None), ("A..", None), ("C", None)],
)
def test_a_verdict_is_one_word(text, wanted):
    assert judge.verdict(text) == wanted


@pytest.mark.parametrize("name", ["base-1", "TUNED-1", "Some-Base", "other-host/some-base"])
def test_a_judge_is_neither_of_the_two_models(folder, endpoint, name):
    assert "models prefer their own answers; name another" in one_line(ask(folder, model=name, status=1)) and not endpoint.bodies


def test_a_judge_that_wrote_the_chosen_answers_is_named_in_a_warning(folder, endpoint):
    endpoint.script = lambda body: "tie"
    (folder / "answers.jsonl").write_text((folder / "answers.jsonl").read_text().splitlines(keepends=True)[0])
    done = ask(folder, model="meta-llama/Meta-Llama-3-70B-Instruct", profile="paper")
    assert "warning: The judge meta-llama/Meta-Llama-3-70B-Instruct wrote the answers that the tuned model learnt from" in done.stdout
    assert "it may prefer its own manner" in (folder / "judge.md").read_text()


def test_without_a_name_there_is_no_judge(folder, endpoint):
    assert "no judge is named" in one_line(ask(folder, model="", status=1))


def test_everything_written_is_labelled_a_proxy_and_says_who_judged_with_what(folder, endpoint):
    endpoint.script = prefers("t")
    done = ask(folder)
    found, page = json.loads((folder / "judge.json").read_text()), (folder / "judge.md").read_text()
    assert found["what"] == "PROXY: a judge model's opinion, not people's" and "PROXY" in done.stdout
    assert page.startswith("# Which answer sounds more like a person: a judge model's opinion, not people's") and "| proxy |" in page
    assert found["judge"]["model"] == "judge-1" and found["judge"]["prompt"] == "eval/prompts/judge.txt" and len(found["judge"]["prompt_sha256"]) == 64
    assert "| win rate of the tuned model (a tie is half) | 100.0 % [83.9, 100.0] | 20 | 20 questions |" in page and "there are no votes of people" in page


def test_the_key_is_sent_and_nowhere_written(folder, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint.script = lambda body: (400, f"no such thing for {KEY}") if "Why 5?" in body["messages"][0]["content"] else "A"
    done = ask(folder)
    assert set(endpoint.keys) == {f"Bearer {KEY}"} and KEY not in done.stdout + done.stderr and "no such thing for ***" in done.stdout
    written = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not written and json.loads((folder / "judge.json").read_text())["figures"]["judged"] == 19


def test_a_judge_may_have_an_address_of_its_own(folder, endpoint, monkeypatch):
    endpoint.script = lambda body: "tie"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("JUDGE_BASE_URL", endpoint.url)
    ask(folder)
    assert len(endpoint.bodies) == 40 and json.loads((folder / "judge.json").read_text())["judge"]["endpoint"] == [endpoint.url]


def test_braces_in_an_answer_are_text(folder, endpoint):
    rows = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    rows[0]["tuned"] = "t {second} {question}"
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint.script = prefers("t")
    figures(folder)
    assert sum("t {second} {question}" in body["messages"][0]["content"] for body in endpoint.bodies) == 2


# ---------------------------------------------------------------- against people


def vote(run, *votes):
    (run / "votes.jsonl").write_text("".join(json.dumps({"id": question, "preferred": choice}) + "\n" for question, choice in votes))


def test_agreement_with_votes_is_counted_among_those_that_are_no_tie(folder, endpoint):
    endpoint.script = lambda body: "tie" if "Why 2?" in body["messages"][0]["content"] else prefers("b" if "Why 0?" in body["messages"][0]["content"] else "t")(body)
    # The judge: base on q0, tie on q2, tuned elsewhere.
    vote(folder, ("q0", "base"), ("q0", "tuned"), ("q1", "tuned"), ("q2", "base"), ("q2", "tie"), ("q3", "tuned"), ("q4", "tie"), ("gone", "base"))
    ask(folder)
    people = json.loads((folder / "judge.json").read_text())["people"]
    assert people["votes"] == 8 and people["votes on judged questions"] == 7 and people["questions"] == 5
    assert people["agreement without ties"]["value"] == 0.75 and people["agreement without ties"]["n"] == 4
    assert people["table"]["counts"] == [[1, 0, 1], [1, 1, 0], [0, 1, 2]]
    # Observed 4 of 7; by chance (2 * 2 + 2 * 2 + 3 * 3) / 49.
    assert people["kappa"]["value"] == pytest.approx((4 / 7 - 17 / 49) / (1 - 17 / 49), abs=1e-12) and people["kappa"]["n"] == 7
    assert "the judge agrees with 75.0 % [" in (folder / "judge.md").read_text()


def test_kappa_is_one_for_equal_raters_zero_for_chance_and_undefined_where_chance_always_agrees():
    assert judge.kappa(np.diag([3.0, 2.0, 5.0])) == 1.0
    assert judge.kappa(np.outer([4.0, 2.0, 4.0], [5.0, 0.0, 5.0])) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(judge.kappa(np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 7]])))


def test_a_vote_that_is_none_is_named_with_its_number(folder, endpoint):
    endpoint.script = lambda body: "A"
    vote(folder, ("q0", "base"), ("q1", "both"))
    assert "votes.jsonl: vote 2: expected" in one_line(ask(folder, status=1))


# ---------------------------------------------------------------- the fit


def test_the_fit_is_the_penalised_maximum_in_every_resample():
    rng = np.random.default_rng(4)
    t, y = np.tanh(rng.normal(0.3, 1, 50)), rng.choice([0.0, 0.5, 1.0], 50)
    counts = np.vstack([np.ones(50, int), rng.multinomial(50, np.full(50, 1 / 50), 5)])
    for (theta, phi), taken in zip(judge.logistic(t, y, counts), counts, strict=True):
        p = 1 / (1 + np.exp(-(theta + phi * t)))
        assert (taken * (y - p)).sum() == pytest.approx(theta / judge.PRIOR**2, abs=1e-6)
        assert (taken * (y - p) * t).sum() == pytest.approx(phi / judge.PRIOR**2, abs=1e-6)


def test_a_pure_taste_for_length_is_taken_out(monkeypatch):
    monkeypatch.setattr(judge, "RESAMPLES", 300)
    difference = np.concatenate([np.arange(1.0, 281), -np.arange(1.0, 121)])
    found = judge.length_controlled(difference, (difference > 0).astype(float))
    assert found["value"] == pytest.approx(0.5, abs=0.05) and found["interval"][0] < 0.5 < found["interval"][1]


def test_the_rate_at_equal_length_finds_the_truth_it_was_drawn_from(monkeypatch):
    monkeypatch.setattr(judge, "RESAMPLES", 300)
    rng = np.random.default_rng(7)
    difference = rng.normal(150, 300, 1500)
    y = (rng.random(1500) < 1 / (1 + np.exp(-(0.4 + 1.0 * np.tanh(difference / difference.std(ddof=1)))))).astype(float)
    found = judge.length_controlled(difference, y)
    assert y.mean() > 0.63 and found["value"] == pytest.approx(1 / (1 + np.exp(-0.4)), abs=0.03) and found["interval"][0] < 0.5987 < found["interval"][1]


def test_what_cannot_be_told_about_length_is_not_told():
    same = judge.length_controlled(np.full(9, 40.0), np.linspace(0, 1, 9))
    assert same["value"] is None and "cannot be told" in same["note"]
    never = judge.length_controlled(np.arange(10.0, 110, 10), np.tile([0.0, 1.0], 5))
    assert never["value"] is not None and never["note"] == "mostly extrapolated: the tuned answer is the shorter one on 0 of 10 questions"
