"""Strict doubles of two servers with the OpenAI-style video API: ``python video_server.py DIALECT PORT [FAULT]``.

``vllm-omni`` follows docs/serving/videos_api.md and the request model of that project: multipart form only, and its
ranges. ``sglang`` follows that project's request model. Both refuse what the published interface does not hold. The
video shows the request: brightness is the seed, so that a test can tell which one it was.
"""

from __future__ import annotations

import email.parser
import email.policy
import io
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av
import numpy as np

SHARED = {"prompt", "negative_prompt", "size", "num_frames", "fps", "num_inference_steps", "seed", "model", "seconds",
          "guidance_scale", "guidance_scale_2", "width", "height", "true_cfg_scale"}  # fmt: skip
FIELDS = {
    "sglang": SHARED | {"generator_device", "output_compression", "output_quality", "max_sequence_length", "flow_shift",
                        "enable_teacache", "n"},
    "vllm-omni": SHARED | {"boundary_ratio", "flow_shift", "user", "extra_params", "lora", "generate_sound"},
}  # fmt: skip
WHOLE = {"num_frames": (1, 10**6), "fps": (1, 10**6), "num_inference_steps": (1, 200), "seed": (-(2**63), 2**63)}
NUMBERS = {"guidance_scale": (0, 20), "guidance_scale_2": (0, 20), "boundary_ratio": (0, 1), "flow_shift": (-1e9, 1e9)}


def problem(dialect: str, fields: dict[str, Any]) -> str:
    """What the published interface does not take, or an empty text."""
    if unknown := sorted(fields.keys() - FIELDS[dialect]):
        return f"unknown fields {unknown}"
    if not fields.get("prompt"):
        return "prompt is required"
    if "size" in fields and not re.fullmatch(r"\d+x\d+", str(fields["size"])):
        return f"size {fields['size']!r}"
    for names, kind in ((WHOLE, int), (NUMBERS, float)):
        for name, (low, high) in names.items():
            if name in fields:
                try:
                    value = kind(fields[name])
                except (TypeError, ValueError):
                    return f"{name} is {fields[name]!r}"
                if not low <= value <= high:
                    return f"{name} {value} lies outside of {low} to {high}"
    if "extra_params" in fields and not isinstance(json.loads(fields["extra_params"]), dict):
        return "extra_params is no object"
    return ""


def video(fields: dict[str, Any], fault: str) -> bytes:
    """An MP4 of the size that was asked for; one frame fewer or half the width as a fault."""
    width, height = map(int, str(fields["size"]).split("x"))
    count = int(fields["num_frames"]) - (4 if fault == "short" else 0)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=int(fields["fps"]))
        stream.width, stream.height, stream.pix_fmt = width // (2 if fault == "narrow" else 1), height, "yuv420p"
        stream.options = {"crf": "0"}
        for number in range(count):
            image = np.full((height, stream.width, 3), 40 + int(fields["seed"]) + number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers as the dialect does."""

    dialect, fault = "sglang", ""
    jobs: dict[str, dict[str, Any]] = {}
    seen: list[dict[str, Any]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, code: int, data: Any, kind: str = "application/json") -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fields(self) -> dict[str, Any] | None:
        body, kind = self.rfile.read(int(self.headers["Content-Length"])), self.headers.get("Content-Type", "")
        if self.dialect == "sglang" and kind == "application/json":
            fields: dict[str, Any] = json.loads(body)
            return fields
        if not kind.startswith("multipart/form-data"):
            return None
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        return {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True).decode()
            for part in message.iter_parts()
        }

    def do_POST(self) -> None:
        """Create a job."""
        if self.path != "/v1/videos":
            return self._answer(404, {"detail": "Not Found"})
        fields = self._fields()
        if fields is None:
            return self._answer(415, {"detail": "multipart/form-data is needed"})
        if said := problem(self.dialect, fields):
            return self._answer(422, {"detail": said})
        if self.fault == "busy":
            return self._answer(503, {"detail": "engine dead"})
        if self.fault == "dies":
            os._exit(3)
        name = f"video_{len(self.jobs)}"
        self.seen.append(fields)
        self.jobs[name] = {
            "id": name,
            "object": "video",
            "status": "queued",
            "progress": 0,
            "fields": fields,
            "polls": 0,
        }
        return self._answer(200, {key: self.jobs[name][key] for key in ("id", "object", "status", "progress")})

    def do_GET(self) -> None:
        """Say how a job stands, or send its video."""
        if self.path == "/health":
            return self._answer(200, b"")
        if self.path == "/seen":
            return self._answer(200, self.seen)
        found = re.fullmatch(r"/v1/videos/(\w+)(/content)?", self.path)
        job = self.jobs.get(found[1]) if found else None
        if job is None or found is None:
            return self._answer(404, {"detail": "Not Found"})
        if found[2]:
            if job["status"] != "completed":
                return self._answer(409, {"detail": "not completed"})
            body = b"no video" if self.fault == "nonsense" else video(job["fields"], self.fault)
            return self._answer(200, body, "video/mp4")
        job["polls"] += 1
        job["status"] = "in_progress" if job["polls"] < 2 else "completed"
        answer = {key: job[key] for key in ("id", "object", "status", "progress")}
        if job["polls"] >= 2 and self.fault in ("fails", "memory"):
            text = "CUDA out of memory" if self.fault == "memory" else "bad tensor"
            answer |= {"status": "failed", "error": {"code": "error", "message": text}}
        return self._answer(200, answer)

    def do_DELETE(self) -> None:
        """Forget a job."""
        self._answer(200, {"deleted": self.jobs.pop(self.path.rpartition("/")[2], None) is not None})


def serve(dialect: str, port: int, fault: str = "") -> ThreadingHTTPServer:
    """A server on loopback; run its ``serve_forever``."""
    kind = type("Bound", (Handler,), {"dialect": dialect, "fault": fault, "jobs": {}, "seen": []})
    return ThreadingHTTPServer(("127.0.0.1", port), kind)


if __name__ == "__main__":
    if sys.argv[3:] == ["never"]:
        sys.exit(7)
    time.sleep(0.3)  # a model is loaded
    server = serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()
