"""Use any server with the OpenAI-style video API: post a job, poll it, and download its MP4.

Two dialects. ``sglang``: JSON; the server ignores flow shift and boundary without an error, so they are not sent.
``vllm-omni``: multipart form, as docs/serving/videos_api.md of that project states it; its ``guidance_scale`` belongs
to the low-noise expert and its ``guidance_scale_2`` to the high-noise expert, the reverse of the order here.

A server reports neither the settings that it resolved nor the kernels that ran: receipts, probes, trace and raw frames
are not available, and the record lists that. The frames went through a lossy codec at its best quality; the golden of
such a case did so too.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.definitions.case import Case, Server
from harness.definitions.program import filled
from harness.engine.backend import Emit, Method
from harness.engine.backends.checkpoint_view import CheckpointView
from harness.engine.failures import kind_of
from harness.engine.process import describe_exit
from harness.engine.room import has_room, has_room_in
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import Clip, write_clip
from harness.machine.processes import descendants
from harness.reading import UnreadableError, parse_foreign
from harness.records.base import Json
from harness.records.generation import FloatStats, Generation, Receipts, Trace
from harness.records.run_folder import CLIP_FILE

DYING_SECONDS = 2.0
"""Time between a closed connection and the exit of the server that closed it."""
POLL_SECONDS = 0.25
ANSWER_SECONDS = 120.0
"""Longest time in seconds for one HTTP response. A generation is polled and may take longer."""
END_SECONDS = 10.0
LARGEST_ANSWER = 1 << 30
BEST = 100
"""``output_compression`` of SGLang's API: its best quality (35.3 dB to the raw frames, 33.6 by default)."""
NOT_AVAILABLE = (
    "receipts: the server does not report the format in which each Linear ran",
    "probes: nothing can be fed into the server's experts",
    "trace: timesteps, experts and guidance of the steps are not reported",
    "resolved parameters: the server does not report the settings that it used",
    "raw frames: the clip went through the server's video codec",
)
"""Facts that no server of this API reports."""
UNSENT = {
    "sglang": "flow_shift and boundary_ratio: this API ignores them, so the server's own are used",
    "vllm-omni": "max_sequence_length: this API does not take it, so the server's own is used",
}
EMPTY_FIELD = "negative_prompt: a form field without text counts as absent, so the server's own is used"
"""Of the dialect ``vllm-omni``: FastAPI replaces an empty form field by its default."""
ENDED = frozenset({"failed", "cancelled", "canceled", "expired", "deleted", "rejected"})
"""States of a job that will never be completed. The published interfaces hold ``failed`` only; the others belong to
servers and proxies in front of them. A state that is in no list is waited for: it may be a new name of a running job.
"""
NOT_THE_REQUEST = {
    401: "start the server without an API key: this backend sends none",
    403: "start the server without an API key: this backend sends none",
    404: "name a server with the OpenAI-style video API in `server`: this one has no POST /v1/videos",
    405: "name a server with the OpenAI-style video API in `server`: this one has no POST /v1/videos",
}
"""Statuses of a refusal that no setting of ``sampling`` mends, with the next step."""
OWN_CHECKPOINT = "checkpoint: a server that is given by URL does not report the files that it loaded"


