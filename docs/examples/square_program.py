"""A program for the `command` backend: the same square, from any environment that has numpy and safetensors.

In a case: ``command: [python, docs/examples/square_program.py, "{case_json}", "{out}"]``
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

request = json.loads(Path(sys.argv[1]).read_text())
sampling = request["case"]["sampling"]
colour = np.random.default_rng(sampling["seed"]).integers(160, 240, 3).astype(np.uint8)
frames = np.zeros((sampling["num_frames"], sampling["height"], sampling["width"], 3), dtype=np.uint8)
frames += np.linspace(40, 120, sampling["width"], dtype=np.uint8)[:, np.newaxis]
size = sampling["height"] // 2
for index, frame in enumerate(frames):
    frame[size // 2 : size // 2 + size, index : index + size] = colour
save_file({"frames": frames}, sys.argv[2])
