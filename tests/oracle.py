"""An oracle and an anti-oracle for lm-eval: answer every request of the stock `leaderboard` tasks rightly, or all of them wrongly.

    .venv-eval/bin/python tests/oracle.py ITEMS OUT [--anti]

ITEMS is a folder written by eval/items.py. OUT/oracle (OUT/anti-oracle) gets the files that `lm-eval run --log_samples --output_path OUT` writes, made
by the same classes. The answers are read from the raw columns of each item, not from the task's own reading of them, so that right answers score 1
and wrong ones 0 only if every task reads its data and counts as it should.
"""

import argparse
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval.tasks
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.loggers import EvaluationTracker
from sympy.parsing.latex import parse_latex


@register_model("oracle")
class Oracle(LM):
    tokenizer_name = "oracle"

    def __init__(self, pretrained: str, **_) -> None:
        super().__init__()
        self.right = pretrained == "oracle"

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        return "".join(f"<{turn['role']}> {turn['content']}\n" for turn in chat_history)

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """Log-probability 0 for what is to be chosen and -100 for the rest."""
        return [(0.0, True) if (request.args[1].strip() == gold(request.doc)) == self.right else (-100.0, False) for request in requests]

    def generate_until(self, requests) -> list[str]:
        """MATH: the answer as a sum, which counts only where it is parsed and simplified (with antlr 4.13 it is not). IFEval: the written response."""
        parse_latex("1")  # its first call imports the parser, and scoring has one second
        return [self.solve(request.doc) if "solution" in request.doc else request.doc["right" if self.right else "wrong"] for request in requests]

    def solve(self, doc: dict) -> str:
        answer = doc["solution"].partition("\\boxed{")[2].removesuffix("}$.") + (" + 0" if self.right else " + 1")
        return f"So it is $\\boxed{{{answer}}}$.\nFinal Answer: The final answer is ${answer}$. I hope it is correct."

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError("no leaderboard task asks for it")


def gold(doc: dict) -> str:
    """The right option by the columns of the data: BBH, MuSR, MMLU-Pro, and GPQA, whose options the task shuffles."""
    if "Correct Answer" in doc:
        return next(f"({letter})" for letter, n in zip("ABCD", "1234", strict=True) if doc[f"choice{n}"] == doc["Correct Answer"])
    return next(doc[column] for column in ("target", "answer_choice", "answer") if column in doc)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--anti", action="store_true")
    args = parser.parse_args()
    tracker = EvaluationTracker(output_path=str(args.out.resolve()))
    os.chdir(args.items)  # where `datasets` finds the items
    results = simple_evaluate(
        model="oracle", model_args=f"pretrained={'anti-' * args.anti}oracle", tasks=["leaderboard"], evaluation_tracker=tracker, log_samples=True,
        apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_path=str(Path(lm_eval.tasks.__file__).parent / "leaderboard"), include_defaults=False),  # 10 s less than all tasks
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])


if __name__ == "__main__":
    main()
