"""The house's rules of construction, as tests: who may import whom, how long things may get."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import rectiflow

ROOT = Path(rectiflow.__file__).parent
PROJECT = ROOT.parent.parent
FILES = sorted(ROOT.rglob("*.py"))

LEVELS = {
    0: {"flow", "nn", "encoders", "data"},
    1: {"interop", "preparation", "training", "planning", "sampling"},
    2: {"finetuning", "evaluation"},
    3: {"jobs"},  # a recipe made ready and trained
    4: {"watching"},  # reads what runs leave
    5: {"scaling", "bench", "quickstart"},
    6: {"apps", "cli"},
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}
# Below every level; each lists the only modules of ours it may import.
LEAVES = {
    "errors": set(),
    "checkpoints": {"errors", "runs", "sealing", "tensor_folder"},
    "conditioning": set(),
    "config": set(),
    "devices": set(),
    "machine": set(),
    "pages": set(),
    "processes": set(),
    "runs": {"errors"},
    "sealing": {"errors", "runs"},
    "tensor_folder": {"errors"},
}
SIBLINGS = {("sampling", "interop")}
LEAF_CLIENTS_ONLY = {"flow": {"torch", "numpy", "jaxtyping"}, "nn": {"torch", "numpy", "jaxtyping"}}

# A heavy third-party package: the only places that may import it.
FENCES = {
    "transformers": ("encoders/", "evaluation/"),
    "tokenizers": ("encoders/",),
    "diffusers": ("encoders/", "nn/unet.py", "nn/pixart.py", "interop/", "bench/"),
    "datasets": ("data/", "preparation/"),
    "pyarrow": ("data/", "preparation/"),
    "pydantic": ("config.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "gradio": ("apps/",),
    "ray": ("preparation/",),
    "torchdiffeq": ("flow/adaptive.py",),
}
TRACKERS = {"tensorboard", "wandb", "trackio"}
HEAVY = {"torch", "numpy", "PIL", "transformers", "diffusers", "datasets", "pyarrow", "pydantic"}
PICKLERS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
MODULE_OF_DISTRIBUTION = {"pillow": "PIL", "scikit-image": "skimage"}
OPTIONAL = {"wandb", "trackio", "gradio", "ray", "faiss", "peft", "torchdiffeq", "torchao"}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported_modules(file: Path) -> set[str]:
    """Dotted names a file imports anywhere in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(file) if name.startswith("rectiflow.")}


def third_party(file: Path) -> set[str]:
    tops = {name.split(".")[0] for name in imported_modules(file)}
    return tops - set(sys.stdlib_module_names) - {"rectiflow"}


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def is_allowed(part: str, other: str) -> bool:
    if other in {part, "__version__"} or (part, other) in SIBLINGS:
        return True
    if part in LEAVES:
        return other in LEAVES[part]
    if other in LEAVES:
        return True
    return LEVEL_OF[other] < LEVEL_OF[part]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_downwards_and_never_to_a_sibling(file):
    part = part_of(file)
    if part in {"__init__", "__main__"}:
        return
    assert part in LEVEL_OF or part in LEAVES, f"{part} has no level; give it one"
    wrong = {other for other in ours(file) if not is_allowed(part, other)}
    assert not wrong, f"{file} may not import {sorted(wrong)}"


def test_the_direction_test_sees_an_upward_import():
    assert is_allowed("cli", "flow")
    assert is_allowed("sampling", "interop")
    assert not is_allowed("flow", "nn")
    assert not is_allowed("training", "evaluation")
    assert not is_allowed("config", "runs")


@pytest.mark.parametrize("fenced", sorted(FENCES))
def test_third_party_libraries_stay_behind_their_fences(fenced):
    outside = [
        str(file.relative_to(ROOT))
        for file in FILES
        if fenced in third_party(file)
        and not str(file.relative_to(ROOT)).startswith(FENCES[fenced])
    ]
    assert not outside, f"{fenced} is imported outside {FENCES[fenced]}: {outside}"


def test_mathematics_and_networks_need_torch_only():
    for part, allowed in LEAF_CLIENTS_ONLY.items():
        for file in (ROOT / part).rglob("*.py"):
            if file.name in {"unet.py", "pixart.py", "adaptive.py"}:  # behind their own fences
                continue
            assert third_party(file) <= allowed, file


def test_trackers_live_in_one_adapter():
    users = {
        file for file in FILES for name in imported_modules(file) if TRACKERS & set(name.split("."))
    }
    assert len(users) <= 1, users


def test_every_third_party_import_is_a_declared_dependency():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    names = [entry.split(">")[0].strip() for entry in project["dependencies"]]
    declared = {MODULE_OF_DISTRIBUTION.get(name, name) for name in names} | OPTIONAL
    for file in FILES:
        assert third_party(file) <= declared, file


def test_every_dependency_is_pinned_in_the_constraints():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    tested = [entry for name in ("dev", "ode") for entry in project["optional-dependencies"][name]]
    for entry in project["dependencies"] + tested:
        assert entry.split(">")[0].replace("_", "-") in pinned


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_readable_in_one_sitting(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_vague_names(file):
    assert file.stem not in {"utils", "util", "helpers", "common", "misc"}
    if part_of(file) == "interop":
        return
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef):
            assert not node.name.startswith(("get_", "process_")), node.name
        if isinstance(node, ast.arg):
            assert node.arg not in {"timestep", "x_0", "x0", "vec"}, f"{node.arg}: see conventions"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_code_from_a_file(file):
    modules = {name.split(".")[0] for name in imported_modules(file)}
    assert not modules & PICKLERS
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "torch.save", "eval", "exec", "pd.read_pickle"}
            keywords = {keyword.arg for keyword in node.keywords}
            assert not keywords & {"allow_pickle", "trust_remote_code"}, called


def test_every_folder_of_code_is_a_package():
    for folder in {file.parent for file in FILES}:
        assert (folder / "__init__.py").is_file(), folder


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent), "PATH": ""},
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["rectiflow", "rectiflow.cli.main"])
def test_importing_the_package_or_the_program_loads_nothing_heavy(module):
    loaded = loaded_after(f"import {module}")
    assert module.split(".")[0] in loaded
    assert not loaded & (HEAVY | {"rich"})


def test_what_the_package_promises_is_found_lazily():
    assert set(rectiflow.__all__) <= set(dir(rectiflow))
    assert rectiflow.__version__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        rectiflow.nothing  # noqa: B018
