"""The python tool: arithmetic, and counting letters with "text".count("x"). Pure: a string in, a string out.

The model writes the expression, so nothing in it is trusted: it is parsed, never executed, and length,
nesting and the size of every intermediate number are bounded, so that no signal, thread or timeout is needed.
Tool calls are answered with it and training data written with it, so both agree to the last digit."""
import ast
import math
import operator
import re

MAX_LENGTH = 256                                        # characters; bounds the nesting, thus the recursion
MAX_BITS = 256                                          # of any integer on the way: 77 digits
INVALID = "invalid expression"                          # what the model reads where there is no value

_STRING = r"\"[^\"\\]*\"|'[^'\\]*'"                     # no escapes: nothing to decode, no parser warnings
_CODE = re.compile(rf"(?:{_STRING}|\.count\(|[0-9eE.,_+\-*/%() ])+")
_THOUSANDS = re.compile(rf"(?P<text>{_STRING})|(?<![0-9.,])[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9,])")
_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
           ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}

def evaluate(expression: str) -> str | None:
    """The value as text ("5" for 10/2, "0.333333" for 1/3), None for what is no legal, bounded expression.

    >>> evaluate("1,250 * (3 + 1)"), evaluate('"a,b,c".count(",")'), evaluate("1/0")
    ('5000', '2', None)"""
    expression = expression.strip()
    if len(expression) > MAX_LENGTH or not _CODE.fullmatch(expression):
        return None
    plain = _THOUSANDS.sub(lambda found: found["text"] or found[0].replace(",", ""), expression)
    try:
        return _render(_value(ast.parse(plain, mode="eval").body))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None

def _value(node: ast.expr) -> int | float:
    """Value of a parsed expression. ValueError or ArithmeticError where it has none within the bounds: every
    number is real, as (-1) ** 0.5 is not, and finite or an integer of so many bits."""
    match node:
        case ast.Constant(value=int() | float() as value):
            pass
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            value = _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(op, ast.Pow) and isinstance(first, int) and isinstance(second, int):
                if first.bit_length() * second > MAX_BITS:          # before the power is computed, not after
                    raise ValueError("out of bounds")
            value = _BINARY[type(op)](first, second)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
                      args=[ast.Constant(value=str() as part)], keywords=[]):
            value = text.count(part)
        case _:
            raise ValueError("not an expression of this calculator")
    fits = isinstance(value, int) and value.bit_length() <= MAX_BITS
    if not fits and not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError("out of bounds")
    return value

def _render(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e15:         # six decimals hide binary noise: 0.1 + 0.2 is 0.3
        return f"{value:z.6f}".rstrip("0").rstrip(".")  # z: no -0
    return f"{value:.6g}"
