"""One tree of errors, so that every boundary (HTTP, command line, start-up) can turn any of them into words.

The class docstring is the title that a caller reads; `code` is the stable name that a program branches on. An
anticipated failure of somebody else's server is never one of these: it is a value (`Reading`, `Outcome`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """Where in the request body something is wrong (a JSON pointer, RFC 6901) and what."""

    pointer: str
    detail: str


class RelayError(Exception):
    """Something went wrong."""

    status = 500
    code = "internal_error"

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), retry_after: float | None = None
    ) -> None:
        self.title = " ".join((type(self).__doc__ or "").split())
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.retry_after = retry_after
        super().__init__(self.detail)


class ConfigError(RelayError):
    """The configuration is wrong."""

    code = "configuration_error"


class MalformedRequest(RelayError):
    """The request could not be read."""

    status, code = 400, "malformed_request"


class Unauthorized(RelayError):
    """A valid API key is required."""

    status, code = 401, "unauthorized"


class BadSignature(RelayError):
    """The signature does not hold."""

    status, code = 401, "bad_signature"


class Forbidden(RelayError):
    """This page is not for whoever asks, or the form was forged."""

    status, code = 403, "forbidden"


class NotFound(RelayError):
    """There is no such thing, or it belongs to another app."""

    status, code = 404, "not_found"


class MethodNotAllowed(RelayError):
    """This route does not take this method."""

    status, code = 405, "method_not_allowed"


class Conflict(RelayError):
    """The request does not fit the present state."""

    status, code = 409, "conflict"


class TooSlow(RelayError):
    """The request did not arrive in time."""

    status, code = 408, "too_slow"


class TooManyRequests(RelayError):
    """This API key asks too often."""

    status, code = 429, "rate_limited"


class TooManyWatches(RelayError):
    """This app has too many watches under way."""

    status, code = 429, "too_many_watches"


class TooLarge(RelayError):
    """The request body is too large."""

    status, code = 413, "too_large"


class HeadTooLarge(RelayError):
    """The request's head is too large."""

    status, code = 431, "head_too_large"


class UnsupportedMediaType(RelayError):
    """The request body must be JSON."""

    status, code = 415, "unsupported_media_type"


class Invalid(RelayError):
    """The request is not valid."""

    status, code = 422, "validation_failed"


class StoreUnavailable(RelayError):
    """The database does not answer."""

    status, code = 503, "database_unavailable"


class UpstreamUnavailable(RelayError):
    """The upstream does not answer."""

    status, code = 502, "upstream_unavailable"


class SchemaBehind(ConfigError):
    """The database schema is not the one that this version needs."""

    code = "schema_behind"
