"""Counters that forget what they have none of."""

from collections import Counter

from federation.transport.scheduling.counters import lower


def test_a_key_goes_with_its_last() -> None:
    counter = Counter({"a": 2, "b": 1})
    lower(counter, "a")
    assert dict(counter) == {"a": 1, "b": 1}
    lower(counter, "a")
    lower(counter, "b")
    assert dict(counter) == {}
