"""Body of a synchronous response that is received while it is iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry_admin.discovery.http.connection import Connection
from registry_admin.discovery.http.failures import attempt_error
from registry_admin.discovery.http.framing import ReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.streaming import StreamDecoder, StreamedBody
from registry_admin.errors import Outcome


class ReceivedBody:
    """Body that `reader` reads from `connection` until `deadline`. `release` takes the connection back for reuse."""

    def __init__(
        self,
        connection: Connection,
        reader: ResponseReader,
        body: StreamedBody,
        *,
        deadline: float,
        release: Callable[[Connection], None],
    ) -> None:
        self._connection: Connection | None = connection
        self._reader = reader
        self._body = body
        self._deadline = deadline
        self._release = release

    def parts(self) -> Iterator[bytes]:
        """Yields the decoded parts as they are received; raises AttemptError."""
        decoder = StreamDecoder(self._reader.head.content_encoding)
        try:
            while True:
                yield from decoder.decode(self._body.take())
                if self._reader.is_complete:
                    break
                if self._connection is None:
                    return
                self._connection.receive_part(self._reader, deadline=self._deadline)
            decoder.check_end()
        except (ReplyError, OSError) as error:
            raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error

    def close(self) -> None:
        """Gives the connection back if all of the body has come, else closes it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._reader.is_complete and self._reader.keeps_connection and connection.is_sent:
            self._release(connection)
        else:
            connection.close()

    def __del__(self) -> None:
        self.close()
