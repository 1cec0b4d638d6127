"""Writes what a Hugging Face Space needs to serve the page of a study, and what goes into the private data set that keeps its votes.

    python -m eval.space out/votes/NAME DIR --repo org/study-votes --study eval/study.yaml

DIR/space/   app.py, README.md, requirements.txt and the modules that the page imports: to be uploaded as the Space. Anybody can read a Space's files, so
             nothing of the study is in it, whose file names the answers to the gold pairs.
DIR/study/   the frozen items, settings and lock, and events so far: to be uploaded to the data set, from which the Space takes them at its start
             (eval.hub). Not key.json: which model wrote what never leaves this machine.

Commands to upload both, and the secrets that the Space needs, are printed; nothing is sent. The study has to be frozen (`python -m eval.ballot`). Votes come back with
`python -m eval.hub out/votes/NAME org/study-votes`. Do not serve one study in two places: what both take is joined, but raters could be asked twice.
"""

import argparse
import re
import shutil
from pathlib import Path

from datagen.files import UserError, atomic, entry, read_text, write_text
from eval import studyfile
from eval.ballot import check_settings, frozen
from eval.hub import EVENTS

ROOT = Path(__file__).parent.parent
STARTS = ("eval.vote",)
# At the top of a module. By `ast`, Python 3.11 now and then ends in a SystemError of its own where threads run.
IMPORT = re.compile(r"^(?:from ([\w.]+) import (\([^)]*\)|.+)|import (.+))$", re.MULTILINE)
PACKAGES = ("emoji", "huggingface_hub", "markdown-it-py", "numpy", "pydantic", "PyYAML")  # gradio brings itself, by `sdk_version`
README = """---
title: "Which answer sounds more like a person?"
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
---

The page of a study in which people say which of two answers sounds more like a person wrote it. Its questions and votes lie in the private data set {repo}; the code
is that of the repository in which the study was made.

The Space needs these secrets: HF_TOKEN (a token that may write to {repo}, and to nothing else), {secrets}. It is one process: leave it at one replica.
Give raters its own address, https://<owner>-<name>.hf.space: inside the frame of the Hub's page some browsers keep no memory of a rater who comes back.
"""
APP = '''"""The page of a study of votes on a Space. Made by eval.space; run by the Space as `python app.py`."""

import os
import sys

os.environ.setdefault("VOTES_REPO", "{repo}")
sys.argv[1:] = ["votes/{name}", "--study", "votes/{name}/study.yaml", *sys.argv[1:]]

from datagen.files import entry  # noqa: E402
from eval import vote  # noqa: E402

if __name__ == "__main__":
    entry(vote.main)
'''


def modules(starts: tuple[str, ...] = STARTS) -> list[Path]:
    """Files of our own modules that `starts` import at their head, and of their packages; sorted, relative to the repository. What is imported within a
    function is for other commands, such as the push of `eval.votes`."""
    found, waiting = set(), list(starts)
    while waiting:
        path = Path(*waiting.pop().split(".")).with_suffix(".py")
        if path in found or not (ROOT / path).is_file():
            continue
        found |= {path, *(folder / "__init__.py" for folder in path.parents if folder.name)}
        for source, names, plain in IMPORT.findall((ROOT / path).read_text(encoding="utf-8")):
            waiting += [source, *(f"{source}.{name}" for name in re.findall(r"\w+", names))] if source else re.findall(r"[\w.]+", plain)
    return sorted(found)


def pinned() -> dict[str, str]:
    """Versions of the packages that the page needs, as they are pinned here."""
    text = read_text(ROOT / "requirements.txt", "pinned packages") + read_text(ROOT / "constraints.txt", "pinned packages")
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    return {name: versions[name] for name in (*PACKAGES, "gradio")}


def write(folder: Path, out: Path, repo: str, path: Path) -> tuple[Path, Path]:
    """(space, study), both written anew under `out`. Raises UserError where `out` holds something else, or the study is not frozen as `path` says."""
    design, lock = studyfile.load(path), frozen(folder)
    check_settings(design, lock)
    space, study = out / "space", out / "study"
    if out.exists() and any(out.iterdir()) and not (space / "app.py").is_file():
        raise UserError(f"{out}: holds something else; name a new folder")
    for old in (space / "eval", space / "datagen", study):
        shutil.rmtree(old, ignore_errors=True)
    versions = pinned()
    styles = [Path("eval/vote.css"), Path("eval/vote.js")]
    for source, target in [
        *((ROOT / file, space / file) for file in (*modules(), *styles)),
        *((file, study / file.name) for file in (folder / "items.jsonl", folder / "study.lock.json", *sorted(folder.glob(EVENTS)))),
        (path, study / "study.yaml"),
    ]:
        with open(source, "rb") as file, atomic(target, "wb") as copy:
            shutil.copyfileobj(file, copy)
    secrets = " and ".join(filter(None, (design.password_env, design.admin_env)))
    write_text(space / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in versions.items() if name != "gradio"))
    write_text(space / "README.md", README.format(gradio=versions["gradio"], repo=repo, secrets=secrets))
    write_text(space / "app.py", APP.format(name=folder.resolve().name, repo=repo))
    return space, study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="out/votes/NAME, frozen by eval.ballot")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--repo", required=True, help="the private data set that keeps the votes: organisation/name")
    parser.add_argument("--study", type=Path, default=studyfile.PATH)
    args = parser.parse_args()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", args.repo):
        raise UserError(f"--repo {args.repo}: expected organisation/name, such as my-org/study-votes")
    space, study = write(args.folder, args.out, args.repo, args.study)
    print(f"{space} and {study} written; nothing was sent. To begin:")
    print(f"  hf upload {args.repo} {study} . --repo-type dataset --private")
    print(f"  hf upload {args.repo.split('/')[0]}/NAME-OF-THE-SPACE {space} . --repo-type space")
    print("then set the secrets that are named in its README.md in the settings of the Space, and restart it")


if __name__ == "__main__":
    entry(main)
