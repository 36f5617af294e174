"""The server backend against strict doubles of both dialects."""

from __future__ import annotations

import email
import email.policy
import json
import resource
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import video_server
from builders import bare_evidence, make_case

from harness.definitions.case import Case
from harness.definitions.checks import check_case
from harness.engine.backends.openai_video_backend import (
    OpenaiVideoBackend,
    decode_video,
    encode_request,
    parameters,
)
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.judge.verdict import observe
from harness.outcomes import Outcome

DOUBLE = Path(__file__).parents[1] / "support" / "video_server.py"


def served(dialect: str = "sglang", fault: str = "", **changes: Any) -> Case:
    command = [sys.executable, str(DOUBLE), dialect, "{port}", *([fault] if fault else [])]
    sampling = {
        "prompt": 'a "red" cat\nrunning; rm -rf', "negative_prompt": "blur", "width": 64, "height": 48,
        "num_frames": 9, "num_inference_steps": 3, "guidance_scale": 4.0, "guidance_scale_2": 3.0, "seed": 7,
    }  # fmt: skip
    usual = {
        "id": "served",
        "backend": "openai-video",
        "server": {"dialect": dialect, "command": command},
        "sampling": sampling,
        "scheduler": {"flow_shift": 12.0},
    }
    return make_case(**{**usual, **changes})


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Callable[[Case], OpenaiVideoBackend]]:
    backends: list[OpenaiVideoBackend] = []

    def load(case: Case) -> OpenaiVideoBackend:
        backends.append(OpenaiVideoBackend())
        backends[-1].load(case, {"model": tmp_path}, "cpu", lambda _: None)
        return backends[-1]

    yield load
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("dialect", ["sglang", "vllm-omni"])
def test_a_started_server_gives_the_clip_that_was_asked_for(loaded: Any, tmp_path: Path, dialect: str) -> None:
    case = served(dialect)
    backend = loaded(case)
    generation = backend.generate(case, tmp_path, lambda _: None)
    frames = read_clip(tmp_path / generation.clip).frames
    assert frames.shape == (9, 48, 64, 3)
    assert abs(float(frames[0].mean()) - 47) < 2  # 40 and the seed
    assert abs(float(frames[8].mean()) - 55) < 2
    topics = [item.partition(":")[0] for item in generation.not_available]
    assert topics[:5] == ["receipts", "probes", "trace", "resolved parameters", "raw frames"]
    assert generation.trace.steps == ()
    process = backend._process
    backend.close()
    assert process.poll() is not None


def test_a_server_that_runs_already_is_used_and_left(loaded: Any, tmp_path: Path) -> None:
    server = video_server.serve("vllm-omni", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    case = served(server={"dialect": "vllm-omni", "url": url})
    backend = loaded(case)
    generation = backend.generate(case, tmp_path, lambda _: None)
    assert generation.not_available[-1].startswith("checkpoint: ")
    backend.close()
    with urllib.request.urlopen(f"{url}/seen") as answer:  # noqa: S310 - a server of this test
        [seen] = json.load(answer)
    server.shutdown()
    server.server_close()
    # vLLM-Omni's first scale is that of the low-noise expert
    assert (seen["guidance_scale"], seen["guidance_scale_2"]) == ("3.0", "4.0")
    assert (seen["flow_shift"], seen["boundary_ratio"]) == ("12.0", "0.875")
    assert json.loads(seen["extra_params"])["video_codec_options"]["crf"] == "0"
    assert seen["prompt"] == case.sampling.prompt


def _sent(dialect: str) -> dict[str, Any]:
    """Return the fields as the server reads them: a form's are texts."""
    body, kind = encode_request(served(dialect), dialect)
    if dialect == "sglang":
        fields: dict[str, Any] = json.loads(body)
        return fields
    form = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()
        for part in form.iter_parts()
    }


@pytest.mark.parametrize("dialect", ["sglang", "vllm-omni"])
def test_no_parameter_of_the_case_is_left_to_a_default(dialect: str) -> None:
    fields = _sent(dialect)
    assert fields.keys() == parameters(served(dialect), dialect).keys()
    assert {"prompt", "negative_prompt", "size", "num_frames", "fps", "num_inference_steps", "seed"} < fields.keys()
    assert video_server.problem(dialect, fields) == ""
    other = "vllm-omni" if dialect == "sglang" else "sglang"
    assert video_server.problem(other, fields) != ""  # the doubles are strict


