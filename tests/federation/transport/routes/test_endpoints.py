"""How federation answers what it refuses."""

import orjson

from federation.errors import MatrixError
from federation.transport.routes.endpoints import refusal


def test_a_refusal_is_answered_with_its_status_body_and_headers() -> None:
    error = MatrixError(
        503,
        "M_UNKNOWN",
        "Try again",
        extra={"retry_after_ms": 2_000},
        headers={"Retry-After": "2"},
    )
    response = refusal(error)
    assert isinstance(response.body, bytes)
    assert response.status == 503
    assert response.content_type == "application/json"
    assert response.headers["Retry-After"] == "2"
    assert orjson.loads(response.body) == {
        "errcode": "M_UNKNOWN",
        "error": "Try again",
        "retry_after_ms": 2_000,
    }
