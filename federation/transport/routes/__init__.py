"""The endpoints that we offer other servers; `FederationRoutes` is their table."""

from federation.transport.routes.table import FederationRoutes, RouteParts

__all__ = ["FederationRoutes", "RouteParts"]
