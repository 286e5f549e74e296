"""Published keys: which documents count, how long, and which are kept."""

import copy
from typing import Any

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import SigningKey, sign_json, verify_json
from federation.limits import (
    KEY_DOCUMENTS_BYTES_MAX,
    KEY_DOCUMENTS_PER_SERVER_MAX,
    KEY_VALIDITY_MS_MAX,
    KEYS_PER_DOCUMENT_MAX,
    OWN_KEY_VALIDITY_MS,
)
from federation.ports import StoredServerKey
from federation.transport.requests.key_documents import (
    BadKeyDocument,
    KeyDocument,
    KeyDocuments,
    build_key_document,
    is_usable,
    parse_key_document,
    signer_ids,
)

A, B = ServerName("a.test"), ServerName("b.test")
NOW_MS = 1_700_000_000_000
NEW = SigningKey.generate(b"\1" * 32, "new")
OLD = SigningKey.generate(b"\2" * 32, "old")


def document_of(*signers: SigningKey, **changed: Any) -> JsonObject:
    """Returns a document of a.test with the key NEW, signed by these keys (NEW by default)."""
    document: JsonObject = {
        "server_name": A,
        "verify_keys": {NEW.key_id: {"key": NEW.verify_key.encoded}},
        "old_verify_keys": {},
        "valid_until_ts": NOW_MS + 1000,
        **changed,
    }
    for signer in signers or (NEW,):
        document = sign_json(document, A, signer)
    return document


def parse(document: object) -> list[StoredServerKey]:
    """Parses a document that was asked of a.test."""
    return parse_key_document(document, A, NOW_MS)


# Ours


def test_our_document_counts_with_others() -> None:
    """It is signed, lasts a day, and names the keys that we had before with their end."""
    before = StoredServerKey(A, OLD.key_id, OLD.verify_key.encoded, 0, NOW_MS - 5)
    document = build_key_document(A, NEW, [before], NOW_MS)
    verify_json(document, A, NEW.verify_key)
    until_ms = NOW_MS + OWN_KEY_VALIDITY_MS
    assert parse(document) == [
        StoredServerKey(A, NEW.key_id, NEW.verify_key.encoded, until_ms),
        StoredServerKey(A, OLD.key_id, OLD.verify_key.encoded, until_ms, NOW_MS - 5),
    ]
    assert signer_ids(document, A) == [NEW.key_id]


# Others'


@pytest.mark.parametrize("document", [None, 5, "text", [], {}, {"server_name": A}])
def test_what_isnt_a_document_is_refused(document: object) -> None:
    """Whatever a server answers."""
    with pytest.raises(BadKeyDocument):
        parse(document)


def test_another_servers_document_is_refused() -> None:
    """Well signed, but of a server that wasn't asked: its keys would count for this one."""
    document = build_key_document(B, NEW, [], NOW_MS)
    with pytest.raises(BadKeyDocument, match="not a document of this server"):
        parse(document)


@pytest.mark.parametrize("ts", [None, "1", 1.5, True, []])
def test_a_document_without_an_end_is_refused(ts: object) -> None:
    """A key can't be good for ever."""
    document = document_of()
    document["valid_until_ts"] = ts
    with pytest.raises(BadKeyDocument, match="valid_until_ts"):
        parse(document)


@pytest.mark.parametrize(
    ("until_ms", "kept_ms"),
    [
        (NOW_MS - 1, NOW_MS - 1),
        (NOW_MS + KEY_VALIDITY_MS_MAX, NOW_MS + KEY_VALIDITY_MS_MAX),
        (NOW_MS + KEY_VALIDITY_MS_MAX + 1, NOW_MS + KEY_VALIDITY_MS_MAX),
        (2**53 - 1, NOW_MS + KEY_VALIDITY_MS_MAX),
    ],
)
def test_a_document_lasts_a_week_at_most(until_ms: int, kept_ms: int) -> None:
    """2: a stolen key is good until it ends."""
    [key] = parse(document_of(valid_until_ts=until_ms))
    assert key.valid_until_ms == kept_ms


def test_a_document_must_be_signed_by_a_key_of_its_own() -> None:
    """1: neither unsigned, nor by a key that it doesn't publish, nor for another server."""
    document = document_of()
    wrong: list[Any] = [None, {}, [], {A: None}, {A: {}}, {B: document["signatures"][A]}]
    wrong.append({A: {"ed25519:gone": document["signatures"][A][NEW.key_id]}})
    for signatures in wrong:
        with pytest.raises(BadKeyDocument, match="not signed"):
            parse(document | {"signatures": signatures})
    with pytest.raises(BadKeyDocument, match="not signed"):
        parse(document_of(OLD))


def test_an_old_key_signs_no_document() -> None:
    """It has expired: who found it could publish new ones."""
    old = {OLD.key_id: {"key": OLD.verify_key.encoded, "expired_ts": 5}}
    with pytest.raises(BadKeyDocument, match="not signed"):
        parse(document_of(OLD, old_verify_keys=old))


def test_no_signature_of_its_keys_may_be_wrong() -> None:
    """1: one good one beside a bad one isn't enough."""
    keys = {key.key_id: {"key": key.verify_key.encoded} for key in (NEW, OLD)}
    document = document_of(NEW, OLD, verify_keys=keys)
    assert {key.key_id for key in parse(document)} == {NEW.key_id, OLD.key_id}
    wrong = copy.deepcopy(document)
    wrong["signatures"][A][OLD.key_id] = document["signatures"][A][NEW.key_id]
    with pytest.raises(BadKeyDocument):
        parse(wrong)
    one = copy.deepcopy(document)
    del one["signatures"][A][OLD.key_id]
    assert len(parse(one)) == 2


