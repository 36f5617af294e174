"""Put on the path of the hosted jobs: what `harness.adopt.requirements.HOSTED` does not install cannot be imported."""

import sys
from importlib.abc import MetaPathFinder

ABSENT = {
    "accelerate",
    "diffusers",
    "modelopt",
    "numba",
    "pytest",
    "skimage",
    "torch",
    "torchao",
    "transformers",
}


class Absent(MetaPathFinder):
    """Refuses a package as if it were not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {fullname!r} on a hosted runner", name=fullname)


sys.meta_path.insert(0, Absent())
