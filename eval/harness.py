"""lm-eval's command line with two settings that it has no option for. Run by .venv-eval's Python; eval.leaderboard calls it.

    .venv-eval/bin/python -m eval.harness out/tiny/leaderboard/5f0c…/lm-eval.yaml       # lm-eval run --config …

IFEval asks langdetect for an answer's language, which guesses anew each time: a sentence in capitals was English in 129 of 300 tries. With its seed fixed, the
same answer gets the same score. And where only the leaderboard's tasks are asked for, the thousands of others are not indexed (11 s). Tasks are untouched.
"""

import argparse
import sys
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="lm-eval.yaml of an evaluation")
    path = parser.parse_args().config
    tasks = read_yaml(path, "lm-eval's configuration")["tasks"]

    import langdetect
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    langdetect.DetectorFactory.seed = 0
    if all(task == "leaderboard" or task.startswith("leaderboard_") for task in tasks):
        index, folder = lm_eval.tasks.TaskManager, Path(lm_eval.tasks.__file__).parent / "leaderboard"
        lm_eval.tasks.TaskManager = lambda include_path=None, **more: index(include_path=str(folder), include_defaults=False, **more)
    sys.argv = ["lm-eval", "run", "--config", str(path)]
    cli_evaluate()


if __name__ == "__main__":
    entry(main)
