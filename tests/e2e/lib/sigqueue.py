# sigqueue.py TARGET SIGNAL SENDER VALUE: queues a signal to a process, as SENDER would (rt_sigqueueinfo(2)).
import ctypes
import platform
import sys

target, signal, sender, value = map(int, sys.argv[1:])
number = {"x86_64": 129, "aarch64": 138}[platform.machine()]


class Info(ctypes.Structure):
    """siginfo_t of a queued signal on 64-bit Linux."""

    _fields_ = [
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("hole", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("value", ctypes.c_void_p),
        ("rest", ctypes.c_byte * 96),
    ]


libc = ctypes.CDLL(None, use_errno=True)
info = Info(signo=signal, code=-1, pid=sender, value=value)
if libc.syscall(number, target, signal, ctypes.byref(info)) != 0:
    sys.exit(f"rt_sigqueueinfo: error {ctypes.get_errno()}")
