"""Check a case beyond the types of its fields: names, files, and combinations of fields."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import date, timedelta
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from harness.definitions.case import Case, CheckpointRef, ImageRef, Waiver
from harness.definitions.causes import STAGES, check_cause, names_nothing
from harness.definitions.contract import parse_contract
from harness.definitions.environment import check_leased, check_name, check_value
from harness.definitions.image import PictureError, decode, digest, read_picture
from harness.definitions.installed import attention_backends, check_contract
from harness.definitions.program import check_command
from harness.definitions.validation import did_you_mean
from harness.formats.registry import loader_options, runnable_formats
from harness.frames.causes import SANITY
from harness.frames.registry import metric_names

BACKENDS: Final = "quantgate.backends"
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
"""``owner/name``."""

WAIVED_DAYS: Final = 90
"""Most days from today until a waiver expires."""
MOST_WAIVED: Final = 4
"""Most causes that one waiver may name."""

Finding = tuple[tuple[str | int, ...], str]
"""Path of the field, and its fault as a sentence."""


def check_case(case: Case, *, root: Path, runners: Collection[str]) -> Iterator[Finding]:
    """Yield all faults of ``case`` beyond its types.

    Args:
        case: valid by its types.
        root: the repository: pictures and contracts of the project are looked up below it.
        runners: names that the case may use.
    """
    yield from _runners(case, runners)
    yield from _backend(case)
    if case.backend == "command":
        yield from check_command(case.command)
    yield from _process_texts(case)
    for name, value in case.env.items():
        if wrong := check_name(name, case.backend, case.pass_env) or check_value(name, value):
            yield ("env", name), wrong
    for index, name in enumerate(case.pass_env):
        if wrong := check_leased(name):
            yield ("pass_env", index), wrong
    for role, ref in case.checkpoints().items():
        yield from _checkpoint(role, ref, root)
    for index, text in enumerate(case.contracts):
        try:
            wrong = check_contract(parse_contract(text), root)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            yield ("contracts", index), wrong
    yield from _images(case, root)
    yield from _names(case)
    yield from _meaning(case)


def _names(case: Case) -> Iterator[Finding]:
    for index, name in enumerate(case.metrics):
        if name not in metric_names():
            yield ("metrics", index), f"no metric is called {name!r}; {did_you_mean(name, metric_names())}"
    available, name = attention_backends(), case.execution.attention_backend
    if case.backend == "diffusers" and available and name.lower() not in available:
        yield (
            ("execution", "attention_backend"),
            f"diffusers has no attention backend {name!r}; {did_you_mean(name, available)}",
        )
    for stage, cause in case.must_be_seen():
        if wrong := check_cause(cause, metric_names()):
            yield ("expect",), wrong
        elif names_nothing(cause):
            yield ("expect",), f"{cause} is met by any breakage; name what the control must be seen by"
        if stage and stage not in STAGES:
            yield ("expect",), f"no stage is called {stage!r}; {did_you_mean(stage, STAGES)}"


def _runners(case: Case, runners: Collection[str]) -> Iterator[Finding]:
    for index, name in enumerate(case.runners):
        if name not in runners:
            advice = did_you_mean(name, runners) if runners else "it holds no profile; `quantgate init` writes some"
            yield ("runners", index), f"no runner {name!r} in runners/; {advice}"
        elif name in case.runners[:index]:
            yield ("runners", index), f"runner {name!r} is named twice"


RUNTIME_BACKENDS = ("sglang",)
"""Backends that run a named version of a runtime."""


def _backend(case: Case) -> Iterator[Finding]:
    available = backends()
    if case.backend not in available:
        yield ("backend",), f"no backend {case.backend!r} is installed; {did_you_mean(case.backend, available)}"
    elif case.backend == "command" and not case.command:
        yield ("backend",), "backend command needs `command`: the argument list of the program to run"
    elif case.backend in RUNTIME_BACKENDS and not case.runtime:
        yield ("backend",), f"backend {case.backend} needs `runtime`: which version runs, such as sglang==0.5.23"
    elif case.backend not in RUNTIME_BACKENDS and (case.runtime or case.runtime_args):
        field = "runtime" if case.runtime else "runtime_args"
        yield (field,), f"`{field}` is read by backend {' or '.join(RUNTIME_BACKENDS)}, and this is {case.backend}"
    elif case.backend == "sglang" and not case.runtime.startswith("sglang=="):
        yield ("runtime",), f"backend sglang runs sglang==VERSION, not {case.runtime}"
    elif case.backend == "openai-video" and (case.server is None or bool(case.server.command) == bool(case.server.url)):
        yield ("backend",), "backend openai-video needs `server` with either `command` or `url`"
    elif case.backend != "openai-video" and case.server is not None:
        yield ("server",), f"`server` is read by backend openai-video only, and this is backend {case.backend}"
    elif case.backend != "command" and case.command:
        yield ("command",), f"`command` is read by backend command only, and this is backend {case.backend}"
    elif case.backend != "command" and case.program_files:
        yield ("program_files",), f"`program_files` belong to backend command, and this is backend {case.backend}"
    for index, glob in enumerate(case.program_files):
        if not glob.strip("./"):
            yield ("program_files", index), f"{glob!r} names no files; write a glob such as runtimes/kernels/*.cu"
        elif glob.startswith(("/", "~")) or ".." in glob.split("/"):
            yield ("program_files", index), f"{glob!r} leads out of the repository; write a glob relative to its root"


@cache
def backends() -> tuple[str, ...]:
    """Return the names of the installed backends, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=BACKENDS)}))


