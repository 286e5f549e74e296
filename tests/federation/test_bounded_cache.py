"""Tests of `federation.bounded_cache`."""

from federation.bounded_cache import BoundedCache, ByteBoundedCache, ExpiringCache


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


def test_what_is_evicted_is_told() -> None:
    """Once, with its value; what is dropped or replaced isn't."""
    evicted: list[tuple[str, int]] = []
    cache: BoundedCache[str, int] = BoundedCache(
        2, on_evict=lambda key, value: evicted.append((key, value))
    )
    for number, key in enumerate("abac"):
        cache.put(key, number)
    assert evicted == [("b", 1)]
    cache.pop("a")
    cache.setdefault("d", 4)
    cache.setdefault("e", 5)
    assert evicted == [("b", 1), ("c", 3)]


def test_an_entry_expires_after_its_time() -> None:
    """It is there at its end, and gone past it; to put it again makes it young again."""
    now_s = 100.0
    cache: ExpiringCache[str, int] = ExpiringCache(2, 10, lambda: now_s)
    cache.put("a", 1)
    now_s = 105.0
    cache.put("b", 2)
    now_s = 110.0
    assert (cache.get("a"), cache.get("b"), len(cache)) == (1, 2, 2)
    cache.put("b", 3)
    now_s = 110.1
    assert (cache.get("a"), cache.get("b"), len(cache)) == (None, 3, 1)
    now_s = 120.0
    assert cache.get("b") == 3
    now_s = 120.1
    assert (cache.get("b"), len(cache)) == (None, 0)


def test_an_entry_is_taken_out_once_and_not_past_its_time() -> None:
    """What must count once is taken out."""
    now_s = 100.0
    cache: ExpiringCache[str, int] = ExpiringCache(2, 10, lambda: now_s)
    cache.put("a", 1)
    cache.put("b", 2)
    assert (cache.pop("a"), cache.pop("a"), len(cache)) == (1, None, 1)
    now_s = 110.1
    assert cache.pop("b") is None


def test_entries_that_expire_are_bounded() -> None:
    """The oldest goes before its time."""
    cache: ExpiringCache[str, int] = ExpiringCache(2, 10, lambda: 0.0)
    for number, key in enumerate("abc"):
        cache.put(key, number)
    assert [cache.get(key) for key in "abc"] == [None, 1, 2]


def sized(*values: str) -> ByteBoundedCache[str, str]:
    """Return a cache of five bytes, into which these values were put, each under its first
    letter."""
    cache: ByteBoundedCache[str, str] = ByteBoundedCache(5, len)
    for value in values:
        cache.put(value[0], value)
    return cache


def test_bytes_are_bounded() -> None:
    """As much as fits stays; past it the oldest goes, and more of them for a large one."""
    assert sized("aa", "bbb").split("ab") == ({"a": "aa", "b": "bbb"}, [])
    cache = sized("aa", "bbb", "c")
    assert cache.split("abc") == ({"b": "bbb", "c": "c"}, ["a"])
    assert (cache.bytes, len(cache)) == (4, 2)
    assert sized("aa", "bb", "cccc").split("abc") == ({"c": "cccc"}, ["a", "b"])


def test_the_youngest_stays_whatever_its_size() -> None:
    """Otherwise its reader would load it again and again."""
    cache = sized("a", "bbbbbbbb")
    assert (cache.get("a"), cache.get("b"), cache.bytes) == (None, "bbbbbbbb", 8)
    cache.put("c", "c")
    assert (cache.get("b"), cache.bytes) == (None, 1)


def test_a_read_value_counts_as_used() -> None:
    """The other one goes."""
    cache = sized("aa", "bb")
    assert cache.get("a") == "aa"
    cache.put("c", "cc")
    assert cache.split("abc") == ({"a": "aa", "c": "cc"}, ["b"])


def test_a_replaced_or_dropped_value_takes_no_room() -> None:
    """Nor does what isn't there."""
    cache = sized("aa", "bb", "aaa")
    assert (cache.get("a"), cache.bytes) == ("aaa", 5)
    cache.drop("a")
    cache.drop("a")
    assert (cache.get("a"), cache.bytes, len(cache)) == (None, 2, 1)
