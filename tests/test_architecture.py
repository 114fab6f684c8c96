"""The repository's layout: arrows between packages, doors to heavy dependencies, floors inside packages, sizes and names.

Sources are read as text, so that an import inside a function or under TYPE_CHECKING counts too; a
fresh interpreter shows what is really loaded. Each rule has a planted breach, so that it can fail.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"plumbing", "merging", "corpus", "evaluation", "training", "influence", "workbench"}
MAY_IMPORT = {
    "plumbing": set(),
    "merging": {"plumbing"},
    "corpus": {"plumbing"},
    "evaluation": {"plumbing", "merging", "corpus"},
    "training": {"plumbing", "merging", "corpus"},
    "influence": {"plumbing", "merging", "corpus", "evaluation", "training"},
    "workbench": OURS,
}
"""Package -> the packages of ours that it may import; the design's arrows."""

TRAINING_MAY = ("merging.inputs", "merging.live.assemble", "merging.live.model_config")
TRAINING_MAY += ("merging.live.tokenizer", "merging.errors", "merging.file_kinds")
TRAINING_MAY += ("merging.tensor_names",)
"""What training imports of merging: readers of files and names, one door to a model in memory."""

HEAVY = {"gradio", "lm_eval", "transformers", "peft", "accelerate", "datasets", "plotly"}
HEAVY |= {"sklearn", "optuna", "sentence_transformers"}
NEVER = {
    "plumbing": HEAVY | {"torch", "huggingface_hub"},
    "merging": HEAVY | {"huggingface_hub"},
    "corpus": HEAVY - {"datasets"} | {"torch"},
    "evaluation": {"gradio", "plotly", "peft", "accelerate", "optuna", "cmaes"},
    "training": {"gradio", "plotly", "lm_eval"},
    "influence": {"gradio", "plotly", "lm_eval", "optuna", "cmaes"},
    "workbench": set(),
}
"""Package -> what importing any of its modules never loads by itself."""

DOORS = {
    "lm_eval": {"evaluation/harness.py", "evaluation/harness_tasks.py"},
    "peft": {"training/run/lora.py", "merging/outputs/loaded_modules.py"},
    "sentence_transformers": {"corpus/text_encoders.py"},
    "gradio": {"workbench/page"},
    "optuna": {"evaluation/search"},
    "cmaes": {"evaluation/search/cma.py"},
    "huggingface_hub": {"merging/inputs/hub.py"},
}
"""Dependency -> the only files, or folders, that import it."""

FLOORS = {
    "merging": [
        {"merging"},
        {"merging/methods"},
        {"merging/recipe"},
        {"merging/inputs", "merging/inputs/vocabulary"},
        {"merging/engine"},
        {"merging/opening", "merging/analysis", "merging/live"},
        {"merging/outputs"},
        {"merging/preflight"},
    ],
    "corpus": [{"corpus"}, {"corpus/demo", "corpus/real"}],
    "evaluation": [
        {"evaluation"},
        {"evaluation/records", "evaluation/landscape"},
        {"evaluation/search"},
    ],
    "training": [{"training"}, {"training/batching"}, {"training/run"}, {"training/plan"}],
    "influence": [
        {"influence"},
        {"influence/gradients", "influence/projection"},
        {"influence/datastore", "influence/curvature"},
        {"influence/selection", "influence/balance", "influence/vectors"},
    ],
    "workbench": [
        {"workbench"},
        {"workbench/plots", "workbench/session", "workbench/gguf"},
        {"workbench/workers"},
        {"workbench/search", "workbench/plans", "workbench/real"},
        {"workbench/influence_runs"},
        {"workbench/influence_runs/outlooks", "workbench/influence_runs/mixtures"},
        {"workbench/comparison"},
        {"workbench/line"},
        {"workbench/jobs", "workbench/reports", "workbench/demo"},
        {"workbench/page/tabs"},
        {"workbench/page/tabs/data"},
        {"workbench/page"},
        {"workbench/cli"},
    ],
}
"""Package -> its folders from the ground up. A folder imports folders of lower floors only.

`merging/inputs/vocabulary` is a part of `merging/inputs`, and so on the same floor.
"""

