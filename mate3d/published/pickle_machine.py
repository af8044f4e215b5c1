"""A pickle interpreter that makes plain data and, by its rules' leave, inert objects.

Python's own unpickler calls what a file names, sets attributes on what it finds, and allocates
what a file claims. This one knows only the operations that snapshots consist of; a global is a
token that only the rules can act on, and no size is believed before the bytes were counted.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

_STOP = 0x2E
_PROTOCOLS = range(2, 6)
# Dict keys and set members: hashing or comparing nested tuples could take for ever, and so could
# whole numbers beyond this, many of which have one hash.
_KEY_TYPES = (str, int, float, bool, type(None))
_MAX_INTEGER_KEY = 2**60


class RefusedPickleError(ValueError):
    """The data is damaged, or holds something that is not allowed; the message says what."""


@dataclass(frozen=True)
class Global:
    """A name that the data refers to; nothing is imported."""

    module: str
    name: str


@dataclass
class Budget:
    """What one file may make us do; shared by all pickles inside it.

    Args:
        operations: Operations left.
        num_bytes: Bytes left for values that are not slices of the file.
    """

    operations: int
    num_bytes: int

    def spend(self, *, operations: int = 0, num_bytes: int = 0) -> None:
        """Count work before it is done."""
        self.operations -= operations
        self.num_bytes -= num_bytes
        if self.operations < 0:
            raise RefusedPickleError("it holds more operations than any snapshot")
        if self.num_bytes < 0:
            raise RefusedPickleError("it unfolds to far more data than its size")


class Rules(Protocol):
    """What globals may do. Every method raises RefusedPickleError for what is not allowed."""

    def resolve(self, module: str, name: str) -> Global:
        """Return the token of an allowed global."""

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Return the inert result of an allowed function."""

    def new(self, cls: Global) -> Any:
        """Return an empty inert object of an allowed class."""

    def build(self, instance: Any, state: Any) -> None:
        """Give an inert object its state."""

    def load_persistent(self, identifier: Any) -> Any:
        """Return the object that stands outside the pickle."""