def test_a_changed_document_is_refused() -> None:
    """By whoever carried it."""
    with pytest.raises(BadKeyDocument):
        parse(document_of() | {"valid_until_ts": NOW_MS + 2000})


@pytest.mark.parametrize(
    "entry", [None, 5, "text", [], {}, {"key": None}, {"key": 5}, {"key": "short"}, {"key": "!"}]
)
def test_a_malformed_key_refuses_the_document(entry: object) -> None:
    """Of an algorithm that we know; of another one, nobody looks at it."""
    current = {NEW.key_id: {"key": NEW.verify_key.encoded}}
    for name in ("verify_keys", "old_verify_keys"):
        with pytest.raises(BadKeyDocument):
            parse(document_of(**{"verify_keys": current, name: current | {"ed25519:x": entry}}))
        other = document_of(**{"verify_keys": current, name: current | {"rsa:x": entry}})
        assert [key.key_id for key in parse(other)] == [NEW.key_id]


@pytest.mark.parametrize("keys", [None, [], "text", 5])
def test_keys_that_arent_an_object_refuse_the_document(keys: object) -> None:
    """Either kind."""
    for name in ("verify_keys", "old_verify_keys"):
        with pytest.raises(BadKeyDocument):
            parse(document_of(**{name: keys}))


def test_a_document_has_a_bounded_number_of_keys() -> None:
    """Each costs a verification, or a row."""
    entry = {"key": NEW.verify_key.encoded}
    keys = {NEW.key_id: entry} | {
        f"ed25519:k{number}": entry for number in range(KEYS_PER_DOCUMENT_MAX - 1)
    }
    assert len(parse(document_of(verify_keys=keys))) == KEYS_PER_DOCUMENT_MAX
    with pytest.raises(BadKeyDocument, match="too many"):
        parse(document_of(verify_keys=keys | {"ed25519:more": entry}))


@pytest.mark.parametrize("expired", [None, "5", []])
def test_an_old_key_without_its_end_is_left_out(expired: object) -> None:
    """4: nobody knows which events it is good for; the document counts."""
    old = {OLD.key_id: {"key": OLD.verify_key.encoded, "expired_ts": expired}}
    assert [key.key_id for key in parse(document_of(old_verify_keys=old))] == [NEW.key_id]


def test_a_key_that_is_current_and_old_is_current() -> None:
    """A key can't be used for requests once it is in the list of old ones alone."""
    old = {NEW.key_id: {"key": NEW.verify_key.encoded, "expired_ts": 5}}
    [key] = parse(document_of(old_verify_keys=old))
    assert key.expired_ms is None


def test_a_key_is_usable_until_its_end() -> None:
    """4: an expired one up to, and not including, the moment of its expiry."""
    current = StoredServerKey(A, NEW.key_id, "k", 100)
    assert is_usable(current, 100)
    assert not is_usable(current, 101)
    old = StoredServerKey(A, NEW.key_id, "k", 1000, 50)
    assert is_usable(old, 49)
    assert not is_usable(old, 50)


@pytest.mark.parametrize("signatures", [None, [], {}, {A: None}, {A: []}, {B: {"ed25519:k": "x"}}])
def test_a_document_without_signatures_names_no_signer(signatures: object) -> None:
    """Whatever its shape."""
    assert signer_ids({"signatures": signatures}, A) == []


# Keeping


def kept(server: str, *keys: str, size: int = 10, received_ms: int = 0) -> KeyDocument:
    """Returns a document for keeping."""
    key_ids = frozenset(KeyId(key) for key in keys)
    return KeyDocument(ServerName(server), {}, key_ids, received_ms, received_ms + 100, size)


def test_a_document_is_fresh_for_half_its_life() -> None:
    """Then a newer one is due."""
    document = kept("a.test", "k", received_ms=1000)
    assert document.is_fresh(1049)
    assert not document.is_fresh(1050)


def test_older_documents_are_kept_for_the_keys_that_newer_ones_lack() -> None:
    """3: an old event is verified by a key that its server has dropped since."""
    documents = KeyDocuments()
    first, second = kept("a.test", "one", "two"), kept("a.test", "two", "three")
    third = kept("a.test", "two", "three", received_ms=5)
    for document in (first, second, third):
        documents.add(document)
    assert documents.of(A) == (third, first)
    assert documents.of(B) == ()


def test_a_server_has_a_bounded_number_of_documents() -> None:
    """The newest."""
    documents = KeyDocuments()
    added = [kept("a.test", f"k{number}") for number in range(KEY_DOCUMENTS_PER_SERVER_MAX + 2)]
    for document in added:
        documents.add(document)
    assert documents.of(A) == tuple(reversed(added[2:]))


def test_all_servers_have_a_bounded_number_of_bytes() -> None:
    """The server that was asked for longest ago is forgotten; what is replaced is free again."""
    documents = KeyDocuments()
    half = KEY_DOCUMENTS_BYTES_MAX // 2
    for server in ("a.test", "b.test", "a.test"):
        documents.add(kept(server, "k", size=half))
    assert documents.of(B)
    assert documents.of(A)
    documents.add(kept("c.test", "k", size=1))
    assert documents.of(A)
    assert documents.of(B) == ()
    documents.add(kept("a.test", "k", size=1))
    documents.add(kept("b.test", "k", size=half))
    assert all(documents.of(ServerName(server)) for server in ("a.test", "b.test", "c.test"))
