"""What the README says exists and runs.  .venv/bin/python -m pytest tests/test_readme.py"""

import re
import subprocess

import pytest
from conftest import ROOT, inside

TEXT = "\n".join((ROOT / name).read_text() for name in ("README.md", "datagen/prompts/README.md", "datagen/prompts/roleplay/README.md"))
MAKES = sorted(set(re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", TEXT, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", TEXT)))
MODULES = sorted(
    {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
        for folder in ("benchmarks", "datagen", "train", "eval", "tiny")
        for path in (ROOT / folder).rglob("*.py")
    }
)


def test_every_make_target_in_the_readme_exists():
    assert {"demo", "test", "data", "train", "eval"} <= set(MAKES)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKES) <= targets


def test_every_variable_in_the_readme_is_one_the_makefile_reads():
    used = set(re.findall(r"\b([A-Z][A-Z_]+)=", TEXT))
    known = set(re.findall(r"^([A-Z_]+) +\?=", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {
        "OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "TUNED_BASE_URL",
        "PYTEST_ARGS",
        "STUDY_PASSWORD",
        "STUDY_ADMIN_TOKEN",
        "VLLM_ARGS",
        "RUN",
    }
    assert used and used <= known


def test_every_path_in_the_readme_exists_or_is_made_by_a_command():
    paths = {p.rstrip("/") for p in re.findall(r"`([\w.@/-]+/[\w.@/*-]*|\w+\.(?:py|md|txt))`", TEXT)}
    made = {p for p in paths if p.startswith(("out/", "data/", ".venv")) or p in ("data", "out")}
    assert paths - made and not [
        p
        for p in paths - made
        if not (ROOT / p).exists() and not (ROOT / "datagen/prompts" / p).exists() and not (ROOT / "datagen/prompts/roleplay" / p).exists() and "/v1" not in p
    ]


def test_every_model_named_in_a_command_is_there():
    assert {m for m in re.findall(r"(?<!_)MODEL=([\w.-]+)", TEXT) if "/" not in m} <= {path.stem for path in (ROOT / "axolotl").glob("*.yaml")}


@pytest.mark.parametrize("module", [m for m in MODULES if "def main" in (ROOT / (m.replace(".", "/") + ".py")).read_text() and m != "tiny.corpus"])
def test_every_entry_module_opens_with_the_command_that_runs_it(module):
    text = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    assert f"python -m {module}" in text.split('"""')[1] and text.splitlines()[-2] == 'if __name__ == "__main__":'
    assert "usage:" in inside(module, "--help").stdout


def test_every_link_between_our_files_leads_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_git_ignores_what_is_made():
    for name in ("data/x", "out/x", ".venv/x", ".env"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0
