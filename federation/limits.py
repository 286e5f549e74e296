"""Every bound on what another server can make this server do.

Rules:
1. Each limit has its unit in its name and, where the specification sets it, the section.
2. The module that uses a limit describes the behaviour past it; tests cover both sides.
"""

from __future__ import annotations

# --- transport: requests that come in -----------------------------------------------------------
PDUS_PER_TRANSACTION_MAX = 50  # spec: server-server API, "Transactions"
EDUS_PER_TRANSACTION_MAX = 100  # spec: as above
TRANSACTION_BYTES_MAX = 10_000_000  # 50 PDUs of 64 KiB and 100 EDUs of 64 KiB fit
EVENT_REQUEST_BYTES_MAX = 400_000  # send_join, invite (with its stripped state) and the like
THIRD_PARTY_INVITE_BYTES_MAX = 100_000  # exchange_third_party_invite, 3pid/onbind
BOUND_INVITES_MAX = 50  # invites of one address that its owner is told of at once
QUERY_REQUEST_BYTES_MAX = 1_000_000  # keys/query, keys/claim, get_missing_events
HIERARCHY_REQUESTS_BURST = 200.0  # of one server, which loads a space and its rooms; then 429
HIERARCHY_REQUESTS_PER_S = 5.0
PUBLIC_ROOMS_REQUESTS_BURST = 50.0  # of one server, whose users page and search; then 429
PUBLIC_ROOMS_REQUESTS_PER_S = 2.0
PUBLIC_ROOMS_REQUEST_BYTES_MAX = 65_536  # a search: a term, and types of rooms
BODIES_BYTES_MAX = 100_000_000  # under way at once, of all; beyond it 503
BODIES_BYTES_PER_ADDRESS_MAX = 25_000_000  # of one network address: two whole transactions; 429
BODY_READ_S_MAX = 30.0  # a body that takes longer is refused with 408
UNAUTHENTICATED_REQUESTS_BURST = (
    500.0  # of one address, whose origin isn't authenticated, or not yet; then 429
)
UNAUTHENTICATED_REQUESTS_PER_S = 10.0  # each is a look-up of a key and perhaps a body
ORIGIN_REQUESTS_BURST = (
    2_000.0  # of one authenticated server; then 429. One that comes back after days
)
ORIGIN_REQUESTS_PER_S = 200.0  # sends transactions one by one, and asks for some gaps at once
AUTHORIZATION_HEADERS_MAX = 4  # X-Matrix headers that are looked at in one request
AUTHORIZATION_HEADER_BYTES_MAX = 4_096
QUERY_FIELDS_MAX = 1_000  # parameters of a query: `v` and the like are lists
INTEGER_DIGITS_MAX = 16  # of a number in a query: INTEGER_MAX has so many
BUSY_RETRY_AFTER_MS = 2_000  # told with the 429 of what is done in some milliseconds or seconds
BYTES_RETRY_AFTER_MS = 5_000  # told when a body has no space: the others are read by then
TRANSACTIONS_READ_AT_ONCE_MAX = 2  # of those too large, or too deep, to be read on the loop
TRANSACTION_ID_BYTES_MAX = 255
TRANSACTIONS_REMEMBERED_MAX = 4_096  # answers kept for repeats; a forgotten repeat is harmless
TRANSACTIONS_AT_ONCE_PER_ORIGIN_MAX = 4  # further ones get 429; a peer sends one at a time
EVENTS_BY_TIME_SERVED_MAX = 50  # next to a time, of which the first visible one is given
BACKFILL_EVENTS_SERVED_MAX = 100
MISSING_EVENTS_SERVED_MAX = 20
MISSING_EVENTS_SERVED_DEFAULT = 10  # spec: `limit` of get_missing_events
EVENT_IDS_PER_REQUEST_MAX = 100  # `v` of backfill, earliest and latest of get_missing_events
USERS_PER_KEYS_REQUEST_MAX = 2_000
DEVICES_PER_USER_REQUEST_MAX = 1_000
NOTARY_SERVERS_PER_REQUEST_MAX = 50
NOTARY_REQUEST_BYTES_MAX = 32_768  # of anybody, unsigned: 50 servers with some keys each
NOTARY_FETCHES_PER_REQUEST_MAX = 5  # further servers are left out, unless their keys are at hand
NOTARY_FETCHES_BURST = 20.0  # of one address; then 429
NOTARY_FETCHES_PER_S = 0.5
LEAVE_WAIT_S_MAX = 5.0  # of a client that refuses an invite; the room's servers are told later
JOINING_ATTEMPT_S_MAX = 120.0  # of an exchange that is finished or undone later
JOINING_AT_ONCE_MAX = 10  # of such attempts
JOINING_RETRY_S_MIN = 5.0  # doubles each time
JOINING_RETRY_S_MAX = 6 * 3_600.0
JOINING_ATTEMPTS_MAX = 40  # with the waits above about a week; then it is given up, with a warning
INVITE_ATTEMPTS_MAX = 10  # of ours that another server may have: with the waits above 85 minutes
STRIPPED_STATE_EVENTS_MAX = 100
INVITE_STATE_BYTES_MAX = 32_768  # kept of an invite's state; the rest is left out
INVITE_CREATE_FETCH_S_MAX = 5.0  # for a create event that an invite lacks; the inviter waits

