"""`Declared`, the base of optimizers and layers: it makes the constructor from the annotations.

To type checkers its subclasses are dataclasses. Values are checked by their `_begin`.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, dataclass_transform

from ._elsewhere import check_names


@dataclass_transform(eq_default=False)
class Declared:
    """Base of classes whose annotations are the arguments of the constructor.

    As in a dataclass, a value is a default, what follows ``_: KW_ONLY`` is a keyword, ``InitVar``
    is no attribute, and a class adds to the arguments of its base or changes their defaults. All
    values go to `_begin`.
    """

    _arguments: ClassVar[dict[str, inspect.Parameter]] = {}  # in the order of the signature
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__init__ is not Declared.__init__:  # of a user's class, with arguments of its own
            cls.__signature__ = None
            return
        own: dict[str, inspect.Parameter] = {}
        kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
        for name, annotation in inspect.get_annotations(cls).items():
            if name == "_":
                kind = inspect.Parameter.KEYWORD_ONLY
            elif "ClassVar" not in str(annotation):
                default = vars(cls).get(name, inspect.Parameter.empty)
                shown = str(annotation)
                shown = shown[8:-1] if shown.startswith("InitVar[") else shown
                own[name] = inspect.Parameter(name, kind, default=default, annotation=shown)
                if name in vars(cls):
                    delattr(cls, name)
        old = [own.pop(name, argument) for name, argument in cls._arguments.items()]
        n = [argument.kind for argument in old].count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        cls.__signature__ = inspect.Signature([*old[:n], *own.values(), *old[n:]])
        cls._arguments = dict(cls.__signature__.parameters)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        first, *others = self._arguments
        check_names([name for name in keywords if name != first], others)
        given = inspect.Signature(list(self._arguments.values())).bind(*args, **keywords)
        given.apply_defaults()
        self._begin(given.arguments)

    def _begin(self, given: dict[str, Any]) -> None:
        raise NotImplementedError
