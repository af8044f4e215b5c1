"""What the parts of a step take: seconds, floating-point operations, and bytes of live tensors."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_ATEN = torch.ops.aten


def _sizes(tensors: Iterable[Tensor]) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors]


# PyTorch's own table knows attention on GPUs only. Its FlopCounterMode keeps outputs of modules
# alive, so memory could not be counted beside it.
_FORMULAS = flop_registry | {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda *args, **_: sdpa_flop_count(*_sizes(args[:3]))
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *args, **_: sdpa_backward_flop_count(*_sizes(args[:4]))
    ),
}


class Parts:
    """Sorts what nested calls take into parts that exclude each other.

    Args:
        device: Whose work is waited for.
        with_operations: Also count floating-point operations of convolutions, products of matrices
            and attention, and bytes of tensors. It costs little where operations are large.

    Attributes:
        seconds: By part.
        operations: By part.
        memory: Counts bytes and operations; None without operations.
    """

    def __init__(self, device: torch.device, *, with_operations: bool = False):
        self.device = device
        self.seconds: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.memory = LiveMemory(lambda: self._running[-1]) if with_operations else None
        self._running: list[str] = []
        self._last = 0.0, 0

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count operations and bytes of what happens inside, as `name` but for other parts."""
        with self.memory, self.part(name):
            yield

    def summary(self) -> dict[str, Any]:
        """Return seconds, operations and bytes, in all and by part."""
        owners = self.memory.owners_at_peak.most_common()
        return {
            "seconds": round(self.seconds.total(), 2),
            "tflop": digits(self.operations.total() / 1e12),
            "peak_gib": digits(self.memory.peak / 2**30),
            "gib_at_peak_by_part": {name: digits(value / 2**30) for name, value in owners},
            "parts": {
                name: {
                    "seconds": round(self.seconds[name], 2),
                    "tflop": digits(self.operations[name] / 1e12),
                    "peak_gib": digits(value / 2**30),
                }
                for name, value in self.memory.peak_by_part.items()
            },
        }

    def restart(self) -> None:
        """Forget what parts took so far; what is alive stays counted."""
        self._tick()
        self.seconds.clear()
        self.operations.clear()
        self.memory.restart()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`, but for what another part counts."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        """Begin a part; see `part`."""
        self._tick()
        self._running.append(name)

    def end(self) -> None:
        """End the part that began last."""
        self._tick()
        self._running.pop()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of an object's method as `name`."""
        function: Callable[..., Any] = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, method, watched)

    def watch_gradient(self, owner: Any, method: str, name: str) -> None:
        """Count the backward pass from a method's result to its first argument as `name`."""
        function: Callable[..., Any] = getattr(owner, method)

        def watched(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            # Its gradient is complete as soon as the method's backward pass is.
            tensor = tensor.view_as(tensor)
            result = function(tensor, *args, **kwargs)
            if result.requires_grad:
                result.register_hook(lambda _: self.begin(name))
                tensor.register_hook(lambda _: self.end())
            return result

        setattr(owner, method, watched)

    def _tick(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter(), self.memory.operations if self.memory else 0
        if self._running:
            self.seconds[self._running[-1]] += now[0] - self._last[0]
            self.operations[self._running[-1]] += now[1] - self._last[1]
        self._last = now


class LiveMemory(TorchDispatchMode):
    """Follows the storages of all tensors that operations take and return; use it as a context.

    It also adds up floating-point operations of convolutions, products of matrices and attention.
    Fake tensors count as much as real ones, so networks can be counted that are not there. What an
    operation allocates and frees inside (workspaces) is not seen.

    Args:
        part: Returns the name of what runs now.

    Attributes:
        operations: Floating-point operations so far.
        peak: Most bytes so far.
        peak_by_part: Most bytes while each part ran, whoever made them.
        owners_at_peak: Bytes at the peak by the part that made them.
    """

    def __init__(self, part: Callable[[], str] = lambda: "all"):
        super().__init__()
        self._part = part
        # Bytes and owners of storages; those that are gone stay until somebody needs the sum.
        self._storages: dict[StorageWeakRef, tuple[int, str]] = {}
        self._at_most = self.peak = self.operations = 0
        self.peak_by_part: Counter[str] = Counter()
        self.owners_at_peak: Counter[str] = Counter()

    def add(self, tensors: Iterable[Tensor], owner: str) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)
            if reference not in self._storages:
                self._storages[reference] = storage.nbytes(), owner
                self._at_most += storage.nbytes()

    def live(self) -> int:
        """Return the bytes that are alive now."""
        gone = [reference for reference in self._storages if reference.expired()]
        for reference in gone:
            self._at_most -= self._storages.pop(reference)[0]
        return self._at_most

    def restart(self) -> None:
        """Begin with new peaks."""
        self.peak = 0
        self.peak_by_part.clear()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Weights and other tensors from before count from their first use.
        self.add(_tensors((args, kwargs)), "before")
        result = function(*args, **(kwargs or {}))
        if formula := _FORMULAS.get(function.overloadpacket):
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        part = self._part()
        self.add(_tensors(result), part)
        if self._at_most > self.peak_by_part[part]:
            self.peak_by_part[part] = max(self.peak_by_part[part], self.live())
            if self._at_most > self.peak:
                self.peak, self.owners_at_peak = self._at_most, Counter()
                for num_bytes, owner in self._storages.values():
                    self.owners_at_peak[owner] += num_bytes
        return result


def digits(value: float) -> float:
    """Round to four digits."""
    return float(f"{value:.4g}")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
