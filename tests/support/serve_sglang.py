"""SGLang's own server on a machine without a GPU: ``python serve_sglang.py serve --model-path ... --port ...``.

Declares two operators of torchvision where its build does not fit the torch beside it, here and in every process that
the server spawns; everything else is SGLang's.
"""

from __future__ import annotations

import sys
from typing import Any

keep: list[Any] = []


class Declare:
    """Declares the operators when torchvision is about to be imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Answer no import."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            keep.append(library)


try:
    import torchvision  # noqa: F401
except (ImportError, OSError, RuntimeError):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.meta_path.insert(0, Declare())

if __name__ == "__main__":
    from sglang.cli.main import main

    main()
