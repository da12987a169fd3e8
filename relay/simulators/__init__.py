"""Programs that stand in for the parties around relay: an upstream, a receiver and Slack. For demo and tests."""