# --- transport: waiting events ------------------------------------------------------------------
INBOX_WAITING_PER_ROOM_MAX = 2_000  # past it the origin gets 429 for the transaction, and retries
INBOX_WAITING_PER_ORIGIN_MAX = 5_000  # as above
INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX = 1_000  # as above: one origin doesn't fill a room's space
INBOX_WAITING_RESERVED = 100  # of each origin in each room, however much of others waits there
INBOX_LANES_PER_EVENT_MAX = 4  # servers that sent the same event, each asked for what it lacks
INBOX_ROOMS_AT_ONCE_PER_ORIGIN_MAX = 8  # in which what one origin sent is being decided
INBOX_ATTEMPTS_MAX = 40  # with the waits below: about a week; then the event is given up, logged
INBOX_RETRY_S_MIN = 2.0
INBOX_RETRY_S_MAX = 6 * 3_600.0
INBOX_FAILURES_MAX = 3  # of ours, in a row, on one event; then it waits, its lane goes on
INBOX_OTHER_LANE_S = 5.0  # until an event is looked at again that another lane is working on
INBOX_WAIT_S_MIN = 0.1  # of a lane, however soon the next event is due: it must not spin
INBOX_RETRY_AFTER_MS = 5_000  # told to an origin for which there is no space

# --- transport: filling gaps --------------------------------------------------------------------
GAP_EVENTS_MAX = 500  # events fetched between what is known and one received event
GAP_ROUNDS_MAX = 12  # get_missing_events requests for one received event
GAP_EVENTS_PER_ROUND = 50
GAP_STATES_MAX = 10  # states fetched for the events of one gap
MISSING_EVENTS_ENDS_MAX = 20  # events named at either end of a gap; the next round has others
STATE_EVENTS_MAX = 100_000  # of one state_ids answer, and of its auth chain
SINGLE_EVENT_FETCHES_MAX = 200  # /event requests for one need; past it /state is asked for at once
SINGLE_EVENT_FETCHES_AT_ONCE = 10
SERVERS_ASKED_MAX = 5  # for one need
SLOW_S_MIN = 60.0  # a slow server is skipped for so long, doubling up to:
SLOW_S_MAX = 600.0
SLOW_SERVERS_REMEMBERED_MAX = 10_000
MISSING_EVENTS_S_MAX = 30.0  # one get_missing_events request
SINGLE_EVENT_ROUNDS_MAX = 5  # of /event requests for the parents, or auth events, of what came
NEEDS_PER_EVENT_MAX = 50  # of one run of `admit`
AUTH_EVENTS_FETCHED_MAX = 20_000

