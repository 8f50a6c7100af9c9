"""Final answers and code taken from what a model wrote, by hand."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from dozan.judge.answers import code_of, final_answer, same_answer

GSM8K = Path(os.environ.get("DOZAN_DATA", "data")) / "gsm8k" / "train_1000.jsonl"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She has 48/2 = 24 and 48+24 = 72 clips.", Fraction(72)),
        ("<<48/2=24>>24\n#### 72", Fraction(72)),
        ("#### 10\nno, wait\n#### 1,234", Fraction(1234)),
        ("It was 5. The answer is 7. There were 3 of them", Fraction(7)),
        ("الجواب النهائي هو ٧٢ كتابًا", Fraction(72)),
        ("الإجابة: ۱۲۳", Fraction(123)),
        ("المجموع ١٬٢٣٤٫٥ ريال", Fraction(2469, 2)),
        ("المجموع ١،٢٣٤ ريال", Fraction(1234)),
        ("$1,000,000.50", Fraction(2000001, 2)),
        ("so 1234.", Fraction(1234)),
        ("3/4", Fraction(3, 4)),
        ("1 3/4 cups", Fraction(7, 4)),
        ("2½ cups", Fraction(5, 2)),
        ("\\boxed{\\frac{3}{4}}", Fraction(3, 4)),
        ("\\boxed{12} and then 99", Fraction(12)),
        ("$\\boxed{-5}$", Fraction(-5)),
        ("a change of −5 degrees", Fraction(-5)),
        ("it is -$20", Fraction(-20)),
        ("from 10-3 = 7", Fraction(7)),
        ("10-3", Fraction(3)),
        ("1.2e5", Fraction(120000)),
        (".5 of it", Fraction(1, 2)),
        ("50%", Fraction(50)),
        ("٥٠٪", Fraction(50)),
        ("12,34", Fraction(34)),
        ("at 1/0 it breaks", None),
        ("10 - 3", Fraction(3)),
        ("\\boxed{x + 1}", "x + 1"),
        ("\\boxed{x = 5}", Fraction(5)),
        ("\\boxed{2\\sqrt{3}}", "2\\sqrt{3}"),
        ("\\boxed{72\\text{ km}}", Fraction(72)),
        ("#### 72 clips", Fraction(72)),
        ("#### نعم", "نعم"),
        ("nothing here", None),
        ("", None),
    ],
)
def test_final_answers(text: str, value: Fraction | str | None) -> None:
    assert final_answer(text) == value


def test_answers_that_are_the_same_and_that_are_not() -> None:
    assert same_answer("إذن ٧٢.٠", "#### 72") and same_answer("0.75", "\\frac{3}{4}") and same_answer("1,200", "1200")
    assert same_answer("#### نَعم", "\\boxed{نعم}") and same_answer("\\boxed{X+1}", "#### x+1")
    assert not same_answer("71", "72") and not same_answer("no idea", "no number") and not same_answer("-5", "5")
    assert not same_answer("72 or 73", "72") and not same_answer("", "#### 5")


def test_code_of_an_answer() -> None:
    assert code_of("def f(): pass") == "def f(): pass"
    assert code_of("Here:\n```python\nx = 1\n```\nand\n```\ny = x\n```\nDone.") == "x = 1\n\ny = x\n"
    assert code_of("```py\nx = 1\n```\n```bash\npip install\n```") == "x = 1\n"
    assert code_of("```python\nx = 1\n```\n```\n$ python x.py\n```") == "x = 1\n"
    assert code_of("```python\nx = 1") == "x = 1"


@pytest.mark.skipif(not GSM8K.is_file(), reason="the rows are not here")
def test_every_worked_solution_answers_itself_and_a_changed_one_does_not() -> None:
    outputs = [json.loads(line)["output"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    arabic = str.maketrans("0123456789.,", "٠١٢٣٤٥٦٧٨٩٫٬")
    for output in outputs:
        found = final_answer(output)
        assert isinstance(found, Fraction), output
        assert final_answer(f"{output}\n#### {found.numerator}/{found.denominator}") == found
        assert not same_answer(f"{output}\n#### {found + 1}", output)
    last = [output.rstrip(".") for output in outputs]
    assert sum(final_answer(text.translate(arabic)) == final_answer(text) for text in last) == len(last)
