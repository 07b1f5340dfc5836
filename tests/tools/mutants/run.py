"""Run the mutants of `sample.py`: which are killed by a test, and by which.

    python tests/tools/mutants/run.py trace --mutants mutants.json --trace TRACE
    python tests/tools/mutants/run.py check --mutants mutants.json --trace TRACE --out result.json

`trace` runs all tests once, or those of `--tests`, and records the lines that each executes (see `lines.py`). `check`
runs, for each mutant, the tests that execute its line, the fastest first, until one fails. Both work on the tree that
`--tree` names (the current folder by default), whatever its layout. `check` resumes: of the mutants in the result it
runs only those survivors again for which there are more tests than before.

All children are forks. For a mutant in a function that no import runs, the parent has collected the tests, and the
child replaces the function's code. For any other, the parent has imported the libraries only, and the child imports the
package. Both see a copy of `src` with the mutant in it, which PYTHONPATH names for the subprocesses of tests as well.
"""

import argparse
import ast
import compileall
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from sample import Found, Mutant, Unit, located, mutated, read_mutants, sources_of

LIBRARIES = """torch torch.nn.functional torch.utils.data numpy numpy.testing scipy.stats scipy.special pandas datasets
sklearn.metrics sklearn.linear_model accelerate safetensors.torch huggingface_hub pydantic typer typer.testing
rich.table rich.progress yaml jinja2 xxhash transformers transformers.trainer transformers.models.bert.modeling_bert
transformers.models.bert.tokenization_bert transformers.models.roberta.modeling_roberta
transformers.models.distilbert.modeling_distilbert transformers.models.auto.modeling_auto hypothesis
hypothesis.strategies matplotlib.figure matplotlib.backends.backend_agg pytest"""
"""Imported once by the parent, so that children need not."""
OPTIONS = "-q -p no:cacheprovider -p no:xdist --hypothesis-seed=0 -W ignore::pytest.PytestAssertRewriteWarning"
PER_FILE, MOST_FIRST, FAST = 3, 60, 2.0  # tests of the first stage: of each file, in all, and their longest duration
SHORTEST_LIMIT, LONGEST_LIMIT, SLOWER = 60.0, 600.0, 10.0  # limits in seconds, as a multiple of the duration


