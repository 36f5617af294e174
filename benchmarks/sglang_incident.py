"""The incident in the real SGLang: what the learned contract predicts of each case, and what SGLang then did.

    python -m benchmarks.sglang_incident runs/RUN [--picture docs/img/incident-in-sglang.png]

Reads the records of a run of ``cases/incident_sglang.yaml``. The prediction is made of headers and a few rows before
anything runs. Seen is what SGLang drew: the mean SSIM of its frames against those of the BF16 model in SGLang 0.5.13,
from the same run. Exits with 1 if one of them disagrees. The picture shows four frames of each case that generated.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.inspector.contracts.model import load_contract
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord

PREFIX = "incident_sglang_"
SHOWN = (0, 5, 10, 16)
GARBLED = 0.9
"""Mean SSIM to the BF16 model's frames below which it is another video. Rightly read FP4 gives .93 and more; one
expert of two with its nibbles swapped gives .83, both give .06."""
ANCHOR = "incident_sglang_bf16"


@dataclass(frozen=True)
class Row:
    """One case."""

    case: str
    runtime: str
    how: str
    """Whether its contract was learned by running that very version."""
    predicted: str
    seen: str
    ssim: float | None
    agrees: bool


def row_of(record: CaseRecord, run: Path) -> Row:
    """Prediction and observation of one case."""
    runtime = str(record.request["runtime"])
    rules = load_contract(runtime).rules
    how = "learned" if rules.learned is not None and rules.learned.version == runtime.partition("==")[2] else "read"
    faults = record.inspection.with_code("nibble_order") if record.inspection is not None else ()
    wrong = any(item.contract == runtime and item.severity == "fault" for item in faults)
    ssim = None
    if record.generation is None:
        seen, agrees = "named before it ran", wrong and record.verdict.outcome is Outcome.PASS
        seen = seen if agrees else f"did not run ({record.verdict.cause})"
    else:
        ssim = mean_ssim(run / record.case / record.generation.clip, run / ANCHOR / "clip.safetensors")
        garbled = ssim is not None and ssim < GARBLED
        seen, agrees = ("garbled" if garbled else "right") if ssim is not None else "no anchor", garbled == wrong
        agrees = agrees and ssim is not None
    return Row(record.case, runtime, how, "garbled" if wrong else "right", seen, ssim, agrees)


def mean_ssim(clip: Path, anchor: Path) -> float | None:
    """Mean SSIM of two clips over all frames; ``None`` where one is absent."""
    from harness.frames.clip import read_clip
    from harness.frames.compare import compare

    if not (clip.exists() and anchor.exists()):
        return None
    comparison = compare(read_clip(anchor), read_clip(clip), ("ssim",))
    return 1.0 if comparison.bit_exact else next(item.mean for item in comparison.metrics if item.name == "ssim")


def picture(records: list[CaseRecord], run: Path, out: Path) -> None:
    """Four frames of each case that generated, one row a case, in the order of the records."""
    import numpy as np
    from PIL import Image, ImageDraw

    from harness.frames.clip import read_clip

    rows = []
    for record in records:
        if record.generation is None:
            continue
        frames = read_clip(run / record.case / record.generation.clip).frames
        strip = np.concatenate([frames[index] for index in SHOWN], axis=1)
        image = Image.fromarray(strip).resize((strip.shape[1] * 2, strip.shape[0] * 2))
        head = Image.new("RGB", (image.width, 18), "white")
        title = f"{record.request['runtime']}: {record.case.removeprefix(PREFIX).replace('_', ' ')}"
        ImageDraw.Draw(head).text((4, 3), title, fill="black")
        rows += [np.asarray(head), np.asarray(image)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(out, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; draw the picture where one is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sglang_incident", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    files = sorted(options.run.glob(f"{PREFIX}*/record.json"), key=lambda path: path.parent.name)
    if not files:
        print(f"{options.run} holds no record of {PREFIX}*: pytest cases/incident_sglang.yaml --runner cpu")
        return 1
    records = [CaseRecord.read(path) for path in files]
    rows = [row_of(record, options.run) for record in records]
    print(f"{'case':<38}{'runtime':<22}{'contract':<10}{'predicted':<11}{'seen':<22}{'SSIM':<7}agrees")
    for row in rows:
        ssim = "" if row.ssim is None else f"{row.ssim:.3f}"
        agreement = "yes" if row.agrees else "NO"
        print(f"{row.case:<38}{row.runtime:<22}{row.how:<10}{row.predicted:<11}{row.seen:<22}{ssim:<7}{agreement}")
    emulated = next((record.engine.runtime.get("emulated") for record in records if record.engine is not None), None)
    for line in emulated if isinstance(emulated, list) else []:
        print(f"emulated: {line}")
    print(f"{sum(row.agrees for row in rows)} of {len(rows)} predictions agree with what SGLang did")
    if options.picture is not None:
        picture(records, options.run, options.picture)
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
