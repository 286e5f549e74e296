"""Creates the services and endpoints of application services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from federation.events.ids import ServerName, UserId
from federation.ports import Clock
from homeserver.api.appservices.network_directory import NetworkDirectoryApi
from homeserver.api.appservices.pings import PingsApi
from homeserver.api.appservices.third_party import ThirdPartyApi
from homeserver.api.http.routes import Route
from homeserver.app.domains.encryption import EncryptionServices
from homeserver.app.domains.ephemeral import EphemeralServices
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.outbound.appservices.client import AppServiceClient
from homeserver.services.appservices.deliveries import Deliveries
from homeserver.services.appservices.delivery import DeliveryParts
from homeserver.services.appservices.identity_assertion import IdentityAssertion
from homeserver.services.appservices.log_reader import LogReader
from homeserver.services.appservices.network_directory import NetworkDirectory
from homeserver.services.appservices.pings import AppServicePings
from homeserver.services.appservices.queries import AppServiceQueries
from homeserver.services.appservices.registrations import Registrations
from homeserver.services.appservices.third_party import ThirdParties
from homeserver.services.appservices.transactions import TransactionBuilder, TransactionSources
from homeserver.services.rooms.directory import ServiceAliases
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.appservices.deliveries import DeliveryTable
from homeserver.storage.appservices.registration_files import read_registrations
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class AppServiceRegistry:
    """The registered application services: who they act as, and what they are asked for. Services
    of other domains use it."""

    client: AppServiceClient
    registrations: Registrations
    assertion: IdentityAssertion
    queries: AppServiceQueries

    @property
    def provide_user(self) -> Callable[[UserId], Awaitable[None]]:
        """Lets a service make a user of its namespaces."""
        return self.queries.provide_user

    @property
    def aliases(self) -> ServiceAliases:
        """Aliases of their namespaces."""
        return ServiceAliases(self.registrations.check_alias, self.queries.provide_alias)


@dataclass(frozen=True, slots=True)
class AppServiceServices:
    """What application services are sent, and what clients ask them for."""

    registrations: Registrations
    queries: AppServiceQueries
    deliveries: Deliveries
    pings: AppServicePings
    third_parties: ThirdParties
    network_directory: NetworkDirectory


@asynccontextmanager
async def appservice_registry(
    database: Database, clock: Clock, config: Config
) -> AsyncIterator[AppServiceRegistry]:
    """Loads the registrations of application services, and talks to these as long as the block
    lasts. Raises RegistrationsInvalid."""
    read = partial(
        read_registrations, config.appservices.registrations, ServerName(config.server_name)
    )
    registrations = Registrations(database, clock, read)
    await registrations.load()
    async with AppServiceClient() as client:
        yield AppServiceRegistry(
            client,
            registrations,
            IdentityAssertion(database, registrations),
            AppServiceQueries(database, registrations, client, clock),
        )


def make_appservices(
    engine: Engine,
    database: Database,
    registry: AppServiceRegistry,
    encryption: EncryptionServices,
    ephemeral: EphemeralServices,
) -> AppServiceServices:
    """Creates the services; the deliveries follow the log and typing."""
    clock = engine.context.clock
    sources = TransactionSources(
        engine.rooms,
        engine.reader,
        engine.memberships,
        encryption.keys,
        DeviceTable(database),
        clock,
    )
    parts = DeliveryParts(
        table=DeliveryTable(database),
        reader=LogReader(database, engine.committer),
        builder=TransactionBuilder(sources),
        client=registry.client,
        clock=clock,
        prefix=engine.committer.history.id,
        typing=ephemeral.typing.now,
        presence=ephemeral.presence.view.of,
        acknowledge=encryption.to_device.acknowledge,
    )
    deliveries = Deliveries(registry.registrations, parts, engine.context.metrics)
    engine.committer.subscribe(deliveries.on_commit)
    ephemeral.typing_audience.subscribe(deliveries.note_typing)
    ephemeral.presence.board.subscribe(deliveries.note_presence)
    return AppServiceServices(
        registry.registrations,
        registry.queries,
        deliveries,
        AppServicePings(registry.client, clock, deliveries.reached),
        ThirdParties(registry.registrations, registry.client),
        NetworkDirectory(database, engine.rooms, clock),
    )


def appservice_routes(services: AppServiceServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        PingsApi(services.pings).routes(),
        ThirdPartyApi(services.third_parties).routes(),
        NetworkDirectoryApi(services.network_directory).routes(),
    ]
