"""The triggers that count what apps have, in the dialect of each database. They belong to the table `usage`."""

from __future__ import annotations

TRIGGERS = {
    "usage_of_app": "apps",
    "usage_of_new_watches": "watches",
    "usage_of_ended_watch": "watches",
    "usage_of_old_watch": "watches",
    "usage_of_new_targets": "targets",
    "usage_of_old_target": "targets",
}
"""Each trigger with its table. That of `apps` comes first: an app has a row before anything of it is counted."""

_CHANGE = "(NEW.state = 'watching') <> (OLD.state = 'watching')"
_ENDED = """UPDATE usage SET watching = watching + CASE WHEN NEW.state = 'watching' THEN 1 ELSE -1 END
    WHERE app_id = NEW.app_id;"""
_OLD_WATCH = """UPDATE usage SET watching = watching - CASE WHEN OLD.state = 'watching' THEN 1 ELSE 0 END,
    targets = targets - (SELECT count(*) FROM targets WHERE watch_id = OLD.id) WHERE app_id = OLD.app_id;"""
_OLD_TARGET = """UPDATE usage SET targets = targets - 1
    WHERE app_id = (SELECT app_id FROM watches WHERE id = OLD.watch_id);"""  # there is none if the watch goes with it
_NEW_APP = "INSERT INTO usage (app_id, watching, targets) VALUES (NEW.id, 0, 0) ON CONFLICT DO NOTHING;"

SQLITE = {
    "usage_of_app": f"AFTER INSERT ON apps BEGIN {_NEW_APP} END",
    "usage_of_new_watches": """AFTER INSERT ON watches WHEN NEW.state = 'watching' BEGIN
        UPDATE usage SET watching = watching + 1 WHERE app_id = NEW.app_id; END""",
    "usage_of_ended_watch": f"AFTER UPDATE OF state ON watches WHEN {_CHANGE} BEGIN {_ENDED} END",
    "usage_of_old_watch": f"BEFORE DELETE ON watches BEGIN {_OLD_WATCH} END",
    "usage_of_new_targets": """AFTER INSERT ON targets BEGIN UPDATE usage SET targets = targets + 1
        WHERE app_id = (SELECT app_id FROM watches WHERE id = NEW.watch_id); END""",
    "usage_of_old_target": f"AFTER DELETE ON targets BEGIN {_OLD_TARGET} END",
}

POSTGRESQL = {  # (when it fires, what it does); many new rows are counted at once
    "usage_of_app": ("AFTER INSERT ON apps FOR EACH ROW", f"{_NEW_APP} RETURN NULL;"),
    "usage_of_new_watches": (
        "AFTER INSERT ON watches REFERENCING NEW TABLE AS made FOR EACH STATEMENT",
        """UPDATE usage SET watching = watching + added.number FROM (SELECT app_id, count(*) AS number FROM made
        WHERE state = 'watching' GROUP BY app_id) AS added WHERE usage.app_id = added.app_id; RETURN NULL;""",
    ),
    "usage_of_ended_watch": (
        f"AFTER UPDATE OF state ON watches FOR EACH ROW WHEN ({_CHANGE})",
        f"{_ENDED} RETURN NULL;",
    ),
    "usage_of_old_watch": ("BEFORE DELETE ON watches FOR EACH ROW", f"{_OLD_WATCH} RETURN OLD;"),
    "usage_of_new_targets": (
        "AFTER INSERT ON targets REFERENCING NEW TABLE AS made FOR EACH STATEMENT",
        """UPDATE usage SET targets = targets + added.number FROM (SELECT app_id, count(*) AS number FROM made
        JOIN watches ON watches.id = made.watch_id GROUP BY app_id) AS added
        WHERE usage.app_id = added.app_id; RETURN NULL;""",
    ),
    "usage_of_old_target": ("AFTER DELETE ON targets FOR EACH ROW", f"{_OLD_TARGET} RETURN NULL;"),
}

COUNT = """UPDATE usage SET
    watching = (SELECT count(*) FROM watches WHERE app_id = usage.app_id AND state = 'watching'),
    targets = (SELECT count(*) FROM targets JOIN watches ON watches.id = targets.watch_id
        WHERE watches.app_id = usage.app_id)"""
"""Counts what was there before. On PostgreSQL only while the row is locked, so that nobody changes it meanwhile."""

COUNT_EACH = f"""DO $$ DECLARE app record; BEGIN
    FOR app IN SELECT id FROM apps LOOP
        PERFORM 1 FROM usage WHERE app_id = app.id FOR UPDATE;
        {COUNT} WHERE app_id = app.id;
        COMMIT;
    END LOOP;
END $$"""  # noqa: S608
