"""dev.sweep on points whose best sizes and exponents are known."""

import csv
import json
import math
import random
import re
import numpy as np
import pytest
from dev import sweep

BUDGETS = (1e18, 2.15e18, 4.64e18, 1e19)
ALPHA, BETA = 0.34, 0.28                                # of Chinchilla's loss, arXiv 2203.15556


def chinchilla(N: float, C: float) -> dict:
    """A model of N parameters that sees D = C / 6N tokens. The best N of C is (C / 6)^a x a constant."""
    D = C / (6 * N)
    return {"tag": f"{C:g}_{N:.3g}", "depth": 12, "scaling_params": N, "tokens": D, "flops": C,
            "val_bpb": 1.69 + 406.4 / N ** ALPHA + 410.7 / D ** BETA, "val_bpb_error": 0.001,
            "core": math.log(C) / 200, "core_error": 0.01, "hours": C / 1e19}


def best_size(C: float) -> float:
    return ((ALPHA * 406.4) / (BETA * 410.7)) ** (1 / (ALPHA + BETA)) * (C / 6) ** (BETA / (ALPHA + BETA))


def grid(budgets=BUDGETS) -> list[dict]:
    return [chinchilla(N, C) for C in budgets for N in np.geomspace(3e7, 8e8, 8).tolist()]


def write(path, rows, without=()):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | dict.fromkeys(without if row is rows[0] else (), "") for row in rows)
    return path


@pytest.mark.parametrize("at, bend", [(2.0, 1.0), (18.7, 0.02), (0.0, 300.0)])
def test_the_minimum_of_a_parabola_is_found(at, bend):
    x = [at - 1.5, at - 0.5, at + 0.2, at + 1]
    found = sweep.best(np.exp(x), [1] * 4, [bend * (each - at) ** 2 + 0.9 for each in x])
    assert math.log(found["N"]) == pytest.approx(at, abs=1e-6) and found["bpb"] == pytest.approx(0.9)
    assert np.polyval(found["parabola"], at + 3) == pytest.approx(9 * bend + 0.9)


@pytest.mark.parametrize("x, y", [
    ([1, 2, 3], [1, 2, 4]),                             # lowest before the first
    ([1, 2, 3], [4, 2, 1]),
    ([1, 2, 3], [1, 2, 1]),                             # bends the other way
    ([1, 2, 2], [2, 1, 1]),                             # two sizes only
    ([], [])])
def test_a_minimum_that_was_not_enclosed_is_none(x, y):
    assert sweep.best(np.exp(x), [1] * len(x), y) is None


def test_a_power_law_is_found_exactly_where_it_holds_exactly():
    law = sweep.power_law(BUDGETS, [0.3 * C ** 0.47 for C in BUDGETS])
    assert law["exponent"] == pytest.approx(0.47) and law["factor"] == pytest.approx(0.3)
    assert law["error"] == pytest.approx(0, abs=1e-9)
    assert sweep.power_law(BUDGETS[:2], [1, 2])["error"] is None
    assert sweep.power_law(BUDGETS[:1], [1]) is None


def test_the_standard_error_of_an_exponent_is_how_far_it_scatters():
    dice = random.Random(0)
    laws = [sweep.power_law(BUDGETS, [C ** 0.5 * math.exp(dice.gauss(0, 0.05)) for C in BUDGETS])
            for _ in range(2000)]
    scatter = np.std([law["exponent"] for law in laws])
    assert math.sqrt(np.mean([law["error"] ** 2 for law in laws])) == pytest.approx(scatter, rel=0.05)


def test_the_best_sizes_and_exponents_of_a_known_loss_come_out():
    rows = grid()
    random.Random(0).shuffle(rows)
    fit = sweep.isoflop(sorted(rows, key=lambda row: row["scaling_params"]), BUDGETS)
    for each in fit["budgets"]:
        assert each["best"]["N"] == pytest.approx(best_size(each["C"]), rel=0.05)
        assert 6 * each["best"]["N"] * each["best"]["D"] == pytest.approx(each["C"], rel=1e-6)
    assert fit["laws"]["N"]["exponent"] == pytest.approx(BETA / (ALPHA + BETA), abs=0.01)
    assert fit["laws"]["D"]["exponent"] == pytest.approx(ALPHA / (ALPHA + BETA), abs=0.01)


def test_a_budget_whose_best_size_is_outside_is_named_and_left_out(tmp_path, capsys):
    path = write(tmp_path / "laws.csv", grid((1e16, *BUDGETS)))
    sweep.main(sweep.parser().parse_args([str(path), "--budgets", "1e16", *map(str, BUDGETS)]))
    assert re.search(r"C = 1e\+16, 8 models: no minimum .* left out", capsys.readouterr().out)
    fit = json.loads((tmp_path / "laws.json").read_text())
    assert [each["best"] is None for each in fit["budgets"]] == [True, False, False, False, False]
    assert fit["laws"] == sweep.isoflop(sweep.read(write(path, grid())), BUDGETS)["laws"]


def test_models_count_to_the_budget_that_their_steps_came_nearest_to():
    rows = [row | {"flops": row["flops"] * factor} for row, factor in zip(grid((1e18, 2e18)), [0.9, 1.1] * 8)]
    assert [len(each["N"]) for each in sweep.isoflop(rows, (1e18, 2e18))["budgets"]] == [8, 8]


@pytest.mark.parametrize("budgets", [[], ["--budgets", *map(str, BUDGETS)]])
def test_pictures_read_on_light_and_on_dark_and_unfinished_models_are_named(budgets, tmp_path, capsys):
    rows = grid()
    path = write(tmp_path / "sweep.csv", rows, without=("val_bpb", "core", "core_error"))
    sweep.main(sweep.parser().parse_args([str(path), *budgets]))
    assert f"left out, not finished: {rows[0]['tag']}\n" in capsys.readouterr().out
    picture = (tmp_path / "sweep.svg").read_text()
    colours = set(re.findall(r"(?:fill|stroke): (#\w{6})", picture))
    assert len(colours) >= 2 and "currentColor" in picture and "prefers-color-scheme:dark" in picture

    def luminance(colour):                              # WCAG 2: 3 to 1 is enough for lines
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
                   for weight, part in zip((0.2126, 0.7152, 0.0722), parts))

    backgrounds = {"#ffffff", "#000000"}                # of the page: drawn fully transparent, or not at all
    for colour in colours - backgrounds:
        for page in ("#ffffff", "#0d1117"):
            low, high = sorted((luminance(colour), luminance(page)))
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, page)
    assert not re.search(r"fill: #(ffffff|000000)(?!; opacity: 0)", picture)


def test_a_csv_that_is_not_there_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        sweep.main(sweep.parser().parse_args([str(tmp_path / "none.csv")]))
    assert stopped.value.code == 2 and "none.csv" in capsys.readouterr().err