def _process_texts(case: Case) -> Iterator[Finding]:
    """Yield the texts that no process can be started with: an argument or a variable ends at a NUL character."""
    texts: list[tuple[tuple[str | int, ...], str]] = [
        *((("command", index), part) for index, part in enumerate(case.command)),
        *((("env", name), value) for name, value in case.env.items()),
        *((("runtime_args", name), str(value)) for name, value in case.runtime_args.items()),
    ]
    if case.server is not None:
        texts += ((("server", "command", index), part) for index, part in enumerate(case.server.command))
    for place, text in texts:
        if "\0" in text:
            yield place, "holds a NUL character, with which no program can be started; take it out"


def _checkpoint(role: str, ref: CheckpointRef, root: Path) -> Iterator[Finding]:
    if ref.is_local:
        if ref.path.startswith("./") and not _inside(ref.path):
            problem = f"{ref.path} leads out of the repository; write a folder elsewhere as /folder or ~/folder"
            yield (role, "path"), problem
        if ref.revision is not None:
            yield (role, "revision"), "a folder has no revision; its files are digested instead"
    elif ref.revision is None and _exists(root, ref.path):
        yield (
            (role, "path"),
            f"{ref.path} names a repository on the hub; for the folder that is here write ./{ref.path}",
        )
    elif not HUB_NAME.fullmatch(ref.path) or ".." in ref.path:
        yield (role, "path"), f"{ref.path!r} is neither ./folder nor owner/name on the hub"
    elif ref.revision is None:
        yield (role, "path"), f"{ref.path} needs `revision`: a full commit, or `unresolved` until one is known"


def _images(case: Case, root: Path) -> Iterator[Finding]:
    sampling = case.sampling
    if sampling.images() and case.backend == "openai-video":
        problem = f"backend {case.backend} does not hand pictures on yet; `diffusers`, `sglang` and `command` do"
        yield ("sampling", "image" if sampling.image is not None else "last_image"), problem
    if sampling.last_image is not None and case.backend in RUNTIME_BACKENDS:
        problem = f"backend {case.backend} takes a first frame only: no version of the runtime reads a last one"
        yield ("sampling", "last_image"), problem
    if sampling.last_image is not None and sampling.image is None:
        yield ("sampling", "last_image"), "is given beside `image`: no pipeline takes a last frame alone"
    for field, image in sampling.images().items():
        if not image.is_local:
            yield from _hub_image(field, image, root)
            continue
        if not _lies_in(image.path, root):
            yield ("sampling", field, "path"), f"{image.path} leads out of the repository; pictures lie inside it"
            continue
        for name in ("revision", "file"):
            if getattr(image, name) is not None:
                yield ("sampling", field, name), f"a file in the repository has no {name}; its bytes are digested"
        try:
            data = read_picture(root / image.path)
            decode(data, sampling.width, sampling.height)
        except PictureError as error:
            yield ("sampling", field, "path"), f"{image.path} {error}"
            continue
        if image.sha256 not in (None, digest(data)):
            yield ("sampling", field, "sha256"), f"{image.path} has sha256 {digest(data)}: it is another picture"


def _exists(root: Path, path: str) -> bool:
    """Return whether ``path``, written without ``./``, leads to a file or folder in the repository."""
    try:
        return _lies_in(path, root) and (root / path).exists()
    except (OSError, ValueError):
        return False  # too long a name, or a character that no path has


def _hub_image(field: str, image: ImageRef, root: Path) -> Iterator[Finding]:
    if image.revision is None and image.file is None and _exists(root, image.path):
        problem = f"{image.path} names a repository on the hub; for the file that is here write ./{image.path}"
        yield ("sampling", field, "path"), problem
        return
    if not HUB_NAME.fullmatch(image.path) or ".." in image.path:
        yield ("sampling", field, "path"), f"{image.path!r} is neither ./file nor owner/name on the hub"
        return
    for name, meaning in (
        ("revision", "a full commit, or `unresolved` until one is known"),
        ("file", "the picture's path in the repository"),
        ("sha256", "of the picture, so that the request is known without fetching it"),
    ):
        if getattr(image, name) is None:
            yield ("sampling", field, "path"), f"{image.path} needs `{name}`: {meaning}"
    if image.file is not None and (image.file.startswith("/") or ".." in Path(image.file).parts):
        yield ("sampling", field, "file"), f"{image.file!r} leads out of the hub repository"


