"""The paper's tables as data, and their sums.  .venv/bin/python -m pytest tests/test_published.py"""

import pytest
import yaml
from conftest import ROOT, inside

from datagen.files import UserError
from eval import published

BASES = ("llama3-8b", "qwen2.5-7b", "mistral-nemo")


def test_exactly_three_sums_of_the_paper_do_not_hold_all_from_one_average():
    assert [str(fault) for fault in published.faults()] == [
        "Table 6 (line 171), Llama-3-8B-Instruct, Average: printed 23.57, its own six scores give 23.905",
        "Table 6 (line 171), Human-Like-Llama-3-8B-Instruct, difference in Average: printed -1.20, its own six scores give -1.535",
        "Table 7 (line 188), Human-Like-Llama-3-8B-Instruct, including IFEval: printed -1.20, its own six scores give -1.535",
    ]
    assert {fault.base for fault in published.faults()} == {"llama3-8b"}


def changed(tmp_path, change):
    values = yaml.safe_load((ROOT / "eval/published.yaml").read_text())
    change(values)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "p.yaml"


@pytest.mark.parametrize(
    ("row", "key", "value", "held"),
    [
        ("tuned", "average", 26.65, False),  # 26.665: cut off it is 26.66, rounded up 26.67
        ("tuned", "average", 26.66, True),
        ("tuned", "average", 26.67, True),
        ("tuned", "average", 26.68, False),
        ("difference", "average", -0.21, True),  # -0.20, from two numbers that are cut off
        ("difference", "average", -0.22, False),
        ("difference", "average", 0.20, False),  # a sign
    ],
)
def test_a_sum_holds_up_to_what_cutting_off_explains(tmp_path, row, key, value, held):
    path = changed(tmp_path, lambda v: v["bases"]["qwen2.5-7b"][row].update({key: value}))
    assert [fault.base for fault in published.faults(path)].count("qwen2.5-7b") == (0 if held else 1)


def test_every_printed_number_is_checked(tmp_path):
    def wrong(v):
        one = v["bases"]["mistral-nemo"]
        one["difference"]["scores"] = [score + 0.03 for score in one["difference"]["scores"]]
        for row in ("base", "tuned", "difference"):
            one[row]["average"] += 0.03
        one["table 7"] |= {"including IFEval": 1.0, "without IFEval": 1.0}

    assert len([fault for fault in published.faults(changed(tmp_path, wrong)) if fault.base == "mistral-nemo"]) == 6 + 3 + 2


@pytest.mark.parametrize("base", BASES)
def test_the_official_averages_are_those_of_their_scores(base):
    one = published.facts().bases[base].official
    for row in (one.base, one.tuned):
        whole, without = published.means(published.exact(row.scores))
        assert float(whole) == pytest.approx(row.average, abs=0.01) and float(without) == pytest.approx(row.without, abs=0.01)


def test_the_llama_row_is_that_of_the_official_runs_and_the_other_bases_are_not():
    def differ(base):
        one = published.facts().bases[base]
        return [who for who in ("base", "tuned") if any(abs(a - b) > 0.0101 for a, b in zip(getattr(one, who).scores, getattr(one.official, who).scores, strict=True))]

    assert {base: differ(base) for base in BASES} == {"llama3-8b": [], "qwen2.5-7b": ["base"], "mistral-nemo": ["base"]}


def test_what_the_comparison_prints_beside_ours():
    theirs = published.published("llama3-8b")
    assert theirs["base"] == {"IFEval": 74.08, "BBH": 28.24, "MATH Lvl 5": 8.68, "GPQA": 1.23, "MuSR": 1.60, "MMLU-Pro": 29.60, "Average": 23.57}
    assert theirs["difference"]["IFEval"] == -9.11 and theirs["difference"]["Average without IFEval"] == -0.02
    assert theirs["recomputed"] == {
        "base": {"Average": 23.905, "Average without IFEval": 13.87},
        "tuned": {"Average": 22.37, "Average without IFEval": 13.85},
        "difference": {"Average": -1.535, "Average without IFEval": -0.02},
    }
    assert theirs["official"]["difference"]["Average"] == -1.53 and theirs["models"]["tuned"] == "Human-Like-Llama-3-8B-Instruct"
    assert published.published("tiny") is None


@pytest.mark.parametrize(("base", "hashes"), [("llama3-8b", 38), ("qwen2.5-7b", 24), ("mistral-nemo", 0)])
def test_the_notes_say_which_prompts_were_the_same_and_which_rows_other_runs_contradict(base, hashes):
    notes = published.published(base)["notes"]
    assert f"In the official runs that we found, {hashes} of 39 tasks had the same prompts for base and tuned model (task hashes)." in notes
    assert any("printed 23.57" in note for note in notes) == (base == "llama3-8b")
    assert any("gives other scores: BBH 34.84 (printed 34.89), GPQA 6.71 (printed 5.48)" in note for note in notes) == (base == "qwen2.5-7b")


def test_both_tables_and_all_faults_are_printed():
    out = inside("eval.published").stdout
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert "Llama-3-8B-Instruct 74.08 28.24 8.68 1.23 1.60 29.60 23.57 23.905 13.870" in rows
    assert "difference -9.29 +3.02 +1.73 -0.34 +0.91 +0.03 -0.65 -0.657 +1.070" in rows
    assert "3 sums do not hold" in out and out.count("printed 23.57, its own six scores give 23.905") == 2


def test_a_row_of_five_scores_or_an_unknown_key_is_one_line(tmp_path):
    def wrong(v):
        v["bases"]["llama3-8b"]["base"]["scores"].pop()
        v["bases"]["llama3-8b"]["base"]["mean"] = 1.0

    with pytest.raises(UserError, match=r"bases.llama3-8b.base.scores: List should have at least 6 items.*; unknown key bases.llama3-8b.base.mean"):
        published.facts(changed(tmp_path, wrong))


def test_columns_in_another_order_are_refused(tmp_path):
    with pytest.raises(UserError, match="the first of the columns has to be IFEval"):
        published.facts(changed(tmp_path, lambda v: v["columns"].reverse()))
