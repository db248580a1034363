"""How two processes compare their clocks, and when a process says that it began."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from scalable.common.clocks import ClockShift, boot_id, process_began


@pytest.mark.parametrize("ahead", [-0.04, 0.0, 0.05])
def test_a_difference_within_the_round_trip_is_none(ahead: float):
    clock = ClockShift()
    clock.observe(ahead, 0.1)
    assert clock.seconds == 0.0


def test_a_shift_stays_until_a_measurement_contradicts_it():
    clock = ClockShift()
    clock.observe(3.0, 0.1)
    clock.observe(3.02, 0.1)
    assert clock.seconds == 3.0
    clock.observe(3.2, 0.1)
    assert clock.seconds == 3.2
    clock.observe(-1.0, 6.0)  # a slow message agrees with anything between -4 and 2
    assert clock.seconds == 0.0


def test_one_boot_has_one_clock():
    clock = ClockShift()
    clock.observe(3.0, 0.1)
    clock.compare_boots("")
    clock.compare_boots("another")
    assert clock.seconds == 3.0
    clock.compare_boots(boot_id())
    clock.observe(3.0, 0.1)
    clock.compare_boots("another")  # a late message of a scheduler that is gone
    assert clock.seconds == 0.0


def test_an_answer_was_sent_between_the_request_and_its_arrival():
    clock = ClockShift()
    clock.observe_answer(105.0, 101.0, 106.0)
    assert clock.seconds == 0.0
    clock.observe_answer(205.0, 101.0, 103.0)
    assert clock.seconds == 103.0


def test_a_process_began_when_it_was_started():
    before = time.time()
    program = "from scalable.common.clocks import process_began; print(process_began())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # The system counts in ticks of 10 ms.
    assert before - 0.02 <= float(done.stdout) <= time.time()
    assert process_began() <= before