# --- transport: answers of other servers --------------------------------------------------------
ANSWER_BYTES_MAX = 1_000_000  # answers that aren't named below
ERROR_ANSWER_BYTES_MAX = 65_536  # of any status but 200
EVENT_ANSWER_BYTES_MAX = 200_000
TRANSACTION_ANSWER_BYTES_MAX = 1_000_000
BACKFILL_ANSWER_BYTES_MAX = 50_000_000
BACKFILL_STATES_MAX = 5  # open ends of a backfill answer whose states are asked for
BACKFILL_AUTH_CHAINS_MAX = 5  # requests for the auth events that a backfill answer lacks
STATE_ANSWER_BYTES_MAX = 300_000_000
STATE_IDS_ANSWER_BYTES_MAX = 50_000_000
KEYS_ANSWER_BYTES_MAX = 10_000_000
PUBLIC_ROOMS_ANSWER_BYTES_MAX = 4_000_000  # a page of 1,000 rooms
HIERARCHY_ANSWER_BYTES_MAX = 4_000_000  # a space with 1,000 children, and their summaries
EXCHANGES_BYTES_MAX = 400_000_000  # sent and read, of all under way; then the largest is given up
EXCHANGES_BYTES_PER_SERVER_MAX = 310_000_000  # a room's state, and what goes on beside it
WRITTEN_AT_ONCE_BYTES_MAX = 2**18  # larger bodies are written in pieces
READ_AT_ONCE_BYTES_MAX = 65_536  # of an answer: so far at most it passes its bound
RETRY_AFTER_DIGITS_MAX = 8  # of a Retry-After in seconds: three years; a longer one is none
KEY_DOCUMENT_BYTES_MAX = 65_536
WELL_KNOWN_BYTES_MAX = 51_200
REQUEST_S_MAX = 30.0
TRANSACTION_S_MAX = 60.0
STATE_REQUEST_S_MAX = 120.0
JOIN_REQUEST_S_MAX = 180.0
CONNECT_S_MAX = 10.0
CONNECTIONS_MAX = 500
CONNECTIONS_PER_HOST_MAX = 8
IDLE_CONNECTION_S_MAX = 60.0
ADDRESSES_TRIED_MAX = 4

# --- transport: turns for requests that others make us send (`transport.scheduling`) -------------
# A request to a server that doesn't answer takes up to RESOLVE_S_MAX and its own time limit.
FETCHES_PER_SERVER_MAX = 6  # to one server; two more of its connections stay for what we deliver
FETCHES_PER_SERVER_AND_CAUSE_MAX = 4  # one cause leaves others a way to that server
FETCHES_RESERVED = 64  # for servers that share a room with us, when the shares below are used up
FETCHES_RESERVED_PER_CAUSE_MAX = 24
FETCHES_PER_ADDRESS_MAX = 8  # of an unauthenticated address: keys, above all
FETCHES_OF_ADDRESSES_MAX = 32
FETCHES_WAITING_PER_ADDRESS_MAX = 16  # past it, and past the wait: 429, the other side comes again
FETCHES_WAITING_OF_ADDRESSES_MAX = 256
FETCH_WAIT_OF_ADDRESS_S_MAX = 2.0
FETCHES_PER_ORIGIN_MAX = 12  # of an authenticated server: what its events lack
FETCHES_OF_ORIGINS_MAX = 64
FETCHES_WAITING_PER_ORIGIN_MAX = 200  # past it the event waits in the inbox, and is tried again
FETCHES_WAITING_OF_ORIGINS_MAX = 1_000
FETCH_WAIT_OF_ORIGIN_S_MAX = 30.0
FETCHES_PER_USER_MAX = 24  # of a user of ours: joins, profiles, keys, history
FETCHES_OF_USERS_MAX = 128
FETCHES_WAITING_PER_USER_MAX = 600  # the servers of one /keys/query; past it they count as down
FETCHES_WAITING_OF_USERS_MAX = 2_000
FETCH_WAIT_OF_USER_S_MAX = 20.0
FETCHES_OF_OWN_MAX = 32  # of this server itself
FETCHES_WAITING_OF_OWN_MAX = 1_000
FETCH_WAIT_OF_OWN_S_MAX = 60.0
DELIVERIES_UNCONFIRMED_AT_ONCE_MAX = 64  # to servers not heard from since they failed, or a start
NAME_LOOKUPS_AT_ONCE_MAX = 384  # threads that wait for the system's resolver: all of these at once
RATE_BUCKETS_MAX = 10_000

