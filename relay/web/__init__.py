"""The HTTP side: the API, its description, and the health of the process."""
