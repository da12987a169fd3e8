"""Guards of claims, quotas, clocks and files."""

from __future__ import annotations

from tests.mutants.guard import Guard

GUARDS = (
    # Claims
    Guard(
        "claims are fair by app",
        "model/fairness.py",
        "        if holds and holds >= GREED * (free - 1):\n",
        "        if False:\n",
        "worker/test_claim_loop::test_an_app_whose_calls_hang_leaves_room_for_others",
    ),
    Guard(
        "claims skip disabled apps",
        "store/due.py",
        "enabled = apps.c.disabled_at.is_(None)",
        "enabled = sa.true()",
        "worker/test_claim_loop::test_what_a_disabled_app_has_registered_waits",
    ),
    Guard(
        "a fault is an outcome",
        "worker/claim_loop.py",
        "            await self._end_fault(claim)\n",
        "",
        "faults/test_outcomes::test_a_secret_that_does_not_open_ends_its_rows",
    ),
    Guard(
        "what cannot be saved is put off ever longer",
        "worker/claim_loop.py",
        "FIRST_SETBACK * 2.0 ** min(times - 1, 10)",
        "FIRST_SETBACK",
        "faults/test_outcomes::test_what_cannot_be_saved_is_put_off_ever_longer",
    ),
    Guard(
        "a row over which processes die is a fault",
        "worker/claim_loop.py",
        "                raise ProcessesDied\n",
        "                pass\n",
        "faults/test_deaths::test_a_row_that_processes_have_died_over_is_a_fault",
    ),
    Guard(
        "deaths in a row are counted",
        "store/processes.py",
        "noted = died and table in deaths.NOTED_IN",
        "noted = False",
        "faults/test_deaths::test_deaths_in_a_row_are_counted_up_to_some_and_forgotten_with_a_save",
    ),
    Guard(
        "rows over which processes die come due one by one",
        "store/deaths.py",
        "    if rows:\n",
        "    if False:\n",
        "faults/test_deaths::test_after_the_second_death_rows_come_due_one_by_one",
    ),
    Guard(
        "SQLite's refusals are an outage",
        "store/driver_errors.py",
        "    trouble = (OperationalError, InterfaceError, InternalError, PoolTimeout)\n",
        "    trouble = (InterfaceError, PoolTimeout)\n",
        "faults/test_resources::test_a_machine_at_its_limits_loses_nothing_and_goes_on_afterwards",
    ),
    Guard(
        "the heartbeat stops while the loop hangs",
        "worker/heartbeat.py",
        "hangs = looked - self._moved > HANGS > looked - before",
        "hangs = False",
        "worker/test_heartbeat_thread::test_a_process_whose_loop_hangs_beats_no_more_until_it_moves",
    ),
    Guard(
        "the quota of watches",
        "store/usage.py",
        "if watches and self.watches + watches > quota.watches:",
        "if False:",
        "attack/test_limits::test_an_app_has_so_many_watches_under_way_and_no_more",
    ),
    Guard(
        "the quota of targets",
        "store/usage.py",
        "if targets and self.targets + targets > quota.targets:",
        "if False:",
        "attack/test_limits::test_an_app_has_so_many_targets_stored_and_no_more",
    ),
    Guard(
        "quotas are exact",
        "store/usage.py",
        "    .order_by(usage.c.app_id)\n    .with_for_update()\n",
        "    .order_by(usage.c.app_id)\n",
        "store/test_usage::test_a_quota_is_exact_although_many_register_at_once",
    ),
    # Clock, key, files, erasing
    Guard(
        "a wrong clock claims nothing",
        "worker/clock.py",
        "return self._known.right and abs(self.offset - self._known.offset) <= JUMP",
        "return True",
        "flow/test_clock::test_a_process_that_starts_with_a_wrong_clock_claims_nothing_until_it_is_right",
    ),
    Guard(
        "what is under way goes by the right time",
        "worker/clock.py",
        "return wall - known.ahead - (moved if abs(moved) > JUMP else 0)",
        "return wall",
        "flow/test_clock::test_what_is_under_way_when_the_clock_jumps_ends_by_the_right_time",
    ),
    Guard(
        "a short key is refused",
        "security/key_file.py",
        "if len(key) < LEAST or not key.isprintable():",
        "if False:",
        "security/test_key_file::test_a_file_without_a_key_is_refused_and_left",
    ),
    Guard(
        "the key appears whole",
        "security/key_file.py",
        "            os.link(temporary, file)\n",
        "            file.touch()\n            os.replace(temporary, file)\n            Path(temporary).touch()\n",
        "security/test_key_file::test_processes_that_start_at_once_agree_on_one_key",
    ),
    Guard(
        "what is deleted is overwritten",
        "store/database.py",
        '        "secure_delete=ON",\n',
        '        "secure_delete=OFF",\n',
        "store/test_erasing::test_no_file_holds_a_byte_of_what_was_erased",
    ),
    Guard(
        "SQLite's log is emptied",
        "store/cleanup.py",
        'cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()',
        'cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()',
        "store/test_erasing::test_no_file_holds_a_byte_of_what_was_erased",
    ),
    Guard(
        "files are private",
        "store/sqlite_file.py",
        "                part.chmod(PRIVATE)\n",
        "                pass\n",
        "store/test_erasing::test_the_files_are_nobody_elses_also_those_of_an_earlier_release",
    ),
    Guard(
        "umask",
        "cli/__init__.py",
        "    os.umask(0o077)",
        "    os.umask(0o022)",
        "cli/test_provider_drafts::test_what_it_writes_is_nobody_elses",
    ),
    Guard(
        "messages of erased watches are noted",
        "store/watches.py",
        "        slack_erasures.note(tx, posts, now)\n",
        "",
        "channels/slack/test_erased::test_the_message_and_the_reply_say_no_more_than_that",
    ),
)