# --- transport: resolving -----------------------------------------------------------------------
WELL_KNOWN_REDIRECTS_MAX = 5
WELL_KNOWN_CACHE_S_DEFAULT = 24 * 3_600.0  # spec: "Resolving server names", 3
WELL_KNOWN_CACHE_S_MIN = 300.0
WELL_KNOWN_CACHE_S_MAX = 48 * 3_600.0  # spec: as above
WELL_KNOWN_ERROR_S_MIN = 60.0
WELL_KNOWN_ERROR_S_MAX = 3_600.0  # spec: "errors are recommended to be cached for up to an hour"
WELL_KNOWN_S_MAX = 10.0
RESOLVE_S_MAX = 25.0  # of a name, in all: .well-known and then addresses, each slow
ADDRESS_CACHE_S = 60.0
DNS_S_MAX = 10.0
SRV_RECORDS_MAX = 8
RESOLVE_CACHE_ENTRIES_MAX = 10_000
SRV_CACHE_S_MIN = 30.0  # of SRV records, whatever time to live they have
SRV_CACHE_S_MAX = 24 * 3_600.0

# --- transport: keys ----------------------------------------------------------------------------
KEY_VALIDITY_MS_MAX = 7 * 24 * 3_600_000  # spec: "Publishing keys", valid_until_ts
OWN_KEY_VALIDITY_MS = 24 * 3_600_000
KEYS_PER_DOCUMENT_MAX = 100
KEYS_CACHED_MAX = 50_000
KEY_DOCUMENTS_PER_SERVER_MAX = 4  # the newest, and older ones for keys that it lacks
KEY_DOCUMENTS_BYTES_MAX = 16_000_000  # of all servers
KEY_REFETCH_S_MIN = 10.0  # one server's document isn't fetched more often
KEY_RETRY_S_MIN = 2.0  # the wait after a failure; it doubles with each in a row
KEY_RETRY_S_MAX = 600.0
KEY_FAILURES_REMEMBERED_MAX = 10_000
KEY_REQUEST_S_MAX = 10.0
KEY_FETCHES_PER_ADDRESS_BURST = 100.0  # that an unauthenticated address causes; then 429
KEY_FETCHES_PER_ADDRESS_PER_S = 1.0
KEYS_STORED_PER_DOCUMENT_MAX = 20  # current ones first; others are fetched again when needed
KEY_SERVER_RETRY_S = 60.0  # a trusted key server isn't asked for the same key more often
NOTARY_REQUESTS_PER_ANSWER_MAX = 20  # for keys of a state's events, 50 servers each; 1,000 in all
NOTARY_SIGNERS_TRIED_MAX = 4  # keys of a notary tried on one document: it signs with its current
KEY_FETCHES_AT_ONCE_MAX = 20  # of one look-up of many keys; each takes a turn of its cause
UNVERIFIED_BYTES_MAX = 32_000_000  # signed bytes kept of one answer until they are verified
KEPT_CONTAINERS_MAX = 250_000  # arrays and objects in the events of one long answer, some 60 MB
KEPT_CONTAINERS_PER_EVENT = 20  # that many more for each: a member event has 8, in version 1 15
EVENTS_PER_BATCH = 100  # one job of the thread pool; fewer are worked on at once, on the loop

# --- transport: back-off and the outbox ---------------------------------------------------------
BACKOFF_S_MIN = 1.0
BACKOFF_S_MAX = 3_600.0
BACKOFF_RETRY_AFTER_S_MAX = 3_600.0  # of a peer's Retry-After
BACKOFFS_REMEMBERED_MAX = 50_000
OUTBOX_SAVE_S = 1.0  # a cursor is saved at most this often
OUTBOX_IDLE_S = 60.0  # a destination's task ends after so long without work
OUTBOX_CATCH_UP_AFTER_S = 3_600.0  # after a longer outage: the latest event of each room only
OUTBOX_PENDING_KEPT_MS_MAX = 60_000  # of back-off; then pending data is read from the feed again

