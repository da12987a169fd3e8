"""Guards between apps, and of what an app may ask for or send through relay."""

from __future__ import annotations

from tests.mutants.guard import Guard

GUARDS = (
    # What an app may see and ask
    Guard(
        "a watch is its app's",
        "store/watches.py",
        "sa.select(watches.c.id).where(watches.c.id == watch_id, watches.c.app_id == app_id)",
        "sa.select(watches.c.id).where(watches.c.id == watch_id)",
        "attack/test_tenants::test_no_route_shows_or_changes_another_apps_rows",
    ),
    Guard(
        "a delivery is its app's",
        "store/deliveries.py",
        "sa.select(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.app_id == app_id)",
        "sa.select(deliveries).where(deliveries.c.id == delivery_id)",
        "attack/test_tenants::test_no_route_shows_or_changes_another_apps_rows",
    ),
    Guard(
        "a replay of many is of an app's own",
        "store/deliveries.py",
        "chosen = [c.app_id == app_id, c.state == selection.state,",
        "chosen = [c.state == selection.state,",
        "attack/test_tenants::test_a_replay_of_many_is_of_ones_own",
    ),
    Guard(
        "ids lead to no other address",
        "model/task_ids.py",
        "    if leads_elsewhere(task_id):\n",
        "    if False:\n",
        "web/api/test_watches::test_ids_that_no_query_could_carry_are_refused",
    ),
    Guard(
        "bodies are strict JSON",
        "web/bodies.py",
        "        orjson.loads(body)  # strict: UTF-8, no NaN, no lone surrogates, nesting bounded\n",
        "",
        "web/test_errors::test_what_is_not_json_is_malformed",
    ),
    Guard(
        "pages of other origins may not call",
        "web/site.py",
        "if origins := context.settings.cors_origins:",
        'if origins := context.settings.cors_origins or ["*"]:',
        "attack/test_limits::test_no_page_of_another_origin_may_call_unless_it_is_listed",
    ),
    # Creates
    Guard(
        "headers that Connection names stop here",
        "providers/passing.py",
        '    named = (value for name, value in headers if _plain(name) == b"connection")\n',
        "    named: list[bytes] = []\n",
        "web/api/test_via::test_headers_that_say_something_about_the_connection_or_the_caller_stop_here",
    ),
    Guard(
        "a caller that leaves takes no create along",
        "submissions/submitting.py",
        "return await asyncio.shield(self._track(self._submit(app_id, call)))",
        "return await self._submit(app_id, call)",
        "web/api/test_via::test_a_handler_that_is_cancelled_loses_no_create",
    ),
    # Slack
    Guard(
        "an app posts where it may",
        "channels/slack/channel.py",
        "if self._grants & permitted or (not self._grants and len(names) <= 1):",
        "if self._grants or len(names) <= 1:",
        "channels/slack/test_permissions::test_an_app_posts_where_it_may",
    ),
    Guard(
        "of several apps none may post by default",
        "channels/slack/channel.py",
        "if self._grants & permitted or (not self._grants and len(names) <= 1):",
        "if self._grants & permitted or not self._grants:",
        "channels/slack/test_permissions::test_by_default_one_app_may_do_all_and_several_nothing_and_what_is_registered_stays",
    ),
    Guard(
        "nobody in Slack may act by default",
        "web/slack/handlers.py",
        "or self._grants.get(person.team)\n",
        "or self._grants.get(person.team, apps.DEFAULT)\n",
        "web/slack/test_slack::test_by_default_nobody_may_act",
    ),
    Guard(
        "what Slack did not sign is refused",
        "web/slack/handlers.py",
        "        if not genuine:\n",
        "        if False:\n",
        "web/slack/test_slack::test_what_slack_did_not_sign_is_refused",
    ),
    Guard(
        "what Slack cannot have sent is not read",
        "web/slack/handlers.py",
        "    if not TIMESTAMP.fullmatch(timestamp) or not SIGNATURE.fullmatch(signature):\n",
        "    if not TIMESTAMP.fullmatch(timestamp):\n",
        "attack/test_resources::test_what_slack_cannot_have_sent_is_answered_before_its_body",
    ),
    Guard(
        "no inline definition asks more often than the floor",
        "providers/inline.py",
        "replace(instead, floor=max(instead.floor, CADENCE.floor))",
        "instead",
        "flow/test_inline::test_the_floor_holds_whatever_the_interval_is",
    ),
)
