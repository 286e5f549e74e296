"""What servers of this kind were attacked with: published advisories, and attacks of our own.

Each row names the class of attack it stands for and the test that makes the attack on this server.
`test_advisories.py` holds that each test is there and runs in every test run.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Attack(Enum):
    """What an attack is after."""

    FORGERY = "events, receipts or keys in another's name"
    POWER = "doing in a room what the rules don't allow"
    DIVERGENCE = "servers that disagree about a room"
    DISCLOSURE = "reading what isn't one's own"
    SIGNING = "this server's signature or request under what the attacker wrote"
    EXHAUSTION = "time, memory or storage out of proportion to what was sent"
    OUTAGE = "a part of the server that stops for others"
    ACCOUNT = "another's account, or what outlives a log-out"


class Row(NamedTuple):
    """One attack: a published identifier or a name of our own, its class, what is done, and the
    test as `path::function` below `tests/`."""

    name: str
    attack: Attack
    what: str
    test: str


PEERS = "hostile/peers"
CLIENTS = "hostile/clients"
GRAPH = "federation/graph"
TRANSPORT = "federation/transport"

ROWS: tuple[Row, ...] = (
    # --- published ------------------------------------------------------------------------------
    Row(
        "CVE-2018-12291",
        Attack.DISCLOSURE,
        "missing events are asked for that the asker may not see",
        f"{PEERS}/test_rights.py::test_history_from_before_it_came_is_hidden",
    ),
    Row(
        "CVE-2018-12423",
        Attack.POWER,
        "a room without power levels is taken over",
        f"{PEERS}/test_pdus.py::test_events_with_false_claims_of_rights",
    ),
    Row(
        "CVE-2018-16515",
        Attack.FORGERY,
        "events of other servers' users in a transaction of one's own",
        f"{PEERS}/test_pdus.py::test_events_of_users_of_other_servers",
    ),
    Row(
        "CVE-2019-18835",
        Attack.FORGERY,
        "unsigned events by way of send_join",
        f"{PEERS}/test_pdus.py::test_send_join_of_false_events",
    ),
    Row(
        "CVE-2020-26257",
        Attack.OUTAGE,
        "an event of one room in an exchange of another",
        f"{TRANSPORT}/joining/test_joining.py::test_a_signed_join_that_is_not_one_is_refused",
    ),
    Row(
        "CVE-2020-26890",
        Attack.OUTAGE,
        "numbers that JSON doesn't have, which other servers then refuse",
        f"{CLIENTS}/test_event_limits.py::test_numbers_outside_of_canonical_json_are_refused",
    ),
    Row(
        "CVE-2021-21273",
        Attack.SIGNING,
        "requests of this server to addresses of its own network",
        f"{TRANSPORT}/requests/test_dialer.py::test_private_addresses_are_refused_without_permission",
    ),
    Row(
        "CVE-2021-21274",
        Attack.EXHAUSTION,
        "a .well-known file that never ends",
        f"{TRANSPORT}/requests/test_well_known.py::test_whatever_is_wrong_means_no_delegation",
    ),
    Row(
        "CVE-2021-21392",
        Attack.SIGNING,
        "private addresses in transitional forms of IPv6",
        "federation/test_public_addresses.py::test_which_addresses_need_permission",
    ),
    Row(
        "CVE-2021-29430",
        Attack.EXHAUSTION,
        "a .well-known file that redirects for ever",
        f"{TRANSPORT}/requests/test_well_known.py::test_redirects_are_followed_so_far",
    ),
    Row(
        "CVE-2021-29471",
        Attack.EXHAUSTION,
        "patterns whose matching takes exponential time",
        f"{TRANSPORT}/test_acl.py::test_a_hostile_glob_costs_no_exponential_time",
    ),
    Row(
        "CVE-2021-39163",
        Attack.DISCLOSURE,
        "whether a private room exists, and its name",
        f"{CLIENTS}/test_reading.py::test_unknown_rooms_and_rooms_of_others_look_the_same",
    ),
    Row(
        "CVE-2022-31152",
        Attack.DIVERGENCE,
        "events that the rules of authorisation refuse and a server takes",
        f"{GRAPH}/test_admission.py::test_an_event_with_a_wrong_selection_is_rejected",
    ),
    Row(
        "CVE-2022-39200",
        Attack.FORGERY,
        "forged events among the state that a join is answered with",
        f"{PEERS}/test_joining.py::test_forged_state_is_left_out_of_a_room",
    ),
    Row(
        "CVE-2022-39335",
        Attack.DISCLOSURE,
        "the auth chain of a room that one isn't in",
        f"{PEERS}/test_rights.py::test_rooms_that_it_is_not_in_give_nothing",
    ),
    Row(
        "CVE-2022-39374",
        Attack.DIVERGENCE,
        "rejected events come back as state",
        f"{GRAPH}/resolution/test_state_resolution.py::test_a_rejected_auth_event_lends_no_power",
    ),
    Row(
        "CVE-2023-32682",
        Attack.ACCOUNT,
        "a log-in to an account that was ended",
        "homeserver/api/accounts/test_accounts.py::test_a_deactivated_account_is_gone_and_its_name_isnt_free",
    ),
    Row(
        "CVE-2023-42453",
        Attack.FORGERY,
        "receipts of other servers' users",
        f"{PEERS}/test_edus.py::test_receipts_of_its_own_joined_users_alone",
    ),
    Row(
        "CVE-2023-43796",
        Attack.DISCLOSURE,
        "devices of users with whom no room is shared",
        f"{PEERS}/test_rights.py::test_keys_and_devices_of_users_that_share_no_room",
    ),
    Row(
        "CVE-2023-45129",
        Attack.EXHAUSTION,
        "an access control list that is dear to match",
        f"{PEERS}/test_advisories.py::test_a_dear_acl_costs_its_size",
    ),
    Row(
        "CVE-2024-31208",
        Attack.EXHAUSTION,
        "forks that make state resolution dear",
        f"{PEERS}/test_pdus.py::test_extremities_that_differ_in_state_all_count",
    ),
    Row(
        "CVE-2024-52815",
        Attack.OUTAGE,
        "an invite that breaks the invited user's sync",
        f"{PEERS}/test_joining.py::test_hostile_stripped_state",
    ),
    Row(
        "CVE-2024-6300",
        Attack.DISCLOSURE,
        "what was redacted stays in storage",
        "homeserver/engine/rooms/test_redactions.py::test_a_redaction_that_comes_as_history_is_applied",
    ),
    Row(
        "CVE-2024-6301",
        Attack.FORGERY,
        "ephemeral events and device messages in another server's name",
        f"{PEERS}/test_edus.py::test_messages_to_devices_in_its_own_name_alone",
    ),
    Row(
        "CVE-2025-30355",
        Attack.OUTAGE,
        "an event after which a room's traffic stops",
        f"{PEERS}/test_advisories.py::test_extreme_depths_end_neither_traffic_nor_paging",
    ),
    Row(
        "CVE-2026-24471",
        Attack.SIGNING,
        "a template that makes this server sign something else",
        f"{PEERS}/test_joining.py::test_our_server_does_not_sign_what_it_did_not_ask_for",
    ),
    Row(
        "CVE-2026-45076",
        Attack.OUTAGE,
        "events that end paging through a room's history early",
        f"{PEERS}/test_advisories.py::test_extreme_depths_end_neither_traffic_nor_paging",
    ),
    # --- our own ----------------------------------------------------------------------------------
    Row(
        "unproven-body",
        Attack.EXHAUSTION,
        "ten megabytes of nested JSON without any key",
        f"{PEERS}/test_parsing.py::test_a_request_that_shows_no_key_costs_next_to_nothing_whatever_its_body",
    ),
    Row(
        "forged-body",
        Attack.EXHAUSTION,
        "a dear body under a known server's name",
        f"{PEERS}/test_parsing.py::test_a_forged_signature_costs_the_loop_little_whatever_it_covers",
    ),
    Row(
        "invented-origins",
        Attack.OUTAGE,
        "hundreds of origins whose keys can't be had",
        f"{PEERS}/test_fetching.py::test_invented_origins_do_not_delay_an_honest_peer",
    ),
    Row(
        "multiplied-fetches",
        Attack.EXHAUSTION,
        "one question for keys that makes many requests",
        f"{PEERS}/test_fetching.py::test_a_key_query_makes_a_bounded_number_of_fetches",
    ),
    Row(
        "lured-join",
        Attack.EXHAUSTION,
        "answers to a join that are none",
        f"{PEERS}/test_joining.py::test_answers_to_send_join_that_are_none",
    ),
    Row(
        "own-voucher",
        Attack.DIVERGENCE,
        "a member event that names another server's user as its voucher",
        f"{PEERS}/test_own_member_events.py::test_a_client_does_not_say_who_vouches",
    ),
    Row(
        "false-voucher",
        Attack.SIGNING,
        "a join to a restricted room that names a voucher of this server",
        f"{PEERS}/test_restricted_rooms.py::test_a_join_with_a_made_up_voucher_is_not_signed",
    ),
    Row(
        "whole-after-redaction",
        Attack.DISCLOSURE,
        "private events in which a redaction changes nothing",
        f"{PEERS}/test_rights.py::test_events_that_redaction_leaves_whole_are_as_private_as_messages",
    ),
    Row(
        "event-of-another-room",
        Attack.DISCLOSURE,
        "an event's ID in the path of another room",
        f"{PEERS}/test_rights.py::test_events_of_its_room_do_not_open_others",
    ),
    Row(
        "backdated-event",
        Attack.POWER,
        "an event on parents from before the sender's ban",
        f"{PEERS}/test_pdus.py::test_a_backdated_event_after_a_ban_is_never_visible",
    ),
    Row(
        "flood-of-heads",
        Attack.EXHAUSTION,
        "hundreds of events on one old parent",
        f"{PEERS}/test_pdus.py::test_a_flood_of_extremities_is_merged",
    ),
    Row(
        "nul",
        Attack.DIVERGENCE,
        "characters that a database can't hold",
        f"{PEERS}/test_pdus.py::test_nul_does_not_split_the_room",
    ),
    Row(
        "changed-after-signing",
        Attack.FORGERY,
        "content that isn't what was signed",
        f"{PEERS}/test_pdus.py::test_content_changed_after_signing_is_redacted",
    ),
    Row(
        "false-destination",
        Attack.FORGERY,
        "a request that was signed for another server",
        f"{PEERS}/test_pdus.py::test_requests_of_false_origin_or_destination",
    ),
    Row(
        "hidden-ban",
        Attack.POWER,
        "a join by way of a server that hides the ban",
        f"{PEERS}/test_joining.py::test_a_banned_user_is_not_let_in_by_a_lie",
    ),
    Row(
        "denied-server",
        Attack.POWER,
        "a server that the room's access control list denies",
        f"{PEERS}/test_rights.py::test_a_server_that_the_room_denies_is_shut_out",
    ),
    Row(
        "strangers-redaction",
        Attack.POWER,
        "a redaction by a user who may not redact",
        "homeserver/services/timeline/test_redactions.py::test_a_redaction_by_who_may_not_redact_is_not_told",
    ),
    Row(
        "message-as-state",
        Attack.POWER,
        "a message whose body claims to be state",
        f"{CLIENTS}/test_event_limits.py::test_a_message_event_can_not_pose_as_state",
    ),
    Row(
        "half-a-request",
        Attack.OUTAGE,
        "requests that never end",
        f"{CLIENTS}/test_framing.py::test_a_request_that_never_ends_is_given_up",
    ),
    Row(
        "tampered-tokens",
        Attack.OUTAGE,
        "sync tokens with any character changed",
        f"{CLIENTS}/test_reading.py::test_tampered_sync_tokens_never_spin_or_fail",
    ),
    Row(
        "key-again",
        Attack.ACCOUNT,
        "an upload that is repeated once its keys were claimed",
        "homeserver/services/encryption/test_keys.py::test_a_repeated_upload_brings_no_claimed_key_back",
    ),
    Row(
        "low-order-point",
        Attack.FORGERY,
        "a key with which every secret is known",
        "homeserver/rules/encryption/test_device_keys.py::test_a_point_of_low_order_is_no_key",
    ),
    Row(
        "old-transaction",
        Attack.ACCOUNT,
        "a transaction ID of a device that was ended",
        "homeserver/engine/log/test_transactions.py::test_an_ended_device_leaves_no_transaction_to_one_of_the_same_id",
    ),
    Row(
        "members-by-invite",
        Attack.DISCLOSURE,
        "the devices of a room that one is only invited to",
        "homeserver/services/encryption/test_device_lists.py::test_an_invited_user_is_news_and_kept_until_they_go",
    ),
    Row(
        "visibility-by-gap",
        Attack.DISCLOSURE,
        "history from before a gap, by the visibility after it",
        "homeserver/services/timeline/test_visibility.py::test_the_visibility_after_a_gap_says_nothing_of_what_was_before_it",
    ),
    Row(
        "lost-future",
        Attack.ACCOUNT,
        "a token of a history that a restore took back",
        "homeserver/services/timeline/test_history.py::test_a_point_of_a_lost_future_is_refused",
    ),
    Row(
        "CVE-2023-32323",
        Attack.EXHAUSTION,
        "an invite with stripped state without bound",
        f"{PEERS}/test_incoming_invites.py::test_stored_state_is_bounded_and_telling_parts_come_first",
    ),
    Row(
        "unknown-parents",
        Attack.OUTAGE,
        "hundreds of events whose parents can't be had",
        f"{PEERS}/test_fetching.py::test_events_with_unknown_parents_do_not_hold_up_a_room",
    ),
    Row(
        "flood-of-invites",
        Attack.EXHAUSTION,
        "invites by the hundred",
        f"{PEERS}/test_incoming_invites.py::test_one_server_can_not_fill_a_users_invites",
    ),
    Row(
        "keys-by-invite",
        Attack.DISCLOSURE,
        "one-time keys of a user who was merely invited",
        f"{PEERS}/test_incoming_invites.py::test_an_invite_alone_opens_no_one_time_keys",
    ),
    Row(
        "endless-invite",
        Attack.OUTAGE,
        "an invite that its room withdrew",
        f"{PEERS}/test_withdrawn_invites.py::test_an_invite_that_its_room_withdraws_is_gone",
    ),
    Row(
        "impossible-names",
        Attack.EXHAUSTION,
        "messages to devices of 1,500 servers that can't exist",
        f"{CLIENTS}/test_impossible_names.py::test_messages_to_1500_of_them_leave_no_task",
    ),
    Row(
        "thousand-connections",
        Attack.OUTAGE,
        "a thousand half-sent requests from one address",
        "homeserver/api/http/test_connections.py::test_a_thousand_half_sent_requests_lock_nobody_out",
    ),
    Row(
        "stolen-token",
        Attack.ACCOUNT,
        "passwords that are guessed with a stolen token",
        "homeserver/services/accounts/test_uia.py::test_passwords_are_tried_so_often_by_each_device",
    ),
    Row(
        "read-after-leave",
        Attack.DISCLOSURE,
        "state of now in the context of an event of then",
        "homeserver/services/timeline/test_departed_readers.py::test_the_context_of_an_event_has_the_state_of_the_last_one_that_is_shown",
    ),
    Row(
        "private-directory",
        Attack.DISCLOSURE,
        "whether a private room is published",
        "homeserver/services/rooms/test_directory.py::test_a_private_room_is_as_unknown_to_others_as_one_that_is_not_there",
    ),
)
