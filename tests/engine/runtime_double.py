"""Stands in for the process under a runtime's interpreter: answers its requests, or fails as the prompt says.

python runtime_double.py REQUESTS EVENTS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file


def error(**data: Any) -> dict[str, Any]:
    return {"type": "RuntimeError", "bases": ["RuntimeError"], "text": "", "refused": "", "remedy": "", **data}


FAILURES = {
    "refused": error(refused="case", text="computes with flow_shift 12", remedy="scheduler: {flow_shift: 12}"),
    "oom": error(type="OutOfMemoryError", bases=["OutOfMemoryError", "RuntimeError"], text="CUDA out of memory"),
    "wrong": error(type="ValueError", bases=["ValueError"], text="unknown quant_algo nvfp4"),
    "no package": error(type="ModuleNotFoundError", bases=["ModuleNotFoundError", "ImportError"], text="flashinfer"),
}


def generate(params: dict[str, Any]) -> dict[str, Any]:
    sampling = params["case"]["sampling"]
    latents = load_file(params["latents"])["latents"]
    shape = (sampling["num_frames"], sampling["height"], sampling["width"], 3)
    frames = np.full(shape, 0.5, dtype=np.float32)
    if "disturb" in params:
        frames += 0.01 * len(load_file(params["disturb"]))
    save_file({"frames": frames}, params["out"])
    condition = None
    if params.get("pictures"):
        with Image.open(params["pictures"]["image"]) as image:  # a colour that no wrong picture has by chance
            condition = {"kind": "channels", "encoded": True, "encoder": [*image.size, *image.getpixel((0, 0))]}
    step = {"index": 0, "timestep": 999.0, "expert": "transformer", "guidance_scale": 1.0, "latent_norm": 1.0}
    receipt = {
        "expert": "transformer",
        "module": "blocks.0.to_q",
        "format": "nvfp4",
        "kernel": "k",
        "calls": 2,
        "note": "",
    }
    return {
        "trace": {"steps": [step], "timesteps": [999.0], "sigmas": [float(np.abs(latents).sum() > 0), 0.0]}
        | {"condition": condition},
        "receipts": [receipt],
        "float_stats": {"nan": 0, "inf": 0, "minimum": 0.5, "maximum": 0.5},
        "seconds": 0.1,
        "peak_memory_bytes": 1,
    }


def main(requests: int, events: int) -> None:
    out = os.fdopen(events, "w")

    def send(number: int, event: str, data: Any) -> None:
        out.write(json.dumps({"id": number, "event": event, "data": data}) + "\n")
        out.flush()

    for line in os.fdopen(requests):
        request = json.loads(line)
        number, method, params = request["id"], request["method"], request["params"]
        prompt = params.get("case", {}).get("sampling", {}).get("prompt", "")
        when, _, fault = prompt.partition(": ")
        if when == method and fault in FAILURES:
            send(number, "error", FAILURES[fault])
        elif when == method and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif when == method and fault == "hang":
            time.sleep(600)
        elif when == method and fault == "nonsense":
            out.write("hello\n")
            out.flush()
        elif method == "load":
            send(number, "progress", {"stage": "load", "step": 1, "steps": 1})
            if fault == "rewrites the checkpoint":  # as SGLang does
                Path(params["paths"]["model"], "vae", "config.json").write_text("{}")
            version = "sglang==0.5.99" if fault == "another version" else params["case"]["runtime"]
            leaked = os.environ.get("PYTHONPATH", "")
            send(number, "result", {"runtime": version, "flow_shift": 12.0, "leaked": leaked, "process": os.getpid()})
        elif method == "generate":
            send(number, "result", generate(params))
        elif method == "fingerprint":
            machine = {"python": "3.12.1", "threads": 1, "cpu_capability": "AVX2", "cuda": None, "device": None}
            send(number, "result", {"packages": {"sglang": "0.5.23", "torch": "2.13.0"}, **machine})
        else:
            exists = [Path(path).is_file() for path in params.get("pictures", {}).values()]
            send(number, "result", {"seconds": 0.0, "probes": 0, "asked": method, "pictures": exists})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
