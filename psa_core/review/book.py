"""Writing answers: one at a time, each on the disk before anybody hears that it is saved."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..dataset.answers import ANSWERS, LONGEST_LINE, NONE_READ, Answer, is_torn, read_on
from ..errors import PSAError
from ..files import NOT_THROUGH_LINKS
from ..locks import held

_one_at_a_time = threading.Lock()


class AnswerBook:
    """The answers that lie beside a data set, in memory and in their file.

    Args:
        folder: the data set's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / ANSWERS
        self._read = NONE_READ
        self._reading = threading.Lock()

    def answers(self) -> list[Answer]:
        """All of them, other processes' included; raises PSAError as `each_answer` does. Threads may ask at once.

        Only lines that came since are parsed; a file that was edited meanwhile, or is another one, is read anew.
        """
        with self._reading:
            self._read = read_on(self.folder, self._read)
            return self._read.answers

    def add(self, answer: Answer, check: Callable[[], None] = lambda: None) -> None:
        """Append an answer; when this returns, it is on the disk.

        Args:
            check: called before, when no other answer can come in any more; what it raises keeps this one out.

        Raises:
            PSAError: where it cannot be written. Then it does not count, and those before it do.
        """
        line = answer.to_line()
        try:
            with _one_at_a_time, self._opened() as handle:
                end = _end_of_lines(handle)
                check()
                try:
                    _write(handle, line)
                    os.fsync(handle)
                except BaseException:
                    with suppress(OSError):
                        os.ftruncate(handle, end)
                    raise
        except OSError as error:
            raise PSAError(
                f"The answer cannot be written to {self.path}: {error.strerror}. Check the folder's permissions and "
                "the free space; the answers before it are saved."
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NOT_THROUGH_LINKS, 0o600)
        try:
            with held(handle):
                yield handle
        finally:
            os.close(handle)


def _write(handle: int, line: bytes) -> None:
    while line:
        line = line[os.write(handle, line) :]


def _end_of_lines(handle: int) -> int:
    """Where the last whole line ends: one that lacks its end alone gets it, what a dead process left is cut off."""
    size = end = os.fstat(handle).st_size
    while end:
        begin = max(0, end - 4096)
        os.lseek(handle, begin, os.SEEK_SET)
        block = os.read(handle, end - begin)
        if (last := block.rfind(b"\n")) >= 0:
            end = begin + last + 1
            break
        end = begin
    if end == size:
        return end
    os.lseek(handle, end, os.SEEK_SET)
    if is_torn(os.read(handle, LONGEST_LINE)):
        os.ftruncate(handle, end)
        return end
    _write(handle, b"\n")
    return size + 1
