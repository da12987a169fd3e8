"""Puts the stand-in together: one workspace, its state, its faults, and the ASGI app that serves it."""

import functools
import json
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from relay.standin.blocks import FetchImage
from relay.standin.errors import Refusal
from relay.standin.faults import HOOK_STATUS, App, Fault
from relay.standin.hooks import IncomingWebhooks, ResponseUrls
from relay.standin.limits import USUAL, Limits, RateLimiter
from relay.standin.page import HEADERS, render_page
from relay.standin.people import Ack, People
from relay.standin.web_api import WebApi
from relay.standin.workspace import Channel, Message, Workspace

WEBHOOK = "webhook"
RESPONSE_URL = "response_url"

Post = Callable[[str, Any], Awaitable[None]]

_plain_client = functools.partial(httpx.AsyncClient, trust_env=False)


async def accept_https(url: str) -> bool:
    """Takes any https image for fetched, and no other: the demo has no network."""
    return url.startswith("https://")


@dataclass(frozen=True)
class Call:
    """A request that arrived: a Web API method, `webhook` or `response_url`, with what it carried, and when."""

    method: str
    args: Any
    at: float = field(default=0.0, compare=False)


class Slack:
    """A local Slack. Serve `app`, point `base_url` at `<url>/api/`, and look at `/` with a browser.

    `hooks` maps what follows `/services/` to a channel id. `limits=None` switches the rate limits off; what a message
    may contain is always checked. `url` is where the app is served, for the response URLs it hands out. `pictures` maps
    the addresses of pictures to places on this machine where its page finds them.
    """

    def __init__(
        self,
        *,
        channels: Iterable[Channel],
        tokens: Mapping[str, Iterable[str]],
        hooks: Mapping[str, str] | None = None,
        people: Mapping[str, str] | None = None,
        name: str = "Relay Demo",
        app_name: str = "relay",
        url: str = "http://127.0.0.1",
        limits: Limits | None = USUAL,
        fetch_image: FetchImage = accept_https,
        unfurl_domains: Iterable[str] = (),
        pictures: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        http: Callable[[], httpx.AsyncClient] = _plain_client,
    ) -> None:
        self.url = url
        self._pictures = pictures
        self.calls: list[Call] = []
        self.acks: list[Ack] = []
        self._workspace = Workspace(
            name=name,
            app_name=app_name,
            channels=channels,
            tokens=tokens,
            people=people or {"U0PERSON": "Sam"},
            fetch_image=fetch_image,
            unfurl_domains=unfurl_domains,
            clock=clock,
        )
        self._clock = clock
        self._rates = rates = RateLimiter(limits, clock)
        self._web_api = WebApi(self._workspace, rates)
        self._webhooks = IncomingWebhooks(self._workspace, rates, hooks or {})
        self._responses = ResponseUrls(self._workspace)
        self._people = People(self._workspace, self._responses, http)
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.app = App(
            routes=[
                Route("/", self._page),
                Route("/api/{method}", self._api, methods=["GET", "POST"]),
                Route("/services/{path:path}", self._webhook, methods=["POST"]),
                Route("/actions/{path:path}", self._response_url, methods=["POST"]),
                Route("/commands/{path:path}", self._response_url, methods=["POST"]),
            ]
        )

    def channel(self, channel_id: str) -> Channel:
        """A channel's state, which a test may change."""
        return self._workspace.channels[channel_id]

    @property
    def limited(self) -> int:
        """How many calls were refused because they came too fast."""
        return self._rates.refused

    def messages(self, channel_id: str) -> list[Message]:
        """What everybody in the channel sees, thread replies too, oldest first."""
        return [message for message in self.channel(channel_id).messages if "is_ephemeral" not in message]

    def ephemeral(self, channel_id: str) -> list[Message]:
        """What only one person sees."""
        return [message for message in self.channel(channel_id).messages if "is_ephemeral" in message]

    def fail_next(self, method: str, fault: Fault) -> None:
        """The next call of a Web API method, of `webhook` or of `response_url` gets this; several queue up."""
        self._faults[method].append(fault)

    def block_actions(self, channel_id: str, ts: str, action_id: str, user_id: str = "U0PERSON") -> dict[str, Any]:
        """The payload of a press on a message's button, for `click`."""
        return self._people.block_actions(self.url, channel_id, ts, action_id, user_id)

    def slash_command(self, channel_id: str, command: str, text: str = "", user_id: str = "U0PERSON") -> dict[str, str]:
        """The fields of a slash command, for `command`."""
        return self._people.slash_command(self.url, channel_id, command, text, user_id)

    async def click(self, url: str, signing_secret: str, payload: Mapping[str, Any]) -> Ack:
        """Sends a signed interaction and records what came of it."""
        return self._recorded(await self._people.click(url, signing_secret, payload))

    async def command(self, url: str, signing_secret: str, payload: Mapping[str, str]) -> Ack:
        """Sends a signed slash command and records what came of it."""
        return self._recorded(await self._people.command(url, signing_secret, payload))

    def _recorded(self, ack: Ack) -> Ack:
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
        except Refusal as refusal:
            return _refused(refusal, {})
        self.calls.append(Call(method, args, self._clock()))
        return await self._answer(request, method, functools.partial(self._call, method, token, args))

    async def _webhook(self, request: Request) -> Response:
        return await self._post(request, WEBHOOK, self._webhooks.post, request.path_params["path"])

    async def _response_url(self, request: Request) -> Response:
        return await self._post(request, RESPONSE_URL, self._responses.post, request.url.path.lstrip("/"))

    async def _call(self, method: str, token: str, args: dict[str, Any]) -> Response:
        """One Web API call: `ok: false` comes with status 200."""
        bot = self._workspace.bots.get(token)
        headers = {"X-OAuth-Scopes": ",".join(sorted(bot.scopes))} if bot else {}
        try:
            return JSONResponse(await self._web_api.call(method, token, args), headers=headers)
        except Refusal as refusal:
            return _refused(refusal, headers)

    async def _post(self, request: Request, kind: str, post: Post, path: str) -> Response:
        """One post to a URL that needs no token: the error is the text."""
        payload = await _payload(request)
        self.calls.append(Call(kind, payload, self._clock()))

        async def answer() -> Response:
            try:
                await post(path, payload)
            except Refusal as refusal:
                return PlainTextResponse(refusal.error, HOOK_STATUS.get(refusal.error, 400), refusal.headers)
            return PlainTextResponse("ok")

        return await self._answer(request, kind, answer)

    async def _answer(self, request: Request, method: str, answer: Callable[[], Awaitable[Response]]) -> Response:
        """The true answer, or what the next fault makes of it."""
        if not self._faults[method]:
            return await answer()
        fault = self._faults[method].popleft()
        response = await answer() if fault.commit else None
        await fault.wait(request)
        return fault.answer or response or await answer()


