"""Create calls on their way through relay, which the API hands over and which become watches."""
