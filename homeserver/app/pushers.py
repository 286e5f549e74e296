"""Creates the services and endpoints of pushers, and the delivery of their notifications."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from federation.ports import Clock
from federation.transport.requests.dialer import Dialer, build_tls_context
from federation.transport.requests.resolve import SystemNames
from homeserver import limits
from homeserver.api.http.routes import Route
from homeserver.api.push.notifications import NotificationsApi
from homeserver.api.push.pushers import PushersApi
from homeserver.api.push.unsubscribe import UnsubscribeApi
from homeserver.app.domains.push import PushServices
from homeserver.app.engine import Engine
from homeserver.config import Config
from homeserver.outbound.mail.sender import MailSender
from homeserver.services.push.delivery.attempts import PushPorts
from homeserver.services.push.delivery.contents import PushContents, ReadEvent
from homeserver.services.push.delivery.deliveries import PushDeliveries
from homeserver.services.push.delivery.digests import EmailDigests
from homeserver.services.push.delivery.gateways import Gateways
from homeserver.services.push.delivery.queue import KnownPushers, PushQueue
from homeserver.services.push.notifications import Notifications
from homeserver.services.push.pushers import Pushers
from homeserver.storage.database import Database
from homeserver.web.pages import Pages


@dataclass(frozen=True, slots=True)
class PusherServices:
    """Pushers, what they are owed, and its delivery to gateways and by mail."""

    pushers: Pushers
    queue: PushQueue
    deliveries: PushDeliveries
    digests: EmailDigests
    notifications: Notifications


@dataclass(frozen=True, slots=True)
class PushTransport:
    """The ways of notifications: the client of push gateways with its connections, and the
    sender of mails, None without a mail server."""

    dialer: Dialer
    gateways: Gateways
    mail: MailSender | None = None
    public_baseurl: str = ""


def make_push_transport(config: Config, clock: Clock, mail: MailSender | None) -> PushTransport:
    """Creates the ways of notifications, with the names of the net; the dialer is to be closed.
    Raises OSError for a file of authorities that can't be read."""
    dialer = Dialer(
        build_tls_context(config.push.ca_paths, verify=True),
        allow_private=config.push.allow_private_addresses,
        connections_per_host=limits.PUSHES_PER_GATEWAY,
    )
    gateways = Gateways(dialer, SystemNames(clock))
    return PushTransport(dialer, gateways, mail, config.public_baseurl)


def make_pushers(
    engine: Engine,
    database: Database,
    push: PushServices,
    transport: PushTransport,
    read_event: ReadEvent,
) -> PusherServices:
    """Creates the services; they follow the log, and the evaluation of its events."""
    context, known = engine.context, KnownPushers()
    queue = PushQueue(
        database,
        push.counts,
        engine.memberships,
        committer=engine.committer,
        clock=context.clock,
        known=known,
    )
    contents = PushContents(engine.rooms, engine.memberships, read_event)
    digests = EmailDigests(
        database,
        contents,
        context.clock,
        sender=transport.mail,
        public_baseurl=transport.public_baseurl,
        stored=queue.stored,
    )
    ports = PushPorts(
        source=queue,
        contents=contents,
        gateways=transport.gateways,
        clock=context.clock,
        metrics=context.metrics,
        random=random.SystemRandom().random,
    )
    deliveries = PushDeliveries(database, ports, known)
    queue.subscribe(deliveries.on_changed)
    push.evaluator.subscribe(queue.on_evaluated, queue.store)
    engine.committer.subscribe(deliveries.on_commit)
    pushers = Pushers(
        database,
        context.clock,
        committer=engine.committer,
        has_address=digests.has_address,
        on_set=[deliveries.on_set],
    )
    notifications = Notifications(
        database,
        engine.rooms,
        push.evaluator.audiences,
        push.counts,
        committer=engine.committer,
        read_event=read_event,
    )
    return PusherServices(pushers, queue, deliveries, digests, notifications)


def pusher_routes(services: PusherServices, pages: Pages) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    return [
        PushersApi(services.pushers).routes(),
        NotificationsApi(services.notifications).routes(),
        UnsubscribeApi(services.digests, pages).routes(),
    ]
