# %% [markdown]
# # Notebook 6: a study and its report
#
# A study is a grid of runs in a YAML file. The scale `smoke` makes a tiny model with random weights, so that this
# notebook takes a minute; its numbers mean nothing, but everything else is as in a real study.

# %%
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import winning_tickets as wt

work = Path(mkdtemp())


def tickets(*words):
    done = subprocess.run(
        [sys.executable, "-m", "winning_tickets", *words], cwd=work, capture_output=True, text=True, check=True
    )
    print(done.stdout)


tickets("study", "new", "mine.yaml")
print((work / "mine.yaml").read_text()[:700])

# %% [markdown]
# The plan says how many runs there are and what is missing, before anything is computed.

# %%
tickets("study", "plan", "mine.yaml", "--scale", "smoke", "--store", "store")

# %%
tickets("study", "run", "mine.yaml", "--scale", "smoke", "--store", "store", "--quiet")

# %% [markdown]
# The runs are a data frame, to be queried like any other.

# %%
runs = wt.stored_runs(work / "store", "verb=transfer", "status=done")
scores = [column for column in runs.columns if column.endswith("final.mean")]
runs[["config.task", "config.seeds", *scores]]

# %% [markdown]
# The report has the tables and figures that the study asks for, as Markdown, LaTeX, CSV, SVG, PNG and one HTML page.

# %%
tickets("study", "report", "mine.yaml", "--scale", "smoke", "--store", "store", "--out", "report")
print(*sorted(path.name for path in (work / "report").iterdir()), sep="\n")
print((work / "report" / "table-scores.md").read_text())
