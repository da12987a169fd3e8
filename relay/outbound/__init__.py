"""How relay connects to others: requests, connections, and how much one place is asked at once."""
