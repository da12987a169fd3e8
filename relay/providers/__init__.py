"""Declared upstreams: their files, one query, and how an answer is read."""
