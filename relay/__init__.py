"""relay: webhooks for APIs that have none."""

from importlib.metadata import version

__version__ = version("relay-bridge")
