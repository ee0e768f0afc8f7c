"""What bounds a worker."""

from __future__ import annotations

import threading

from migrate.transfer.limits import AdaptiveLimit, ByteBudget, RateLimit


def test_the_byte_budget_is_never_exceeded_but_by_one_body_alone() -> None:
    """Bodies in flight are bounded by bytes (Invariant 11); a body larger than the budget goes alone."""
    budget = ByteBudget(100)
    assert budget.take(60)
    assert not budget.take(50)
    assert budget.take(40)
    budget.give(60)
    budget.give(40)
    assert budget.take(500)
    assert not budget.take(1)


def test_the_rate_holds_on_average() -> None:
    """A thousand reads of 1 kB at 100 kB/s take ten seconds, less the bucket's one second of depth."""
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    rate = RateLimit(100_000, clock=lambda: clock[0], sleep=sleep)
    for _ in range(1000):
        rate.wait(1000)
    assert 8.9 <= clock[0] - 1000.0 <= 10.1


def test_another_rate_holds_for_whoever_waits_already() -> None:
    """1 MB at 10 kB/s would take 100 s; after two of them the rate is tenfold."""
    clock = [1000.0]
    rate = RateLimit(10_000, clock=lambda: clock[0], sleep=lambda seconds: sleep(seconds))

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] >= 1002.0:
            rate.change(100_000)

    rate.wait(1_000_000)
    assert 10.0 <= clock[0] - 1000.0 <= 12.0


def test_no_rate_is_no_wait() -> None:
    """Without a limit nothing sleeps."""

    def sleep(seconds: float) -> None:
        raise AssertionError("slept")

    RateLimit(None, sleep=sleep).wait(10**12)


def test_a_store_that_asks_for_less_gets_less_and_the_level_climbs_again() -> None:
    """Half of what was under way, once a second at most; raised by one after each full round of successes."""
    clock = [0.0]
    limit = AdaptiveLimit(64, clock=lambda: clock[0])
    for _ in range(16):
        limit.__enter__()
    limit.throttled()
    limit.throttled()
    assert limit.level == 8
    clock[0] = 1.0
    limit.throttled()
    assert limit.level == 4
    for _ in range(4 + 5):
        limit.succeeded()
    assert limit.level == 6
    for _ in range(5000):
        limit.succeeded()
    assert limit.level == 64


def test_no_more_requests_at_once_than_the_level() -> None:
    """The fourth request waits until one of three has ended."""
    limit = AdaptiveLimit(3)
    inside, most, lock, go = [0], [0], threading.Lock(), threading.Barrier(3, timeout=10)

    def request(meet: bool) -> None:
        with limit:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if meet:
                go.wait()
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=request, args=(index < 3,)) for index in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert most[0] == 3
    assert inside[0] == 0
