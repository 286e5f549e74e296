"""Servers that let us wait."""

from federation.events.ids import ServerName
from federation.limits import SLOW_S_MAX, SLOW_S_MIN, SLOW_SERVERS_REMEMBERED_MAX
from federation.transport.scheduling.slow_servers import SlowServers
from tests.federation.transport.memory_ports import JumpingClock

A, B = ServerName("a.test"), ServerName("b.test")


def test_each_time_out_counts_for_longer_until_an_answer() -> None:
    clock = JumpingClock()
    slow = SlowServers(clock)
    lengths = []
    for _ in range(8):
        slow.timed_out(A)
        slow.timed_out(A)
        started_s = clock.elapsed_s
        while slow.is_slow(A):
            clock.jump(SLOW_S_MIN / 2)
        lengths.append(clock.elapsed_s - started_s)
    assert lengths == [min(SLOW_S_MAX, SLOW_S_MIN * 2**n) for n in range(8)]
    assert not slow.is_slow(B)
    slow.timed_out(A)
    slow.answered(A)
    slow.answered(B)
    assert not slow.is_slow(A)


def test_the_table_is_bounded() -> None:
    slow = SlowServers(JumpingClock())
    for number in range(SLOW_SERVERS_REMEMBERED_MAX + 1):
        slow.timed_out(ServerName(f"{number}.test"))
    assert not slow.is_slow(ServerName("0.test"))
    assert slow.is_slow(ServerName("1.test"))
