# An exception whose name does not end in Error, raised while another one was handled.
class Misconfigured(Exception):
    pass


def connect(n):
    if n:
        return connect(n - 1)
    return {}["database"]


try:
    connect(9)
except KeyError:
    raise Misconfigured("DATABASE_URL is not set")
