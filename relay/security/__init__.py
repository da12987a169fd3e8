"""Protection against strangers: connections (guard), stored secrets (vault), signatures, API keys and redaction."""
