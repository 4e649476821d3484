"""An exported file read by a process that has torch or an ONNX runtime and none of our packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

_SCRIPT = """
import sys
import numpy as np

OURS = {ours}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ImportError("not here: " + name)

sys.meta_path.insert(0, Refuse())
path = sys.argv[1]
inputs = dict(np.load(sys.argv[2]))
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    output = session.run(None, {{one.name: inputs[one.name] for one in session.get_inputs()}})[0]
else:
    import torch
    output = torch.export.load(path).module()(**{{k: torch.from_numpy(v) for k, v in inputs.items()}}).numpy()
assert not OURS & {{name.partition(".")[0] for name in sys.modules}}
np.save(sys.argv[3], output)
"""
OURS = {
    "marca_common", "marca_measures", "marca_loop", "marca_report", "cascade_world", "awrq_mixer", "autobucket",
    "mpc_balancer", "revenue_sim", "recommender",
}  # fmt: skip


def loaded_alone(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Output of an exported file for ``inputs`` by argument name."""
    given, made = path.parent / "inputs.npz", path.parent / "output.npy"
    np.savez(given, allow_pickle=False, **inputs)
    script = _SCRIPT.format(ours=repr(OURS))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(given), str(made)],
        cwd=path.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.asarray(np.load(made))
