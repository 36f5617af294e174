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
import math
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av
import numpy as np

# Fields of the published request models: kind, smallest value, largest value. A form holds texts, JSON holds values.
TEXT = ("text", None, None)
FLAG = ("flag", None, None)
COUNT = ("whole", 1, 10**9)
SCALE = ("number", 0, 20)
SHARED: dict[str, tuple[str, float | None, float | None]] = {
    "prompt": TEXT, "negative_prompt": TEXT, "model": TEXT, "size": ("size", None, None),
    "seconds": ("whole", 1, 10**9), "width": COUNT, "height": COUNT, "num_frames": COUNT, "fps": COUNT,
    "num_inference_steps": ("whole", 1, 200), "seed": ("whole", -(2**63), 2**63), "guidance_scale": SCALE,
    "guidance_scale_2": SCALE, "true_cfg_scale": SCALE,
}  # fmt: skip
FIELDS = {
    "sglang": SHARED | {
        "generator_device": TEXT, "output_compression": ("whole", 0, 100), "output_quality": TEXT,
        "max_sequence_length": COUNT, "flow_shift": ("number", None, None), "enable_teacache": FLAG, "n": COUNT,
    },
    "vllm-omni": SHARED | {
        "boundary_ratio": ("number", 0, 1), "flow_shift": ("number", None, None), "user": TEXT,
        "extra_params": ("object", None, None), "lora": ("object", None, None), "generate_sound": FLAG,
        "sound_duration": ("number", 0, None), "enable_frame_interpolation": FLAG, "frame_interpolation_exp": COUNT,
        "frame_interpolation_scale": ("number", 0, None), "frame_interpolation_model_path": TEXT,
        "image_reference": ("object", None, None), "video_reference": ("object", None, None),
        "audio_reference": ("object", None, None), "control_type": TEXT,
    },
}  # fmt: skip
JSON_KINDS = {"text": str, "size": str, "whole": int, "number": (int, float), "flag": bool, "object": dict}


def _read(kind: str, value: Any, form: bool) -> Any:
    """The value of a field.

    Raises:
        ValueError: it is of another type.
    """
    if not form and (not isinstance(value, JSON_KINDS[kind]) or (isinstance(value, bool) and kind != "flag")):
        raise ValueError("of another type")
    if kind == "size" and not re.fullmatch(r"\d+x\d+", value):
        raise ValueError("not WIDTHxHEIGHT")
    if not form or kind in ("text", "size"):
        return value
    if kind == "flag":
        return {"true": True, "false": False}[value]
    if kind == "object":
        return dict(json.loads(value))
    if kind == "whole" and not re.fullmatch(r"-?\d+", value):
        raise ValueError("no whole number")
    return int(value) if kind == "whole" else float(value)


def problem(dialect: str, fields: dict[str, Any]) -> str:
    """What the published interface does not take, or an empty text. ``fields`` are texts in the dialect of forms."""
    if unknown := sorted(fields.keys() - FIELDS[dialect].keys()):
        return f"unknown fields {unknown}"
    if not fields.get("prompt"):
        return "prompt is required"
    for name, value in fields.items():
        kind, low, high = FIELDS[dialect][name]
        try:
            read = _read(kind, value, form=dialect == "vllm-omni")
        except (KeyError, TypeError, ValueError) as error:
            return f"{name} is {value!r}: {error}"
        if kind in ("whole", "number") and not math.isfinite(read):
            return f"{name} is {value!r}"
        if (low is not None and read < low) or (high is not None and read > high):
            return f"{name} {read} lies outside of {low} to {high}"
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

    def _answer(self, code: int, data: Any, kind: str = "application/json", *, cut: bool = False) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

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
        if message := problem(self.dialect, fields):
            return self._answer(422, {"detail": message})
        if self.fault == "busy":
            return self._answer(503, {"detail": "engine dead"})
        if self.fault == "dies":
            os._exit(3)
        if self.fault == "key":
            return self._answer(401, {"error": "Unauthorized"})
        name = f"video_gen_{len(self.jobs):032x}"
        self.seen.append(fields)
        self.jobs[name] = {"id": name, "status": "queued", "progress": 0, "fields": fields, "polls": 0, "error": None}
        return self._answer(200, self._record(self.jobs[name]))

    def _record(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job as the published ``VideoResponse`` states it."""
        fields = job["fields"]
        return {
            "id": job["id"],
            "object": "video",
            "status": job["status"],
            "progress": job["progress"],
            "model": "served",
            "prompt": fields["prompt"],
            "size": fields.get("size"),
            "seconds": "4",
            "quality": "default",
            "created_at": 1,
            "completed_at": 2 if job["status"] in ("completed", "failed") else None,
            "error": job["error"],
            "media_type": "video/mp4",
            "file_name": f"{job['id']}.mp4" if job["status"] == "completed" else None,
        }

    def do_GET(self) -> None:
        """Say how a job stands, or send its video."""
        if self.path == "/health":
            return self._answer(200, b"")
        if self.path == "/seen":
            return self._answer(200, self.seen)
        asked = re.fullmatch(r"/v1/videos/(\w+)(/content)?", self.path)
        job = self.jobs.get(asked[1]) if asked else None
        if job is None or asked is None:
            return self._answer(404, {"detail": "Video not found"})
        if asked[2]:
            return self._content(job)
        job["polls"] += 1
        job["status"], job["progress"] = ("in_progress", 50) if job["polls"] < 2 else ("completed", 100)
        if job["polls"] >= 2 and self.fault in ENDS:
            job["status"], job["error"] = ENDS[self.fault]
        if self.fault == "forgets":
            del self.jobs[job["id"]]
        answer = self._record(job)
        if self.fault == "odd":
            answer |= {"progress": "half", "status": 1 if job["polls"] >= 2 else "preparing"}
        return self._answer(200, answer)

    def _content(self, job: dict[str, Any]) -> None:
        if job["status"] == "failed":
            return self._answer(422, {"detail": "Video generation failed. Check job status for error details."})
        if job["status"] != "completed" or self.fault == "lost":
            return self._answer(404, {"detail": "Generation is still in-progress"})
        body = b"no video" if self.fault == "nonsense" else video(job["fields"], self.fault)
        return self._answer(200, body, "video/mp4", cut=self.fault == "cut")

    def do_DELETE(self) -> None:
        """Forget a job."""
        name = self.path.rpartition("/")[2]
        deleted = self.jobs.pop(name, None) is not None
        self._answer(200 if deleted else 404, {"id": name, "deleted": deleted, "object": "video.deleted"})


ENDS: dict[str, tuple[str, Any]] = {
    "fails": ("failed", {"code": "RuntimeError", "message": "bad tensor"}),
    "memory": ("failed", {"code": 500, "message": "CUDA out of memory"}),
    "rejects": ("failed", {"code": 400, "message": "num_frames must be 4n+1"}),
    "silent": ("failed", None),
    "cancels": ("cancelled", None),
}
"""Ends of a job per fault: its status, and the error that its record holds."""


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
