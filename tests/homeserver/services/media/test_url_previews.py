"""Previews of a hostile web: kept for a while, fetched once, with pictures of this server."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.media.turns import TurnBounds, Turns
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.rules.media.mxc import Mxc, parse_mxc
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.media.url_previews import PreviewContext, UrlPreviews
from homeserver.services.media.web_pages import WebPages
from tests.homeserver.media.pictures import opened, picture
from tests.homeserver.media_world import ALICE, BOB, HERE, MediaWorld, refused
from tests.homeserver.outbound.hostile_web import (
    PRIVATE,
    HostileWeb,
    answer,
    endless,
    hostile_web,
    redirect,
    web_client,
)
from tests.homeserver.view_world import MANY, Views

PAGE = b"<meta property=og:title content=T><meta property=og:image content=/i.png>"


class Previewing:
    """Previews of a hostile web."""

    def __init__(self, views: Views, web: HostileWeb, previews: UrlPreviews) -> None:
        self.views, self.web, self.previews = views, web, previews

    @property
    def world(self) -> MediaWorld:
        """The media."""
        return self.views.world

    async def preview(self, path: str = "/", *, host: str = "127.0.0.1") -> dict[str, Any]:
        """The preview of a page."""
        found = orjson.loads(await self.previews.preview(ALICE, self.web.url(path, host)))
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def previewing(
    world: MediaWorld, bounds: TurnBounds = MANY, rate: Rate | None = None
) -> AsyncIterator[Previewing]:
    views = Views(world, MANY)
    async with hostile_web() as web, web_client(web) as client:
        numbers = iter(range(1_000, 2_000))
        previews = UrlPreviews(
            world.database,
            world.contents,
            WebPages(client, views.sandbox, web.policy()),
            settings=PreviewContext(HERE, web.policy(), needs_token=True),
            turns=Turns(bounds),
            limiter=RateLimiter(world.clock, {} if rate is None else {Limit.PREVIEWS: rate}),
            clock=world.clock,
            random_bytes=lambda count: next(numbers).to_bytes(count, "big"),
        )
        yield Previewing(views, web, previews)
    await views.sandbox.close()


async def test_a_page_has_a_preview_with_a_picture_of_this_server(world: MediaWorld) -> None:
    async with previewing(world) as one:
        data = picture("PNG", (40, 30))
        one.web.pages |= {"/": answer(PAGE), "/i.png": answer(data, "image/png")}
        found = await one.preview()
        mxc = parse_mxc(found.pop("og:image"))
        assert found == {
            "og:url": one.web.url("/"),
            "og:title": "T",
            "og:image:type": "image/png",
            "og:image:width": 40,
            "og:image:height": 30,
            "matrix:image:size": len(data),
        }
        item = await world.item(mxc)
        assert (item.uploader, item.needs_token, item.content_type) == (None, True, "image/png")
        assert opened(await world.read(mxc)).size == (40, 30)


async def test_a_preview_is_kept_for_a_while(world: MediaWorld) -> None:
    async with previewing(world) as one:
        one.web.pages["/"] = answer(b"<title>first</title>")
        assert (await one.preview())["og:title"] == "first"
        one.web.pages["/"] = answer(b"<title>second</title>")
        world.clock.at_ms += limits.PREVIEW_AGE_S * 1000 - 1
        assert (await one.preview("/#x"))["og:title"] == "first"
        world.clock.at_ms += 1
        assert (await one.preview())["og:title"] == "second"
        assert one.web.asked == ["/", "/"]


async def test_requests_at_one_time_are_one_fetch(world: MediaWorld) -> None:
    async with previewing(world) as one:
        one.web.pages["/"] = answer(b"<title>T</title>")
        found = await asyncio.gather(*(one.preview() for _ in range(10)))
        assert found == [{"og:url": one.web.url("/"), "og:title": "T"}] * 10
        assert one.web.asked == ["/"]


async def test_a_picture_has_a_preview_of_its_own(world: MediaWorld) -> None:
    async with previewing(world) as one:
        large = picture("PNG", (700, 700), "RGB", compress_level=0)
        assert len(large) > limits.PREVIEW_PAGE_BYTES
        one.web.pages |= {
            "/dir/a%20b.gif": answer(picture("GIF", (9, 8)), "image/gif"),
            "/large.png": answer(large, "image/png"),
        }
        found = await one.preview("/dir/a%20b.gif")
        assert (found["og:title"], found["og:image:width"]) == ("a b.gif", 9)
        assert (await one.preview("/large.png"))["matrix:image:size"] == len(large)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        redirect("http://127.0.0.2/"),
        redirect("/"),
        answer(b"%PDF", "application/pdf"),
        answer(b"not a picture", "image/png"),
        answer(b"<svg/>", "image/svg+xml"),
        answer(b"x", "text/html", "Content-Encoding: br"),
        b"HTTP/1.1 500 No\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_where_there_is_none_the_preview_is_empty(world: MediaWorld, page: bytes) -> None:
    """Spec: the data "may be empty". It is the same whatever went wrong, so that nobody learns
    what is in this server's network."""
    async with previewing(world) as one:
        one.web.pages["/"] = page
        assert await one.preview() == {}
        asked = len(one.web.asked)
        assert await one.preview() == {}
        assert len(one.web.asked) == asked, "it is remembered"
        one.web.pages["/"] = answer(b"<title>T</title>")
        world.clock.at_ms += limits.PREVIEW_FAILURE_AGE_S * 1000 + 1
        assert (await one.preview())["og:title"] == "T"