def shown(value: object) -> str:
    """Write something that a file holds so that a message can show it: short, ASCII."""
    is_plain = isinstance(value, str | int | float | None)
    # Cut first: a text may be as long as the file.
    text = ascii(value[:80] if isinstance(value, str) else value) if is_plain else _kind(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(value: object) -> str:
    return f"{value.module}.{value.name}" if isinstance(value, Global) else type(value).__name__


class PickleMachine:
    """Interprets consecutive pickles of a buffer.

    Args:
        data: The buffer; long byte strings come back as slices of it.
        rules: What globals may do.
        budget: Work allowed.
        position: Where the first pickle starts; moves behind each pickle read.
    """

    def __init__(self, data: memoryview, rules: Rules, budget: Budget, position: int = 0):
        self.data, self.rules, self.budget, self.position = data, rules, budget, position
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Interpret one pickle and return its value.

        Raises:
            RefusedPickleError: If it is damaged or holds something that is not allowed.
        """
        self.stack, self.outer_stacks, self.memo = [], [], {}
        try:
            while (code := self.take(1)[0]) != _STOP:
                self.budget.spend(operations=1)
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise RefusedPickleError(_unknown_operation(code))
                operation(self)
            return self.stack.pop()
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            at = f"at byte {self.position}"
            raise RefusedPickleError(f"it is damaged {at} ({type(error).__name__})") from None

    def take(self, size: int) -> memoryview:
        """Return the next bytes, if that many are there."""
        end = self.position + size
        if end > len(self.data):
            raise RefusedPickleError(
                f"it is cut short: {size} bytes should follow at byte {self.position},"
                f" {len(self.data) - self.position} do"
            )
        part = self.data[self.position : end]
        self.position = end
        return part

    def integer(self, size: int) -> int:
        """Read an unsigned little-endian number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        """Read `size` bytes of UTF-8."""
        return str(self.take(size), "utf-8", "surrogatepass")

    def line(self) -> str:
        """Read a line of at most 255 bytes, as old protocols write names."""
        end = bytes(self.data[self.position : self.position + 256]).find(b"\n")
        if end < 0:
            raise RefusedPickleError(f"it is damaged at byte {self.position} (a name has no end)")
        text = self.text(end)
        self.position += 1
        return text

    def items_since_mark(self) -> list[Any]:
        """Pop everything above the last mark."""
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items


def _unknown_operation(code: int) -> str:
    known = pickletools.code2op.get(chr(code))
    name = known.name if known else f"0x{code:02x}"
    return f"it uses the pickle operation {name}, which snapshots never do"


def _protocol(machine: PickleMachine) -> None:
    version = machine.integer(1)
    if version not in _PROTOCOLS:
        raise RefusedPickleError(f"pickle protocol {version} is not known; 2 to 5 are")


def _mark(machine: PickleMachine) -> None:
    machine.outer_stacks.append(machine.stack)
    machine.stack = []


def _long(machine: PickleMachine) -> None:
    machine.stack.append(int.from_bytes(machine.take(machine.integer(1)), "little", signed=True))


def _tuple(size: int) -> Callable[[PickleMachine], None]:
    def run(machine: PickleMachine) -> None:
        if len(machine.stack) < size:
            raise IndexError
        items = tuple(machine.stack[-size:])
        machine.stack[-size:] = [items]

    return run


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise RefusedPickleError(f"it stores items in {shown(target)}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise RefusedPickleError(f"it appends to {shown(target)}")
    target.extend(items)


def _add(target: Any, items: list[Any]) -> None:
    if type(target) is not set:
        raise RefusedPickleError(f"it adds members to {shown(target)}")
    target.update(map(checked_key, items))


def checked_key(key: Any) -> Any:
    """Return what may be a dict's key or a set's member."""
    if type(key) not in _KEY_TYPES:
        raise RefusedPickleError(f"it uses {shown(key)} as a key")
    if type(key) is int and abs(key) > _MAX_INTEGER_KEY:
        raise RefusedPickleError("it uses a huge number as a key")
    return key


def _one_item(store: Callable[[Any, list[Any]], None], count: int) -> Callable:
    def run(machine: PickleMachine) -> None:
        items = [machine.stack.pop() for _ in range(count)][::-1]
        store(machine.stack[-1], items)

    return run


def _many_items(store: Callable[[Any, list[Any]], None]) -> Callable:
    def run(machine: PickleMachine) -> None:
        items = machine.items_since_mark()
        store(machine.stack[-1], items)

    return run


def _resolve(machine: PickleMachine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise RefusedPickleError("it names a global that is not text")
    machine.stack.append(machine.rules.resolve(module, name))


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _resolve(machine, module, name)


def _reduce(machine: PickleMachine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if type(function) is not Global or type(arguments) is not tuple:
        raise RefusedPickleError(f"it calls {shown(function)}")
    machine.stack.append(machine.rules.call(function, arguments))


def _new_object(machine: PickleMachine) -> None:
    arguments, cls = machine.stack.pop(), machine.stack.pop()
    if type(cls) is not Global:
        raise RefusedPickleError(f"it makes an instance of {shown(cls)}")
    if type(arguments) is not tuple or arguments:
        raise RefusedPickleError(f"it passes arguments to {cls.module}.{cls.name}.__new__")
    machine.stack.append(machine.rules.new(cls))


def _build(machine: PickleMachine) -> None:
    state = machine.stack.pop()
    machine.rules.build(machine.stack[-1], state)


def _persistent(machine: PickleMachine) -> None:
    machine.stack.append(machine.rules.load_persistent(machine.stack.pop()))


def _put(size: int) -> Callable[[PickleMachine], None]:
    def run(machine: PickleMachine) -> None:
        machine.memo[machine.integer(size)] = machine.stack[-1]

    return run


def _memoize(machine: PickleMachine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _pop(machine: PickleMachine) -> None:
    # A mark counts as an item of the stack.
    if machine.stack:
        machine.stack.pop()
    else:
        machine.items_since_mark()


def _push(read: Callable[[PickleMachine], Any]) -> Callable[[PickleMachine], None]:
    def run(machine: PickleMachine) -> None:
        # Reading may replace the stack, so it comes first.
        value = read(machine)
        machine.stack.append(value)

    return run


_OPERATIONS: dict[int, Callable[[PickleMachine], None]] = {
    0x80: _protocol,
    0x95: lambda machine: machine.take(8),  # FRAME: only a hint for readers of streams
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda machine: machine.items_since_mark(),
    ord("N"): _push(lambda machine: None),
    0x88: _push(lambda machine: True),
    0x89: _push(lambda machine: False),
    ord("K"): _push(lambda machine: machine.integer(1)),
    ord("M"): _push(lambda machine: machine.integer(2)),
    ord("J"): _push(lambda machine: struct.unpack("<i", machine.take(4))[0]),
    ord("G"): _push(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    0x8A: _long,
    0x8C: _push(lambda machine: machine.text(machine.integer(1))),
    ord("X"): _push(lambda machine: machine.text(machine.integer(4))),
    0x8D: _push(lambda machine: machine.text(machine.integer(8))),
    ord("C"): _push(lambda machine: machine.take(machine.integer(1))),
    ord("B"): _push(lambda machine: machine.take(machine.integer(4))),
    0x8E: _push(lambda machine: machine.take(machine.integer(8))),
    0x96: _push(lambda machine: machine.take(machine.integer(8))),  # BYTEARRAY8
    ord(")"): _push(lambda machine: ()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): _push(lambda machine: tuple(machine.items_since_mark())),
    ord("]"): _push(lambda machine: []),
    ord("a"): _one_item(_append, 1),
    ord("e"): _many_items(_append),
    ord("}"): _push(lambda machine: {}),
    ord("s"): _one_item(_set_items, 2),
    ord("u"): _many_items(_set_items),
    0x8F: _push(lambda machine: set()),
    0x90: _many_items(_add),
    0x91: _push(lambda machine: frozenset(map(checked_key, machine.items_since_mark()))),
    ord("h"): _push(lambda machine: machine.memo[machine.integer(1)]),
    ord("j"): _push(lambda machine: machine.memo[machine.integer(4)]),
    ord("q"): _put(1),
    ord("r"): _put(4),
    0x94: _memoize,
    ord("c"): lambda machine: _resolve(machine, machine.line(), machine.line()),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    ord("b"): _build,
    ord("Q"): _persistent,
}
