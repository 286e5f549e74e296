"""`.well-known` delegation: redirects, caches, and what is ignored."""

import pytest

from federation.limits import (
    WELL_KNOWN_CACHE_S_DEFAULT,
    WELL_KNOWN_CACHE_S_MAX,
    WELL_KNOWN_CACHE_S_MIN,
    WELL_KNOWN_ERROR_S_MAX,
    WELL_KNOWN_REDIRECTS_MAX,
)
from federation.public_addresses import is_public_address
from federation.transport.requests.dialer import (
    Bounds,
    DialError,
    DialFailure,
    Endpoint,
    HttpResponse,
    Outgoing,
)
from federation.transport.requests.well_known import WellKnown
from tests.federation.transport.memory_ports import JumpingClock

GOOD = b'{"m.server":"d.test:443"}'


class Web:
    """Stands in for the dialer: answers by `host/target`, refuses private addresses."""

    def __init__(self) -> None:
        self.pages: dict[str, HttpResponse] = {}
        self.asked: list[str] = []

    async def exchange(self, endpoint: Endpoint, request: Outgoing, bounds: Bounds) -> HttpResponse:
        self.asked.append(endpoint.host_header + request.target)
        if not any(is_public_address(address) for address in endpoint.addresses):
            raise DialError(DialFailure.ADDRESS, "private")
        if self.asked[-1] not in self.pages:
            raise DialError(DialFailure.REFUSED, "nobody there")
        return self.pages[self.asked[-1]]


PAGE = "a.test/.well-known/matrix/server"


async def lookup(host: str) -> tuple[str, ...]:
    if host == "gone.test":
        raise OSError("no such host")
    return ("127.0.0.1",) if host == "inside.test" else ("93.184.216.34",)


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def pages() -> Web:
    return Web()


@pytest.fixture
def well_known(pages: Web, clock: JumpingClock) -> WellKnown:
    return WellKnown(pages, lookup, clock)  # type: ignore[arg-type]  # as much as is used


def redirect(to: str) -> HttpResponse:
    return HttpResponse(302, {"location": to}, b"")


async def test_a_delegation_is_kept_for_a_day_and_then_asked_for_again(
    pages: Web, clock: JumpingClock, well_known: WellKnown
) -> None:
    pages.pages[PAGE] = HttpResponse(200, {"content-type": "text/plain"}, GOOD)
    for _ in range(2):
        assert await well_known.delegated("a.test") == "d.test:443"
    assert len(pages.asked) == 1
    clock.jump(WELL_KNOWN_CACHE_S_DEFAULT + 1)
    assert await well_known.delegated("a.test") == "d.test:443"
    assert len(pages.asked) == 2


@pytest.mark.parametrize(
    ("control", "kept_s"),
    [
        ("max-age=3600", 3600),
        ("public, max-age=1", WELL_KNOWN_CACHE_S_MIN),
        ("max-age=9999999999", WELL_KNOWN_CACHE_S_MAX),
        ("no-store", WELL_KNOWN_CACHE_S_MIN),
        ("max-age=soon", WELL_KNOWN_CACHE_S_DEFAULT),
    ],
)
async def test_cache_headers_count_between_bounds(
    pages: Web, clock: JumpingClock, well_known: WellKnown, control: str, kept_s: float
) -> None:
    pages.pages[PAGE] = HttpResponse(200, {"cache-control": control}, GOOD)
    await well_known.delegated("a.test")
    clock.jump(kept_s - 1)
    await well_known.delegated("a.test")
    assert len(pages.asked) == 1
    clock.jump(2)
    await well_known.delegated("a.test")
    assert len(pages.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(404, {}, GOOD),
        HttpResponse(200, {}, b"{"),
        HttpResponse(200, {}, b"[]"),
        HttpResponse(200, {}, b"{}"),
        HttpResponse(200, {}, b'{"m.server":7}'),
        HttpResponse(200, {}, b'{"m.server":"not a name"}'),
        HttpResponse(200, {}, b'{"m.server":"a..b"}'),
        HttpResponse(302, {}, GOOD),
        redirect("http://plain.test/x"),
        redirect("https://user@other.test/x"),
        redirect("https://inside.test/x"),
        redirect("https://127.0.0.1/x"),
        redirect("https://gone.test/x"),
        redirect("https://other.test:99999/x"),
        redirect(f"https://{PAGE}"),
    ],
)
async def test_whatever_is_wrong_means_no_delegation(
    pages: Web, well_known: WellKnown, answer: HttpResponse
) -> None:
    pages.pages[PAGE] = answer
    assert await well_known.delegated("a.test") is None
    assert len(pages.asked) <= WELL_KNOWN_REDIRECTS_MAX + 1


async def test_redirects_are_followed_so_far(pages: Web, well_known: WellKnown) -> None:
    pages.pages[PAGE] = redirect("https://h1.test/x?y=z")
    for i in range(1, WELL_KNOWN_REDIRECTS_MAX):
        target = f"https://h{i + 1}.test/x?y=z"
        pages.pages[f"h{i}.test/x?y=z"] = redirect(target)
    pages.pages[f"h{WELL_KNOWN_REDIRECTS_MAX}.test/x?y=z"] = HttpResponse(200, {}, GOOD)
    assert await well_known.delegated("a.test") == "d.test:443"


async def test_failures_are_kept_longer_and_longer(
    pages: Web, clock: JumpingClock, well_known: WellKnown
) -> None:
    for _ in range(12):
        assert await well_known.delegated("a.test") is None
        assert await well_known.delegated("a.test") is None
        clock.jump(WELL_KNOWN_ERROR_S_MAX + 1)
    assert len(pages.asked) == 12
    pages.pages[PAGE] = HttpResponse(200, {}, GOOD)
    assert await well_known.delegated("a.test") == "d.test:443"
