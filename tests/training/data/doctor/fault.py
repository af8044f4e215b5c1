"""What a fault is: how to make it, and what the doctor must say."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.training.data.doctor.broken import OpenDataset

Names = Iterable[str]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        code: The finding that must be there.
        break_data: Makes the fault and returns the names that the finding must list.
        kind: Which clean data set is broken.
        variant: Tells faults with the same code apart.
        follows: Findings that the fault causes besides, and rightly so.
        remains: Errors and warnings that are left after all repairs; None if nothing can be
            written at all.
    """

    code: str
    break_data: Callable[[OpenDataset], Names]
    kind: str = "cats"
    variant: str = ""
    follows: frozenset[str] = frozenset()
    remains: frozenset[str] | None = frozenset()

    def __str__(self) -> str:
        return f"{self.code}-{self.variant}" if self.variant else self.code


FAULTS: list[Fault] = []


def fault(code: str, *, follows: Names = (), remains: Names | None = (), **options):
    """Register the function below as a fault."""

    def register(break_data: Callable[[OpenDataset], Names]):
        left = None if remains is None else frozenset(remains)
        variant = break_data.__name__.strip("_")
        one = Fault(code, break_data, variant=variant, follows=frozenset(follows), remains=left)
        FAULTS.append(Fault(**{**vars(one), **options}))
        return break_data

    return register