async def test_failures_are_remembered_in_a_bound(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PREVIEW_FAILURES", 1)
    async with previewing(world) as one:
        for path in ("/a", "/b", "/b", "/a"):
            assert await one.preview(path) == {}
        assert one.web.asked == ["/a", "/b", "/a"]


@pytest.mark.parametrize("host", [PRIVATE, "private.example", "[::1]", "[::ffff:127.0.0.2]"])
async def test_a_private_address_has_no_preview(world: MediaWorld, host: str) -> None:
    async with previewing(world) as one:
        one.web.names["private.example"] = [PRIVATE]
        one.web.pages["/"] = answer(b"<title>secret</title>")
        assert await one.preview(host=host) == {}
        assert one.web.asked == []


async def test_nothing_that_a_page_names_is_fetched_from_private_addresses(
    world: MediaWorld,
) -> None:
    async with previewing(world) as one:
        private = one.web.url("", PRIVATE)
        oembed = f"<link rel=alternate type=application/json+oembed href={private}/o.json>"
        for image in (f"{private}/i.png", "/away", "http://[::1]/i.png", "file:///i.png", "data:,"):
            one.web.asked.clear()
            page = f"<title>T</title><meta property=og:image content='{image}'>{oembed}"
            one.web.pages |= {
                f"/{image}": answer(page.encode()),
                "/away": redirect(f"{private}/i.png"),
                "/i.png": answer(picture("PNG"), "image/png"),
                "/o.json": answer(b'{"title":"secret"}', "application/json"),
            }
            found = await one.preview(f"/{image}")
            assert "og:image" not in found
            assert not {"/i.png", "/o.json"} & set(one.web.asked)
        base = f"<base href='{private}/'><title>T</title><meta property=og:image content=i.png>"
        one.web.pages["/base"] = answer(base.encode())
        assert await one.preview("/base") == {"og:url": one.web.url("/base"), "og:title": "T"}
        assert "/i.png" not in one.web.asked


async def test_an_oembed_answer_fills_in(world: MediaWorld) -> None:
    async with previewing(world) as one:
        link = (
            b"<title>T</title><link rel=alternate type=application/json+oembed href=/o?a=1&amp;b>"
        )
        embedded = {"provider_name": "Tube", "title": "other", "thumbnail_url": "/t.png"}
        one.web.pages |= {
            "/": answer(link),
            "/o?a=1&b": answer(orjson.dumps(embedded), "application/json"),
            "/t.png": answer(picture("PNG", (7, 7)), "image/png"),
        }
        found = await one.preview()
        assert (found["og:title"], found["og:site_name"]) == ("T", "Tube")
        assert found["og:image:width"] == 7


async def test_an_oembed_answer_is_bounded(world: MediaWorld) -> None:
    async with previewing(world) as one:
        link = b"<title>T</title><link rel=alternate type=application/json+oembed href=/o%d>"
        for spare, name in ((0, "Tube"), (1, None)):
            body = b'{"provider_name":"Tube"}'
            body += b" " * (limits.PREVIEW_OEMBED_BYTES - len(body) + spare)
            one.web.pages |= {
                f"/{spare}": answer(link % spare),
                f"/o{spare}": answer(body, "application/json"),
            }
            assert (await one.preview(f"/{spare}")).get("og:site_name") == name


async def test_a_picture_is_bounded(world: MediaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture("PNG", (50, 50))
    bounds = limits.PREVIEW_IMAGE_BYTES
    assert limits.PREVIEW_PAGE_BYTES < bounds < limits.THUMBNAIL_SOURCE_BYTES
    async with previewing(world) as one:
        for spare in (0, 1):
            body = data + b"\0" * (bounds - len(data) + spare)
            page = f"<title>T</title><meta property=og:image content=/{spare}.png>"
            one.web.pages |= {
                f"/{spare}": answer(page.encode()),
                f"/{spare}.png": answer(body, "image/png"),
            }
            assert ("og:image" in await one.preview(f"/{spare}")) is (spare == 0)


async def test_an_endless_page_and_a_bomb_are_cut(world: MediaWorld) -> None:
    async with previewing(world) as one:
        bomb = gzip.compress(b"<title>bomb</title>" + b" " * 30 * limits.PREVIEW_PAGE_BYTES)
        one.web.pages |= {
            "/endless": endless,
            "/bomb": answer(bomb, "text/html", "Content-Encoding: gzip"),
        }
        assert (await one.preview("/endless"))["og:title"] == "endless"
        assert (await one.preview("/bomb"))["og:title"] == "bomb"


async def test_the_charset_is_found(world: MediaWorld) -> None:
    async with previewing(world) as one:
        page = "<meta charset=koi8-r><title>Привет</title>".encode("koi8-r")
        wrong = "<title>Größe</title>".encode()
        one.web.pages |= {
            "/": answer(page),
            "/wrong": answer(wrong, "text/html; charset=nonsense"),
        }
        assert (await one.preview())["og:title"] == "Привет"
        assert (await one.preview("/wrong"))["og:title"] == "Größe"


async def test_hostile_markup_costs_a_preview(world: MediaWorld) -> None:
    async with previewing(world) as one:
        nested = b"<a><b>" * (limits.PREVIEW_PAGE_BYTES // 6)
        one.web.pages |= {"/": answer(nested), "/next": answer(b"<title>T</title>")}
        assert await one.preview() == {}
        assert (await one.preview("/next"))["og:title"] == "T"


@pytest.mark.parametrize(
    "text", ["", "x", "ftp://a.example/", "https://u:p@a.example/", "http://a.example:22/"]
)
async def test_what_is_not_fetched_is_refused(world: MediaWorld, text: str) -> None:
    async with previewing(world) as one:
        async with refused(400, "M_INVALID_PARAM"):
            await one.previews.preview(ALICE, text)
        assert one.web.lookups == []


async def test_fetches_draw_from_the_users_bucket(world: MediaWorld) -> None:
    async with previewing(world, rate=Rate(0.001, 2)) as one:
        for path in ("/1", "/2", "/1", "/2"):
            one.web.pages[path] = answer(b"<title>T</title>")
            assert await one.preview(path)
        async with refused(429, "M_LIMIT_EXCEEDED"):
            await one.preview("/3")
        assert await one.previews.preview(BOB, one.web.url("/3")) == b"{}"


async def test_a_full_queue_is_told(world: MediaWorld) -> None:
    async with previewing(world, TurnBounds(at_once=1, waiting=0, waiting_of_cause=0)) as one:
        one.web.pages["/"] = answer(b"<title>T</title>")
        async with one.previews._turns.turn():
            with pytest.raises(MatrixError) as refusal:
                await one.preview()
        assert refusal.value.errcode == "M_LIMIT_EXCEEDED"
        retry_after = str(limits.PREVIEWS_RETRY_AFTER_S + 1)
        assert refusal.value.headers == {"Retry-After": retry_after}
        assert (await one.preview())["og:title"] == "T"


async def test_old_previews_go_with_their_pictures(world: MediaWorld) -> None:
    async with previewing(world) as one:
        one.web.pages |= {
            "/": answer(PAGE),
            "/i.png": answer(picture("PNG", (5, 5)), "image/png"),
        }
        old = parse_mxc((await one.preview())["og:image"])
        world.clock.at_ms += limits.PREVIEW_AGE_S * 1000
        new = parse_mxc((await one.preview())["og:image"])
        await one.previews.prune()
        assert await is_there(world, old), "clients may show it still"
        world.clock.at_ms += (limits.PREVIEW_IMAGE_KEPT_S - limits.PREVIEW_AGE_S) * 1000 + 1
        await one.previews.prune()
        assert not await is_there(world, old)
        assert await is_there(world, new)
        world.clock.at_ms += limits.PREVIEW_IMAGE_KEPT_S * 1000
        await one.previews.prune()
        assert not await is_there(world, new)
        world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS
        await world.contents.delete_unreferenced()
        assert world.files == []


async def is_there(world: MediaWorld, mxc: Mxc) -> bool:
    return await world.media.load(mxc) is not None


async def test_many_new_pictures_are_looked_at_once(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture("PNG", (5, 5))
    monkeypatch.setattr(limits, "PREVIEW_PICTURES_UNPRUNED_BYTES", 2 * len(data) - 1)
    async with previewing(world) as one:
        one.web.pages |= {"/": answer(PAGE), "/i.png": answer(data, "image/png")}
        for due in (False, True):
            world.clock.at_ms += limits.PREVIEW_AGE_S * 1000
            await one.preview()
            assert await one.previews._is_due.wait(0) is due
        await one.previews.prune()
        world.clock.at_ms += limits.PREVIEW_AGE_S * 1000
        await one.preview()
        assert not await one.previews._is_due.wait(0), "counted anew"


async def test_pruning_is_repeated(world: MediaWorld) -> None:
    async with previewing(world) as one:
        before_ms, rounds = world.clock.at_ms, []

        async def prune() -> None:
            rounds.append(world.clock.at_ms)
            if len(rounds) == 3:
                raise asyncio.CancelledError

        one.previews.prune = prune  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await one.previews.run()
        step_ms = limits.PREVIEWS_PRUNE_S * 1000
        assert rounds == [before_ms, before_ms + step_ms, before_ms + 2 * step_ms]
