"""Counts launches, syncs and uploads of a mask-training step on the pretend GPU; 12 tiny layers of each family.

    python docs/results/decoders/launches.py > docs/results/decoders/raw/launches.json

It runs the tests that hold these counts against their bounds, and prints what they recorded, the worst step of each.
"""

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TESTS = Path("tests/pruning/test_gpu_counts.py")
OF_A_STEP, OWN = "launches_syncs_uploads", "launches_of_loss_and_masks"


def main() -> None:
    """Run the tests of the steps and print a JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-k", "a_step_of", "--junitxml", str(file)]
        run = subprocess.run([*command, str(TESTS)], cwd=Path(__file__).parents[3], capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stdout)
        cases = list(ElementTree.parse(file).iter("testcase"))
    found = {}
    for case in cases:
        recorded = {one.get("name"): json.loads(str(one.get("value")).translate({40: "[", 41: "]"}))
                    for one in case.iter("property")}  # fmt: skip
        worst = [max(step[kind] for step in recorded[OF_A_STEP]) for kind in range(3)]
        name = str(case.get("name")).partition("[")[2].rstrip("]")
        found[name] = dict(zip(("launches", "syncs", "uploads"), worst, strict=True))
        if OWN in recorded:
            found[name][OWN] = max(recorded[OWN])
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
