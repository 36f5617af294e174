"""Run a script in SGLang whose picture conditioning is broken on request.

    python faulty_sglang.py FILE SCRIPT ARGUMENTS...

``FILE`` holds the name of the fault and is read in every request, so one process can have several. Each fault changes a
single step of SGLang's own conditioning: the decoded picture, the range of its values, the encoded latents, the mask.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import runpy
import sys
from pathlib import Path
from typing import Any

STAGES = "sglang.multimodal_gen.runtime.pipelines_core.stages.image_encoding"
PLACE = Path(sys.argv[1])


def _break(module: Any) -> None:
    """Wrap the steps of ``ImageVAEEncodingStage``: 4 mask channels come first, then the normalised latents."""
    stage = module.ImageVAEEncodingStage
    preprocess, forward = stage.preprocess, stage.forward

    def pixels(self: Any, image: Any) -> Any:
        values = preprocess(self, image)
        faults = {
            "range": lambda: (values + 1) / 2,
            "mirrored": lambda: values.flip(-1),
            "channels": lambda: values.flip(-3),
            "resized": lambda: values.roll(8, -1),
        }
        return faults.get(PLACE.read_text(), lambda: values)()

    def latents(self: Any, batch: Any, server_args: Any) -> Any:
        result = forward(self, batch, server_args)
        given, fault = result.image_latent, PLACE.read_text()
        if fault == "mask":
            given[:, :4] = 1 - given[:, :4]
        elif fault == "lost":
            given[:, 4:] = 0
        elif fault == "sign":
            given[:, 4:] *= -1
        elif fault == "exchanged":
            result.image_latent = given.roll(-4, 1)
        return result

    stage.preprocess, stage.forward = pixels, latents


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != STAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def load(module: Any) -> None:
            execute(module)
            _break(module)

        loader.exec_module = load
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, _Finder())
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
