"""What each route takes and answers: the paths of the OpenAPI document."""

from __future__ import annotations

from relay.web.live import MAX_WAIT
from relay.web.schemas import PRINTABLE
from relay.web.spec import (
    LIMITED,
    NO_NUL,
    Json,
    answer_of,
    header,
    headers_of,
    health,
    id_of,
    json_of,
    links_to,
    operation,
    page,
    query,
    ref,
)

_TARGET = {
    "oneOf": [ref("WebhookTarget"), ref("SlackTarget")],
    "discriminator": {
        "propertyName": "type",
        "mapping": {
            "webhook": "#/components/schemas/WebhookTarget",
            "slack": "#/components/schemas/SlackTarget",
        },
    },
}
_BODY = (400, 408, 413, 415, 422)


def paths() -> Json:
    states = ["watching", "completed", "failed", "expired", "lost", "cancelled"]
    return {
        "/v1/watches": {
            "post": operation(
                "Watches",
                "registerWatch",
                "Watch a task",
                "Registers a task and where to tell its end. A 2xx is a promise, made after the commit, that every "
                "target will hear it. The same task registered again by the same app is the same watch: new targets "
                "are added (told at once if the task has already ended), one whose `delivery` is `dead` is open again "
                "(sent again now if the task has ended, under the same `webhook-id`), an `upstream_key` replaces the "
                "one before, and `metadata` and the deadline stay as they are. A watch that was stopped makes room for "
                "a new one.",
                {
                    "201": answer_of("A new watch.", "WatchOut", "Location")
                    | links_to("/id", "readWatch", "stopWatch"),
                    "200": answer_of("The watch that was there, with the new targets added.", "WatchOut"),
                },
                _BODY,
                body=ref("WatchIn"),
            ),
            "get": operation(
                "Watches",
                "listWatches",
                "List watches",
                "The app's watches, newest first.",
                {"200": answer_of("A page.", "WatchPage")},
                (422,),
                (
                    query("state", "Only in this state.", type="string", enum=states),
                    query("provider", "Only of this provider.", type="string", pattern=NO_NUL),
                    query("task_id", "Only of this task.", type="string", pattern=NO_NUL),
                    *page("wch"),
                ),
            ),
        },
        "/v1/watches/batch": {
            "post": operation(
                "Watches",
                "registerWatches",
                "Watch many tasks",
                "Up to 1,000 registrations in one transaction. Each is judged by itself and answered in order; good "
                "ones are kept although others are refused, such as a watch too many (429).",
                {"200": answer_of("One item per registration, in order.", "BatchOut")},
                _BODY,
                body=ref("BatchIn"),
            )
        },
        "/v1/watches/{id}": {
            "get": operation(
                "Watches",
                "readWatch",
                "Read a watch",
                "The watch as it stands; with `Prefer: wait`, as soon as it is no longer what it was. Its `ETag` is "
                "weak: it leaves out `polls`, `last_poll_at`, `next_poll_at` and `estimated_end`.",
                {
                    "200": answer_of("The watch.", "WatchOut", "ETag", "Preference-Applied"),
                    "304": {
                        "description": "It still is what `If-None-Match` names.",
                        "headers": headers_of(*LIMITED, "ETag", "Preference-Applied"),
                    },
                },
                (404,),
                (
                    id_of("wch"),
                    header(
                        "Prefer",
                        f"`wait=N` holds the answer for up to N seconds (at most {MAX_WAIT}) until the watch is no "
                        "longer what `If-None-Match` names, or without that, what it is now.",
                    ),
                    header("If-None-Match", "The `ETag` of what you have."),
                ),
            ),
            "delete": operation(
                "Watches",
                "stopWatch",
                "Stop watching",
                "The watch becomes `cancelled` and tells nobody; one that has ended stays as it is.",
                {"204": {"description": "Stopped.", "headers": headers_of(*LIMITED)}},
                (404, 422),
                (
                    id_of("wch"),
                    query(
                        "erase",
                        "Also removes everything stored about the task, undelivered events too.",
                        type="boolean",
                    ),
                ),
            ),
        },
        "/v1/watches/{id}/events": {
            "get": operation(
                "Watches",
                "followWatch",
                "Follow a watch",
                "Server-sent events, each with the watch as its data: `progress` at once and whenever something new "
                "was read, then the end (`task.completed`, `task.failed`, `task.expired`, `task.lost` or "
                "`task.cancelled`), with which the stream closes. A comment comes at once and whenever 15 s pass in "
                "silence; after an hour the stream closes in any case. Who comes back with `Last-Event-ID` hears what "
                "is newer.",
                {
                    "200": {
                        "description": "The stream.",
                        "headers": headers_of(*LIMITED),
                        "content": {
                            "text/event-stream": {"schema": {"description": "`id`, `event`, and the watch as `data`."}}
                        },
                    },
                    "204": {
                        "description": "The end was the last event that you heard.",
                        "headers": headers_of(*LIMITED),
                    },
                },
                (404,),
                (id_of("wch"), header("Last-Event-ID", "The `id` of the last event that you heard.")),
            )
        },
        "/v1/deliveries": {
            "get": operation(
                "Deliveries",
                "listDeliveries",
                "List deliveries",
                "The outbox: every event on its way to every target, newest first, with its attempts.",
                {"200": answer_of("A page.", "DeliveryPage") | links_to("/data/0/id", "readDelivery", "retryDelivery")},
                (422,),
                (
                    query("state", "Only in this state.", type="string", enum=["pending", "held", "delivered", "dead"]),
                    query("watch_id", "Only of this watch.", type="string", pattern=NO_NUL),
                    *page("dlv"),
                ),
            )
        },
        "/v1/deliveries/{id}": {
            "get": operation(
                "Deliveries",
                "readDelivery",
                "Read a delivery",
                "The delivery with its attempts.",
                {"200": answer_of("The delivery.", "DeliveryOut")},
                (404,),
                (id_of("dlv"),),
            )
        },
        "/v1/deliveries/{id}/retry": {
            "post": operation(
                "Deliveries",
                "retryDelivery",
                "Send again",
                "Sends the delivery again now, with the same `webhook-id` and a fresh schedule.",
                {"202": answer_of("It is on its way.", "DeliveryOut")},
                (404, 409),
                (id_of("dlv"),),
            )
        },
        "/v1/deliveries/retry": {
            "post": operation(
                "Deliveries",
                "retryDeliveries",
                "Send many again",
                "For after a receiver's outage: sends again every delivery in a state, by default the dead ones.",
                {"202": answer_of("They are on their way.", "Retried")},
                _BODY,
                body=ref("RetryIn"),
            )
        },
        "/v1/targets/test": {
            "post": operation(
                "Targets",
                "testTarget",
                "Try a target",
                "Sends a signed `relay.test` event to a target, without a watch, and says what came of it.",
                {"200": answer_of("The attempt.", "TestOut")},
                _BODY,
                body=_TARGET,
            )
        },
        "/v1/video/query": {
            "get": operation(
                "Providers",
                "queryVideo",
                "The query endpoint, mirrored",
                "The upstream's own answer about a task, byte for byte. Of a watched task it is the last one that "
                "relay has heard (`Age`, `Relay-Watch`), without a call of its own; that the task is unknown only as "
                "long as nothing else was said of it. Any other id is asked for through the rate budget. An upstream's "
                "error comes with its own status.",
                {
                    "200": {
                        "description": "What the upstream said.",
                        "headers": headers_of(*LIMITED, "Age", "Relay-Watch"),
                        "content": json_of({}),
                    },
                    "default": {"description": "An error of the upstream, as it came."},
                },
                (422, 502),
                (
                    {
                        **query(
                            "id",
                            "The task's id; no part of it between slashes is '.' or '..'.",
                            type="string",
                            minLength=1,
                            maxLength=512,
                            pattern=PRINTABLE,
                        ),
                        "required": True,
                    },
                ),
            )
        },
        "/v1/providers": {
            "get": operation(
                "Providers",
                "listProviders",
                "List providers",
                "The upstreams that this deployment can watch.",
                {"200": answer_of("The providers.", "Providers")},
                (),
            )
        },
    }


_REASONS = {"type": "array", "items": {"type": "string"}}
OF_THE_PROCESS = {
    "/healthz": health(
        "healthz",
        "Is it alive",
        "The process answers. Restart it if it does not.",
        {"200": ("It does.", {"status": {"const": "ok"}})},
    ),
    "/readyz": health(
        "readyz",
        "Is it ready",
        "The process can do its work: database, schema and clock are well. Send it no requests if it is not.",
        {
            "200": ("It is.", {"status": {"const": "ok"}, "reasons": {**_REASONS, "maxItems": 0}}),
            "503": ("It is not.", {"status": {"const": "unavailable"}, "reasons": {**_REASONS, "minItems": 1}}),
        },
    ),
}
