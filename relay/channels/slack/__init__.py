"""Slack: messages that live with their tasks, and incoming webhooks."""