class Coverage:
    """Which tests execute which lines, and how long each test takes.

    Args:
        folders: written by `trace`.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        from coverage import CoverageData

        self.seconds: dict[str, float] = defaultdict(float)  # with the longest set-up of its file
        self.setups: dict[str, float] = defaultdict(float)  # the longest set-up of each file
        self.by_line: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.on_import: dict[str, set[int]] = defaultdict(set)
        setups: dict[tuple[str, int], set[str]] = defaultdict(set)
        for folder in folders:
            total: dict[str, float] = defaultdict(float)
            durations = [json.loads(line) for line in (folder / "durations.jsonl").read_text().splitlines()]
            for one in filter(lambda one: one["phase"] == "setup", durations):
                file = one["test"].split("::")[0]  # a fixture that its tests may share
                self.setups[file] = max(self.setups[file], one["seconds"])
            for one in durations:
                setup = one["phase"] == "setup"
                total[one["test"]] += self.setups[one["test"].split("::")[0]] if setup else one["seconds"]
            self.seconds |= total
            for path in folder.glob(".coverage.*"):
                data = CoverageData(str(path))
                data.read()
                for file in data.measured_files():
                    for number, contexts in data.contexts_by_lineno(file).items():
                        if "" in contexts:
                            self.on_import[file].add(number)
                        for context in filter(None, contexts):
                            test, _, phase = context.rpartition(" ")
                            self.by_line[file][number].add(test)
                            if phase != "(call)":
                                setups[file, number].add(test.split("::")[0])
        tests_of: dict[str, set[str]] = defaultdict(set)
        for test in self.seconds:
            tests_of[test.split("::")[0]].add(test)
        for (file, number), modules in setups.items():  # a fixture is set up in one test and used by others
            self.by_line[file][number] |= {test for module in modules for test in tests_of[module]}

    def tests(self, found: Found, sources: dict[Path, list[Unit]]) -> list[str]:
        """The tests that execute a mutant, the fastest first."""
        lines = self.by_line[str(found.path)]
        statement = found.place.statement
        if not isinstance(found.unit.node, ast.FunctionDef):  # runs on import: what uses the name shows it
            names = {found.unit.name.split(".")[-1]}
            using = [(p, u) for p, own in sources.items() if str(p) in self.by_line for u in own if _uses(u, names)]
            sets = [self._inside(self.by_line[str(path)], unit.node) for path, unit in using]
            tests = set().union(*sets) or set().union(*lines.values())
        elif isinstance(statement, ast.FunctionDef):  # a default
            tests = self._inside(lines, statement)
        else:
            tests = set().union(*(lines.get(number, ()) for number in _lines_of(statement)))
        return sorted((test for test in tests if test in self.seconds), key=lambda test: (self.seconds[test], test))

    def runs_on_import(self, found: Found) -> bool:
        """Whether an import runs a mutant."""
        statement = found.place.statement
        if not isinstance(found.unit.node, ast.FunctionDef) or isinstance(statement, ast.FunctionDef):
            return True
        return not self.on_import[str(found.path)].isdisjoint(_lines_of(statement))

    def _inside(self, lines: dict[int, set[str]], node: ast.stmt) -> set[str]:
        body = node.body if isinstance(node, ast.FunctionDef) else []
        numbers = {number for one in body for number in range(one.lineno, (one.end_lineno or 0) + 1)}
        return set().union(*(lines.get(number, ()) for number in numbers))


def _lines_of(statement: Any) -> range:
    """The lines of a statement without the statements inside."""
    end = statement.body[0].lineno - 1 if hasattr(statement, "body") else statement.end_lineno
    return range(statement.lineno, max(end, statement.lineno) + 1)


def _uses(unit: Unit, names: set[str]) -> bool:
    return isinstance(unit.node, ast.FunctionDef) and any(
        getattr(node, field, None) in names for node in ast.walk(unit.node) for field in ("id", "attr", "arg")
    )


class Only:
    """A pytest plugin that runs the given tests in the given order, with a limit each, and notes the first failure."""

    def __init__(self, tests: list[str], seconds: dict[str, float]) -> None:
        self.order = {test: number for number, test in enumerate(tests)}
        self.seconds = seconds
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])
        self.limit(items)

    def limit(self, items: list[Any]) -> None:
        """Limit the time of each test."""
        for item in items:
            seconds = max(SHORTEST_LIMIT, SLOWER * self.seconds[item.nodeid])
            item.add_marker(pytest.mark.timeout(seconds), append=False)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"collection of {report.nodeid}")


class Runner:
    """Runs tests on a copy of the source, each time in a fork that has not imported the package.

    Args:
        tree: the checkout.
        coverage: of its tests.
        seconds: of the tests of one mutant.
    """

    def __init__(self, tree: Path, coverage: Coverage, seconds: float) -> None:
        self.tree, self.coverage, self.seconds, self.sources = tree, coverage, seconds, sources_of(tree)
        self.scratch = Path(tempfile.mkdtemp(prefix="mutants-"))
        shutil.copytree(tree / "src", self.scratch / "src")
        compileall.compile_dir(self.scratch / "src", quiet=1)
        own = {"PYTHONPATH": str(self.scratch / "src"), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        os.environ |= own | {"HYPOTHESIS_STORAGE_DIRECTORY": str(self.scratch / "hypothesis")}
        sys.path.insert(0, str(self.scratch / "src"))
        os.chdir(tree)
        for library in LIBRARIES.split():
            with suppress(ImportError):
                import_module(library)
        sys.dont_write_bytecode = True  # else a mutant's bytecode might be taken for the next one's

    def quiet(self) -> None:
        """Start a process group of this child, and print nothing."""
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)

    def mutant(self, found: Found, choice: int, stages: list[list[str]]) -> dict[str, Any]:
        """Run the tests of a mutant until one fails."""
        path = self.scratch / found.path.relative_to(self.tree)
        state, text = path.stat(), path.read_text()
        path.write_text(mutated(text, found.place, choice))
        self.changed = path
        try:
            for stage in stages:
                if failed := self.run(stage):
                    return {"outcome": "killed", "by": failed[0]}
        finally:
            path.write_text(text)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # so that its bytecode is valid again
        return {"outcome": "survived" if stages else "not covered", "ran": sum(map(len, stages))}

    def stages(self, found: Found | None) -> list[list[str]]:
        """The tests of a mutant: first a few fast ones of each file, then the others, within the time for a mutant."""
        tests = [] if found is None else self.coverage.tests(found, self.sources)
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in tests:
            by_file[test.split("::")[0]].append(test)
        fast = [test for own in by_file.values() for test in own[:PER_FILE]]
        first = [test for test in fast if self.coverage.seconds[test] < FAST][:MOST_FIRST] or tests[:1]
        rest, total, started, set_up = set(), 0.0, set(first), {test.split("::")[0] for test in first}
        for test in tests:
            file = test.split("::")[0]
            seconds = self.coverage.seconds[test] - (self.coverage.setups[file] if file in set_up else 0)
            total += 0 if test in started else seconds
            if total <= self.seconds:
                rest.add(test)
                set_up.add(file)
        return [
            stage for stage in (first, [t for own in by_file.values() for t in own if t in rest - started]) if stage
        ]

    def run(self, tests: list[str], stop: bool = True) -> list[str]:
        """The tests that fail, at most one if `stop`; a run that never ends fails as `timeout`."""
        limit = max(3 * SHORTEST_LIMIT, SLOWER * sum(self.coverage.seconds[test] for test in tests))
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        child = os.fork()
        if not child:
            self._child(tests, folder, stop)
        end = time.monotonic() + min(limit, LONGEST_LIMIT)
        while not os.waitpid(child, os.WNOHANG)[0]:
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return ["timeout"]
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a failed test left running
        result = folder / "result.json"
        failed: list[str] = json.loads(result.read_text()) if result.exists() else ["process ended"]
        shutil.rmtree(folder, ignore_errors=True)
        return failed

    def _child(self, tests: list[str], folder: Path, stop: bool) -> None:
        self.quiet()
        plugin = Only(tests, self.coverage.seconds)
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        code = pytest.main(
            [*OPTIONS.split(), *(["-x"] if stop else []), f"--basetemp={folder / 'tmp'}", *files], [plugin]
        )
        if code and not plugin.failed:
            plugin.failed.append(f"pytest: {code!r}")
        (folder / "result.json").write_text(json.dumps(plugin.failed))
        os._exit(0)


class Collected(Only):
    """A pytest plugin that collects all tests, then forks a child per mutant, which runs some of them.

    Args:
        runner: whose copy of the source is used.
        work: called with the tests collected, in place of running them.
    """

    def __init__(self, runner: Runner, work: Callable[[], None]) -> None:
        super().__init__([], runner.coverage.seconds)
        self.runner, self.work = runner, work

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.items = {item.nodeid: item for item in items}
        self.limit(items)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the mutants."""
        self.factory = session.config._tmp_path_factory
        self.functions: dict[str, list[FunctionType]] = defaultdict(list)
        gc.unfreeze()  # `tests/conftest.py` freezes what collection made, which hides it from get_objects
        for function in gc.get_objects():
            if type(function) is FunctionType:  # some objects warn when asked for their class
                self.functions[function.__code__.co_filename].append(function)
        gc.freeze()
        if self.functions.keys().isdisjoint(map(str, (self.runner.scratch / "src").rglob("*.py"))):
            raise SystemExit("The tests import no function of the copy of src.")
        self.runner._child = self.child  # type: ignore[method-assign]
        self.work()
        return True

    def child(self, tests: list[str], folder: Path, stop: bool) -> None:
        """Replace the mutant's code and run tests."""
        self.runner.quiet()
        self.factory._given_basetemp, self.factory._basetemp = folder / "tmp", None
        self.replace(self.runner.changed)
        items = [self.items[test] for test in tests if test in self.items]
        for item, following in zip_longest(items, items[1:]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if stop and self.failed:
                break
        (folder / "result.json").write_text(json.dumps(self.failed))
        os._exit(0)

    def replace(self, path: Path) -> None:
        """Replace the code of all functions of a file by what is in the file now."""
        codes = [compile(path.read_text(), str(path), "exec")]
        for code in codes:
            codes += [one for one in code.co_consts if isinstance(one, CodeType)]
        now = {(code.co_qualname, code.co_firstlineno): code for code in codes}
        for function in self.functions[str(path)]:
            old = function.__code__
            if (new := now.get((old.co_qualname, old.co_firstlineno), old)) != old:
                function.__code__ = new


def trace(tree: Path, mutants: list[Mutant], folder: Path, tests: list[str]) -> None:
    """Run tests once in a new process with the lines of the mutants' files recorded."""
    sources = sources_of(tree)
    found = [located(mutant, sources) for mutant in mutants]
    files = sorted({str(one.path) for one in found if one is not None})
    folder.mkdir(parents=True)
    own = [str(tree / "src"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(own), "MUTANTS_TRACE": str(folder)}
    os.environ["MUTANTS_FILES"] = os.pathsep.join(files)
    os.chdir(tree)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *tests, "-p", "lines", "-p", "no:cacheprovider"])


