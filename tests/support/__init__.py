"""The parties around relay, played over real HTTP on loopback, and a relay to put among them."""