def _refused(refusal: Refusal, headers: dict[str, str]) -> Response:
    answer = {"ok": False, "error": refusal.error} | refusal.details
    return JSONResponse(answer, refusal.status, headers | refusal.headers)


async def _arguments(request: Request) -> tuple[str, dict[str, Any]]:
    """Token and arguments of a Web API call, from header, query, form or JSON."""
    args: dict[str, Any] = dict(request.query_params)
    match request.headers.get("content-type", "").partition(";")[0]:
        case "application/json":
            try:
                body = json.loads(await request.body())
            except ValueError:
                raise Refusal("invalid_json") from None
            if not isinstance(body, dict):
                raise Refusal("json_not_object")
            args |= body
        case "application/x-www-form-urlencoded":
            args |= await _form(request)
        case other if other:
            raise Refusal("invalid_post_type")
    kind, _, header = request.headers.get("authorization", "").partition(" ")
    token = str(args.pop("token", ""))
    return header if kind.lower() == "bearer" else token, args


async def _payload(request: Request) -> Any:
    """What a webhook got: JSON, by itself or in a form's `payload`; nothing if it is neither."""
    body: str | bytes = await request.body()
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        body = (await _form(request)).get("payload", "")
    try:
        return json.loads(body)
    except ValueError:
        return None


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))
