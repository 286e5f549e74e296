"""Creates the services and endpoints of device keys, device lists and to-device messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.encryption.dehydrated_devices import DehydratedDevicesApi
from homeserver.api.encryption.key_backups import KeyBackupsApi
from homeserver.api.encryption.keys import KeysApi
from homeserver.api.encryption.to_device import ToDeviceApi
from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route
from homeserver.app.engine import Engine
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.own_devices import OwnDeviceNames
from homeserver.services.accounts.uia import Uia
from homeserver.services.encryption.cross_signing import CrossSigning
from homeserver.services.encryption.dehydrated_devices import DehydratedDevices
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.services.encryption.key_backups import KeyBackups
from homeserver.services.encryption.key_queries import KeyQueries
from homeserver.services.encryption.keys import Keys
from homeserver.services.encryption.remote_devices import RemoteDevices, RemoteQueries
from homeserver.services.encryption.to_device import ToDevice
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class EncryptionServices:
    """Keys, lists and messages of devices."""

    keys: Keys
    key_queries: KeyQueries
    key_backups: KeyBackups
    cross_signing: CrossSigning
    device_lists: DeviceLists
    remote_devices: RemoteDevices
    to_device: ToDevice


def make_encryption(
    engine: Engine, database: Database, queries: RemoteQueries
) -> EncryptionServices:
    """Creates the services; those that follow the log are subscribed to it."""
    context, committer, rooms = engine.context, engine.committer, engine.rooms
    own_devices = OwnDeviceNames(database)
    remote_devices = RemoteDevices(
        database=database,
        committer=committer,
        rooms=rooms,
        shared=engine.memberships,
        remote=queries,
        clock=context.clock,
    )
    device_lists = DeviceLists(
        database=database,
        rooms=rooms,
        shared=engine.memberships,
        position=committer.position,
    )
    to_device = ToDevice(
        database=database,
        committer=committer,
        server_name=context.name,
        own_devices=own_devices,
        clock=context.clock,
        random_bytes=context.random_bytes,
    )
    for follower in (remote_devices, device_lists, to_device):
        committer.subscribe(follower.on_commit)
    return EncryptionServices(
        keys=Keys(database=database, committer=committer, server_name=context.name, remote=queries),
        key_queries=KeyQueries(
            database=database,
            server_name=context.name,
            own_devices=own_devices,
            remote_devices=remote_devices,
            remote=queries,
        ),
        key_backups=KeyBackups(database),
        cross_signing=CrossSigning(database=database, committer=committer),
        device_lists=device_lists,
        remote_devices=remote_devices,
        to_device=to_device,
    )


def make_dehydrated(
    engine: Engine, database: Database, keys: Keys, removal: DeviceRemoval
) -> DehydratedDevices:
    """Creates the service of dehydrated devices; `removal` ends devices with all their data."""
    return DehydratedDevices(
        database, engine.committer, removal=removal, keys=keys, clock=engine.context.clock
    )


def encryption_routes(
    services: EncryptionServices, dehydrated: DehydratedDevices, uia: Uia, tokens: PageTokens
) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        KeysApi(
            keys=services.keys,
            queries=services.key_queries,
            cross_signing=services.cross_signing,
            device_lists=services.device_lists,
            uia=uia,
            tokens=tokens,
        ).routes(),
        DehydratedDevicesApi(dehydrated, tokens).routes(),
        KeyBackupsApi(services.key_backups).routes(),
        ToDeviceApi(services.to_device).routes(),
    ]
