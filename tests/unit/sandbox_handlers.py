"""Handlers for test_sandbox.py: loaded in a guarded child, they try to get out."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from typing import Any

from edge_runtime.child import Progress, Reply


def _said(act: Any) -> str:
    try:
        act()
        return "done"
    except OSError as error:
        return os.strerror(error.errno or 0)


def _call(number: int, *words: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in words)) < 0:
        raise OSError(ctypes.get_errno(), "")


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _thread() -> str:
    said: list[str] = []
    one = threading.Thread(target=lambda: said.append("ran"))
    one.start()
    one.join()
    return said[0]


def _by_x32() -> None:
    _call(0x40000000 + 41, socket.AF_INET, socket.SOCK_STREAM, 0)


class Escape:
    def handle(self, op: str, meta: dict[str, Any], arrays: Any, progress: Progress) -> Reply:
        families = ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK")
        kinds = {"AF_NETLINK": socket.SOCK_RAW}
        found = {one: _said(lambda one=one: _socket(one, kinds.get(one, socket.SOCK_STREAM))) for one in families}
        found["child"] = _said(lambda: subprocess.run([sys.executable, "-c", ""]))
        found["fork"] = _said(_fork)
        found["exec"] = _said(lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
        found["thread"] = _thread()
        found["io_uring"] = _said(lambda: _call(425, 1, 0))
        found["ptrace"] = _said(lambda: _call(meta["ptrace"], 16, os.getppid(), 0, 0))
        if meta["x32"]:
            found["x32"] = _said(_by_x32)
        return found, {}


def _socket(family: str, kind: int) -> None:
    socket.socket(getattr(socket, family), kind).close()


def escape(spec: dict[str, Any]) -> Escape:
    return Escape()