def check(tree: Path, mutants: list[Mutant], folders: list[Path], out: Path, seconds: float) -> None:
    """Run every mutant that has no result yet, then the killing tests once without a mutant."""
    runner = Runner(tree, Coverage(folders), seconds)
    log = os.fdopen(os.dup(2), "w", buffering=1)
    fastest = sorted(runner.coverage.seconds, key=lambda test: runner.coverage.seconds[test])[:3]
    if failed := runner.run(fastest):
        raise SystemExit(f"Without a mutant these fail: {failed}.")
    found = {mutant["id"]: located(mutant, runner.sources) for mutant in mutants}

    def run(on_import: bool) -> None:
        results = read(out)
        for mutant in mutants:
            one, old = found[mutant["id"]], results.get(mutant["id"])
            stages = runner.stages(one)
            done = old and (old["outcome"] == "killed" or old["ran"] >= sum(map(len, stages)))
            if done or (one is not None and runner.coverage.runs_on_import(one) != on_import):
                continue
            start = time.monotonic()
            if one is None:
                result = {"outcome": "not found", "ran": 0}
            else:
                result = {"file": str(one.path.relative_to(tree))} | runner.mutant(one, mutant["choice"], stages)
            results[mutant["id"]] = mutant | result
            log.write(f"{mutant['id']}: {result} {time.monotonic() - start:.0f} s\n")
            write(out, results, None)

    child = os.fork()
    if not child:
        runner.quiet()
        files = sorted({test.split("::")[0] for test in runner.coverage.seconds})
        code = pytest.main([*OPTIONS.split(), *files], [Collected(runner, lambda: run(on_import=False))])
        os._exit(int(code))
    if code := os.waitpid(child, 0)[1]:
        raise SystemExit(f"The process with the collected tests ended with {code}.")
    run(on_import=True)
    results = read(out)
    killers = sorted({one["by"] for one in results.values() if one.get("by") in runner.coverage.seconds})
    write(out, results, runner.run(killers, stop=False) if killers else [])
    shutil.rmtree(runner.scratch, ignore_errors=True)