@pytest.mark.parametrize("dialect", ["sglang", "vllm-omni"])
def test_the_doubles_refuse_a_wrong_type_of_every_field_that_is_sent(dialect: str) -> None:
    fields = _sent(dialect)
    texts = {"prompt", "negative_prompt", "generator_device"}
    for name in fields.keys() - (texts if dialect == "vllm-omni" else set()):
        for wrong in ["None", "4.5x", ""] if dialect == "vllm-omni" else [None, [1], {}]:
            assert name in video_server.problem(dialect, fields | {name: wrong}), (name, wrong)
    assert "unknown" in video_server.problem(dialect, fields | {"negativ_prompt": "x"})


def test_what_would_change_the_clip_afterwards_is_turned_off() -> None:
    fields = _sent("vllm-omni")
    assert (fields["generate_sound"], fields["enable_frame_interpolation"]) == ("false", "false")


def test_an_empty_form_field_is_reported_as_not_received(loaded: Any, tmp_path: Path) -> None:
    for dialect, reported in (("vllm-omni", True), ("sglang", False)):
        case = served(dialect)
        sampling = case.sampling.model_copy(update={"negative_prompt": ""})
        case = case.model_copy(update={"sampling": sampling})
        lost = loaded(case).generate(case, tmp_path / dialect, lambda _: None).not_available
        assert any(item.startswith("negative_prompt: ") for item in lost) is reported


def test_sglang_gets_its_scales_in_order_and_best_quality() -> None:
    body, kind = encode_request(served(), "sglang")
    fields = json.loads(body)
    assert kind == "application/json"
    assert (fields["guidance_scale"], fields["guidance_scale_2"], fields["output_compression"]) == (4.0, 3.0, 100)


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [
        ("fails", InfraError, "bad tensor"),
        ("memory", InfraError, "oom"),
        ("busy", InfraError, "503"),
        ("dies", InfraError, "exit status 3"),
        ("nonsense", InfraError, "no video"),
        ("rejects", InvalidCaseError, "num_frames must be 4n+1"),
        ("silent", InfraError, "no reason is given crash"),
        ("cancels", InfraError, "the job ended as 'cancelled'"),
        ("forgets", InfraError, '"Video not found"} protocol'),
        ("lost", InfraError, "/content: the server answered 404"),
        ("odd", InfraError, "names no status of the job: 1 protocol"),
        ("cut", InfraError, "of its bytes"),
        ("key", InvalidCaseError, "start the server without an API key"),
    ],
)
def test_each_end_of_a_job_is_a_typed_error(loaded: Any, tmp_path: Path, fault: str, kind: Any, detail: str) -> None:
    case = served("vllm-omni", fault)
    backend = loaded(case)
    with pytest.raises(kind) as error:
        backend.generate(case, tmp_path, lambda _: None)
    assert detail in f"{error.value.message} {getattr(error.value, 'kind', '')} {error.value.remedy}"


