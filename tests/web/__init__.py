"""The API as its callers see it: real HTTP, both databases."""
