"""The embedded model in the real SGLang on a CUDA device without a network: FP8 on its own kernels, and the incident.

    python -m benchmarks.sglang_on_gpu --pack build/sglang-gpu           here: two archives, to be carried one by one
    python -m benchmarks.sglang_on_gpu --packs build/sglang-gpu --out DIR       there: run, and go on where it stopped

The device's own torch, transformers, numpy and safetensors are used; the archives hold SGLang, what it imports besides,
and of sgl_kernel the operators of Hopper (attention runs through torch). Packages that only other models need are
stood in for by empty modules, which the answer lists. NVFP4 needs Blackwell: its products are emulated on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "harness" / "engine" / "inside" / "main.py"
VERSIONS = {"sglang==0.5.13": "sglang-kernel==0.4.3", "sglang==0.5.12.post1": ""}
"""Version to the package of its operators; the second runs with the first's."""
THERE = (
    "torch", "torchvision", "triton", "numpy", "scipy", "safetensors", "huggingface_hub",
    "hf-xet", "regex", "sympy", "networkx", "mpmath", "Jinja2", "MarkupSafe", "filelock", "fsspec", "PyYAML",
    "requests", "urllib3", "certifi", "charset-normalizer", "idna", "tqdm", "packaging", "typing_extensions", "psutil",
)  # fmt: skip
"""Packages of the device that are used as they are."""
EMPTY = (
    "xgrammar", "av", "pulp", "cv2", "moviepy", "imageio", "imageio_ffmpeg", "trimesh", "datasets", "modelopt",
    "pandas", "IPython", "pyarrow", "matplotlib", "torchaudio", "soundfile",
    "outlines",
    "llguidance", "quack", "torch_memory_saver", "mistral_common", "tiktoken", "blobfile", "decord", "decord2",
)  # fmt: skip
"""Packages that this model does not need, stood in for by empty modules if they are absent."""
HEAVY = ("xgrammar", "av", "PuLP", "opencv-python-headless", "moviepy", "imageio-ffmpeg", "trimesh", "datasets",
         "nvidia-modelopt", "pandas", "ipython", "pyarrow", "matplotlib-inline", "jedi", "ImageIO", "pulp")  # fmt: skip
SECONDS = 170.0
SITECUSTOMIZE = """
import importlib.abc, importlib.machinery, os, sys, types
NAMES = {names!r}
class Empty(types.ModuleType):
    __path__ = []
    __version__ = "0"
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {{"__init__": lambda self, *a, **k: None, "__call__": lambda self, *a, **k: None,
                                "__get_pydantic_core_schema__": classmethod(anything)}})
def anything(cls, source, handler):
    # a stand-in as the type of a field of a pydantic model
    from pydantic_core import core_schema
    return core_schema.any_schema()
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        # a package that only asks whether another is there is told the truth; an import gets an empty module
        frame, asked = sys._getframe(1), False
        while frame is not None and not asked:
            # by module and not by file: importlib.util is frozen into the interpreter
            asked = frame.f_code.co_name == "find_spec" and frame.f_globals.get("__name__") == "importlib.util"
            frame = frame.f_back
        if name.partition(".")[0] in NAMES and not asked:
            open(os.environ["EMPTY_LOG"], "a").write(name + "\\n")
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Empty(spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.append(Finder())
"""


def pack(out: Path) -> None:
    """Download for Python 3.12 and write ``site.tar.xz`` and ``kernel.tar.xz``."""
    out.mkdir(parents=True, exist_ok=True)
    work = out / "work"
    text = resources.files("harness.runtimes.pins").joinpath("sglang-cpu.txt").read_text(encoding="utf-8")
    left = {name.lower() for name in (*THERE, *HEAVY)}
    wanted = [line for line in text.splitlines() if line.partition("==")[0].lower() not in left]
    _download(work / "deps", wanted)
    _unpack(work / "deps", work / "site" / "deps")
    for version, kernel in VERSIONS.items():
        _download(work / version, [version])
        _unpack(work / version, work / "site" / version.partition("==")[2])
        if kernel:
            _download(work / "kernel-wheel", [kernel])
            _unpack(work / "kernel-wheel", work / "kernel")
    for big in ("sgl_kernel/flash_ops.abi3.so", "sgl_kernel/flashmla_ops.abi3.so", "sgl_kernel/sm100", "lib"):
        path = work / "kernel" / big
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for unused in (
        "sglang/srt/layers/moe/moe_runner/triton_utils/configs",
        "sglang/test",
        "sglang/multimodal_gen/test",
    ):
        for version in VERSIONS:
            shutil.rmtree(work / "site" / version.partition("==")[2] / unused, ignore_errors=True)
    for name in ("site", "kernel"):
        with tarfile.open(out / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(work / name, arcname=name)
        print(f"{out / name}.tar.xz  {(out / f'{name}.tar.xz').stat().st_size / 2**20:.1f} MiB")
    shutil.rmtree(work)


def _download(folder: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder)]
    subprocess.run([*command, "--python-version", "3.12", *names], check=True)


def _unpack(wheels: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)  # noqa: S202 - wheels of the registry that pip is set up for


