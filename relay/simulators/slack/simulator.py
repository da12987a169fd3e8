"""The simulator: one workspace, the faults that wait for its calls, and the ASGI app that serves it."""

import functools
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from relay.simulators.slack.errors import SlackError
from relay.simulators.slack.faults import HOOK_STATUS, AsgiApp, Fault
from relay.simulators.slack.hooks import IncomingWebhooks, ResponseUrls
from relay.simulators.slack.limits import TierLimiter
from relay.simulators.slack.page import HEADERS, render_page
from relay.simulators.slack.people import Ack, People
from relay.simulators.slack.web_api import WebApi
from relay.simulators.slack.workspace import Conversation, PostedMessage, Workspace, WorkspaceOptions

WEBHOOK = "webhook"
RESPONSE_URL = "response_url"

PostToUrl = Callable[[str, Any], Awaitable[None]]


@dataclass(frozen=True)
class Call:
    """A request that arrived: a Web API method, `webhook` or `response_url`, its arguments, and when it came."""

    method: str
    args: Any
    at: float = field(default=0.0, compare=False)


class SimulatedSlack:
    """A Slack on this machine. Serve `app`, set `base_url` of slack_sdk to `<url>/api/`, and open `/` in a browser.

    Attributes:
        calls: every call of the Web API, a webhook or a response URL, also the refused ones.
        acks: the answer to every click and command that was sent.
    """

    def __init__(self, options: WorkspaceOptions) -> None:
        self.url = options.url
        self.calls: list[Call] = []
        self.acks: list[Ack] = []
        self._pictures = options.pictures
        self._clock = options.clock
        self._workspace = Workspace(options)
        self._limiter = TierLimiter(options.limits, options.clock)
        self._web_api = WebApi(self._workspace, self._limiter)
        self._webhooks = IncomingWebhooks(self._workspace, self._limiter, options.hooks)
        self._responses = ResponseUrls(self._workspace)
        self._people = People(self._workspace, self._responses, options.url)
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.app = AsgiApp(
            routes=[
                Route("/", self._page),
                Route("/api/{method}", self._api, methods=["GET", "POST"]),
                Route("/services/{path:path}", self._webhook, methods=["POST"]),
                Route("/actions/{path:path}", self._response_url, methods=["POST"]),
                Route("/commands/{path:path}", self._response_url, methods=["POST"]),
            ]
        )

    def channel(self, channel_id: str) -> Conversation:
        """Return a channel, whose state a test may change."""
        return self._workspace.channels[channel_id]

    @property
    def limited(self) -> int:
        """Return how many calls the rate limits have refused."""
        return self._limiter.refused

    def messages(self, channel_id: str) -> list[PostedMessage]:
        """Return what every member of the channel sees, replies in threads included, oldest first."""
        return [message for message in self.channel(channel_id).messages if "is_ephemeral" not in message]

    def ephemeral(self, channel_id: str) -> list[PostedMessage]:
        """Return the messages that only one person sees."""
        return [message for message in self.channel(channel_id).messages if "is_ephemeral" in message]

    def fail_next(self, method: str, fault: Fault) -> None:
        """Give the next call of a Web API method, of `webhook` or of `response_url` this fault. Faults queue up."""
        self._faults[method].append(fault)

    def refuse_blocks(self, refused: bool = True) -> None:
        """Refuse every message with blocks, however sound they are. Slack has done that for hours."""
        self._workspace.refuses_blocks = refused

    def block_actions(self, channel_id: str, ts: str, action_id: str, user_id: str = "U0PERSON") -> dict[str, Any]:
        """Return the payload for a press on a message's button. Send it with `click`."""
        return self._people.block_actions(channel_id, ts, action_id, user_id)

    def slash_command(self, channel_id: str, command: str, text: str = "", user_id: str = "U0PERSON") -> dict[str, str]:
        """Return the fields of a slash command. Send them with `command`."""
        return self._people.slash_command(channel_id, command, text, user_id)

    async def click(self, url: str, signing_secret: str, payload: Mapping[str, Any]) -> Ack:
        """Send a signed interaction and record the answer."""
        ack = await self._people.click(url, signing_secret, payload)
        self.acks.append(ack)
        return ack

    async def command(self, url: str, signing_secret: str, payload: Mapping[str, str]) -> Ack:
        """Send a signed slash command and record the answer."""
        ack = await self._people.command(url, signing_secret, payload)
        self.acks.append(ack)
        return ack

    async def _page(self, request: Request) -> Response:
        refresh = request.query_params.get("refresh", "")
        page = render_page(self._workspace, int(refresh) if refresh.isdecimal() else None, self._pictures)
        return HTMLResponse(page, headers=HEADERS)

    async def _api(self, request: Request) -> Response:
        method = request.path_params["method"]
        try:
            token, args = await _arguments(request)
        except SlackError as error:
            return _error_response(error, {})
        self.calls.append(Call(method, args, self._clock()))
        return await self._answer(request, method, functools.partial(self._call, method, token, args))

    async def _webhook(self, request: Request) -> Response:
        return await self._post(request, WEBHOOK, self._webhooks.post, request.path_params["path"])

    async def _response_url(self, request: Request) -> Response:
        return await self._post(request, RESPONSE_URL, self._responses.post, request.url.path.lstrip("/"))

    async def _call(self, method: str, token: str, args: dict[str, Any]) -> Response:
        """Answer one Web API call. An error is `ok: false` with status 200."""
        bot = self._workspace.bots.get(token)
        headers = {"X-OAuth-Scopes": ",".join(sorted(bot.scopes))} if bot else {}
        try:
            return JSONResponse(await self._web_api.call(method, token, args), headers=headers)
        except SlackError as error:
            return _error_response(error, headers)

    async def _post(self, request: Request, kind: str, post: PostToUrl, path: str) -> Response:
        """Answer a post to a URL that needs no token. An error is the text of the answer."""
        payload = await _payload(request)
        self.calls.append(Call(kind, payload, self._clock()))

        async def answer() -> Response:
            try:
                await post(path, payload)
            except SlackError as error:
                return PlainTextResponse(error.error, HOOK_STATUS.get(error.error, 400), error.headers)
            return PlainTextResponse("ok")

        return await self._answer(request, kind, answer)

    async def _answer(self, request: Request, method: str, answer: Callable[[], Awaitable[Response]]) -> Response:
        """Return the true answer, or what the next fault makes of it."""
        if not self._faults[method]:
            return await answer()
        fault = self._faults[method].popleft()
        response = await answer() if fault.commit else None
        await fault.wait(request)
        return fault.answer or response or await answer()


def _error_response(error: SlackError, headers: dict[str, str]) -> Response:
    body = {"ok": False, "error": error.error} | error.details
    return JSONResponse(body, error.status, headers | error.headers)


async def _arguments(request: Request) -> tuple[str, dict[str, Any]]:
    """Return token and arguments of a Web API call, from header, query, form or JSON."""
    args: dict[str, Any] = dict(request.query_params)
    match request.headers.get("content-type", "").partition(";")[0]:
        case "application/json":
            try:
                body = json.loads(await request.body())
            except ValueError:
                raise SlackError("invalid_json") from None
            if not isinstance(body, dict):
                raise SlackError("json_not_object")
            args |= body
        case "application/x-www-form-urlencoded":
            args |= await _form(request)
        case other if other:
            raise SlackError("invalid_post_type")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    token = str(args.pop("token", ""))
    return credentials if scheme.lower() == "bearer" else token, args


async def _payload(request: Request) -> Any:
    """Return the JSON that was posted, as the body or as `payload` in a form; None if it is neither."""
    body: str | bytes = await request.body()
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        body = (await _form(request)).get("payload", "")
    try:
        return json.loads(body)
    except ValueError:
        return None


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))
