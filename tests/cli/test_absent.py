"""What is not on this machine is refused before torch is imported, which takes seconds."""

import subprocess
import sys

MODEL = "There is no model folder ./nobody; give a folder, a hub id or builtin:minilm."
CORPUS = "There is no file or folder nowhere.txt; --corpus takes a text file, a folder or a name."
DATA = "There is no folder nowhere; --data-dir takes a GLUE download (CoLA/, SST-2/ ...) or a copy of the hub's "
DATA += "repository."
LINES = [
    ("search ./nobody --method magnitude --out out", MODEL),
    ("transfer ./nobody --task pydocs --out out", MODEL),
    ("evaluate ./nobody --corpus pydocs", MODEL),
    ("super ./nobody --task pydocs --out out", MODEL),
    ("shrink ./nobody --corpus pydocs --out out", MODEL),
    ("fit-head ./nobody --corpus pydocs --out out", MODEL),
    ("share --model ./nobody --tasks rte,mrpc --out out", MODEL),
    ("search builtin:minilm --corpus nowhere.txt --out out", CORPUS),
    ("transfer builtin:minilm --task mlm --corpus nowhere.txt --out out", CORPUS),
    ("fit-head builtin:minilm --corpus nowhere.txt --out out", CORPUS),
    ("transfer builtin:minilm --task rte --data-dir nowhere --out out", DATA),
    ("share --model builtin:minilm --tasks rte,mrpc --data-dir nowhere --out out", DATA),
    ("search builtin:minilm --method imp --objective task --task rte --data-dir nowhere --out out", DATA),
]
PROGRAM = """
import sys
from winning_tickets.cli import main
for line in sys.argv[1:]:
    sys.argv = ["tickets", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code, sorted({"torch", "transformers", "pandas"} & sys.modules.keys()))
"""


def test_what_is_absent_is_told_without_torch(tmp_path):
    program = [sys.executable, "-c", PROGRAM, *(line for line, _ in LINES)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr.splitlines() == [f"Error: {message}" for _, message in LINES]
    assert done.stdout.splitlines() == ["2 []"] * len(LINES)
    assert list(tmp_path.iterdir()) == []
