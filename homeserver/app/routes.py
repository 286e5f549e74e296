"""Creates the client-server API over the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.events.ids import ServerName
from homeserver.api import server_info as server_info_api
from homeserver.api.account_data import account_data as account_data_api
from homeserver.api.accounts import accounts as accounts_api
from homeserver.api.accounts import devices as devices_api
from homeserver.api.accounts import logins as logins_api
from homeserver.api.accounts import profiles as profiles_api
from homeserver.api.encryption import keys as keys_api
from homeserver.api.encryption import to_device as to_device_api
from homeserver.api.ephemeral import receipts as receipts_api
from homeserver.api.ephemeral import typing as typing_api
from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route, table
from homeserver.api.push import push_rules as push_rules_api
from homeserver.api.rooms import directory as directory_api
from homeserver.api.rooms import membership as membership_api
from homeserver.api.rooms import public_rooms as public_rooms_api
from homeserver.api.rooms import rooms as rooms_api
from homeserver.api.rooms import state as state_api
from homeserver.api.sync import filters as filters_api
from homeserver.api.sync import sync as sync_api
from homeserver.api.timeline import history as history_api
from homeserver.api.timeline import timeline as timeline_api
from homeserver.app.services import Services
from homeserver.config import Config
from homeserver.services.accounts.accounts import resolve_user
from homeserver.services.push.push_rules import PushRules


class _Api(Protocol):
    def routes(self) -> Sequence[Route]: ...


def make_routes(services: Services, config: Config) -> list[Route]:
    """Returns the table of client routes."""
    devicework, people, rooms = services.devicework, services.people, services.rooms
    filters, tokens = services.filters, PageTokens(services.log_history)
    own = ServerName(config.server_name)
    registration = config.registration
    apis: list[_Api] = [
        server_info_api.ServerInfoApi(
            public_baseurl=config.public_baseurl,
            default_room_version=config.default_room_version,
            delegated_name=config.federation.delegated_name,
        ),
        accounts_api.AccountsApi(
            people.accounts,
            people.uia,
            enabled=registration.enabled,
            verification=registration.verification,
            guests=registration.guests,
        ),
        logins_api.LoginsApi(
            people.logins,
            lambda name: resolve_user(name, own),
            public_baseurl=config.public_baseurl,
        ),
        devices_api.DevicesApi(people.devices, people.uia),
        profiles_api.ProfilesApi(people.profiles),
        rooms_api.RoomsApi(rooms.creation, rooms.upgrades),
        membership_api.MembershipApi(rooms.membership),
        directory_api.DirectoryApi(rooms.directory),
        public_rooms_api.PublicRoomsApi(rooms.public_rooms, own),
        timeline_api.TimelineApi(rooms.timeline),
        state_api.StateApi(rooms.state, tokens),
        sync_api.SyncApi(rooms.sync, filters),
        history_api.HistoryApi(rooms.history, tokens),
        filters_api.FiltersApi(filters),
        keys_api.KeysApi(
            keys=devicework.keys,
            queries=devicework.key_queries,
            cross_signing=devicework.cross_signing,
            device_lists=devicework.device_lists,
            uia=people.uia,
            tokens=tokens,
        ),
        to_device_api.ToDeviceApi(devicework.to_device),
        receipts_api.ReceiptsApi(devicework.receipts),
        typing_api.TypingApi(devicework.typing),
        account_data_api.AccountDataApi(devicework.account_data),
        push_rules_api.PushRulesApi(PushRules()),
    ]
    return table(api.routes() for api in apis)