# --- transport: media ---------------------------------------------------------------------------
MULTIPART_BOUNDARY_CHARACTERS_MAX = 70  # RFC 2046, 5.1.1
MULTIPART_HEADERS_BYTES_MAX = 16_384  # of one part, and of blanks behind a boundary
MULTIPART_IGNORED_BYTES_MAX = 4_096  # before the first part and behind the last one
MEDIA_METADATA_BYTES_MAX = 16_384  # of the part before the media: `{}`
MEDIA_ENVELOPE_BYTES_MAX = 65_536  # of an answer with media, besides these: all of the above
MEDIA_REQUEST_S_MAX = 600.0  # of one request for media, to its last byte
MEDIA_IDLE_S_MAX = 20.0  # of that, without a byte
MEDIA_FETCHED_BYTES_PER_S_MIN = 8_000.0  # of an answer with media, over its whole length
MEDIA_FETCHED_PATIENCE_S_MAX = 60.0  # how far it may be behind that
MEDIA_SERVED_WAIT_MS_DEFAULT = 20_000  # spec: "Content Repository", timeout_ms
MEDIA_SERVED_WAIT_MS_MAX = 60_000  # for an upload that isn't there yet; a longer wait ends then
MEDIA_SENT_PIECE_S_MAX = 30.0  # of a server that takes one piece of ours; then it is broken off
MEDIA_SENT_BYTES_PER_S_MIN = 32_000.0  # over the whole: to hold all places takes 10 MB a second
MEDIA_SENT_PATIENCE_S_MAX = 60.0  # how far a server may be behind that
MEDIA_SENT_S_MAX = 3_600.0  # of the whole
MEDIA_SENT_BYTES = 300_000  # held for one that is being sent: a piece, and what the socket has
MEDIA_SENT_BYTES_PER_ORIGIN_MAX = 9_600_000  # of these, for 32 at once; then 429
MEDIA_SENT_BYTES_MAX = 96_000_000  # of all servers; then 503
MEDIA_WAITS_PER_ORIGIN_MAX = 16  # requests for media that are still to come; then answered at once
MEDIA_WAITS_MAX = 200  # of these, of all servers
MEDIA_BYTES_PER_ORIGIN_BURST = 2_000_000_000.0  # that one server may fetch at once; then 429
MEDIA_BYTES_PER_ORIGIN_PER_S = 10_000_000.0
MEDIA_BACKOFF_S_MAX = 600.0  # a server that can't give media is left alone for so long at most

# --- transport: access lists -------------------------------------------------------------------
ACL_DECISIONS_KEPT_MAX = 20_000  # of a room's list on a server; a forgotten one is made again

# --- texts of others ------------------------------------------------------------------------------
ERROR_CHARACTERS_MAX = 500  # of an error of another server that is kept, passed on or logged
FAILURE_CHARACTERS_MAX = 300  # of the status, code and text of one failed request, likewise
QUOTED_CHARACTERS_MAX = 40  # of a value that the reason of a refusal repeats: versions, numbers
QUOTED_ID_CHARACTERS_MAX = 80  # of an identifier that it repeats
HOST_CHARACTERS_MAX = 253  # of a name that can be reached: DNS has none that is longer

# --- transport: EDUs (larger ones are ignored, one by one) --------------------------------------
RECEIPTS_PER_EDU_MAX = 2_000
TO_DEVICE_MESSAGES_PER_EDU_MAX = 2_000
TO_DEVICE_MESSAGE_ID_BYTES_MAX = 128  # spec: 32 code points
PRESENCE_UPDATES_PER_EDU_MAX = 1_000
PRESENCE_STATUS_CHARACTERS_MAX = 1_000  # of one update; it is ignored then
PRESENCE_AGO_MS_MAX = 2**53 - 1  # spec: canonical JSON's integers
IDENTIFIER_BYTES_MAX = 255

# --- transport: exchanges ----------------------------------------------------------------------
JOIN_SERVERS_TRIED_MAX = 10
SERVERS_LOGGED_MAX = 10  # servers that one line of the log names
JOIN_STATE_EVENTS_MAX = 500_000
SERVERS_IN_ROOM_MAX = 100_000

