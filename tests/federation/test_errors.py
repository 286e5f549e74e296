"""The body, headers and text of a MatrixError."""

from federation.errors import MatrixError


def test_body_is_the_code_the_text_and_what_else_there_is() -> None:
    error = MatrixError(
        429,
        "M_LIMIT_EXCEEDED",
        "Too many requests",
        extra={"retry_after_ms": 1_500},
        headers={"Retry-After": "2"},
    )
    assert error.body() == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Too many requests",
        "retry_after_ms": 1_500,
    }
    assert error.headers == {"Retry-After": "2"}
    assert str(error) == "429 M_LIMIT_EXCEEDED: Too many requests"


def test_body_has_no_more_than_it_needs() -> None:
    error = MatrixError(404, "M_NOT_FOUND", "No such room")
    assert error.body() == {"errcode": "M_NOT_FOUND", "error": "No such room"}
    assert error.headers == {}
