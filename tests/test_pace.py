"""Estimates of how long a round will take."""

import pytest

from segmentation.common.pace import Pace, duration


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (45, "45 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (60, "1 min"),
        (89, "1 min"),
        (3599, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def said(pace_of, rows):
    lines = []
    pace = pace_of(lines.append)
    for row in rows:
        pace.step(*row)
    return lines


def test_it_is_said_once_from_the_steps_after_the_first():
    rows = [(4, 100.0)] + [(4, 4.0)] * 20
    lines = said(lambda say: Pace("round 2", 416, say), rows)
    assert lines == ["round 2: 400 steps to go, about 7 min"]  # 16 made, the others 1 s each


def test_steps_that_were_made_before_do_not_count():
    lines = []
    pace = Pace("round 0", 500, lines.append)
    pace.skip(300)
    for _ in range(3):
        pace.step(10, 10.0)
    assert lines == ["round 0: 180 steps to go, about 3 min"]


def test_nothing_is_said_of_short_work():
    assert said(lambda say: Pace("round 0", 400, say), [(10, 0.1)] * 40) == []
