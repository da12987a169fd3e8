"""The resolver of the machine that relay runs on: names below `slow.neighbours.com` wait for servers that are silent.

Python imports this module at the start of a process that has its folder in PYTHONPATH. Names below
`fast.neighbours.com` are loopback, and all others are as they are.
"""

import socket
import time

_look_up = socket.getaddrinfo

SILENT = 10.0
"""Seconds after which a resolver gives up. glibc's default: two attempts of five seconds."""


def getaddrinfo(host, port, *args, **kwargs):  # type: ignore[no-untyped-def]
    """Look a name up."""
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name.rstrip(".").endswith("slow.neighbours.com"):
        time.sleep(SILENT)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    if isinstance(name, str) and name.rstrip(".").endswith("fast.neighbours.com"):
        host = "127.0.0.1"
    return _look_up(host, port, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