class OpenaiVideoBackend:
    """Starts a server, or uses a running one, and requests one clip per generation."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._server = Server()
        self._opener = urllib.request.build_opener()
        self._view = CheckpointView()

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Start the server and wait until it reports that it is healthy.

        Raises:
            InvalidCaseError: the case names neither a program nor a URL, or the program does not exist.
            InfraError: kind ``crash``: the server ended.
        """
        if case.server is None or bool(case.server.command) == bool(case.server.url):
            raise InvalidCaseError(
                "backend openai-video needs `server` with either `command` or `url`",
                place=case.id,
                remedy="server: {dialect: sglang, command: [sglang, serve, --model-path, '{model}', --port, '{port}']}",
            )
        self.close()
        self._server = case.server
        _reader()
        if case.server.url:
            self._url = case.server.url.rstrip("/")
        else:
            # the server runs on this machine, so the environment's proxy must not be used
            self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            self._start(case, paths, device)
        self._wait_until_well(case, emit)

    def _start(self, case: Case, paths: Mapping[str, Path], device: str) -> None:
        port = _free_port()
        folder = self._view.open(paths)
        places = {
            "{port}": str(port),
            "{device}": device,
            **{f"{{{role}}}": str(path) for role, path in folder.items()},
        }
        arguments = [filled(part, places) for part in self._server.command]
        if shutil.which(arguments[0]) is None:
            raise InvalidCaseError(f"there is no program {arguments[0]!r}", place=case.id, remedy="install it")
        self._url = f"http://127.0.0.1:{port}"
        # its own session, so that `close` can end all of its processes by their group
        self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)

    def _wait_until_well(self, case: Case, emit: Emit) -> None:
        began = time.monotonic()
        while True:
            self._require_alive(case, "starting")
            try:
                self._open("GET", self._server.health, seconds=5.0)
                break
            except (OSError, _HttpError):
                time.sleep(POLL_SECONDS)  # the parent ends the engine at timeouts.load
            emit({"stage": "load", "step": 0, "steps": 1, "seconds": time.monotonic() - began})
        emit({"stage": "load", "step": 1, "steps": 1, "seconds": time.monotonic() - began})

    def _require_alive(self, case: Case, activity: str) -> None:
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise InfraError(f"the server ended while {activity} ({describe_exit(code)})", place=case.id, kind="crash")

    def _has_room(self) -> bool:
        """Whether the server can still get memory; True for a server that somebody else started."""
        if self._process is None:
            return True
        started = [self._process.pid, *(process.pid for process in descendants(self._process.pid))]
        return has_room() and all(map(has_room_in, started))

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Post one job, wait for it, and read its frames.

        Raises:
            InvalidCaseError: the server refuses the request.
            InfraError: the server failed, ended, or sent data that is no video.
        """
        began = time.perf_counter()
        body, kind = encode_request(case, self._server.dialect)
        try:
            job = self._json("POST", "/v1/videos", body, kind)
            identifier = job.get("id")
            if not isinstance(identifier, str) or not identifier:
                raise InfraError(
                    "the server's answer names no job", place=case.id, remedy=_look_at(self._server), kind="protocol"
                )
            # the server chose the name: it must not leave the path of jobs
            place = f"/v1/videos/{urllib.parse.quote(identifier, safe='')}"
            while (state := self._state(job, case)) != "completed":
                if state in ENDED:
                    raise self._failure(job, state, case)
                self._require_alive(case, "generating")
                time.sleep(POLL_SECONDS)
                job = self._json("GET", place)
                emit({"stage": "command", "step": _percent(job.get("progress")), "steps": 100})
            video = self._open("GET", f"{place}/content")
            # a job that cannot be deleted does no harm to the result
            with contextlib.suppress(OSError, _HttpError):
                self._open("DELETE", place)
        except _HttpError as error:
            raise error.to_error(case) from None
        except OSError as error:
            # A dying server closes its connections before its exit status can be read: wait for that better error.
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(DYING_SECONDS)
            self._require_alive(case, "generating")
            raise InfraError(
                f"the server does not answer: {error}", place=case.id, remedy=_look_at(self._server), kind="crash"
            ) from error
        seconds = time.perf_counter() - began
        frames = decode_video(video, case)
        clip = Clip(frames)
        write_clip(out_dir / CLIP_FILE, clip, "raw")
        empty = self._server.dialect == "vllm-omni" and not case.sampling.negative_prompt
        lost = (
            *NOT_AVAILABLE,
            UNSENT[self._server.dialect],
            *([EMPTY_FIELD] if empty else []),
            *([OWN_CHECKPOINT] if self._server.url else []),
        )
        return Generation(
            clip=CLIP_FILE,
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=FloatStats(nan=0, inf=0, minimum=float(frames.min()) / 255, maximum=float(frames.max()) / 255),
            trace=Trace(steps=()),
            receipts=Receipts(modules=()),
            generate_seconds=seconds,
            not_available=lost,
        )

    def _state(self, job: Mapping[str, Any], case: Case) -> str:
        state = job.get("status")
        if not isinstance(state, str):
            raise InfraError(
                f"the server's answer names no status of the job: {json.dumps(state)[:100]}",
                place=case.id,
                remedy=_look_at(self._server),
                kind="protocol",
            )
        return state

    def _failure(self, job: Mapping[str, Any], state: str, case: Case) -> InvalidCaseError | InfraError:
        """Return the typed error of a job that ended without a video. Its ``error`` holds ``code`` and ``message``."""
        detail = job.get("error")
        text = "no reason is given" if detail is None else json.dumps(detail)[:600]
        code = detail.get("code") if isinstance(detail, dict) else None
        # the published `code` is a number (an HTTP status) or a text
        if isinstance(code, int) and _is_refusal(code):
            return _HttpError(code, json.dumps(detail)).to_error(case)
        kind = kind_of(RuntimeError(text))
        if kind == "crash" and not self._has_room():
            kind = "oom"
        message = f"the server failed: {text}" if state == "failed" else f"the job ended as {state[:40]!r}: {text}"
        return InfraError(message, place=case.id, remedy=_look_at(self._server), kind=kind)

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> dict[str, Any]:
        data = self._open(method, path, body, kind)
        try:
            answer = parse_foreign(data, path)
        except UnreadableError as error:
            message = f"{method} {path} answered what is no JSON"
            raise InfraError(message, remedy=_look_at(self._server), kind="protocol") from error
        if not isinstance(answer, dict):
            raise InfraError(f"{method} {path} answered no object", remedy=_look_at(self._server), kind="protocol")
        return answer

    def _open(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", seconds: float = ANSWER_SECONDS
    ) -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        # the scheme is http or https: the case's pattern takes no other
        request = urllib.request.Request(  # noqa: S310
            f"{self._url}{path}", data=body, method=method, headers=headers
        )
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                # one byte over the limit is enough to notice a longer response
                data: bytes = answer.read(LARGEST_ANSWER + 1)
                announced = answer.headers.get("Content-Length", "")
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode("utf-8", "replace")
            raise _HttpError(error.code, text, asked=f"{method} {path}") from None
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {type(error).__name__}: {error}") from error
        # `read` with a size does not report an early end, and half a clip could pass for a shorter one
        if announced.isdecimal() and len(data) < min(int(announced), LARGEST_ANSWER):
            raise ConnectionError(f"{method} {path} ended after {len(data)} of its bytes, {announced} were announced")
        if len(data) > LARGEST_ANSWER:
            message = f"{method} {path} answered more than {LARGEST_ANSWER} bytes"
            raise InfraError(message, remedy=_look_at(self._server), kind="protocol")
        return data

    def close(self) -> None:
        """End the server and all processes that it started, and remove its view of the checkpoint."""
        process, self._process = self._process, None
        if process is not None:
            self._end(process)
        self._view.close()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        process.wait()

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Return an empty mapping: a server does not report the modules that it loaded."""
        return {}

    def methods(self) -> Mapping[str, Method]:
        """Return an empty mapping: there are no additional methods."""
        return {}


