"""Guards of docs/security.md taken out of a copy of relay, one at a time: the tests that the page names must fail."""
