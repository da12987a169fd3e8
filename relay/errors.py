"""The tree of errors, so that HTTP, the command line and start-up can present each of them in the same way.

The docstring of a class is the title that the caller reads; `code` is the stable name that a program compares. When an
upstream or a receiver fails, that is no error in this sense: relay expects it, so it is a value (`Reading`, `Outcome`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong in a request body, and where: a JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class RelayError(Exception):
    """Something went wrong."""

    status = 500
    code = "internal_error"
    headers: Mapping[str, str] = {}

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

    status = 400

    code = "malformed_request"


class Unauthorized(RelayError):
    """A valid API key is required."""

    status = 401

    code = "unauthorized"


class BadSignature(RelayError):
    """The signature is not valid."""

    status = 401

    code = "bad_signature"


class Forbidden(RelayError):
    """You may not see this page, or the form was forged."""

    status = 403

    code = "forbidden"


class SubmitNotAllowed(RelayError):
    """This app may not send create calls with the deployment's key."""

    status = 403

    code = "submit_not_allowed"

    def __init__(self) -> None:
        super().__init__(
            "this app may not send create calls with the deployment's key: have it added to RELAY_SUBMIT_APPS, or send "
            "your own key, and relay's in 'Relay-Key'"
        )


class NotFound(RelayError):
    """There is no such resource, or it belongs to another app."""

    status = 404

    code = "not_found"


class NotDeclared(RelayError):
    """No file of a provider declares such a call."""

    status = 404

    code = "not_declared"


class MethodNotAllowed(RelayError):
    """This route does not take this method."""

    status = 405

    code = "method_not_allowed"


class Conflict(RelayError):
    """The request conflicts with the current state."""

    status = 409

    code = "conflict"


class IdempotencyInProgress(RelayError):
    """The first request with this Idempotency-Key is under way."""

    status = 409

    code = "idempotency_in_progress"


NO_RETRY = {"x-should-retry": "false"}
"""Tells SDKs of OpenAI's make that the request must not be repeated by itself."""


class AnswerErased(RelayError):
    """The answer to this Idempotency-Key was erased with its watch; the key stays taken."""

    status = 409

    code = "answer_erased"

    headers = NO_RETRY


class SubmissionUnknown(RelayError):
    """Nobody knows whether the upstream took this create call, so it is not sent again."""

    status = 409

    code = "submission_unknown"

    headers = NO_RETRY


class SubmissionUnanswered(SubmissionUnknown):
    """Nobody knows whether the upstream took this create call: its answer was lost or could not be read."""

    status = 502


class SubmissionTimedOut(SubmissionUnknown):
    """Nobody knows whether the upstream took this create call: it did not answer in time."""

    status = 504


class TooSlow(RelayError):
    """The request did not arrive in time."""

    status = 408

    code = "too_slow"


class TooManyRequests(RelayError):
    """This API key sends requests too often."""

    status = 429

    code = "rate_limited"


class TooManyWatches(RelayError):
    """This app has too many watches under way."""

    status = 429

    code = "too_many_watches"


class TooManyTargets(RelayError):
    """This app has too many targets stored."""

    status = 429

    code = "too_many_targets"


class TooLarge(RelayError):
    """The request body is too large."""

    status = 413

    code = "too_large"


class HeadTooLarge(RelayError):
    """The request's head is too large."""

    status = 431

    code = "head_too_large"


class UnsupportedMediaType(RelayError):
    """The request body must be JSON."""

    status = 415

    code = "unsupported_media_type"


class Invalid(RelayError):
    """The request is not valid."""

    status = 422

    code = "validation_failed"

    @classmethod
    def at(cls, pointer: str, detail: str) -> Invalid:
        """Return the error about one place in the request, named by its JSON pointer."""
        return cls(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])


class IdempotencyMismatch(RelayError):
    """This Idempotency-Key was sent with another request."""

    status = 422

    code = "idempotency_mismatch"


class StoreUnavailable(RelayError):
    """The database does not answer."""

    status = 503

    code = "database_unavailable"


class Overloaded(RelayError):
    """relay has no room for this request at the moment."""

    status = 503

    code = "overloaded"


class ResolverUnavailable(RelayError):
    """The resolver for the names of targets does not answer."""

    status = 503

    code = "resolver_unavailable"


class UpstreamUnavailable(RelayError):
    """The upstream does not answer."""

    status = 502

    code = "upstream_unavailable"


class UpstreamRedirected(RelayError):
    """The upstream answered a create call with a redirect, which relay does not follow."""

    status = 502

    code = "upstream_redirected"

    headers = NO_RETRY


class SchemaBehind(ConfigError):
    """The database schema is not the one that this version needs."""

    code = "schema_behind"
