"""The calculator against Python's own arithmetic, and that nothing but bounded arithmetic gets through."""

import ast
import warnings
from fractions import Fraction
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanochat.calculator import evaluate

@pytest.mark.parametrize("expression, answer", [
    ("2+3*4", "14"), ("(2+3)*4", "20"), ("10/2", "5"), ("1/3", "0.333333"), ("0.1+0.2", "0.3"),
    ("7//2", "3"), ("7%4", "3"), ("2**10", "1024"), ("2**-1", "0.5"), ("-3--3", "0"), ("+5", "5"),
    ("-0.0", "0"), ("1e3", "1000"), ("1,000", "1000"), ("1,234,567+1", "1234568"), ("12.50*4", "50"),
    ("1234567/2", "617283.5"), (" 3 + 4 ", "7"), ("0.00001/2", "5e-06"), ("2**100", str(2**100)),
])
def test_arithmetic_comes_out_as_the_training_data_writes_it(expression, answer):
    assert evaluate(expression) == answer


@pytest.mark.parametrize("expression, answer", [
    ('"a,b,c".count(",")', "2"), ('"filename".count("e")', "2"), ("'strawberry'.count('r')", "3"),
    ('"1,000".count(",")', "1"), ('"it\'s".count("s")', "1"), ('"aa".count("a") + 1,000', "1002"),
    ('"".count("x")', "0"), ('"naïve".count("ï")', "1"), ('"import os".count("o")', "2"),
])
def test_letters_are_counted_in_the_text_as_written(expression, answer):
    assert evaluate(expression) == answer


@pytest.mark.parametrize("expression", [
    "", " ", "1/0", "0**-1", "1,00", "1,2", "0.1,000", "(1", "1+", "abc", "__import__('os')", "1 if 1 else 2",
    "True", "1j", "(-1)**0.5", "9**9**9", "2**100000", "1e308*10", "10**400", "'a'*9", "'a'+'b'", "'a'",
    "'a'.count(1)", "'a'.upper()", "'a'.count('a', 0)", "'a'.count", "'\\x41'.count('A')", "[1]", "1<2",
    "f'{1}'", "1\n+1", "1" * 300, "(" * 120 + "1", "-" * 257 + "1", "\0", "٣+١", "x:=1", "lambda: 1", "5()",
    "2e", "1_",
])
def test_what_is_no_bounded_expression_is_invalid(expression):
    assert evaluate(expression) is None


def test_deep_nesting_and_long_chains_come_back_at_once():
    assert evaluate("-" * 254 + "1") == "1"
    assert evaluate("(" * 90 + "1" + ")" * 90) == "1"
    assert evaluate("+".join(["1"] * 128)) == "128"


cents = st.fractions(0, 100, max_denominator=100).map(lambda fraction: round(float(fraction), 2))
numbers = st.integers(0, 10**6) | cents


@given(st.lists(numbers, min_size=1, max_size=6), st.lists(st.sampled_from("+-*"), min_size=5, max_size=5))
def test_results_agree_with_exact_fractions(values, operators):
    expression = str(values[0]) + "".join(f" {op} {value}" for op, value in zip(operators, values[1:]))
    result = evaluate(expression)
    if all(isinstance(value, int) for value in values):
        assert result == str(eval(expression))
    else:
        parts = [part if part in "+-*" else f"Fraction('{part}')" for part in expression.split()]
        exact = eval("".join(parts))
        assert abs(Fraction(result) - exact) <= abs(exact) * Fraction(1, 10**5) + Fraction(1, 10**6)


@given(st.text(max_size=60) | st.text(alphabet="0123456789eE.,_+-*/%()'\" coun\\", max_size=60))
def test_any_text_gives_a_short_answer_or_none_and_never_raises(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(text)
    assert result is None or (0 < len(result) <= 80 and isinstance(ast.literal_eval(result), (int, float)))
