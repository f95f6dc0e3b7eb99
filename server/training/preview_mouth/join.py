"""Join weight files of one network each into one file. The engine averages the outputs of its networks.

python join.py A.npz B.npz ... OUT.npz
"""

import sys

import numpy as np

if __name__ == "__main__":
    *parts, out = sys.argv[1:]
    arrays = {}
    for i, path in enumerate(parts):
        with np.load(path, allow_pickle=False) as z:
            arrays |= {k.replace("net0_", f"net{i}_"): z[k] for k in z.files if k.startswith("net0_")}
    np.savez(out, n_networks=len(parts), **arrays)
