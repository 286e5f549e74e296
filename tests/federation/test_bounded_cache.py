"""Tests of `federation.bounded_cache`."""

from federation.bounded_cache import BoundedCache


def filled(*keys: str) -> BoundedCache[str, int]:
    """Return a cache of three entries, into which keys were put in this order."""
    cache: BoundedCache[str, int] = BoundedCache(3)
    for number, key in enumerate(keys):
        cache.put(key, number)
    return cache


def kept(cache: BoundedCache[str, int]) -> str:
    """Return the keys, the oldest first; each is in the cache."""
    assert all(key in cache for key in cache)
    return "".join(cache)


def test_the_bound_is_kept() -> None:
    """As many as fit stay; past it the oldest goes."""
    assert kept(filled("a", "b", "c")) == "abc"
    cache = filled("a", "b", "c", "d", "e")
    assert (kept(cache), len(cache)) == ("cde", 3)


def test_an_entry_is_young_again_when_it_is_put_again() -> None:
    """Its value is the new one."""
    cache = filled("a", "b", "c", "a", "d")
    assert kept(cache) == "cad"
    assert cache.get("a") == 3


def test_reading_makes_nothing_younger() -> None:
    """Neither `get` nor `setdefault` of a key that is there."""
    cache = filled("a", "b", "c")
    assert cache.get("a") == 0
    assert cache.setdefault("a", 9) == 0
    cache.put("d", 1)
    assert kept(cache) == "bcd"
    assert cache.get("a") is None


def test_a_default_is_an_entry() -> None:
    """It is kept, is the youngest and is within the bound."""
    cache = filled("a", "b", "c")
    assert cache.setdefault("d", 7) == 7
    assert (kept(cache), cache.get("d")) == ("bcd", 7)


def test_an_entry_is_dropped() -> None:
    """What is dropped is returned, once, and makes room."""
    cache = filled("a", "b", "c")
    assert (cache.pop("b"), cache.pop("b")) == (1, None)
    cache.put("d", 1)
    assert kept(cache) == "acd"
    cache.clear()
    assert (kept(cache), len(cache)) == ("", 0)