def _look_at(server: Server | None) -> str:
    """Return the next step after a failure of the server; empty if the engine started it: its log is named then."""
    return "read the log of the server that `server.url` names" if server is not None and server.url else ""


def _percent(progress: Any) -> int:
    """Return a job's progress, 0 to 100. It is shown only, so that a value of another type counts as 0."""
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 100:
        return 0
    return int(progress)


def _is_refusal(code: int) -> bool:
    """Return whether an HTTP status blames the request: 408 (timeout) and 429 (too many requests) blame the server."""
    return 400 <= code < 500 and code not in (408, 429)


class _HttpError(Exception):
    """A response with an error status; ``asked`` is the request's method and path."""

    def __init__(self, code: int, text: str, asked: str = "POST /v1/videos") -> None:
        super().__init__(f"{code} {text}")
        self.code, self.text, self.asked = code, text, asked

    def to_error(self, case: Case) -> InvalidCaseError | InfraError:
        """Return the typed error: a refused request is the case's fault, any other failure the server's.

        Only the answer to the POST judges the request. Later a 4xx status reports a job or a file that is lost.
        """
        text = " ".join(self.text.split())[:600]
        if self.asked.startswith("POST ") and _is_refusal(self.code):
            remedy = NOT_THE_REQUEST.get(self.code, "correct the setting that the answer names in the case file")
            return InvalidCaseError(
                f"the server refuses the request ({self.code}): {text}", place=case.id, remedy=remedy
            )
        kind = kind_of(RuntimeError(self.text))
        if kind == "crash" and _is_refusal(self.code):
            kind = "protocol"
        return InfraError(
            f"{self.asked[:200]}: the server answered {self.code}: {text}",
            place=case.id,
            remedy=_look_at(case.server),
            kind=kind,
        )