def test_a_failure_of_a_server_that_gets_no_more_memory_is_a_shortage(loaded: Any, tmp_path: Path) -> None:
    """oneDNN says "could not create a primitive", and the server passes that on."""
    case = served(fault="fails")
    backend = loaded(case)
    pid = backend._process.pid
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize() + (48 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
    with pytest.raises(InfraError) as error:
        backend.generate(case, tmp_path, lambda _: None)
    assert "bad tensor" in str(error.value)
    assert error.value.kind == "oom"


def test_a_server_of_others_has_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for server, remedy in (({"url": "http://x"}, "read the log of the server that `server.url` names"), ({}, "")):
        case = served(**({"server": server} if server else {}))
        backend = OpenaiVideoBackend()
        backend._server = case.server  # type: ignore[assignment]
        monkeypatch.setattr(backend, "_open", lambda *_, **__: b"[]")
        with pytest.raises(InfraError, match="answered no object") as error:
            backend.generate(case, tmp_path, lambda _: None)
        assert error.value.remedy == remedy
        monkeypatch.setattr(backend, "_open", lambda *_, **__: b"{")
        with pytest.raises(InfraError, match="answered what is no JSON") as error:
            backend.generate(case, tmp_path, lambda _: None)
        assert error.value.remedy == remedy
        monkeypatch.setattr(backend, "_open", lambda *_, **__: b"{}")
        with pytest.raises(InfraError, match="names no job") as error:
            backend.generate(case, tmp_path, lambda _: None)
        assert error.value.remedy == remedy


def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    server = video_server.serve("vllm-omni", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = OpenaiVideoBackend()
    backend._url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert backend._open("GET", "/seen") == b"[]"
        monkeypatch.setattr("harness.engine.backends.openai_video_backend.LARGEST_ANSWER", 1)
        with pytest.raises(InfraError, match="more than 1 bytes"):
            backend._open("GET", "/seen")
    finally:
        server.shutdown()
        server.server_close()


def test_a_program_that_is_not_installed_is_told(loaded: Any) -> None:
    with pytest.raises(InvalidCaseError, match="there is no program 'no-such-server'"):
        loaded(served(server={"command": ["no-such-server", "{port}"]}))
    with pytest.raises(InvalidCaseError, match="needs `server` with either `command` or `url`"):
        loaded(served(server=None))


def test_a_request_that_the_server_refuses_is_the_cases_fault(loaded: Any, tmp_path: Path) -> None:
    case = served("vllm-omni")
    sampling = case.sampling.model_copy(update={"num_inference_steps": 500})
    with pytest.raises(InvalidCaseError, match=r"(?s)422.*outside of 1 to 200.*next: correct the setting"):
        loaded(case).generate(case.model_copy(update={"sampling": sampling}), tmp_path, lambda _: None)


def test_a_server_that_never_stands_is_told_with_its_status(loaded: Any) -> None:
    with pytest.raises(InfraError, match="exit status 7"):
        loaded(served(fault="never"))


@pytest.mark.parametrize(("fault", "shape"), [("short", (5, 48, 64, 3)), ("narrow", (9, 48, 32, 3))])
def test_a_clip_of_another_size_is_kept_and_fails_sanity(loaded: Any, tmp_path: Path, fault: str, shape: Any) -> None:
    from harness.session.stages import look_at_frames

    case = served(fault=fault)
    generation = loaded(case).generate(case, tmp_path, lambda _: None)
    assert generation.shape == shape
    found = look_at_frames(case, generation, read_clip(tmp_path / generation.clip))
    assert "shape" in {check.name for check in found.failures}


def test_what_a_server_cannot_tell_is_said_and_no_format_is_green_by_silence(loaded: Any, tmp_path: Path) -> None:
    case = served(quantization={"transformer": "nvfp4", "transformer_2": "nvfp4"})
    generation = loaded(case).generate(case, tmp_path, lambda _: None)
    verdict, _ = observe(bare_evidence(case, generation=generation), "cpu")
    lost = [finding for finding in verdict.findings if finding.code == "not_available"]
    assert any("receipts" in finding.message for finding in lost)
    assert not any(finding.gating for finding in lost)
    assert verdict.outcome is Outcome.GOLDEN_MISSING
    silent = generation.model_copy(update={"not_available": ()})
    verdict, _ = observe(bare_evidence(case, generation=silent), "cpu")
    assert verdict.cause == "no_receipts"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"server": None}, True),
        ({"server": {"dialect": "sglang"}}, True),
        ({"server": {"url": "http://a", "command": ["b"]}}, True),
        ({"backend": "diffusers"}, True),
        ({}, False),
    ],
)
def test_a_case_says_where_its_server_is(changes: dict[str, Any], wrong: bool, tmp_path: Path) -> None:
    findings = [
        message
        for place, message in check_case(served(**changes), root=tmp_path, runners=["cpu"])
        if "server" in message
    ]
    assert bool(findings) == wrong


def test_ending_the_engine_ends_what_the_server_started(tmp_path: Path) -> None:
    script = tmp_path / "wrapper.py"
    script.write_text(
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, *sys.argv[1:]])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\nchild.wait()\n"
    )
    case = served(server={"command": [sys.executable, str(script), str(DOUBLE), "sglang", "{port}"]})
    backend = OpenaiVideoBackend()
    backend.load(case, {"model": tmp_path}, "cpu", lambda _: None)
    pid = int((tmp_path / "pid").read_text())
    backend.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_an_answer_that_names_a_file_of_this_machine_opens_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's list of files (``ffconcat``) is no video: what it names is not the server's."""
    av = pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    with av.open("private.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()):
            container.mux(packet)
    whole = (tmp_path / "private.mp4").read_bytes()
    assert decode_video(whole, served()).shape == (1, 48, 64, 3)
    with pytest.raises(InfraError, match="no video"):
        decode_video(b"ffconcat version 1.0\nfile private.mp4\n", served())
