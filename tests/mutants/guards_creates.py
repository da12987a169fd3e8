"""Guards of creates: what passes through relay, whose key is spent, and that nothing is sent twice."""

from __future__ import annotations

from tests.mutants.guard import Guard

GUARDS = (
    # No open proxy
    Guard(
        "no path of a create leads elsewhere",
        "providers/submit.py",
        "    if found is None or leads_elsewhere(path):\n",
        "    if found is None:\n",
        "providers/test_submit::test_no_path_leads_elsewhere",
    ),
    Guard(
        "a segment of a create is one once it is decoded",
        "providers/submit.py",
        'if not value.isprintable() or "\\\\" in value or ("/" in value and name not in manifold):',
        "if False:",
        "providers/test_submit::test_no_path_leads_elsewhere",
    ),
    # Headers, either way
    Guard(
        "what servers take for a word of relay's stops",
        "providers/passing.py",
        " and not _plain(name).startswith(_NOT_OUT_BEGINS)",
        "",
        "web/api/test_via::test_headers_that_say_something_about_the_connection_or_the_caller_stop_here",
    ),
    Guard(
        "an underscore is a hyphen",
        "providers/passing.py",
        'return name.lower().replace(b"_", b"-")',
        "return name.lower()",
        "web/api/test_via::test_headers_that_say_something_about_the_connection_or_the_caller_stop_here",
    ),
    Guard(
        "what Connection names stops",
        "providers/passing.py",
        "_NOT_OUT | _named_by_connection(given) | {",
        "_NOT_OUT | {",
        "web/api/test_via::test_headers_that_say_something_about_the_connection_or_the_caller_stop_here",
    ),
    Guard(
        "what is not the upstream's to say stops",
        "providers/passing.py",
        "        and not _plain(name).startswith(_NOT_BACK_BEGINS)\n",
        "",
        "web/api/test_via::test_of_the_answer_stops_what_is_not_the_upstreams_to_say",
    ),
    # Keys
    Guard(
        "the deployment's key is masked in the body of an answer",
        "providers/creating.py",
        "CreateAnswer(response.status, headers, redact(response.body, self._secret_forms))",
        "CreateAnswer(response.status, headers, response.body)",
        "web/api/test_via_attacks::test_however_it_is_written_the_deployments_key_comes_back_to_nobody",
    ),
    Guard(
        "the deployment's key is masked in the headers of an answer",
        "providers/creating.py",
        "[(name, redact(value, self._secret_forms)) for name, value in headers_back(response.headers)]",
        "headers_back(response.headers)",
        "web/api/test_via_attacks::test_however_it_is_written_the_deployments_key_comes_back_to_nobody",
    ),
    Guard(
        "who spends the deployment's key must be permitted to",
        "web/api/create_keys.py",
        "        _check_permitted(context, app)\n",
        "",
        "web/api/test_via::test_an_app_that_is_not_named_sends_with_its_own_key_only",
    ),
    Guard(
        "by default only a single app may spend it",
        "store/submissions.py",
        "        if holder is None and one.alone and not apps.is_only_one(tx):\n",
        "        if False:\n",
        "web/api/test_via_attacks::test_when_a_second_app_comes_nobody_spends_the_key_until_the_operator_says_who",
    ),
    Guard(
        "no key of relay's goes to an upstream",
        "web/api/create_keys.py",
        "    if await _shows_ours(context, request, places, pairs):\n",
        "    if False:\n",
        "web/api/test_via_attacks::test_a_key_of_relays_goes_to_no_upstream",
    ),
    Guard(
        "what a caller has made of a key is no key",
        "web/api/create_keys.py",
        "    if provider.definition.auth is not None:\n",
        "    if False:\n",
        "web/api/test_via::test_what_lets_a_create_in_is_made_where_the_file_says_so",
    ),
    # Once
    Guard(
        "a key is one create",
        "store/submissions.py",
        "            holder = _holder(tx, one.app_id, one.key_digest, now)\n",
        "            holder = None\n",
        "web/api/test_via::test_the_same_request_gets_the_first_answer",
    ),
    Guard(
        "what was sent and not answered is unknown",
        "providers/creating.py",
        "        if self._sent:\n",
        "        if False:\n",
        "flow/test_submit_stops::test_creates_are_drained_within_the_grace_time_and_the_rest_is_unknown",
    ),
    Guard(
        "a redirect is unknown",
        "providers/creating.py",
        "        if 300 <= status < 400:\n",
        "        if False:\n",
        "web/api/test_via::test_an_answer_that_is_lost_or_leads_elsewhere_is_unknown",
    ),
    Guard(
        "a create has a connection of its own",
        "providers/creating.py",
        '"reuse": False,',
        '"reuse": True,',
        "web/api/test_via_attacks::test_each_create_has_a_connection_of_its_own",
    ),
    Guard(
        "408 and 409 do not say that nothing was taken",
        "providers/creating.py",
        " and status not in (408, 409)",
        "",
        "web/api/test_via::test_what_an_answer_says_of_the_task",
    ),
    Guard(
        "after unknown the key stays taken",
        "submissions/submitting.py",
        "        if holder.state is SubmissionState.UNKNOWN:\n",
        "        if False:\n",
        "web/api/test_via::test_what_an_answer_says_of_the_task",
    ),
    Guard(
        "another request with the key is refused",
        "submissions/submitting.py",
        "        if holder.request_digest != key.request:\n",
        "        if False:\n",
        "web/api/test_via::test_the_same_request_gets_the_first_answer",
    ),
    Guard(
        "keys belong to an app",
        "model/submission.py",
        "\\0{app_id}\\0{key}",
        "\\0{key}",
        "model/test_submission::test_keys_belong_to_an_app",
    ),
    Guard(
        "what a dead process was sending is unknown",
        "store/processes.py",
        "    submissions.abandon(tx, name, now)\n",
        "",
        "flow/test_submit::test_what_a_dead_process_was_sending_is_unknown_to_others",
    ),
    Guard(
        "a process that ends gives up what is not answered",
        "submissions/submitting.py",
        "        if self._over is not None and not self._over.done():\n",
        "        if False:\n",
        "flow/test_submit_stops::test_creates_are_drained_within_the_grace_time_and_the_rest_is_unknown",
    ),
    Guard(
        "a create that is refused for its token is not repeated, and the token is dropped",
        "providers/messages.py",
        "        if status == 401 and self._credentials is not None and self._key:\n",
        "        if False:\n",
        "flow/test_made_credentials::test_a_create_that_is_refused_is_not_repeated_and_the_next_one_has_another_token",
    ),
    Guard(
        "an erased watch takes the answer along",
        "store/submissions.py",
        "    tx.execute(change.values(answer=None, task_id=None, watch_id=None))\n",
        "",
        "web/api/test_via::test_when_the_watch_is_erased_the_key_stays_taken",
    ),
    # Bodies
    Guard(
        "bodies of creates have room for so many",
        "web/site.py",
        "Shares(SUBMITS_UNDER_WAY * context.settings.max_submit)",
        "Shares(2**40)",
        "web/api/test_via_attacks::test_bodies_under_way_are_bounded_per_app_and_in_all",
    ),
    Guard(
        "the body of a create has a size",
        "web/api/via.py",
        "BodyLimits(context.settings.max_submit, ",
        "BodyLimits(2**40, ",
        "web/api/test_via::test_bodies_are_bounded",
    ),
    Guard(
        "a callback that only a lenient reader would find",
        "providers/callbacks.py",
        "        if _may_name(body, names):\n",
        "        if False:\n",
        "web/api/test_via_attacks::test_a_callback_that_only_a_lenient_reader_would_find_is_refused",
    ),
)
