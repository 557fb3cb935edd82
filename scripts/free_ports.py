"""Prints a port from which on eight are free: the one asked for if it is, or else another."""

import socket
import sys

COUNT = 8
# Below the range from which the system gives ports to clients.
OTHERS = range(20000, 30000, 10)


def are_free(base):
    sockets = []
    try:
        for port in range(base, base + COUNT):
            sockets.append(socket.socket())
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets[-1].bind(("127.0.0.1", port))
        return True
    except OSError:
        return False
    finally:
        for each in sockets:
            each.close()


wanted = int(sys.argv[1])
found = next((base for base in [wanted, *OTHERS] if are_free(base)), None)
if found is None:
    sys.exit("no eight free ports")
print(found)
