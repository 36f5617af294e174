"""LPIPS by the package itself and by our metric: ``python lpips_oracle.py PACKAGES FOLDER NET...``.

Prints one JSON line per network.

It runs in a process of its own because the package needs torchvision, whose compiled part does not load beside a CPU
build of torch and which diffusers must not find half there. So both lie in a folder that nothing else looks into; of
torchvision only the Python of its models is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from harness.frames.clip import Clip
from harness.frames.compare import compare


def main(packages: str, folder: str, *nets: str) -> None:
    """Compare two clips of two frames with each network, whose trunk is random, and print both lists of distances."""
    sys.path.insert(0, packages)
    registrations = "torchvision._meta_registrations"
    sys.modules[registrations] = types.ModuleType(registrations)
    import lpips

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    golden, candidate = (Clip(rng.integers(0, 256, (2, 64, 72, 3), dtype=np.uint8)) for _ in range(2))
    for net in nets:
        torch.manual_seed(0)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
        images = [torch.from_numpy(clip.frames.copy()).permute(0, 3, 1, 2) / 127.5 - 1 for clip in (golden, candidate)]
        with torch.inference_mode():
            expected = model(*images).flatten().tolist()
        path = Path(folder) / f"{net}.safetensors"
        # torchvision's names, as in a file that a user makes from torchvision's weights
        names = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
        save_file({names[name]: value.contiguous() for name, value in model.net.state_dict().items()}, path)
        os.environ[f"QUANTGATE_LPIPS_{net.upper()}"] = str(path)
        os.environ[f"QUANTGATE_LPIPS_{net.upper()}_SHA256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        result = compare(golden, candidate, [f"lpips_{net}"]).metrics[0]
        print(json.dumps({"expected": expected, "result": json.loads(result.to_json())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