# --- transport: policy servers ------------------------------------------------------------------
POLICY_REQUEST_S_MAX = 10.0  # of one signature, once it is its turn
POLICY_ANSWER_BYTES_MAX = 65_536
POLICY_PAUSE_S_MIN = 1.0  # after a failure, doubling; a longer Retry-After counts
POLICY_PAUSE_S_MAX = 30.0  # so late our users notice at most that it is back
POLICY_PAUSES_REMEMBERED_MAX = 1_000  # a forgotten one costs one more try
POLICY_ANSWERS_REMEMBERED_MAX = 10_000
POLICY_ANSWER_REMEMBERED_S = 3_600.0  # its answer on one event
POLICY_HOLD_S_MAX = 60.0  # an event waits so long for a policy server that can't be asked
POLICY_HELD_MAX = 10_000  # past it the wait of the longest held begins anew

# --- JSON -----------------------------------------------------------------------------------------
NESTING_MAX = 100  # of all JSON but single PDUs: no document of the spec has more than 10 levels
PARSED_AT_ONCE_BYTES_MAX = 32_768  # on the loop: at worst some 5 ms; more is parsed in a thread
VERIFIED_AT_ONCE_BYTES_MAX = 131_072  # likewise, a signature: under 1 ms
SPELLED_PIECES_MAX = 5_000  # of a request not in canonical JSON: members, and entries of each
SPELLED_CONTAINERS_MAX = 100_000  # arrays and objects of these: 50 events and 100 EDUs have 5,000
SPELLED_AT_ONCE_PER_ADDRESS_MAX = 4  # of these that wait for the one thread, or are in it; then 429
SPELLED_DEEP_BYTES_MAX = 1_000_000  # of these, nested beyond NESTING_MAX: some 0.8 s in a thread
PIECE_BYTES_MAX = 2_000_000  # one value in a long text: an EDU with many to-device messages
JSON_PART_BYTES = 65_536  # of a text, scanned at a time: what is made of a part stays small
PDU_TEXT_BYTES_MAX = 262_144  # EVENT_BYTES_MAX, with its `unsigned`, and with characters escaped
EVENT_CONTAINERS_MAX = 32_768  # arrays and objects: an event of 65,536 bytes can't have more
DOCUMENT_CONTAINERS_MAX = 20_000  # of a request or an EDU: 2,000 to-device messages have 10,000
ANSWER_CONTAINERS_MAX = 100_000  # of an answer that is read whole: some 25 ms; 10,000 devices
ANSWER_DEEP_BYTES_MAX = 4_000_000  # of the events in one answer, nested beyond NESTING_MAX
ANSWER_PART_BYTES = 262_144  # of a long answer, read at a time
ENTRIES_PASSED_OVER_MAX = 1_000  # of a list beyond what was asked for; members of an answer
DEEP_TEXT_BYTES_MAX = 131_072  # of a PDU nested beyond NESTING_MAX: it takes the slow parser

# --- events (spec: client-server API, "Size limits"; the room versions' event formats) ----------
INTEGER_MAX = 2**53 - 1  # appendices, "Canonical JSON"
EVENT_BYTES_MAX = 65_536  # canonical JSON with signatures, without `unsigned`
PREV_EVENTS_MAX = 20
AUTH_EVENTS_MAX = 10
EVENT_DEPTH_MAX = 2**53 - 1  # room version 6
EVENT_DEPTH_MAX_LENIENT = 2**63 - 1  # room versions 1 to 5
EVENT_TIME_MS_MAX = 2**63 - 1  # PDU schemas: `origin_server_ts` is an int64
EVENT_TIME_MS_MIN = -(2**63)

# --- state resolution ---------------------------------------------------------------------------
AUTH_CHAIN_LINES_MAX = 128  # an auth chain over more lines isn't kept as a compact set, but walked
AUTH_CHAINS_BYTES_MAX = 16_000_000  # of compact sets kept of one room; past it they are made anew

ARRIVAL_WAIT_S_MAX = 20
"""The wait of a transaction for a local join to a room that it has events of; then its sender is
asked to retry."""
