"""Bodies of requests that are read in parts while they are sent: a file, or a form with files."""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from registry_admin.errors import AttemptError, InvalidValueError, Outcome

UPLOAD_PART = 256 * 1024  # bytes that are read from a file, or written, at once


class Upload(ABC):
    """A body of known length, which a further attempt sends again. Any thread may read a part."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read_part(self, sent: int) -> bytes:
        """Returns the next part after `sent` bytes; raises AttemptError where it can't be read."""

    @property
    @abstractmethod
    def file(self) -> Any:
        """The body as a binary file, for those who look at the request."""

    def read_all(self) -> bytes:
        """Returns the whole body."""
        content = bytearray()
        while len(content) < len(self):
            content += self.read_part(len(content))
        return bytes(content)


class FileBody(Upload):
    """The rest of a binary file from its present position, which a further attempt sends again.

    Raises InvalidValueError, which names the argument `field`, for a file that can't be rewound: its size isn't known,
    and it can be sent only once.
    """

    def __init__(self, file: Any, field: str = "data") -> None:
        try:
            self._start = file.tell()
            self.size: int = file.seek(0, 2) - self._start
            file.seek(self._start)
            is_text = isinstance(file.read(0), str)
        except (AttributeError, OSError, TypeError, ValueError):
            raise InvalidValueError(field, f"({type(file).__name__})", "give bytes, or a file that can seek") from None
        if is_text:
            raise InvalidValueError(field, f"({type(file).__name__})", "open the file in binary mode")
        self._file = file
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.size

    @property
    def file(self) -> Any:
        """The file itself."""
        return self._file

    def read_part(self, sent: int) -> bytes:
        """Returns the next part after `sent` bytes; raises AttemptError where it can't, or where the size has changed.

        Any thread may call it: one may still be reading for an attempt that was given up.
        """
        remaining = self.size - sent
        is_last = remaining <= UPLOAD_PART
        try:
            with self._lock:
                self._file.seek(self._start + sent)
                part: bytes = self._file.read(remaining + 1 if is_last else UPLOAD_PART)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise AttemptError(Outcome.UNUSABLE, f"the file to send can't be read ({error})") from error
        if not part or (is_last and len(part) > remaining):
            raise AttemptError(Outcome.UNUSABLE, "the file to send has changed its size meanwhile")
        return part


class JoinedBody(Upload):
    """Bytes and files, one after another."""

    def __init__(self, segments: Sequence[bytes | FileBody]) -> None:
        self._segments = segments
        *self._starts, self._size = accumulate(map(len, segments), initial=0)

    def __len__(self) -> int:
        return self._size

    def read_part(self, sent: int) -> bytes:
        """See Upload."""
        index = bisect_right(self._starts, sent) - 1
        segment, offset = self._segments[index], sent - self._starts[index]
        return segment[offset : offset + UPLOAD_PART] if isinstance(segment, bytes) else segment.read_part(offset)

    @property
    def file(self) -> io.BufferedReader:
        """A new file that reads the body from its beginning."""
        return io.BufferedReader(_UploadFile(self), UPLOAD_PART)


class _UploadFile(io.RawIOBase):
    """An upload as a file."""

    def __init__(self, upload: Upload) -> None:
        super().__init__()
        self._upload = upload
        self._sent = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Implements io.RawIOBase."""
        part = self._upload.read_part(self._sent)[: len(buffer)] if self._sent < len(self._upload) else b""
        buffer[: len(part)] = part
        self._sent += len(part)
        return len(part)
