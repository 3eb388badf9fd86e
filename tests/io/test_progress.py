"""Progress of long work: lines of the log without a terminal, and an estimate of work of more than ten minutes."""

import logging

import pytest

from prott5nv.io import progress
from prott5nv.io.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_each_minute(clock, caplog):
    with caplog.at_level(logging.INFO, "prott5nv"), Progress(1000, initial=100) as work:
        for clock[0] in range(10, 130, 10):
            work.update(50)
    assert caplog.messages == [
        "450 of 1,000 residues (45%), 5 residues/s, 2 minutes left",
    ]


def test_long_work_is_announced_once(clock, caplog):
    with caplog.at_level(logging.INFO, "prott5nv"), Progress(100_000, advice="choose fewer") as work:
        for clock[0] in (2, 6, 8):
            work.update(10)
    assert caplog.messages == ["this will take about 8.3 hours; choose fewer"]


def test_estimate_counts_all_items_that_were_computed_together(clock, caplog):
    with caplog.at_level(logging.INFO, "prott5nv"), Progress(100_000) as work:
        for clock[0] in (40, 80):
            for _ in range(100):
                work.update(10)
    assert caplog.messages[0] == "this will take about 66 minutes"


def test_short_work_and_quiet_commands_print_nothing(clock, caplog):
    with caplog.at_level(logging.INFO, "prott5nv"), Progress(100) as work:
        clock[0] = 6
        work.update(50)
    with caplog.at_level(logging.WARNING, "prott5nv"), Progress(100_000) as work:
        clock[0] = 90
        work.update(1)
    assert not caplog.messages
