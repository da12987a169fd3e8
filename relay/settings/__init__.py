"""What a deployment may set: every option, the kinds of their values, and where values come from."""
