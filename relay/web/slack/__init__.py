"""Slack's two routes: commands, and buttons below messages."""
