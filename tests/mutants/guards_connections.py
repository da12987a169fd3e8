"""Guards of connections: where they lead, what is read from them, what is made of it."""

from __future__ import annotations

from tests.mutants.guard import Guard

GUARDS = (
    # Where relay connects to
    Guard(
        "the guard checks connections",
        "security/guard.py",
        "        if not permitted:\n",
        "        if False:\n",
        "attack/test_ssrf::test_no_transport_connects_to_what_is_not_public",
    ),
    Guard(
        "special addresses are not public",
        "security/guard.py",
        " and not any(plain in network for network in SPECIAL)",
        "",
        "security/test_guard::test_special_addresses_are_refused",
    ),
    Guard(
        "an ISATAP address leads to the one in it",
        "security/guard.py",
        "int(address) >> 32 & 0xFFFFFFFF in _ISATAP",
        "False",
        "security/test_guard::test_special_addresses_are_refused",
    ),
    Guard(
        "blocked networks",
        "security/guard.py",
        "return any(address in network for network in self._blocked)",
        "return False",
        "security/test_guard::test_a_blocked_network_is_blocked_whatever_else_allows_it",
    ),
    Guard(
        "plain HTTP to allowed networks only",
        "security/guard.py",
        "return Guard(self._allowed, self._blocked, public=False)",
        "return Guard(self._allowed, self._blocked)",
        "attack/test_ssrf::test_http_to_a_name_that_has_become_public_is_blocked",
    ),
    Guard(
        "certificates are for the name of the URL",
        "outbound/connector.py",
        "self._tls = tls\n",
        "self._tls = tls\n        self._tls.check_hostname = False\n",
        "outbound/test_transport::test_a_trusted_certificate_for_another_name",
    ),
    Guard(
        "a head is one head",
        "outbound/prepared.py",
        'if not whole.count(b"\\r") == whole.count(b"\\n") == len(lines) - 1 or b"\\0" in whole:',
        "if False:",
        "outbound/test_transport::test_nothing_makes_two_headers_or_requests_of_one",
    ),
    Guard(
        "a URL is read in one way",
        "channels/urls.py",
        '    if "@" in parts.netloc:\n',
        "    if False:\n",
        "attack/test_ssrf::test_urls_that_are_not_what_they_seem_are_refused",
    ),
    Guard(
        "the address of each connection is judged, and not the name",
        "security/guard.py",
        "            raise OSError(_BLOCKED_ERRNO, str(error)) from None\n",
        "            assert error\n",
        "attack/test_ssrf::test_names_are_refused_or_blocked_at_the_connection",
    ),
    Guard(
        "of several addresses each is judged",
        "security/guard.py",
        "            raise OSError(_BLOCKED_ERRNO, str(error)) from None\n",
        "            assert error\n",
        "attack/test_ssrf::test_of_several_addresses_only_the_public_ones_are_tried",
    ),
    Guard(
        "what was stored while it was allowed is judged",
        "security/guard.py",
        "        if not permitted:\n",
        "        if False:\n",
        "attack/test_ssrf::test_what_was_stored_while_allowed_is_blocked_once_it_is_not",
    ),
    Guard(
        "upstreams pass the guard",
        "wiring.py",
        "        _transport(settings, guard, upstreams),\n",
        "        _transport(settings, EVERYWHERE, upstreams),\n",
        "attack/test_ssrf::test_an_upstream_at_a_private_address_is_not_asked",
    ),
    Guard(
        "a Slack webhook leads to Slack",
        "channels/slack/channel.py",
        "if parts.hostname not in self._hook_hosts and parts.netloc not in self._hook_hosts:",
        "if False:",
        "attack/test_ssrf::test_a_slack_webhook_leads_to_slack_only",
    ),
    Guard(
        "Slack's SDK follows no redirect",
        "outbound/aiohttp_session.py",
        "        middlewares=(_refuse_redirects,),\n",
        "",
        "channels/slack/test_channel::test_redirects_are_refused",
    ),
    Guard(
        "the environment's proxies are not used",
        "outbound/aiohttp_session.py",
        "        proxy=proxy,\n",
        "        proxy=proxy,\n        trust_env=True,\n",
        "channels/slack/test_channel::test_the_environments_proxies_are_not_used",
    ),
    Guard(
        "a token endpoint that fails is left alone for ever longer",
        "providers/credentials.py",
        "min(FIRST_RETRY * 2 ** min(kept.failures - 1, 10), LONGEST_RETRY)",
        "FIRST_RETRY",
        "providers/test_credentials::test_a_poll_without_a_token_tells_nothing_and_says_why",
    ),
    Guard(
        "an endless body is cut",
        "outbound/connections.py",
        "        if len(self._body) > self._cap:\n            self._succeed()\n        elif",
        "        if",
        "outbound/test_transport::test_an_endless_body_is_cut_and_its_connection_closed",
    ),
    Guard(
        "a bomb is not inflated",
        "outbound/codings.py",
        "inflater.decompress(piece, cap + 1 - len(inflated))",
        "inflater.decompress(piece)",
        "outbound/test_transport::test_a_zip_bomb_takes_no_memory",
    ),
    Guard(
        "heads and what stands between pieces are bounded",
        "outbound/connections.py",
        "        elif self._unread > MAX_HEAD:\n",
        "        elif False:\n",
        "outbound/test_connections::test_what_goes_on_and_on_is_no_answer",
    ),
    Guard(
        "a connection that brings what nobody asked for is closed",
        "outbound/connections.py",
        "            self._reusable = False\n            self.abort()\n            return\n",
        "            return\n",
        "outbound/test_connections::test_what_nobody_asked_for_ends_the_connection",
    ),
)
