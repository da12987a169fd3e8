"""What `relay worker` runs: the clock, the loops that claim due rows, and upkeep."""
