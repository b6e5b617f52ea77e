"""The layout of the code, read from its source: imports go one way, and files stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("luss", "stages") for path in (ROOT / room).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def imported(name: str) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
                if node.level
                else node.module or ""
            )
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "__import__")
            and node.args
        ):
            found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


def importers_of(module: str) -> set[str]:
    """Files that import a module or something in it."""
    return {name for name in TREES if any(f"{found}.".startswith(f"{module}.") for found in imported(name))}


def inside(folder: str) -> set[str]:
    return {name for name in TREES if name.startswith(f"{folder}/")}


PRINTING = {f"stages/{name}.py" for name in ("api", "console", "preflight", "runner", "summary")}


def test_the_source_was_found() -> None:
    assert {"luss/config.py", "luss/losses/sinkhorn.py", "stages/runner.py"} <= set(TREES)
    assert "luss.files" in imported("stages/runner.py")


def test_the_library_never_imports_the_stages() -> None:
    assert not importers_of("stages") & inside("luss")


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("losses", ("data", "models", "methods", "training", "features", "clustering", "labels", "benchmark", "report")),
        ("models", ("methods", "training", "clustering", "labels", "benchmark", "report")),
        ("data", ("methods", "models", "losses", "clustering", "features", "labels", "benchmark", "report")),
        ("clustering", ("methods", "models", "losses", "training", "data", "labels", "benchmark", "report")),
        ("features", ("methods", "models", "losses", "training", "clustering", "labels", "benchmark", "report")),
        ("benchmark", ("methods", "models", "losses", "training", "clustering", "features", "report")),
        ("methods", ("training", "clustering", "features", "labels", "benchmark", "report")),
    ],
)  # fmt: skip
def test_imports_go_one_way(room: str, forbidden: tuple[str, ...]) -> None:
    wrong = {
        f"{name} imports luss.{other}"
        for other in forbidden
        for name in importers_of(f"luss.{other}") & inside(f"luss/{room}")
    }
    assert not wrong


def test_losses_import_nothing_of_the_library_but_losses_and_what_processes_do_together() -> None:
    for name in inside("luss/losses"):
        own = {module for module in imported(name) if module.split(".")[0] == "luss"}
        allowed = {"luss", "luss.losses", "luss.processes"}
        assert all(module in allowed or module.startswith("luss.losses.") for module in own), name


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("faiss", {"luss/clustering/faiss_engine.py"}),
        ("submitit", {"stages/launch.py"}),
        ("argparse", {"stages/cli.py", "stages/command.py", *inside("stages/commands")}),
        ("rich", PRINTING | inside("stages/commands")),
        ("matplotlib", {"luss/report/plots.py"}),
        ("pickle", set()),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library: str, allowed: set[str]) -> None:
    assert importers_of(library) <= allowed


def test_faiss_is_imported_where_it_belongs() -> None:
    assert importers_of("faiss") == {"luss/clustering/faiss_engine.py"}


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_one_file_reads_the_rank_variables(variable: str) -> None:
    naming = {
        name for name, tree in TREES.items()
        if any(isinstance(node, ast.Constant) and node.value == variable for node in ast.walk(tree))
    }  # fmt: skip
    assert naming == {"luss/processes.py"}


def test_the_library_prints_nothing() -> None:
    printing = {
        f"{name}:{node.lineno}" for name in inside("luss") for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }  # fmt: skip
    assert not printing


def test_nothing_is_unpickled() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "torch.load"):
                safe = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}[
                    ast.unparse(node.func)
                ]
                given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert given.get(safe[0]) is safe[1], f"{name}:{node.lineno}"


def test_no_file_is_longer_than_450_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES
    }
    assert not {name: length for name, length in lengths.items() if length > 450}


def functions() -> Iterator[tuple[str, int]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_longer_than_70_lines() -> None:
    assert not {name: length for name, length in functions() if length > 70}
