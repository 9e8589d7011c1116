from typing import Any, Self

from typing_extensions import disjoint_base

def move(table: Any, rows: Any, to: Any, room: int) -> None: ...
def reach(process: int, writes: bool, here: int, there: int, size: int) -> bool: ...

PART: int
AT_ONCE: int

@disjoint_base
class Pieces:
    def __new__(
        cls,
        table: Any,
        ends: Any,
        merges: Any,
        processes: Any,
        places: Any,
        params: Any,
        writers: Any,
        targets: Any,
        item: int,
    ) -> Self: ...
    def add_up(self, whole: int) -> None: ...
    def forget(self) -> None: ...
    def push(self) -> None: ...