def with_digests(case: Case, root: Path) -> Case:
    """Return ``case`` with the sha256 of every picture in the repository; an unreadable picture is left without."""
    update: dict[str, ImageRef] = {}
    for field, image in case.sampling.images().items():
        if image.is_local and image.sha256 is None and _lies_in(image.path, root):
            try:
                update[field] = image.model_copy(update={"sha256": digest(read_picture(root / image.path))})
            except PictureError:
                continue
    return case.model_copy(update={"sampling": case.sampling.model_copy(update=update)}) if update else case


@cache
def _lies_in(path: str, root: Path) -> bool:
    """Return whether ``path`` stays in ``root``, as written and after following links."""
    top = os.path.normpath(root)
    for start, normalize in ((top, os.path.normpath), (os.path.realpath(top), os.path.realpath)):
        target = normalize(os.path.join(start, path))  # noqa: PTH118 - pathlib does not fold `..`
        if target != start and not target.startswith(start.rstrip(os.sep) + os.sep):
            return False
    return True


def _inside(path: str) -> bool:
    """Return whether ``./path`` stays in the repository as it is written. Links in it may lead anywhere."""
    return os.path.normpath(path).partition(os.sep)[0] != os.pardir


def _waiver(waiver: Waiver, today: date) -> Iterator[Finding]:
    """Yield the faults of a waiver: it must name a known failure, for a limited time."""
    for cause in sorted(waiver.causes):
        if cause in SANITY:
            yield ("waiver", "expect"), f"{cause} says that the output is no video, and is never waived"
        elif cause.startswith("limits_"):
            yield ("waiver", "expect"), f"{cause} is no failure of the case, and never waived: measure the limits"
        elif names_nothing(cause):
            yield ("waiver", "expect"), f"{cause} is met by any breakage, and never waived"
    if len(waiver.causes) > MOST_WAIVED:
        yield (
            ("waiver", "expect"),
            f"{len(waiver.causes)} causes are no known failure; name at most {MOST_WAIVED}",
        )
    last = today + timedelta(days=WAIVED_DAYS)
    if waiver.expires > last:
        yield ("waiver", "expires"), f"a waiver ends within {WAIVED_DAYS} days, on {last.isoformat()} at the latest"


def _meaning(case: Case) -> Iterator[Finding]:
    formats = {case.quantization.transformer, case.quantization.transformer_2}
    effective = {option for name in formats for option in loader_options(name)}
    for option, default in (("nibble_order", "low_first"), ("scale_layout", "linear")):
        if option not in effective and getattr(case.loader, option) != default:
            names = [name for name in runnable_formats() if option in loader_options(name)]
            yield ("loader", option), f"has no effect: `quantization` says that no expert is {' or '.join(names)}"
    if case.loader.packed_qkv and formats == {"bf16"}:
        yield ("loader", "packed_qkv"), "has no effect: `quantization` says that no expert is quantized"
    if case.waiver is not None and case.expect != "pass":
        yield ("waiver",), f"a negative control (expect: {case.expect}) has to fail; there is nothing to waive"
    if case.waiver is not None:
        yield from _waiver(case.waiver, date.today())
    if case.inspection == "report" and case.expect == "pass":
        yield ("inspection",), "only a negative control may look past the inspector; set `expect` to how it must fail"
    if case.backend in ("diffusers", "sglang"):
        # WanPipeline rounds both silently (a warning at most), and the run must match the case.
        if case.sampling.num_frames % 4 != 1:
            yield ("sampling", "num_frames"), f"{case.sampling.num_frames} is not 4k+1, and would be rounded silently"
        for side in ("width", "height"):
            if getattr(case.sampling, side) % 16:
                yield ("sampling", side), f"{getattr(case.sampling, side)} pixels is no multiple of 16"


# Cases that are compared with the golden of another case: both must request the same video, in the same file.


def absent_golden_of(golden_of: object, ids: Collection[str]) -> str | None:
    """Return the fault of a ``golden_of`` that names no case of its file, or ``None``."""
    if not isinstance(golden_of, str) or golden_of in ids:
        return None
    return f"no case {golden_of!r} in this file; {did_you_mean(golden_of, ids)}"


def check_golden_of(cases: Sequence[Case]) -> Iterator[tuple[str, str, str]]:
    """Yield case id, field and sentence per ``golden_of`` of a file that names a case without a comparable golden.

    A case with faults is not among ``cases``, and a ``golden_of`` that names it yields nothing.
    """
    by_id = {case.id: case for case in cases}
    for case in cases:
        if case.golden_of is None:
            continue
        other = by_id.get(case.golden_of)
        if other is None:
            continue
        if other is case:
            yield case.id, "golden_of", "names the case itself; take it out, or name the case whose golden is meant"
        elif other.golden_of is not None:
            yield case.id, "golden_of", f"{other.id} has no golden of its own; name {other.golden_of}"
        else:
            for part in ("sampling", "scheduler"):
                if getattr(case, part) != getattr(other, part):
                    yield case.id, part, f"differs from that of {other.id}, whose golden it is compared with"
            if missing := [name for name in case.runners if name not in other.runners]:
                yield case.id, "runners", f"{other.id} has no golden on {', '.join(missing)}"
