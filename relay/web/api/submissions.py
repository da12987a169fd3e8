"""The operations on submissions: list and read the create calls that passed through relay."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from relay.model.submission import SubmissionState
from relay.store import apps, submissions
from relay.web.api.answers import SubmissionOut, SubmissionPage
from relay.web.api.openapi.spec import answer, errors, id_of, links_to, page, query
from relay.web.api.operations import ApiHandler, Operations
from relay.web.api.parameters import cursor, known, limit, one_of
from relay.web.api.views import show_submission
from relay.web.bodies import JsonResponse
from relay.web.context import Context

operations: Operations[ApiHandler] = Operations("Submissions")


@operations.add(
    "GET /v1/submissions",
    "List submissions",
    "The create calls of the app, newest first. `unknown` are those of which nobody knows whether the upstream took "
    "them: look there before you send one again.",
    {"200": answer("A page.", SubmissionPage) | links_to("/data/0/id", "readSubmission")} | errors(422),
    (
        query("state", "Only in this state.", type="string", enum=[state.value for state in SubmissionState]),
        *page("sub"),
    ),
)
async def list_submissions(context: Context, request: Request, app: apps.App) -> Response:
    """List the app's submissions: `GET /v1/submissions`."""
    given = known(request.query_params, "state", "cursor", "limit")
    most = limit(given)
    rows = await context.db.read(
        submissions.page, app.id, most + 1, cursor(given, "sub"), one_of(given, "state", SubmissionState)
    )
    data = [show_submission(row) for row in rows[:most]]
    return JsonResponse(SubmissionPage(data=data, next_cursor=data[-1]["id"] if len(rows) > most else None))


@operations.add(
    "GET /v1/submissions/{id}",
    "Read a submission",
    "A create call, and what became of it.",
    {"200": answer("The submission.", SubmissionOut)} | errors(404),
    (id_of("sub"),),
)
async def read_submission(context: Context, request: Request, app: apps.App) -> Response:
    """Read a submission: `GET /v1/submissions/{id}`."""
    return JsonResponse(show_submission(await context.db.read(submissions.read, app.id, request.path_params["id"])))
