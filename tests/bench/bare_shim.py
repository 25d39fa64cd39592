"""A containerd shim of the second version, used with nothing around it: what our own way through it is compared with."""

import itertools
import os
import socket
import struct
import subprocess

SHIM = "containerd-shim-runc-v2"
SERVICE = "containerd.task.v2.Task"
REQUEST, RESPONSE = 1, 2
HEADER = struct.Struct(">IIBB")


def field(number, value):
    """One member of a protobuf message: bytes or text with their length, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


class Task:
    """The task service of a shim: https://github.com/containerd/ttrpc, PROTOCOL.md."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(address.removeprefix("unix://"))
        self.streams = itertools.count(1, 2)

    def read(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def call(self, method, *fields):
        payload = b"".join(field(number, value) for number, value in fields)
        request = field(1, SERVICE) + field(2, method) + field(3, payload)
        self.socket.sendall(HEADER.pack(len(request), next(self.streams), REQUEST, 0) + request)
        length, _, kind, _ = HEADER.unpack(self.read(HEADER.size))
        answer = self.read(length)
        # The first member of an answer is a status, where there was a fault.
        if kind != RESPONSE or answer[:1] == b"\x0a":
            raise SystemExit(f"shim: {method}: {answer!r}")


class BareShim:
    """Runs the command of a bundle, each time with a shim of its own, from its start to its removal."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.numbers = itertools.count()
        # A shim ends when nobody reads its log.
        if not (bundle / "log").exists():
            os.mkfifo(bundle / "log")
        self.log = os.open(bundle / "log", os.O_RDONLY | os.O_NONBLOCK)

    def command(self, name, *words):
        arguments = [SHIM, "-namespace", "paw-bench", "-id", name, "-address", "/nowhere", "-publish-binary", "/bin/true", *words]
        environment = {"PATH": os.environ["PATH"], "GOMAXPROCS": "2"}
        return subprocess.run(arguments, cwd=self.bundle, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True).stdout

    def run(self):
        name = f"bench-{os.getpid()}-{next(self.numbers)}"
        task = Task(self.command(name, "start").strip())
        task.call("Create", (1, name), (2, str(self.bundle)))
        task.call("Start", (1, name))
        task.call("Wait", (1, name))
        task.call("Delete", (1, name))
        try:
            task.call("Shutdown", (1, name), (2, 1))
        except (EOFError, ConnectionError):
            pass  # It is gone before it has answered.
