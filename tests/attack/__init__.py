"""Attacks on a running relay, by the paths that a stranger or a tenant has."""
