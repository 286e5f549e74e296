"""Puts the client-server API over the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.events.ids import ServerName
from homeserver.api import (
    account_data as account_data_api,
)
from homeserver.api import (
    accounts as accounts_api,
)
from homeserver.api import devices as devices_api
from homeserver.api import directory as directory_api
from homeserver.api import filters as filters_api
from homeserver.api import history as history_api
from homeserver.api import keys as keys_api
from homeserver.api import logins as logins_api
from homeserver.api import membership as membership_api
from homeserver.api import profiles as profiles_api
from homeserver.api import public_rooms as public_rooms_api
from homeserver.api import push_rules as push_rules_api
from homeserver.api import receipts as receipts_api
from homeserver.api import rooms as rooms_api
from homeserver.api import server_info as server_info_api
from homeserver.api import state as state_api
from homeserver.api import sync as sync_api
from homeserver.api import timeline as timeline_api
from homeserver.api import to_device as to_device_api
from homeserver.api import typing as typing_api
from homeserver.api.query import PageTokens
from homeserver.api.routes import Route, table
from homeserver.app.services import Services
from homeserver.config import Config
from homeserver.services.accounts.accounts import resolve_user
from homeserver.services.push.push_rules import PushRules


class _Api(Protocol):
    def routes(self) -> Sequence[Route]: ...


def make_routes(services: Services, config: Config) -> list[Route]:
    """The one table of client routes."""
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
