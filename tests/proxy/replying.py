"""A model server that answers with the very bytes it is given, for the response side of the conformance corpus."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.worker import read_answer

NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"


class Replying:
    """Answers each request with the next of `answers`, or with NEXT; a context manager. `close_after` ends the connection behind it."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, bool]] = []
        self.served: list[int] = []  # the connection of each request, in order
        self.ended: set[int] = set()  # connections that both sides have closed
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Replying:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._open):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self._stopping:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(client)
            number += 1
            self._start(self._serve, client, number)

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, contextlib.suppress(OSError):
            while b"\r\n\r\n" in read_answer(client):  # a request is framed as an answer is
                self.served.append(number)
                answer, close = self.answers.pop(0) if self.answers else (NEXT, False)
                client.sendall(answer)
                if close:
                    client.shutdown(socket.SHUT_WR)
        self._open.discard(client)
        self.ended.add(number)
