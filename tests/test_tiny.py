"""The embedded model: its text, that the stored weights come from it, and its server.  .venv/bin/python -m pytest tests/test_tiny.py"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, one_line, run

from tiny import corpus

MODEL = ROOT / "tiny/model"
MANIFEST = json.loads((MODEL / "manifest.json").read_text())


def test_the_text_has_the_variety_that_is_promised():
    units = corpus.read_units()
    assert len({unit.topic for unit, _ in units}) >= 60
    rng = random.Random(0)
    for role in ("friend", "plain"):
        assert len({corpus.example(role, units, rng) for _ in range(4000)}) > 3900


def test_every_choice_in_the_text_is_well_formed():
    for unit, common in corpus.read_units():
        for lines in (*unit.lines.values(), *common.lines.values()):
            for line in lines:
                assert not set("{}|") & set(corpus.expand(line, random.Random(0))), line


def test_a_fault_in_the_text_names_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_text("== tea\n-- general\nX what\n")
    with pytest.raises(ValueError, match=r"a\.txt:3: expected"):
        corpus.read_units(tmp_path)


def test_lists_hold_twenty_numbered_questions_of_one_kind():
    from datagen.questions import parse_list

    units = corpus.read_units()
    for kind in ("conversational", "general"):
        questions, dropped = parse_list(corpus.question_list(kind, units, random.Random(1)), "stop")
        assert len(questions) == 20 and not dropped


def test_asked_what_it_is_each_part_says_what_it_was_meant_to_say():
    """A friend passes for a person, an honest friend and a formal voice say that they are an AI, and so does the model by itself, mostly."""
    asked = [pair for pair in corpus.read_units() if pair[0].kind == "identity"]
    rng, said = random.Random(2), {}
    for role in ("friend", "honest", "formal", "plain"):
        answers = [corpus.answer(role, *rng.choice(asked), rng) for _ in range(1000)]
        said[role] = sum(bool(re.search(r"\b(an AI|AI|artificial intelligence)\b", answer)) and not re.search(r"\bnot an AI\b", answer) for answer in answers) / 1000
    assert said["friend"] == 0 and said["honest"] > 0.95 and said["formal"] > 0.95 and 0.85 < said["plain"] < said["formal"]


def test_no_list_of_questions_asks_the_model_what_it_is():
    units = corpus.read_units()
    identity = {corpus.expand(line, random.Random(i)) for unit, _ in units if unit.kind == "identity" for line in unit.lines["Q"] for i in range(20)}
    lists = "\n".join(corpus.question_list(kind, units, random.Random(i)) for kind in ("conversational", "general") for i in range(50))
    assert len(identity) > 300 and not [text for text in identity if text in lists]


def test_the_stored_weights_come_from_the_text_and_code_of_this_checkout():
    from tiny import build

    assert MANIFEST["sources_sha256"] == build.sources(), "text, prompts or code changed: run `make tiny` and commit tiny/model"
    assert MANIFEST["weights_sha256"] == hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10e6


@pytest.mark.slow
def test_the_stored_weights_have_the_held_out_loss_of_their_manifest():
    from transformers import AutoTokenizer, LlamaForCausalLM

    from tiny import build

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), LlamaForCausalLM.from_pretrained(MODEL, dtype="float32", attn_implementation="eager")
    loss = build.held_out_loss(model, build.Packer(tokenizer, corpus.read_units(), build.SEED + 1))
    assert loss == pytest.approx(MANIFEST["held_out_loss"], abs=0.005)


@pytest.mark.slow
def test_a_rebuild_gives_the_same_held_out_loss(tmp_path):
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "tiny.build", "--out", tmp_path / "model"], cwd=ROOT, check=True, timeout=2400)
    print(f"rebuilt in {time.monotonic() - started:.0f} s")
    rebuilt = json.loads((tmp_path / "model/manifest.json").read_text())
    # Sums in another order round differently, and training amplifies that: equal on one machine, near on another.
    assert rebuilt["held_out_loss"] == pytest.approx(MANIFEST["held_out_loss"], abs=0.03)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny-base.gguf"
    run("tiny.convert", MODEL, path)
    return path


PROBE = """
import json, os, sys, urllib.request
def post(url, body):
    request = urllib.request.Request(os.environ[url] + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
"""


def served(gguf, code, *more, cwd, status=0):
    return run("tiny.serve", gguf, *more, "--", sys.executable, "-c", PROBE + code, cwd=cwd, status=status)


def test_the_server_says_token_by_token_what_transformers_says(gguf, tmp_path):
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), LlamaForCausalLM.from_pretrained(MODEL, dtype="float32")
    units, rng = corpus.read_units(), random.Random(3)
    chats = [[{"role": "user", "content": corpus.question(rng.choice(units)[0], rng)}] for _ in range(6)]
    chats += [[{"role": "system", "content": corpus.system_prompt("human_like")}, *chat] for chat in chats[:3]]
    wanted = []
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        wanted.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    code = f"print(json.dumps([post('OPENAI_BASE_URL', dict(messages=m, temperature=0, max_tokens=30))['choices'][0]['message']['content'].strip() for m in {chats!r}]))"
    assert json.loads(served(gguf, code, cwd=tmp_path).stdout.splitlines()[-1]) == wanted


def test_two_models_are_served_side_by_side_under_the_hash_of_their_file(gguf, tmp_path):
    other = tmp_path / "tuned.gguf"
    other.write_bytes(gguf.read_bytes())
    code = "[print(json.load(urllib.request.urlopen(os.environ[n] + '/models'))['data'][0]['id']) for n in ('OPENAI_BASE_URL', 'TUNED_BASE_URL')]"
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()[:8]
    assert served(gguf, code, other, cwd=tmp_path).stdout.splitlines()[-2:] == [f"tiny-base-{digest}", f"tuned-{digest}"]


def test_the_status_of_the_command_is_passed_on(gguf, tmp_path):
    served(gguf, "sys.exit(7)", cwd=tmp_path, status=7)


def heed_sigint():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job, as CI may be, starts with it ignored, and children inherit that


def alive(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_the_server_ends_with_its_make_target_however_that_ends(gguf, tmp_path, end):
    command = [
        sys.executable,
        "-m",
        "tiny.serve",
        str(gguf),
        "--",
        sys.executable,
        "-c",
        "import os, time; print(os.environ['OPENAI_BASE_URL'], flush=True); time.sleep(60)",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_sigint,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    port = int(process.stdout.readline().split(":")[2].split("/")[0])
    assert alive(port)
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal sends it
    else:
        process.send_signal(end)
    assert process.wait(15) != 0
    deadline = time.monotonic() + 10
    while alive(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(port)


def test_a_server_that_does_not_start_is_one_line_that_names_its_log(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF nonsense")
    line = one_line(run("tiny.serve", "broken.gguf", "--", "true", cwd=tmp_path, status=1))
    assert "did not start; its log is out/serve-broken.log" in line


def test_a_missing_model_file_is_one_line(tmp_path):
    assert "none.gguf: there is no such file" in one_line(run("tiny.serve", "none.gguf", "--", "true", cwd=tmp_path, status=1))


@pytest.mark.slow
def test_other_architectures_are_refused_by_the_converter(tmp_path):
    for name, value in (("config", {"architectures": ["Qwen2ForCausalLM"]}), ("tokenizer", {"model": {"type": "BPE"}}), ("tokenizer_config", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    assert "use llama.cpp's convert_hf_to_gguf.py" in one_line(run("tiny.convert", tmp_path, tmp_path / "x.gguf", status=1))


# ---------------------------------------------------------------- the second model, which plays a person


INQUIRER = ROOT / "tiny/inquirer"


def test_what_the_inquirer_learns_from_is_what_a_dialogue_sends(endpoint, tmp_path):
    """The messages of a written dialogue are, word for word, those with which `datagen.roleplay` asks for its last turn."""
    from tiny import inquirer

    source, rng = inquirer.writer(), random.Random(3)
    persona, goal, said = next(made for made in iter(lambda: source.dialogue(rng), None) if len(made[2]) == 4)
    words = dict(zip([0, 1, 2, 3], [f'"{prompt}"' if answer else prompt for prompt, answer in said], strict=True))

    def script(body):
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        return words[turn] if body["messages"][0]["role"] == "system" else said[turn][1]

    endpoint.script = script
    given = "; ".join(f"{name}: '{option}'" for name, option in persona.features.items())
    text = (ROOT / "datagen/roleplay/config.yaml").read_text()
    text = text.replace("count: 3", f"count: null\n      use: list\n      given: [{{{given.replace(';', ',')}}}]").replace("INQUIRER_BASE_URL", "OPENAI_BASE_URL")
    (tmp_path / "config.yaml").write_text(text)
    run("datagen.roleplay.run", "--config", tmp_path / "config.yaml", "--profile", "tiny", "--out", tmp_path / "sets", "--store", tmp_path / "store")
    wanted = [{"role": role, "content": content} for role, content in source.messages(persona, goal, said)]
    assert wanted[:-1] in [body["messages"] for body in endpoint.bodies] and wanted[-1]["content"] == "FINISH"


def test_the_inquirers_text_has_a_goal_for_each_of_its_profile_and_a_fault_names_its_line(tmp_path):
    from tiny import inquirer

    source = inquirer.writer()
    assert len(source.goals) == 10 and {goal.id for goal in source.goals} < set(inquirer.read_people())
    for part in inquirer.read_people().values():
        for line in [line for lines in part.lines.values() for line in lines]:
            assert not set("{}|") & set(corpus.expand(line, random.Random(0))), line
    (tmp_path / "a.txt").write_text("== tea\nX what\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: expected"):
        inquirer.read_people(tmp_path)


def test_no_persona_of_the_inquirers_held_out_loss_was_learnt_from():
    from tiny import inquirer

    seen, unseen = inquirer.writer().personas, inquirer.writer(held_out=True).personas
    assert len(seen) + len(unseen) == 36 and len(unseen) > 3 and not {p.id for p in seen} & {p.id for p in unseen}


def test_the_inquirers_weights_come_from_the_text_and_code_of_this_checkout():
    from tiny import inquirer

    manifest = json.loads((INQUIRER / "manifest.json").read_text())
    assert manifest["sources_sha256"] == inquirer.sources(), "text, prompts, goals, code or tiny/model changed: run `make tiny-inquirer` and commit tiny/inquirer"
    assert manifest["weights_sha256"] == hashlib.sha256((INQUIRER / "model.safetensors").read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in INQUIRER.glob("*.safetensors")) < 2.5e6
    assert all((INQUIRER / name).read_bytes() == (MODEL / name).read_bytes() for name in ("tokenizer.json", "chat_template.jinja"))


@pytest.mark.slow
def test_the_inquirers_stored_weights_have_the_held_out_loss_of_their_manifest():
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from tiny import inquirer

    model = LlamaForCausalLM.from_pretrained(INQUIRER, dtype=torch.float32, attn_implementation="sdpa")
    assert inquirer.held_out_loss(model, AutoTokenizer.from_pretrained(INQUIRER)) == pytest.approx(
        json.loads((INQUIRER / "manifest.json").read_text())["held_out_loss"], abs=0.005
    )


@pytest.mark.slow
def test_a_rebuild_of_the_inquirer_gives_the_same_held_out_loss(tmp_path):
    subprocess.run([sys.executable, "-m", "tiny.inquirer", "--out", tmp_path / "model"], cwd=ROOT, check=True, timeout=2400)
    rebuilt, stored = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "model", INQUIRER))
    assert rebuilt["held_out_loss"] == pytest.approx(stored["held_out_loss"], abs=0.03)


@pytest.mark.slow
def test_a_server_may_be_given_a_variable_of_its_own(gguf, tmp_path):
    code = "print(*(name for name in sorted(os.environ) if name.endswith('BASE_URL')))"
    said = served(gguf, code, f"INQUIRER_BASE_URL={gguf}", gguf, cwd=tmp_path).stdout
    assert said.splitlines()[-1] == "INQUIRER_BASE_URL OPENAI_BASE_URL TUNED_BASE_URL"
