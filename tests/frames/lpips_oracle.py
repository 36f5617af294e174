"""The lpips package, in a process of its own: ``python lpips_oracle.py PACKAGES IN.safetensors OUT.safetensors NET``.

It needs torchvision, whose compiled part does not load beside a CPU build of torch and which diffusers must not find
half there. So both lie in a folder that nothing else looks into; of torchvision only the Python of its models is used.
"""

from __future__ import annotations

import sys
import types

import torch
from safetensors.torch import load_file, save_file


def main(packages: str, source: str, target: str, net: str) -> None:
    """Distances [N] of ``one`` and ``two`` [N, 3, H, W] in [-1, 1], and the random trunk under torchvision's names."""
    sys.path.insert(0, packages)
    registrations = "torchvision._meta_registrations"
    sys.modules[registrations] = types.ModuleType(registrations)
    import lpips

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    pair = load_file(source)
    with torch.inference_mode():
        distance = model(pair["one"], pair["two"])
    trunk = {f"features.{name.split('.', 1)[1]}": value for name, value in model.net.state_dict().items()}
    save_file({"distance": distance.contiguous(), **{f"trunk.{name}": value for name, value in trunk.items()}}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
