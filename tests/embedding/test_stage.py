"""Work in the background keeps its order, and its errors reach the caller."""

from __future__ import annotations

import threading

import pytest

from prott5nv.embedding.stage import Stage


def test_items_are_done_in_order_in_another_thread():
    done = []
    stage = Stage(lambda item: done.append((item, threading.current_thread())))
    for item in range(5):
        stage.put(item)
    stage.wait()
    stage.close()
    assert [item for item, _ in done] == list(range(5))
    assert {thread for _, thread in done}.isdisjoint({threading.current_thread()})
    stage.close()


def test_an_error_ends_the_work_and_reaches_the_caller():
    done = []

    def work(item):
        if item == 1:
            raise OSError("full")
        done.append(item)

    stage = Stage(work)
    stage.put(0)
    stage.put(1)
    with pytest.raises(OSError, match="full"):
        stage.wait()
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            stage.put(2)
    stage.close()
    assert done == [0]


def test_few_items_wait():
    release = threading.Event()
    stage = Stage(lambda item: release.wait())
    putting = threading.Thread(target=lambda: [stage.put(item) for item in range(3)])
    putting.start()
    putting.join(0.05)
    assert putting.is_alive()  # One item is being worked on, one is waiting.
    release.set()
    putting.join()
    stage.close()


def test_a_stage_without_items_needs_no_thread():
    stage = Stage(print)
    before = threading.active_count()
    stage.wait()
    stage.close()
    assert threading.active_count() == before
