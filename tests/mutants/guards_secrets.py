"""Guards of secrets, signatures, and what is shown."""

from __future__ import annotations

from tests.mutants.guard import Guard

GUARDS = (
    # Masking
    Guard(
        "masked text is looked through once more",
        "security/redaction.py",
        "return masked if clean else MASK.encode()",
        "return masked",
        "security/test_redaction::test_no_secret_is_left_and_a_second_time_changes_nothing",
    ),
    Guard(
        "escapes in JSON are read",
        "security/redaction.py",
        'if forms and b"\\\\" in text:',
        "if False:",
        "security/test_redaction::test_examples",
    ),
    Guard(
        "what a receiver repeats is masked",
        "channels/webhook.py",
        "    body = redact(response.body, secret_forms)\n",
        "    body = response.body\n",
        "attack/test_secrets::test_no_secret_is_stored_logged_or_shown",
    ),
    Guard(
        "a token is masked like its key",
        "providers/credentials.py",
        "encoded_forms((*secrets, credential))",
        "encoded_forms(secrets)",
        "providers/test_credentials::test_what_an_answer_repeats_of_key_and_token_is_masked",
    ),
    Guard(
        "relay config masks secrets",
        "cli/deployment.py",
        "    if value and type(settings).model_fields[name].repr is False:\n        return MASK\n",
        "",
        "web/test_ops::test_config_masks_every_secret",
    ),
    Guard(
        "crash reports have no texts of exceptions",
        "telemetry/sentry.py",
        '        error.pop("value", None)\n',
        "        pass\n",
        "telemetry/test_sentry::test_a_crash_is_told_with_its_ids_and_nothing_that_anybody_sent",
    ),
    # Keys and signatures
    Guard(
        "sealed for an owner",
        "security/vault.py",
        "plain, owner.encode())",
        'plain, b"")',
        "attack/test_secrets::test_a_sealed_value_in_another_row_does_not_open",
    ),
    Guard(
        "an overlap is never prolonged",
        "security/app_keys.py",
        'expires_at=min(end, secret["expires_at"] or end)',
        "expires_at=end",
        "attack/test_secrets::test_an_overlap_is_never_prolonged_and_the_old_go_away",
    ),
    Guard(
        "all that is sealed is sealed again",
        "security/reseal.py",
        "    SealedColumn(targets, targets.c.address, lambda row: str(row.id)),\n",
        "",
        "attack/test_secrets::test_after_secrets_rotate_the_old_key_is_not_needed",
    ),
    Guard(
        "an old message does not pass",
        "security/signing.py",
        "    if abs(now - timestamp) > TOLERANCE:\n",
        "    if False:\n",
        "security/test_signing::test_an_old_or_future_message_does_not_pass",
    ),
    Guard(
        "a message that was tampered with does not pass",
        "security/signing.py",
        "if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):",
        "if not signatures:",
        "security/test_signing::test_what_was_tampered_with_does_not_pass",
    ),
    # What is shown
    Guard(
        "without a password a deployment is closed",
        "web/dashboard/sessions.py",
        "        if self._closed or not at_this_machine(request):\n",
        "        if not at_this_machine(request):\n",
        "web/dashboard/test_sessions::test_a_deployment_is_closed_without_a_password",
    ),
    Guard(
        "neither a proxy nor a rebound name opens the dashboard",
        "web/dashboard/sessions.py",
        "        if self._closed or not at_this_machine(request):\n",
        "        if self._closed:\n",
        "web/dashboard/test_sessions::test_neither_a_proxy_nor_a_rebound_name_opens_it",
    ),
    Guard(
        "what is stored is shown as text",
        "web/dashboard/rendering.py",
        "    autoescape=True,\n",
        "    autoescape=False,\n",
        "web/dashboard/test_dashboard::test_whatever_is_stored_is_shown_as_text",
    ),
    Guard(
        "a line of the log is one line",
        "telemetry/logs.py",
        'return text if text.isprintable() else text.encode("unicode_escape").decode()',
        "return text",
        "attack/test_secrets::test_no_secret_is_stored_logged_or_shown",
    ),
    Guard(
        "a long line of the log is still an object",
        "telemetry/logs.py",
        "        if len(line) <= MAX_LINE:\n            break\n",
        "        break\n",
        "web/test_ops::test_a_line_that_is_too_long_is_still_an_object",
    ),
)
