"""Probing: candidates that work are used, others are not, and the reason is told."""

import pytest
import torch
from nanochat.hardware import probe

CASE = [(4, 8), (8,)], torch.device("cpu"), torch.bfloat16

def plain(x, scale):
    return (x * scale).exp()

def raises(x, scale):
    raise RuntimeError("no kernel image is available\nand a page of advice")

def breaks_the_graph(x, scale):
    return plain(x, scale) * (1.0 if x.sum().item() < 1e9 else 2.0)

def wrong_gradient(x, scale):
    return plain(x, scale.detach()) + 0 * scale

def not_a_number(x, scale):
    return plain(x, scale) * float("nan")

def no_gradient(x, scale):
    return plain(x, scale) + 0 * (scale - scale.detach()).sqrt()

def close(x, scale):
    return plain(x, scale) * 1.01

def works(x, scale):
    return torch.exp(scale * x)


@pytest.mark.parametrize("candidate, reason", [
    (raises, "RuntimeError: no kernel image is available"), (wrong_gradient, "ArithmeticError: differs by 1"),
    (not_a_number, "ArithmeticError: differs by nan"), (no_gradient, "ArithmeticError: differs by nan"),
    (close, "ArithmeticError: differs by 0.021")])
def test_what_raises_or_differs_is_not_used_and_its_reason_is_told(candidate, reason):
    why = f" (first: {reason})"
    assert probe({"first": candidate, "second": works}, plain, *CASE, 0.005) == ("second", why)
    assert probe({"first": candidate}, plain, *CASE, 0.005) == (None, why)


def test_what_breaks_the_graph_is_not_used():
    name, why = probe({"first": breaks_the_graph}, plain, *CASE, 0.005)
    assert name is None and why.startswith(" (first: ") and "\n" not in why


def test_the_first_that_works_is_used_within_the_tolerance():
    assert probe({"close": close, "works": works}, plain, *CASE, 0.05) == ("close", "")
    assert probe({}, plain, *CASE, 0.05) == (None, "")
