"""Pages for browsers: what can't get into them, and what their headers allow."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from re import findall

import jinja2
import pytest

from homeserver.web.pages import AUTH_DONE, STYLE, Page, Pages

HOSTILE = "\"'><script>alert(1)</script>{{ 7*7 }}</title>"


class Tags(HTMLParser):
    """Notes the elements of a page."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page.html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], "no inline handlers"


def hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@pytest.fixture
def pages() -> Pages:
    return Pages("hs1")


def test_what_a_user_chose_is_no_markup(pages: Pages) -> None:
    page = pages.render("message", title=HOSTILE, text=HOSTILE, link=f"https://x/{HOSTILE}")
    assert "script" not in Tags(page).tags
    confirm = pages.render("confirm_email", address=HOSTILE, sid=HOSTILE, token=HOSTILE)
    assert "script" not in Tags(confirm).tags


def test_a_page_has_no_script_unless_it_is_ours(pages: Pages) -> None:
    plain = pages.render("message", title="a", text="b", link=None)
    assert "script-src" not in plain.headers["Content-Security-Policy"]
    done = pages.render("message", script=AUTH_DONE, title="a", text="b", link=None)
    assert f"script-src {hash_of(AUTH_DONE)};" in done.headers["Content-Security-Policy"] + ";"
    (script,) = findall(r"<script>(.*?)</script>", done.html.decode())
    assert script == AUTH_DONE


def test_the_style_is_the_one_that_the_header_allows(pages: Pages) -> None:
    page = pages.render("message", title="a", text="b", link=None)
    (style,) = findall(r"<style>(.*?)</style>", page.html.decode())
    assert style == STYLE
    assert f"style-src {hash_of(STYLE)};" in page.headers["Content-Security-Policy"]


def test_no_page_is_kept_framed_or_named_to_the_next_site(pages: Pages) -> None:
    headers = pages.render("message", title="a", text="b", link=None).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_scripts_of_another_origin_are_named(pages: Pages) -> None:
    page = pages.render(
        "message", script_sources=["https://captcha.example"], title="a", text="b", link=None
    )
    policy = page.headers["Content-Security-Policy"]
    assert "script-src https://captcha.example" in policy
    assert "frame-src https://captcha.example" in policy


def test_a_missing_value_is_an_error(pages: Pages) -> None:
    with pytest.raises(jinja2.UndefinedError):
        pages.render("message", title="a")