def parameters(case: Case, dialect: str) -> dict[str, Json]:
    """Return every parameter of a case that the dialect takes, by the dialect's names; none is left to a default."""
    sampling = case.sampling
    high = sampling.guidance_scale
    low = high if sampling.guidance_scale_2 is None else sampling.guidance_scale_2
    shared: dict[str, Json] = {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "size": f"{sampling.width}x{sampling.height}",
        "num_frames": sampling.num_frames,
        "fps": sampling.fps,
        "num_inference_steps": sampling.num_inference_steps,
        "seed": sampling.seed,
    }
    if dialect == "sglang":
        return {
            **shared,
            "guidance_scale": high,
            "guidance_scale_2": low,
            "generator_device": "cpu",
            "max_sequence_length": sampling.max_sequence_length,
            "output_compression": BEST,
        }
    return {
        **shared,
        "guidance_scale": low,
        "guidance_scale_2": high,
        "boundary_ratio": case.scheduler.boundary_ratio,
        "flow_shift": case.scheduler.flow_shift,
        # both are off by default unless the server's configuration says otherwise
        "generate_sound": False,
        "enable_frame_interpolation": False,
        "extra_params": json.dumps({"video_codec_options": {"crf": "0", "preset": "medium"}}),
    }


def encode_request(case: Case, dialect: str) -> tuple[bytes, str]:
    """Return the body of the request and its content type."""
    fields = parameters(case, dialect)
    if dialect == "sglang":
        return json.dumps(fields).encode(), "application/json"
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{_form_text(value)}\r\n'
        for name, value in fields.items()
    ]
    return "".join([*parts, f"--{boundary}--\r\n"]).encode(), f"multipart/form-data; boundary={boundary}"


def _form_text(value: Json) -> str:
    """Return a value as a form field holds it: a boolean is ``true`` or ``false``."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _reader() -> Any:
    try:
        import av
    except ImportError:
        raise InvalidCaseError(
            "backend openai-video decodes videos with PyAV, which is not installed",
            remedy="pip install 'quantgate[server]'",
        ) from None
    return av


def decode_video(data: bytes, case: Case) -> npt.NDArray[np.uint8]:
    """Return every frame of a video file, RGB uint8 [T, H, W, 3]. The sanity stage checks number and size.

    Raises:
        InfraError: kind ``protocol``: the bytes are no video.
    """
    import io

    av = _reader()
    try:
        # a server's answer may be a playlist, which must open neither files of this machine nor other servers
        with av.open(io.BytesIO(data), options={"protocol_whitelist": "none"}) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        if not frames:
            raise ValueError("no frames")
        return np.stack(frames)
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors derive from these
        raise InfraError(
            f"the server's content is no video: {error}",
            place=case.id,
            remedy=_look_at(case.server),
            kind="protocol",
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
