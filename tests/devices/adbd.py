"""A small adbd over TCP: the device side of the ADB protocol, for the real `adb` binary to connect to.

Protocol: AOSP packages/modules/adb: protocol.txt (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE), SERVICES.TXT, SYNC.TXT, and
shell_protocol.h (shell v2: packets of id, length, data; exit code and stderr of their own). Commands really run, in a
shell whose PATH and absolute paths lie under a temporary root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (int.from_bytes(w, "little") for w in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))  # fmt: skip
VERSION, MAX_DATA = 0x01000001, 256 * 1024
STDOUT, STDERR, EXIT = 1, 2, 3
ABSOLUTE = ("/data/local/tmp", "/sys/", "/proc/meminfo")


class Gone(Exception):
    """The host went away, or this side hung up."""


class Stream:
    """One OPENed service: what the host writes comes out of `read`; `write` waits for the host's OKAY."""

    def __init__(self, link: Link, local: int, remote: int) -> None:
        self.link, self.local, self.remote = link, local, remote
        self._in: queue.Queue[bytes | None] = queue.Queue()
        self._ready = threading.Semaphore(0)
        self._buffer = b""
        self.closed = False

    def read(self, n: int) -> bytes:
        while len(self._buffer) < n:
            chunk = self._in.get()
            if chunk is None:
                raise Gone
            self._buffer += chunk
            self.link.send(OKAY, self.local, self.remote)
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    def write(self, data: bytes) -> None:
        for i in range(0, len(data), MAX_DATA // 2):
            if self.closed:
                raise Gone
            self.link.send(WRTE, self.local, self.remote, data[i : i + MAX_DATA // 2])
            self._ready.acquire()

    def feed(self, data: bytes | None) -> None:
        if data is None:
            self.closed = True
            self._ready.release()
        self._in.put(data)

    def okay(self) -> None:
        self._ready.release()


class Link:
    """One TCP connection from the host's adb server."""

    def __init__(self, adbd: Adbd, sock: socket.socket) -> None:
        self.adbd, self.sock = adbd, sock
        self._lock = threading.Lock()
        self.streams: dict[int, Stream] = {}
        self.processes: set[subprocess.Popen[bytes]] = set()

    def send(self, command: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        try:
            with self._lock:
                self.sock.sendall(head + data)
        except OSError as error:
            raise Gone from error

    def serve(self) -> None:
        """Read packets until the connection ends."""
        with contextlib.suppress(Gone, OSError):
            while True:
                command, arg0, arg1, length, _, _ = struct.unpack("<6I", self._exactly(24))
                self._packet(command, arg0, arg1, self._exactly(length))
        self.close()

    def _packet(self, command: int, arg0: int, arg1: int, data: bytes) -> None:
        if command == CNXN and not self.adbd.mute:
            if self.adbd.authorized:
                self.hello()
            else:
                self.send(AUTH, 1, 0, os.urandom(20))
        elif command == AUTH:
            if arg0 == 2:  # a signature by a key that is not known here: ask for the next, then for the public key
                self.send(AUTH, 1, 0, os.urandom(20))
        elif command == OPEN:
            local = len(self.adbd.opened) + 1
            self.adbd.opened.append(data.rstrip(b"\0").decode())
            stream = self.streams[local] = Stream(self, local, arg0)
            self.send(OKAY, local, arg0)
            threading.Thread(target=self._service, args=(stream, self.adbd.opened[-1]), daemon=True).start()
        elif arg1 in self.streams:
            stream = self.streams[arg1]
            if command == WRTE:
                stream.feed(data)
            elif command == OKAY:
                stream.okay()
            elif command == CLSE:
                stream.feed(None)

    def hello(self) -> None:
        """The banner: kind of device, its names, and the features of protocol it has."""
        names = "".join(f"ro.product.{k}={v};" for k, v in self.adbd.names.items())
        self.send(CNXN, VERSION, MAX_DATA, f"{self.adbd.kind}::{names}features=shell_v2,cmd".encode())

    def _service(self, stream: Stream, name: str) -> None:
        try:
            kind, _, command = name.partition(":")
            if kind.startswith("shell,"):
                self._shell(stream, command)
            elif kind == "sync":
                Sync(self.adbd, stream).serve()
        except Gone:
            pass
        finally:
            with contextlib.suppress(Gone):
                self.send(CLSE, stream.local, stream.remote)
            self.streams.pop(stream.local, None)

    def _shell(self, stream: Stream, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", self.adbd.rooted(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.adbd.environment(),
            cwd=self.adbd.root,
            start_new_session=True,
        )
        self.processes.add(process)
        lock = threading.Lock()

        def pump(pipe: IO[bytes], number: int) -> None:
            with contextlib.suppress(Gone), pipe:  # closed when the host is gone: what writes then gets SIGPIPE
                while data := os.read(pipe.fileno(), 65536):
                    with lock:
                        stream.write(struct.pack("<BI", number, len(data)) + data)

        assert process.stdout is not None
        assert process.stderr is not None
        pipes = ((process.stdout, STDOUT), (process.stderr, STDERR))
        pumps = [threading.Thread(target=pump, args=pair, daemon=True) for pair in pipes]
        for thread in pumps:
            thread.start()
        for thread in pumps:
            thread.join()
        code = process.wait()
        self.processes.discard(process)
        stream.write(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            chunk = self.sock.recv(n - len(data))
            if not chunk:
                raise Gone
            data += chunk
        return data

    def close(self) -> None:
        """Hang up, and end what runs, as adbd's shell does when its terminal goes."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for stream in list(self.streams.values()):
            stream.feed(None)
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGHUP)


class Sync:
    """The file service: STAT, SEND, RECV, LIST, QUIT (SYNC.TXT)."""

    def __init__(self, adbd: Adbd, stream: Stream) -> None:
        self.adbd, self.stream = adbd, stream

    def serve(self) -> None:
        while True:
            kind, length = struct.unpack("<4sI", self.stream.read(8))
            if kind == b"QUIT":
                return
            path = self.stream.read(length).decode()
            {b"STAT": self.stat, b"SEND": self.receive, b"RECV": self.send, b"LIST": self.list}[kind](path)

    def stat(self, path: str) -> None:
        try:
            found = os.lstat(self.adbd.rooted(path))
            self.stream.write(struct.pack("<4sIII", b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))
        except OSError:
            self.stream.write(struct.pack("<4sIII", b"STAT", 0, 0, 0))

    def receive(self, path: str) -> None:
        """SEND, seen from here: `path,mode`, DATA chunks, DONE."""
        name, _, mode = path.rpartition(",")
        problem = ""
        local = Path(self.adbd.rooted(name))
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("wb") as file:
                problem = self._chunks(file, problem)
        except OSError as error:
            problem = os.strerror(error.errno or errno.EIO)
        if problem:
            self._fail(problem)
            return
        local.chmod(int(mode) & 0o777)
        self.stream.write(struct.pack("<4sI", b"OKAY", 0))

    def _chunks(self, file: object, problem: str) -> str:
        while True:
            kind, length = struct.unpack("<4sI", self.stream.read(8))
            if kind == b"DONE":
                return problem
            data = self.stream.read(length)
            if not problem and self.adbd.used() + len(data) > self.adbd.space:
                problem = f"write failed: {os.strerror(errno.ENOSPC)}"
                self._fail(problem)
            elif not problem:
                file.write(data)  # type: ignore[attr-defined]
                file.flush()  # type: ignore[attr-defined]

    def _fail(self, text: str) -> None:
        self.stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text.encode())

    def send(self, path: str) -> None:
        try:
            data = Path(self.adbd.rooted(path)).read_bytes()
        except OSError as error:
            self._fail(os.strerror(error.errno or errno.EIO))
            return
        for i in range(0, len(data), 65536):
            chunk = data[i : i + 65536]
            self.stream.write(struct.pack("<4sI", b"DATA", len(chunk)) + chunk)
        self.stream.write(struct.pack("<4sI", b"DONE", 0))

    def list(self, path: str) -> None:
        for entry in sorted(os.scandir(self.adbd.rooted(path)), key=lambda e: e.name):
            s, name = entry.stat(), entry.name.encode()
            self.stream.write(struct.pack("<4sIIII", b"DENT", s.st_mode, s.st_size, int(s.st_mtime), len(name)) + name)
        self.stream.write(struct.pack("<4sIIII", b"DONE", 0, 0, 0, 0))


class Adbd:
    """The daemon. `drop()` cuts the cable, `plug()` puts it back: the port stays the same."""

    def __init__(self, root: Path, names: dict[str, str], path: str, extra_env: dict[str, str]) -> None:
        self.root, self.names, self.path, self.extra_env = root, names, path, extra_env
        self.kind = "device"  # or recovery, sideload, bootloader
        self.authorized = True
        self.mute = False  # accepts the connection and says nothing
        self.space = 1 << 40  # bytes that /data/local/tmp holds
        self.opened: list[str] = []  # every service that was asked for, in order
        self._links: list[Link] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.plug()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def plug(self) -> None:
        """Listen on the port (chosen on first use)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def drop(self) -> None:
        """The cable is out: all connections break and nothing listens."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.close()
        self._links.clear()

    def allow(self) -> None:
        """'Allow USB debugging?' is accepted."""
        self.authorized = True
        for link in self._links:
            link.hello()

    def rooted(self, text: str) -> str:
        """`text` with the phone's absolute paths moved under the root."""
        for prefix in ABSOLUTE:
            text = text.replace(prefix, f"{self.root}{prefix}")
        return text

    def environment(self) -> dict[str, str]:
        return {"PATH": self.path, "HOME": "/", "TMPDIR": f"{self.root}/data/local/tmp", **self.extra_env}

    def used(self) -> int:
        """Bytes in /data/local/tmp."""
        return sum(f.stat().st_size for f in _files(self.root / "data/local/tmp"))

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(self, sock)
                self._links.append(link)
                threading.Thread(target=link.serve, daemon=True).start()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path
