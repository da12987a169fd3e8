"""What the buttons of the dashboard do: the operator can do what each app could, and ask an upstream at once."""

from __future__ import annotations

import re

import structlog

from relay.errors import Invalid, NotFound
from relay.model.delivery import Verdict
from relay.store import reports, watches
from relay.store.watches import StoredWatch
from relay.web.context import Context
from relay.web.dashboard import rendering

log = structlog.stdlib.get_logger(__name__)

TEST_TEXT = "This is a test event of relay, sent from its dashboard. Its signature is a real one."

Form = dict[str, str]


class Buttons:
    """Does what a button says, and returns what came of it in words.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def press(self, watch_id: str, form: Form) -> str:
        """Do what a button of a watch's page says."""
        match form.get("do"):
            case "retry":
                return await self.retry(form.get("delivery", ""))
            case "stop":
                return await self._stop(watch_id)
            case "test":
                return await self._test(watch_id, form.get("target", ""))
            case "ask":
                return await self._ask(watch_id)
        raise Invalid("there is no such button")

    async def retry(self, delivery_id: str) -> str:
        """Send a delivery again."""
        app_id, watch_id = await self._context.db.read(reports.owner, usable_id(delivery_id))
        delivery = await self._context.actions.send_again(app_id, delivery_id)
        log.info("sent again by the operator", delivery_id=delivery_id, watch_id=watch_id)
        return f"Sending {delivery.row.event_type} to {delivery.row.host} again."

    async def _ask(self, watch_id: str) -> str:
        """Make a watch due. The poll takes its turn in the lane of the upstream, as any other."""
        if not await self._context.db.run(watches.make_due, watch_id, self._context.clock()):
            state = (await self._stored(watch_id)).row.state
            if state != "watching":
                return f"It is not asked about any more: {state}."
            return "It is being asked about at this moment."
        self._context.actions.wake.polls()
        log.info("asked by the operator", watch_id=watch_id)
        return "Asking now. What the upstream says appears here."

    async def _stop(self, watch_id: str) -> str:
        watch = await self._stored(watch_id)
        if not await self._context.actions.stop(watch.row.app_id, watch_id):
            return f"It had ended already: {(await self._stored(watch_id)).row.state}."
        log.info("stopped by the operator", watch_id=watch_id)
        return "Stopped watching; no target is notified of how the task ends."

    async def _test(self, watch_id: str, target_id: str) -> str:
        watch = await self._stored(watch_id)
        target = next((target for target in watch.targets if target.id == target_id), None)
        if target is None:
            raise NotFound(f"there is no target '{target_id[:64]}' of this watch")
        _, attempt = await self._context.actions.test(watch.row.app_id, target, TEST_TEXT)
        outcome = attempt.outcome
        took = rendering.span(attempt.latency_ms)
        if outcome.verdict is Verdict.DELIVERED:
            return f"The test event arrived: {outcome.status or 'taken'} in {took}."
        return f"The test event did not arrive: {outcome.note or outcome.error} ({took})."

    async def _stored(self, watch_id: str) -> StoredWatch:
        """Return a watch of any app."""
        watch = (await self._context.db.read(watches.read_many, [watch_id])).get(watch_id)
        if watch is None:
            raise NotFound(f"there is no watch '{watch_id[:64]}'")
        return watch


def usable_id(text: str) -> str:
    """Return an id from a request, if it can be one."""
    if not re.fullmatch(r"\w{1,64}", text):
        raise NotFound("there is no such thing")
    return text