def read(out: Path) -> dict[int, dict[str, Any]]:
    """The results so far by the mutant's id."""
    return {one["id"]: one for one in json.loads(out.read_text())["mutants"]} if out.exists() else {}


def write(out: Path, results: dict[int, dict[str, Any]], unmutated: list[str] | None) -> None:
    """Save results: counts, which killing tests fail without a mutant (None: not tried yet), and every mutant."""
    ordered = [results[number] for number in sorted(results)]
    counts = dict(Counter(one["outcome"] for one in ordered))
    lines = ",\n".join(json.dumps(one) for one in ordered)
    head = json.dumps({"counts": counts, "failing_unmutated": unmutated})[:-1]
    part = out.with_suffix(".part")
    part.write_text(f'{head}, "mutants": [\n{lines}\n]}}\n')
    part.replace(out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("trace", "check"))
    parser.add_argument("--tree", type=Path, default=Path(), help="the checkout; its src and tests are used")
    parser.add_argument("--mutants", type=Path, required=True, help="a sample, or the result of an earlier `check`")
    parser.add_argument("--trace", type=Path, nargs="+", required=True, help="a folder; `check` reads several")
    parser.add_argument("--out", type=Path, help="the result of `check`")
    parser.add_argument("--seconds", type=float, default=120, help="most time for the tests of one mutant")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="what `trace` runs")
    given = parser.parse_args()
    mutants, folders = read_mutants(given.mutants), [folder.resolve() for folder in given.trace]
    if given.command == "trace":
        trace(given.tree.resolve(), mutants, folders[0], given.tests)
    else:
        check(given.tree.resolve(), mutants, folders, given.out.resolve(), given.seconds)


if __name__ == "__main__":
    main()
