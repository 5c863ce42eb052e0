"""Multipliers at known points, their bounds for every configuration, and that they never run backwards."""

import math
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanochat.schedule import Schedule

schedules = st.builds(Schedule, num_iterations=st.integers(1, 5000), warmup=st.integers(0, 100),
                      warmdown=st.floats(0, 1), final_lr=st.floats(0, 1))


def test_reference_schedule_at_known_steps():
    s = Schedule(2520)
    down = 2520 - round(0.65 * 2520)
    assert s.lr(0) == pytest.approx(1 / 40) and s.lr(39) == s.lr(down) == 1
    assert s.lr(down + round(0.65 * 2520) // 2) == pytest.approx(1 - 0.95 / 2, abs=1e-3)
    assert s.lr(2519) == pytest.approx(0.05, abs=1e-3)
    assert s.momentum(0) == 0.85 and s.momentum(400) == s.momentum(down) == pytest.approx(0.97)
    assert s.momentum(2519) == pytest.approx(0.90, abs=1e-3)
    assert s.weight_decay(0) == 1 and s.weight_decay(1260) == pytest.approx(0.5)
    assert s.weight_decay(2519) == pytest.approx(0.5 * (1 + math.cos(math.pi * 2519 / 2520)))


def test_a_short_run_warms_up_to_the_peak_before_it_cools():
    s = Schedule(60)                                    # the warmdown alone would begin at step 21
    assert s.lr(20) == pytest.approx(21 / 40) and s.lr(39) == 1
    assert s.lr(40) == pytest.approx(1 - 0.95 * 19 / 39) and s.lr(59) == pytest.approx(1 - 0.95 * 38 / 39)


def test_momentum_goes_on_rising_while_the_rates_fall():
    s = Schedule(300)
    down = 300 - round(0.65 * 300)
    assert s.momentum(down + 20) == pytest.approx(0.85 + 0.12 * (down + 20) / 400)
    assert s.momentum(down + 20) > s.momentum(down)
    assert s.momentum(299) == pytest.approx(0.97 - 0.07 * 194 / 195)


@given(schedules, st.data())
def test_multipliers_stay_in_bounds(s, data):
    t = data.draw(st.integers(0, s.num_iterations - 1))
    assert 0 <= s.lr(t) <= 1 and 0 <= s.weight_decay(t) <= 1 and 0.85 <= s.momentum(t) <= 0.97 + 1e-9


@given(schedules)
def test_the_learning_rate_rises_then_falls(s):
    rates = [s.lr(t) for t in range(s.num_iterations)]
    top = rates.index(max(rates))
    assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
