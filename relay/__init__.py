"""relay: webhooks for APIs that have none."""

# Stands here, and pyproject.toml reads it. Platforms that build from source install only the dependencies, so no
# metadata of an installed package can say it.
__version__ = "1.0.0"
