# Stands for systemd: passes sockets, and prints what the process tells by NOTIFY_SOCKET, a datagram a line.
#
#   notify.py listen SOCKET                        prints JSON lines until its standard input ends
#   notify.py activate ADDR,ADDR [--names A:B] -- COMMAND...     binds the addresses, becomes COMMAND

import fcntl
import json
import os
import socket
import sys
import threading


def listen(path):
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(path)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(json.dumps("listening"), flush=True)
    while True:
        print(json.dumps(end.recv(65536).decode()), flush=True)


def activate(addresses, names, command):
    held = []
    for address in addresses.split(","):
        host, port = address.rsplit(":", 1)
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind((host, int(port)))
        end.listen(128)
        held.append(end)
    # First out of the way, so that none lies where another goes.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in held]
    for at, fd in enumerate(high):
        os.dup2(fd, 3 + at, inheritable=True)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(held))
    if names:
        os.environ["LISTEN_FDNAMES"] = names
    os.execvp(command[0], command)


if sys.argv[1] == "listen":
    listen(sys.argv[2])
else:
    at = sys.argv.index("--")
    options = sys.argv[3:at]
    activate(sys.argv[2], options[1] if options else "", sys.argv[at + 1 :])
