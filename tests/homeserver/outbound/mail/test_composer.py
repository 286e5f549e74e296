"""Mails as they are written: templates, headers, and what can't get into them."""

from __future__ import annotations

from email import message_from_bytes, policy
from pathlib import Path

import jinja2
import pytest

from homeserver import limits
from homeserver.outbound.mail import composer
from homeserver.outbound.mail.composer import MailComposer, one_line, parse_mailbox
from homeserver.rules.identity.email_addresses import InvalidEmail
from tests.homeserver.outbound.mail.test_sender import StillClock

VALUES = {
    "link": "https://hs1/x",
    "hours": 24,
    "user_id": "@anna:hs1",
    "rooms": [
        {"name": "A room", "more": 1, "lines": [{"sender": "Ben", "text": "hello"}], "link": "l"}
    ],
    "unsubscribe": "https://hs1/end",
}
TEMPLATES = Path(composer.__file__).parent / "templates"


def make_composer(folder: Path | None = None, sender: str = "hs1 <noreply@hs1>") -> MailComposer:
    return MailComposer(parse_mailbox(sender), folder, StillClock(), bytes, server_name="hs1")


def names() -> list[str]:
    return sorted(path.name.removesuffix(".subject.txt") for path in TEMPLATES.glob("*.subject.*"))


@pytest.mark.parametrize("name", names())
def test_every_template_makes_a_mail(name: str) -> None:
    mail = make_composer().compose("anna@example.org", name, VALUES)
    parsed = message_from_bytes(bytes(mail.message), policy=policy.default)
    assert parsed["To"] == "anna@example.org"
    assert parsed["From"] == "hs1 <noreply@hs1>"
    assert parsed["Date"].endswith("+0000")
    assert parsed["Message-ID"] == f"<{bytes(16).hex()}@hs1>"
    assert [part.get_content_type() for part in parsed.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]


def test_what_a_user_chose_adds_no_header(tmp_path: Path) -> None:
    (tmp_path / "confirm_address.subject.txt").write_text("For {{ name }}")
    values = {**VALUES, "name": "x\r\nBcc: all@example.org\r\n\r\nbody\x00\u2028y"}
    mail = make_composer(tmp_path).compose("anna@example.org", "confirm_address", values)
    parsed = message_from_bytes(bytes(mail.message), policy=policy.default)
    assert parsed["Bcc"] is None
    assert parsed["Subject"] == "For x Bcc: all@example.org body y"


def test_a_further_header_is_one_line() -> None:
    mail = make_composer().compose(
        "anna@example.org",
        "confirm_address",
        VALUES,
        headers={"List-Unsubscribe": "<https://hs1/u>\r\nX-Other: 1"},
    )
    parsed = message_from_bytes(bytes(mail.message), policy=policy.default)
    assert (parsed["List-Unsubscribe"], parsed["X-Other"]) == ("<https://hs1/u> X-Other: 1", None)


def test_a_value_is_escaped_in_html_and_not_in_plain_text(tmp_path: Path) -> None:
    for kind in ("txt", "html"):
        (tmp_path / f"confirm_address.{kind}").write_text("{{ name }}")
    mail = make_composer(tmp_path).compose(
        "anna@example.org", "confirm_address", {**VALUES, "name": "<b>&"}
    )
    plain, html = mail.message.get_body(("plain",)), mail.message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().strip() == "<b>&"
    assert html.get_content().strip() == "&lt;b&gt;&amp;"


def test_the_operators_templates_stand_for_ours_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "confirm_address.txt").write_text("Mine: {{ link }} {{ server_name }}")
    mail = make_composer(tmp_path).compose("anna@example.org", "confirm_address", VALUES)
    plain = mail.message.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().strip() == "Mine: https://hs1/x hs1"
    assert mail.message["Subject"] == "Confirm your e-mail address for hs1"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        make_composer().compose("anna@example.org", "confirm_address", {})


@pytest.mark.parametrize("over", [0, 1])
def test_a_subject_has_an_end(tmp_path: Path, over: int) -> None:
    (tmp_path / "confirm_address.subject.txt").write_text("{{ name }}")
    name = "x" * (limits.MAIL_SUBJECT_CHARACTERS + over)
    mail = make_composer(tmp_path).compose(
        "anna@example.org", "confirm_address", {**VALUES, "name": name}
    )
    assert mail.message["Subject"] == "x" * limits.MAIL_SUBJECT_CHARACTERS


def test_a_domain_in_another_script_goes_out_in_ascii() -> None:
    mail = make_composer().compose("anna@bücher.example", "confirm_address", VALUES)
    assert mail.recipient == "anna@xn--bcher-kva.example"
    assert "anna@xn--bcher-kva.example" in str(mail.message["To"])


@pytest.mark.parametrize("text", ["", "Name", "Name <>", "a b@x", "Name <a@b>, c@d"])
def test_a_sender_needs_an_address(text: str) -> None:
    with pytest.raises(InvalidEmail):
        parse_mailbox(text)


def test_a_line_keeps_its_words() -> None:
    assert one_line("a\r\n b\t\u0085c\u202ed") == "a b c d"
