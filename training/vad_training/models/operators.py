"""Importing torchvision beside a PyTorch that cannot load its compiled operators."""

import importlib
import sys
from typing import Any, NoReturn

import torch

_WANTED = ("nms", "qnms")
"""Operators of torchvision's compiled library that `import torchvision` looks up whether or not
that library could be loaded."""

_declared: list[torch.library.Library] = []
"""Holds the declarations: a `Library` takes them back when it is collected."""


def declare_torchvision_operators() -> None:
    """Make `import torchvision` work, and with it pytorchvideo and transformers.

    torchvision's wheels hold operators that are compiled for one build of PyTorch. Beside another
    (CUDA wheels of torchvision, PyTorch for CPUs) their library is skipped silently, and then the
    import stops at `operator torchvision::nms does not exist`. The networks of this project are
    plain PyTorch and call none of these operators, so here they are declared, without a function,
    and the import is tried again. Where the import works, nothing happens.

    A call of a declared operator raises RuntimeError.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        # Declared only now: a library that does load defines the operators itself, and two
        # definitions of one operator are an error.
        if _declared or "operator torchvision::" not in str(error):
            raise
    else:
        return
    # Submodules of the failed import are still there and would not be run again.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    make: Any = torch.library.Library  # untyped in PyTorch
    library = make("torchvision", "FRAGMENT")
    for name in _WANTED:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, _refuse, "CompositeExplicitAutograd")
    _declared.append(library)
    importlib.import_module("torchvision")


def _refuse(*_arguments: Any) -> NoReturn:
    raise RuntimeError(
        "torchvision's compiled operators (nms, qnms) do not fit this PyTorch, so they cannot be "
        "called. Install builds of torch and torchvision that belong together."
    )
