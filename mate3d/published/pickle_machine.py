"""The standard library's Python unpickler, restricted so that it executes and imports nothing.

The original calls what a file names, sets attributes, and allocates as much as the file claims.
Here a global is only a name, every size is checked against the remaining bytes, and the number of
operations is limited.
"""

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_INHERITED = (
    "PROTO MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1"
    " SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
    " EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT EMPTY_SET"
    " BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID"
)
# Dict keys and set members. Hashing or comparing nested tuples could take forever, and so could
# larger integers, many of which share one hash.
_KEY_TYPES = (str, int, float, bool, type(None))
_MAX_INTEGER_KEY = 2**60
_MAX_LINE = 256


class RefusedPickleError(ValueError):
    """The data is damaged or holds something that is not allowed; the message says what."""


class Global(str):
    """A reference to module.name; nothing is imported."""


@dataclass
class Budget:
    """Limits on the work for one file; shared by all pickles in it.

    Args:
        num_bytes: Bytes left for values that are not slices of the file.
    """

    operations: int
    num_bytes: int

    def spend(self, *, operations: int = 0, num_bytes: int = 0) -> None:
        """Count work before it is done."""
        self.operations -= operations
        self.num_bytes -= num_bytes
        if self.operations < 0:
            raise RefusedPickleError("it holds more operations than any snapshot does")
        if self.num_bytes < 0:
            raise RefusedPickleError("it expands to far more data than its size")


def shown(value: object) -> str:
    """Format a value from the file for a message: short, ASCII."""
    if isinstance(value, str):
        # Cut first, because a text may be as long as the file.
        value = str(value[:160])
    is_plain = isinstance(value, str | int | float | None)
    text = ascii(value) if is_plain else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def checked_keys(keys: list[Any]) -> list[Any]:
    """Check that values may be a dict's keys or a set's members, and return them."""
    for key in keys:
        if type(key) not in _KEY_TYPES or (type(key) is int and abs(key) > _MAX_INTEGER_KEY):
            raise RefusedPickleError(f"it uses {shown(key)} as a key")
    return keys


def _code(name: str) -> int:
    return getattr(pickle, name)[0]


class InertUnpickler(pickle._Unpickler):
    """Reads consecutive pickles of a buffer as plain data; subclasses interpret globals.

    Args:
        data: The buffer; byte strings are returned as slices of it.
        budget: Limits on the work.
    """

    def __init__(self, data: memoryview, budget: Budget):
        self.data, self.budget, self.position = data, budget, 0

    def load(self) -> Any:
        """Read one pickle and return its value.

        Raises:
            RefusedPickleError: If it is damaged or holds something that is not allowed.
        """
        self.memo, self.metastack, self.stack = {}, [], []
        self.append = self.stack.append
        try:
            while (code := self.read(1)[0]) != pickle.STOP[0]:
                self.budget.spend(operations=1)
                if code not in self.dispatch:
                    known = pickletools.code2op.get(chr(code))
                    name = known.name if known else f"0x{code:02x}"
                    raise RefusedPickleError(f"it uses the pickle operation {name}")
                self.dispatch[code](self)
            return self.stack.pop()
        except (RefusedPickleError, MemoryError):
            raise
        # Operations on unsuitable arguments can raise any error.
        except Exception as error:
            at = f"at byte {self.position}"
            raise RefusedPickleError(f"it is damaged {at} ({type(error).__name__})") from None

    def read(self, size: int) -> memoryview:
        """Return the next bytes, if there are that many."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise RefusedPickleError(f"it is truncated: expected {size} bytes after byte {start}")
        return self.data[start : self.position]

    def readline(self) -> bytes:
        """Return a line, the form of names in old protocols."""
        line = bytes(self.data[self.position : self.position + _MAX_LINE])
        return bytes(self.read(line.index(b"\n") + 1))

    def persistent_load(self, pid: Any) -> Any:
        """Return a stand-in for an object outside the pickle."""
        raise RefusedPickleError("it refers to an object outside the file")

    def _set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise RefusedPickleError(f"it stores items in {shown(self.stack[-1])}")
        self.stack[-1].update(zip(checked_keys(items[::2]), items[1::2], strict=True))

    def _add_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise RefusedPickleError(f"it adds members to {shown(self.stack[-1])}")
        self.stack[-1].update(checked_keys(items))

    def _frozen_set(self) -> None:
        # Pop first, because that switches to another stack.
        items = self.pop_mark()
        self.append(frozenset(checked_keys(items)))

    dispatch: dict[int, Callable[[Any], None]] = {
        **{code: pickle._Unpickler.dispatch[code] for code in map(_code, _INHERITED.split())},
        # Only a hint for stream readers.
        pickle.FRAME[0]: lambda self: self.read(8),
        # The inherited one allocates before it checks that the bytes exist.
        pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,
        pickle.SETITEM[0]: lambda self: self._set_items([self.stack.pop(-2), self.stack.pop()]),
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.ADDITEMS[0]: lambda self: self._add_items(self.pop_mark()),
        pickle.FROZENSET[0]: _frozen_set,
    }