class Child:
    """``main.py`` under this interpreter, with the carried packages in front."""

    def __init__(self, packs: Path, version: str, out: Path) -> None:
        site = packs / "site"
        paths = [site / "custom", site / version, packs / "kernel", site / "deps"]
        request_read, request_write = os.pipe()
        event_read, event_write = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1",
                       "EMPTY_LOG": str(out / "empty.txt")}  # fmt: skip
        with (out / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(MAIN), str(request_read), str(event_write)], pass_fds=(request_read, event_write),
                env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        os.close(request_read)
        os.close(event_write)
        self._requests, self._events = os.fdopen(request_write, "w"), os.fdopen(event_read)

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """One request; raises RuntimeError with what the runtime raised, or that it ended."""
        self._requests.write(json.dumps({"id": 1, "method": method, "params": dict(params)}) + "\n")
        self._requests.flush()
        for line in self._events:
            message = json.loads(line)
            if message["event"] == "result":
                return message["data"]
            if message["event"] == "error":
                data = message["data"]
                raise RuntimeError(f"{method}: {data['type']}: {data['text']}\n{data['traceback']}")
        raise RuntimeError(f"{method}: the process ended with {self.process.wait()}")


@contextmanager
def _child(packs: Path, version: str, out: Path) -> Iterator[Child]:
    import threading

    child = Child(packs, version, out)
    watchdog = threading.Timer(SECONDS, child.process.kill)
    watchdog.start()
    try:
        yield child
    finally:
        watchdog.cancel()
        child.process.kill()
        child.process.wait()


def _case(matmul: str) -> dict[str, Any]:
    return {
        "sampling": {
            "prompt": "a red circle moving right on a blue background", "negative_prompt": "blurry", "width": 96,
            "height": 64, "num_frames": 17, "num_inference_steps": 8, "guidance_scale": 3.0, "guidance_scale_2": 3.0,
            "max_sequence_length": 512, "seed": 0, "fps": 16,
        },
        "scheduler": {"name": "UniPCMultistepScheduler", "flow_shift": 12.0, "boundary_ratio": 0.875},
        "precision": {"transformer": "bf16", "text_encoder": "fp32", "vae": "fp32"},
        "execution": {"matmul": matmul},
    }  # fmt: skip


JOBS = (
    ("bf16", "0.5.13", "bf16-older-diffusers", "auto"),
    ("fp8", "0.5.13", "fp8", "auto"),
    ("nvfp4-new", "0.5.13", "nvfp4-older-diffusers", "emulate"),
    ("nvfp4-old", "0.5.12.post1", "nvfp4-older-diffusers", "emulate"),
)


def run(packs: Path, out: Path, device: str) -> None:
    """Every job that has no result yet; what goes wrong is a result too."""
    import torch
    from safetensors.torch import load_file, save_file

    for name in ("site", "kernel"):
        if not (packs / name).exists():
            with tarfile.open(packs / f"{name}.tar.xz") as archive:
                archive.extractall(packs, filter="data")
    (packs / "site" / "custom").mkdir(exist_ok=True)
    (packs / "site" / "custom" / "sitecustomize.py").write_text(SITECUSTOMIZE.format(names=set(EMPTY)))
    out.mkdir(parents=True, exist_ok=True)
    exports = out / "exports"
    if not exports.exists():
        from tiny.export import export

        for kind in dict.fromkeys(job[2] for job in JOBS):
            export(kind, exports)
    latents = out / "latents.safetensors"
    noise = torch.randn(1, 16, 5, 8, 12, generator=torch.Generator("cpu").manual_seed(0))
    save_file({"latents": noise}, latents)
    threads = min(8, os.cpu_count() or 1)
    for name, version, kind, matmul in JOBS:
        folder = out / name
        if (folder / "result.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        began, case = time.time(), _case(matmul)
        try:
            with _child(packs, version, folder) as child:
                options = {"model_id": "Wan2.2-T2V-A14B-Diffusers", "attention_backend": "torch_sdpa"}
                load = {"case": case, "paths": {"model": str(exports / kind)}, "device": device, "threads": threads}
                facts = child.ask("load", {**load, "options": options})
                fingerprint = child.ask("fingerprint", {})
                frames = str(folder / "frames.safetensors")
                answer = child.ask("generate", {"case": case, "latents": str(latents), "out": frames})
            result: dict[str, Any] = {"facts": facts, "device": fingerprint, **answer}
        except RuntimeError as error:
            result = {"error": str(error)}
        result["seconds_in_all"] = time.time() - began
        (folder / "result.json").write_text(json.dumps(result, indent=1))
    show(out, load_file)


def show(out: Path, load_file: Any) -> None:
    """A row a job: products that ran, and the distance of its frames from the BF16 ones."""
    base = out / "bf16" / "frames.safetensors"
    for name, version, _, _ in JOBS:
        result = json.loads((out / name / "result.json").read_text())
        if "error" in result:
            print(f"{name:<10} sglang=={version:<13} {result['error'][:1500]}")
            continue
        products = sorted({row["kernel"] for row in result["receipts"] if row["format"] != "bf16"}) or ["bf16"]
        apart = ""
        if base.exists():
            frames, base_frames = load_file(out / name / "frames.safetensors")["frames"], load_file(base)["frames"]
            apart = f"mean difference to BF16 {float((frames - base_frames).abs().mean()) * 255:.2f} of 255"
        print(f"{name:<10} sglang=={version:<13} {result['device']['device']['name']}: {'; '.join(products)}; {apart}")


def main(arguments: list[str] | None = None) -> int:
    """Pack, or run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sglang_on_gpu", description=main.__doc__)
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--packs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the archives without a GPU"
    )
    options = parser.parse_args(arguments)
    if options.pack is not None:
        pack(options.pack)
    elif options.packs is not None:
        run(options.packs.resolve(), options.out.resolve(), options.device)
    else:
        parser.error("name --pack or --packs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
