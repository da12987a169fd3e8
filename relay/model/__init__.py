"""The nouns of relay and its pure decisions: no I/O, and no clock."""
