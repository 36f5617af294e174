"""A foreign runtime for tests: reads a case and writes frames, or misbehaves as its third argument says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

request, out, fault = sys.argv[1:4]
if fault == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(out).with_name("pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)

import numpy as np  # noqa: E402 - a hang comes before the slow imports
from safetensors.numpy import save_file  # noqa: E402

asked = json.loads(Path(request).read_text())
sampling = asked["case"]["sampling"]
assert asked["paths"]["model"]
assert asked["device"] in ("cpu", "cuda", "auto")
shape = (sampling["num_frames"], sampling["height"], sampling["width"], 3)
ramp = np.linspace(0.0, 1.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)
tensors = {"frames": (ramp * 255).astype(np.uint8)}
if fault == "float":
    tensors = {"frames": ramp}
elif fault == "overshoot":
    tensors = {"frames": ramp * 2 - 0.5}
elif fault == "nan":
    ramp[2, 1, 1, 1] = np.nan
    tensors = {"frames": ramp}
elif fault == "short":
    tensors = {"frames": tensors["frames"][:-1]}
elif fault == "transposed":
    tensors = {"frames": np.ascontiguousarray(tensors["frames"].transpose(0, 2, 1, 3))}
elif fault == "double":
    tensors = {"frames": ramp.astype(np.float64)}
elif fault == "two":
    tensors["extra"] = ramp
elif fault == "name":
    tensors = {"video": tensors["frames"]}
elif fault == "exit":
    for number in range(40):
        print(f"step {number}")
    print("Traceback\n\nRuntimeError: shapes do not match", file=sys.stderr)
    sys.exit(3)
elif fault == "silent":
    sys.exit(3)
elif fault == "memory":
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", file=sys.stderr)
    sys.exit(1)
elif fault == "secret":
    print("x" * 200, "token is", os.environ["MY_TOKEN"], file=sys.stderr)
    sys.exit(1)
elif fault == "daemon":  # holds both streams after the program ended
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
elif fault == "disturb":
    assert asked["disturb"] is None or asked["disturb"]["seed"] == int(sys.argv[4]), sys.argv
    tensors = {"frames": tensors["frames"] + np.uint8(sys.argv[4])}
elif fault == "random":
    tensors = {"frames": np.random.default_rng().integers(0, 255, shape, dtype=np.uint8)}
elif fault == "where":
    Path(out).with_name("where").write_text("\n".join([str(Path.cwd()), *sys.argv[4:]]))
elif fault == "killed":
    os.kill(os.getpid(), 9)
elif fault == "nothing":
    sys.exit(0)
if len(sys.argv) > 4 and fault not in ("disturb", "where"):
    wrong = {"modules": [{"format": "int3"}]}
    right = {"expert": "transformer", "module": "a", "format": "nvfp4", "kernel": "cutlass", "calls": 2}
    Path(sys.argv[4]).write_text(json.dumps(wrong if fault == "receipts" else {"modules": [right]}))
print("runtime chatter", os.environ.get("STATED", "nothing stated"))
if fault == "garbage":
    Path(out).write_bytes(b"garbage")
else:
    save_file(tensors, out)
