"""The error that becomes an answer: a status, an `errcode` and a text.

Spec: client-server API, "Standard error response"; server-server API, "API standards". A
`MatrixError` is an ordinary result of bad input or of missing rights; bugs are other exceptions and
become 500 `M_UNKNOWN`. What another server answers to our request is a `FederationError`; where a
client is told of it, that is a MatrixError too.
"""

from __future__ import annotations

from collections.abc import Mapping


class MatrixError(Exception):
    """A refusal with the spec's code. `extra` has further keys of the answer's body, `headers` is
    what the answer has besides it."""

    def __init__(
        self,
        status: int,
        errcode: str,
        error: str,
        *,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {errcode}: {error}")
        self.status, self.errcode, self.error = status, errcode, error
        self.extra: Mapping[str, object] = extra or {}
        self.headers: Mapping[str, str] = headers or {}

    def body(self) -> dict[str, object]:
        """The answer's JSON body."""
        return {"errcode": self.errcode, "error": self.error, **self.extra}
