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
    found = {name for name in TREES if name.startswith(f"{folder}/")}
    assert found, folder
    return found


MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in TREES}


def _modules(names: set[str]) -> set[str]:
    """The modules among imported names; `from luss import files` is an import of luss.files, whose package comes with every module."""
    return {
        name for name in names & set(MODULES) if not any(f"{name}.{part}" in MODULES for part in _parts(name, names))
    }


def _parts(package: str, names: set[str]) -> set[str]:
    return {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}


ARROWS = {module: _modules(imported(name)) - {module} for module, name in MODULES.items()}
"""The modules that a module imports, those inside functions and for type checkers included."""

# A room may import those before its floor, and none beside it.
LIBRARY_FLOORS: tuple[set[str], ...] = (
    {"errors", "progress", "settings", "compat", "liveness"},
    {"refusals"},
    {"device", "files", "peers"},
    {"processes"},
    {"data", "losses", "features"},
    {"clustering", "training", "labels"},
    {"models", "benchmark"},
    {"methods", "report", "predict"},
    {"tasks", "config"},
    {"segmenter"},
    {"export"},
    # The names that a notebook finds in the package itself.
    {""},
)
STAGE_FLOORS: tuple[set[str], ...] = (
    {"", "base", "sharded"},
    {"parts"},
    # The stages, one file each.
    {"manifest", "pretrain", "pixel_attention", "extract_features", "cluster", "pseudo_labels", "finetune", "predict", "evaluate",
     "distance_matching"},
    {"pipeline"},
    {"running"},
    {"jobs"},
    {"comparing"},
    {"commands"},
    {"cli", "__main__", "api"},
)  # fmt: skip


def room(module: str) -> str:
    """The folder in its package that a module lies in, or its own name; empty for the package."""
    return ([*module.split("."), ""])[1]


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module (Tarjan's walk)."""
    numbers: dict[str, int] = {}
    lows: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def walk(module: str) -> None:
        numbers[module] = lows[module] = len(numbers)
        stack.append(module)
        for other in arrows[module]:
            if other not in numbers:
                walk(other)
            if other in stack:
                lows[module] = min(lows[module], lows[other])
        if lows[module] == numbers[module]:
            place = stack.index(module)
            if len(stack) - place > 1:
                found.append(set(stack[place:]))
            del stack[place:]

    for module in arrows:
        if module not in numbers:
            walk(module)
    return found


def test_the_source_was_found() -> None:
    assert {"luss/config.py", "luss/losses/sinkhorn.py", "stages/running/runner.py"} <= set(TREES)
    assert "luss.data.skipped" in imported("stages/running/runner.py")
    assert "stages.base" in ARROWS["stages.running.runner"]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}) == [{"b", "c"}]


def test_no_import_leads_back() -> None:
    assert not circles(ARROWS)


@pytest.mark.parametrize(("package", "floors"), [("luss", LIBRARY_FLOORS), ("stages", STAGE_FLOORS)])
def test_no_room_imports_what_lies_above_it(package: str, floors: tuple[set[str], ...]) -> None:
    level = {name: number for number, names in enumerate(floors) for name in names}
    own = {module for module in MODULES if module.split(".")[0] == package}
    assert {room(module) for module in own} == set(level)
    # Files of one floor of stages/ may import each other, as stages do; the rooms of the library may not.
    step = 0 if package == "stages" else 1
    wrong = {
        f"{module} imports {other}"
        for module in own
        for other in ARROWS[module] & own
        if room(module) != room(other) and level[room(module)] < level[room(other)] + step
    }
    assert not wrong


def test_the_library_never_imports_the_stages() -> None:
    assert not importers_of("stages") & inside("luss")


@pytest.mark.parametrize(
    ("room", "strange"),
    [
        ("clustering", ("data", "losses")),
        ("models", ("clustering", "labels", "training")),
        ("methods", ("benchmark", "clustering", "features", "labels")),
        ("benchmark", ("clustering", "features", "losses", "training")),
    ],
)
def test_rooms_that_have_nothing_to_do_with_each_other_stay_apart(room: str, strange: tuple[str, ...]) -> None:
    assert not {name for other in strange for name in importers_of(f"luss.{other}") & inside(f"luss/{room}")}


def test_losses_import_nothing_of_the_library_but_losses_and_what_processes_do_together() -> None:
    for name in inside("luss/losses"):
        own = {module for module in imported(name) if module.split(".")[0] == "luss"}
        allowed = {"luss", "luss.losses", "luss.processes"}
        assert all(module in allowed or module.startswith("luss.losses.") for module in own), name


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("submitit", inside("stages/jobs")),
        ("argparse", {"stages/cli.py"} | inside("stages/commands")),
        ("rich", {"stages/api.py"} | inside("stages/running") | inside("stages/comparing") | inside("stages/commands")),
        ("torch.utils.data.DataLoader", {"luss/data/workers.py"}),
        # Anybody else's console would read markup in the names of files.
        ("rich.console", {"stages/running/screen.py"}),
        ("rich.markup", set()),
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