MODULES = 18
"""The most modules in a folder; merging/methods, whose files are the list of methods, may have more."""
LINES = 300
"""The most lines in a file."""
LONGER = {"merging/inputs/checkpoint.py", "merging/recipe/recipe.py"}
"""The two nouns of merging, which may have more lines."""
POSITIONAL = 6
"""The most positional parameters of a function. Typer commands, whose parameters are flags, may have more."""
TESTED_ELSEWHERE = ROOT / "tests" / "tested_elsewhere.txt"
"""Lines `module test`: for each module without a test file of its own name, the test that covers it."""


def modules(package):
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package).rglob("*.py")
    )


def loaded_by(names):
    """Top-level packages in sys.modules after importing modules in a fresh interpreter."""
    code = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*{n.split('.')[0] for n in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@cache
def imported_in(source):
    """Top-level packages that a source text imports, anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            packages |= {str(value).split(".")[0] for value in constants}
    return packages


@cache
def sources():
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for top in (*sorted(OURS), "app.py")
        for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
    }


def broken_arrows(files):
    """'file imports package' for each import of ours that the arrows do not allow."""
    return [
        f"{name} imports {other}"
        for name, text in files.items()
        if (package := name.split("/")[0]) in MAY_IMPORT
        for other in sorted(imported_in(text) & OURS - MAY_IMPORT[package] - {package})
    ]


def training_side_ways(files):
    """'file imports module' for each import of merging in training besides TRAINING_MAY."""
    return [
        f"{name} imports {module}"
        for name, text in files.items()
        if name.startswith("training/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
        if module.split(".")[0] == "merging"
        if not any(f"{module}.".startswith(f"{allowed}.") for allowed in TRAINING_MAY)
    ]


def side_doors(files):
    """'file imports dependency' for each import of a guarded dependency outside its doors."""
    return [
        f"{name} imports {dependency}"
        for name, text in files.items()
        for dependency in sorted(imported_in(text) & set(DOORS))
        if not any(name == door or name.startswith(f"{door}/") for door in DOORS[dependency])
    ]


def import_graph(files):
    """File -> the files of ours that it imports. A package's __init__.py is a file like any other."""
    by_module = {name[:-3].replace("/", ".").removesuffix(".__init__"): name for name in files}
    graph = defaultdict(set)
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [full if full in by_module else node.module for full in wanted]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            graph[name] |= {by_module[target] for target in targets if target in by_module} - {name}
    return dict(graph)


def circles(graph):
    """Groups of nodes that reach each other, each sorted; strongly connected components, by Tarjan."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def folder_graph(graph):
    """Folder -> the folders of the same package that its files import.

    The __init__.py of a whole package is its face: it may import all of it, and nothing in the
    package imports it.
    """
    arrows = defaultdict(set)
    for name, others in graph.items():
        for other in others:
            here, there = name.rpartition("/")[0], other.rpartition("/")[0]
            face = name.count("/") == 1 and name.endswith("__init__.py")
            if here != there and here.split("/")[0] == there.split("/")[0] and not face:
                arrows[here].add(there)
    return dict(arrows)


def arrows_up(graph):
    """'folder -> folder' for each import inside a package that does not go down to a lower floor."""
    floor = {
        folder: n for tower in FLOORS.values() for n, row in enumerate(tower) for folder in row
    }
    return sorted(
        f"{here} -> {there}"
        for here, others in folder_graph(graph).items()
        for there in others
        if floor.get(there, 99) >= floor.get(here, -1)
        and {here, there} != {"merging/inputs", "merging/inputs/vocabulary"}  # one floor, no circle
    )


def crowded(files):
    """Folders with too many modules."""
    count = defaultdict(int)
    for name in files:
        count[name.rpartition("/")[0]] += not name.endswith("__init__.py")
    return {folder: n for folder, n in count.items() if n > MODULES and folder != "merging/methods"}


def too_long(files):
    """Files with too many lines."""
    lines = {name: text.count("\n") for name, text in files.items() if name not in LONGER}
    return {name: count for name, count in lines.items() if count > LINES}


def greedy_functions(files):
    """'file: function' for each function with too many positional parameters."""
    greedy = []
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_command = any("command" in ast.unparse(mark) for mark in node.decorator_list)
            names = [arg.arg for arg in node.args.posonlyargs + node.args.args]
            names = [arg for arg in names if arg not in ("self", "cls")]
            if len(names) > POSITIONAL and not is_command:
                greedy.append(f"{name}: {node.name}")
    return greedy


def repeated_classes(files):
    """Public class name -> files, for names that occur more than once in the repository."""
    places = defaultdict(list)
    for name, text in files.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    return {name: where for name, where in places.items() if len(where) > 1}


SAME_SUBJECT = {
    "workbench/cli",
    "workbench/jobs",
    "workbench/page/tabs",
    "workbench/plots",
    "workbench/reports",
    "workbench/session",
    "workbench/comparison",
}
"""Layers of the application in which one subject may have one file each, of one name: a tab and its job."""


def repeated_files(files):
    """(package, file name) -> folders, for file names that occur more than once in a package."""
    places = defaultdict(list)
    for name in files:
        folder, _, file = name.rpartition("/")
        if file not in ("__init__.py", "errors.py", "app.py", "card.py") and folder:
            places[folder.split("/")[0], file].append(folder)
    return {
        key: folders
        for key, folders in places.items()
        if len(folders) > 1 and not set(folders) <= SAME_SUBJECT
    }


def untested(files, tests, elsewhere):
    """Modules without a test file of their own name that `elsewhere` does not name either."""
    return sorted(
        name
        for name in files
        if not name.endswith(("__init__.py", "__main__.py")) and "/" in name
        if name not in elsewhere
        if f"tests/{name.rpartition('/')[0]}/test_{name.rpartition('/')[2].lstrip('_')}"
        not in tests
    )


def covered_elsewhere():
    lines = TESTED_ELSEWHERE.read_text("utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("package", sorted(OURS))
@pytest.mark.slow
def test_a_fresh_interpreter_loads_only_what_the_package_may(package):
    loaded = loaded_by(modules(package))
    assert loaded & OURS <= MAY_IMPORT[package] | {package}
    assert loaded & NEVER[package] == set()


def test_no_source_breaks_an_arrow():
    assert broken_arrows(sources()) == []


def test_training_takes_models_by_their_door_only():
    assert training_side_ways(sources()) == []


def test_dependencies_come_in_by_their_doors():
    assert side_doors(sources()) == []


def test_every_door_is_used():
    """A door that nothing goes through any more would guard nothing."""
    files = sources()
    for dependency, doors in DOORS.items():
        users = [name for name, text in files.items() if dependency in imported_in(text)]
        unused = [
            door
            for door in doors
            if not any(name == door or name.startswith(f"{door}/") for name in users)
        ]
        assert unused == [], dependency


def test_no_circle_of_files_or_folders_and_no_import_of_a_higher_floor():
    graph = import_graph(sources())
    assert circles(graph) == []
    assert circles(folder_graph(graph)) == []
    assert arrows_up(graph) == []


def test_every_folder_has_a_floor():
    """A new folder is given its place in FLOORS."""
    folders = {name.rpartition("/")[0] for name in sources()} - {"", "plumbing"}
    assert folders == {folder for tower in FLOORS.values() for row in tower for folder in row}


def test_folders_files_and_functions_stay_small():
    files = sources()
    assert crowded(files) == {}
    assert too_long(files) == {}
    assert greedy_functions(files) == []
    assert len([name for name in files if name.startswith("plumbing/")]) <= 8 + 1  # and __init__.py


def test_a_name_means_one_thing():
    files = sources()
    assert repeated_classes(files) == {}
    assert repeated_files(files) == {}


def test_every_module_has_a_test():
    files = sources()
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    elsewhere = covered_elsewhere()
    assert untested(files, tests, elsewhere) == []
    assert [name for name in elsewhere if name not in files] == []  # the list is not out of date
    assert [test for test in elsewhere.values() if test not in tests] == []


class TestTheRulesCanFail:
    """Each clause sees a planted breach."""

    def test_arrows_and_doors(self):
        planted = {
            "merging/x.py": "def f():\n    from evaluation.loss import losses",
            "corpus/y.py": "import importlib\nimportlib.import_module('merging.engine.loop')",
            "evaluation/z.py": "import lm_eval.api",
            "workbench/w.py": "from gradio import Blocks",
            "workbench/page/tabs/ok.py": "import gradio, evaluation",
        }
        assert broken_arrows(planted) == [
            "merging/x.py imports evaluation",
            "corpus/y.py imports merging",
        ]
        assert side_doors(planted) == [
            "evaluation/z.py imports lm_eval",
            "workbench/w.py imports gradio",
        ]

    def test_training_besides_the_door(self):
        planted = {
            "training/run/a.py": "def f():\n    from merging.engine.loop import merge",
            "training/run/b.py": "import merging.live.live_model",
            "training/run/c.py": "from merging import export",
            "training/run/d.py": "from merging.live.assemble import assemble",
            "training/run/e.py": "from merging.inputs import hub\nimport merging.errors",
            "evaluation/f.py": "from merging.engine.loop import merge",
        }
        assert training_side_ways(planted) == [
            "training/run/a.py imports merging.engine.loop.merge",
            "training/run/b.py imports merging.live.live_model",
            "training/run/c.py imports merging.export",
        ]

    def test_the_fresh_interpreter(self):
        assert {"evaluation", "merging"} <= loaded_by(["evaluation.model"])

    def test_circles_of_files(self):
        planted = {
            "merging/a.py": "from merging.b import x",
            "merging/b.py": "if TYPE_CHECKING:\n    from merging import c",
            "merging/c.py": "def f():\n    import merging.a",
            "merging/d.py": "from merging.a import y",
        }
        assert circles(import_graph(planted)) == [["merging/a.py", "merging/b.py", "merging/c.py"]]

    def test_circles_of_folders_and_arrows_up(self):
        planted = {
            "training/run/a.py": "from training.plan.b import x",
            "training/run/c.py": "",
            "training/plan/b.py": "",
            "training/plan/d.py": "from training.run.c import y",
        }
        graph = import_graph(planted)
        assert circles(graph) == []
        assert circles(folder_graph(graph)) == [["training/plan", "training/run"]]
        assert arrows_up(graph) == ["training/run -> training/plan"]

    def test_a_face_that_is_imported_from_below(self):
        planted = {
            "merging/__init__.py": "from merging.engine.a import x",
            "merging/engine/a.py": "from merging import x",
        }
        assert circles(import_graph(planted)) == [["merging/__init__.py", "merging/engine/a.py"]]

    def test_sizes(self):
        many = {f"workbench/page/m{number}.py": "" for number in range(MODULES + 1)}
        assert crowded(many) == {"workbench/page": MODULES + 1}
        assert crowded(dict.fromkeys(list(many)[1:], "")) == {}
        assert too_long({"a/b.py": "\n" * (LINES + 1), "a/c.py": "\n" * LINES}) == {
            "a/b.py": LINES + 1
        }
        greedy = "class A:\n def f(self, a, b, c, d, e, f, g): ...\n def g(self, a, b, c, d, e, f, *, h): ..."
        command = "@app.command()\ndef f(a, b, c, d, e, f, g): ..."
        assert greedy_functions({"a.py": greedy, "b.py": command}) == ["a.py: f"]

    def test_names(self):
        assert repeated_classes(
            {"a.py": "class A: ...\nclass _B: ...", "b.py": "class A: ...\nclass _B: ..."}
        ) == {"A": ["a.py", "b.py"]}
        files = dict.fromkeys(
            ["merging/x/a.py", "merging/y/a.py", "workbench/jobs/b.py", "workbench/page/tabs/b.py"],
            "",
        )
        assert repeated_files(files) == {("merging", "a.py"): ["merging/x", "merging/y"]}

    def test_modules_without_a_test(self):
        files = dict.fromkeys(["a/b.py", "a/_c.py", "a/d.py", "a/e.py", "a/__init__.py"], "")
        assert untested(files, {"tests/a/test_b.py", "tests/a/test_c.py"}, {"a/d.py": "x"}) == [
            "a/e.py"
        ]


def test_command_line_and_session_start_without_the_page():
    loaded = loaded_by(["workbench.session.session", "workbench.cli"])
    assert not loaded & {"gradio", "lm_eval", "peft"}
