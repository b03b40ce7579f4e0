"""The rules of the house that a machine can read: imports, the length of a model file, what may be committed."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "segtutor"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODELS = [path for path in SOURCES if path.parent.name == "models" and path.name != "__init__.py"]

# The arrows of the house: module or package of segtutor -> what of segtutor it may import, beside its own
# package. The longest name that fits decides; what is not listed is not allowed.
LIBRARY = {
    "data", "factory", "files", "inference", "layers", "logs", "losses", "metrics", "models", "modes", "probe", "runs",
    "training", "viz", "weights",
}  # fmt: skip
MODELS_BASE = {"layers", "models.vgg", "models.resnet"}
ARROWS = {
    "files": set(),
    "logs": set(),
    "modes": set(),
    "layers": set(),
    "models": MODELS_BASE,
    "models.deeplab_v3plus": MODELS_BASE | {"models.deeplab_v3"},
    "models.upernet": MODELS_BASE | {"models.pspnet", "models.swin"},
    "losses": set(),
    "metrics": set(),
    "probe": {"modes"},
    "viz": set(),
    "data": {"files", "logs"},
    "weights": {"files", "layers", "logs", "models"},
    "factory": {"files", "layers", "logs", "models", "weights"},
    "training": {"files", "logs", "losses", "metrics", "modes"},
    "inference": {"factory", "files", "logs", "metrics", "modes", "viz"},
    "runs": {
        "factory",
        "files",
        "logs",
        "modes",
        "data",
        "training",
        "inference",
        "losses",
        "metrics",
        "viz",
        "weights",
    },
    "lab": set(),
    "lab.papers": set(),
    "lab.results": set(),
    "lab.claims": {"lab.papers", "lab.results"},
    "lab.harness": {"lab.results", "files", "probe"},
    "lab.protocols": {"lab.harness", "lab.papers", "lab.results"} | LIBRARY,
    "lab.experiments": {"lab.harness", "lab.protocols", "lab.papers"} | LIBRARY,
    "lab.source": set(),
    "lab.chapter": {"data", "logs", "training", "viz", "probe", "lab"},
    "cli": LIBRARY | {"lab"},
    "__main__": {"cli"},
}
# Packages that are one room: their files may import each other. An experiment may not import another.
ONE_ROOM = set(ARROWS) - {"models", "lab", "lab.experiments"}
# Never, wherever in the file: a model is torch and nothing else; timm and smp each have one door
FORBIDDEN = {
    "models": {"timm", "torchvision", "segmentation_models_pytorch", "transformers", "numpy", "scipy"},
}
ONLY_IMPORTER = {
    "timm": {"factory.backbones.timm"},
    "segmentation_models_pytorch": {"factory.heads.smp"},
    "accelerate": {"training.distributed"},
}
# At the top of a module these would make `import segtutor.x` slow: torchvision alone costs seconds
LAZY = {
    "torchvision", "timm", "segmentation_models_pytorch", "transformers", "torchmetrics", "scipy", "matplotlib",
    "accelerate",
}  # fmt: skip
LAZY_BUT = {("viz", "matplotlib")}  # package and library

LINE_CAP, LINE_CAP_LONG, FUNCTION_CAP, FORWARD_CAP = 120, 160, 30, 15
LONG_FILES = {"swin", "upernet", "segformer", "dense_crf"}


def name(path: Path) -> str:
    """``segtutor/models/fcn.py`` is ``models.fcn``."""
    return ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def rule(module: str) -> set[str] | None:
    known = home(module)
    return None if known is None else ARROWS[known]


def home(module: str) -> str | None:
    """The entry of the table that a module belongs to: of ``lab.claims.judge``, ``lab.claims``."""
    matches = [known for known in ARROWS if module == known or module.startswith(known + ".")]
    return max(matches, key=len) if matches else None


def resolve(path: Path, node: ast.ImportFrom) -> str:
    """The absolute name of the module of ``from x import y``."""
    if not node.level:
        return node.module or ""
    package = list(path.relative_to(ROOT).parent.parts)
    return ".".join(package[: len(package) - node.level + 1] + ([node.module] if node.module else []))


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module, with whether the import stands at the top level of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    # `if TYPE_CHECKING:` never runs
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    lazy |= {id(inner) for node in typing for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = resolve(path, node)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.append((inner if is_module(inner) else module, id(node) not in lazy))
    return found


def permitted(module: str, target: str) -> bool:
    """Whether the table has an arrow from ``module`` to ``target``, both without the leading ``segtutor.``"""
    allowed, own = rule(module), home(module)
    if allowed is None:
        return False
    if own in ONE_ROOM and home(target) == own:
        return True
    return any(target == entry or target.startswith(entry + ".") for entry in allowed)


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that hold code: no blank line, no comment, no docstring."""
    lines: set[int] = set()
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def tracked() -> list[Path]:
    """Every file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / entry for entry in listed.stdout.split("\0") if entry and (ROOT / entry).is_file()]
    folders = ("book", "notebooks", "segtutor", "tests", "tools")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if not {"__pycache__", "node_modules", "generated"} & set(path.parts)]


def texts() -> list[tuple[str, str]]:
    """The tracked files that are text, by their path in the repository."""
    found = []
    for path in tracked():
        try:
            found.append((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


every_source = pytest.mark.parametrize("path", SOURCES, ids=name)
every_model = pytest.mark.parametrize("path", MODELS, ids=name)


@every_source
def test_import_direction(path):
    module = name(path)
    assert module == "" or path.name == "__init__.py" or rule(module) is not None, f"{module} has no rule: add one"
    for target, top in imports(path):
        head, _, rest = target.partition(".")
        if head in ("tests", "notebooks", "tools"):
            pytest.fail(f"{module} imports {target}")
        if head == "segtutor" and rest:
            assert module or not top, f"segtutor/__init__.py imports {target}: names are looked up on first use"
            shown = path.name == "__init__.py" and rest.startswith(f"{module}.") and not top  # its own names, lazily
            assert not module or shown or permitted(module, rest), f"{module} may not import {rest}"


@every_source
def test_outside_imports(path):
    module = name(path)
    package = module.split(".")[0]
    for target, top in imports(path):
        head = target.split(".")[0]
        assert head not in FORBIDDEN.get(package, set()), f"{module} imports {head}"
        if package not in ("lab", "cli"):
            assert module in ONLY_IMPORTER.get(head, {module}), f"{module} imports {head}"
        if top and (package, head) not in LAZY_BUT:
            assert head not in LAZY, f"{module} imports {head} at its top level"


# One wrong arrow of each kind, and the right one beside it
WRONG = {
    "a model imports the factory": ("models.fcn", "factory.create"),
    "a model imports another paper's model": ("models.fcn", "models.unet"),
    "a brick imports a model": ("layers", "models.fcn"),
    "losses import metrics": ("losses", "metrics"),
    "data import training": ("data.camvid", "training"),
    "weights import the factory": ("weights", "factory"),
    "the factory imports runs": ("factory.config", "runs.recipe"),
    "training imports a model": ("training.loop", "models.fcn"),
    "training imports data": ("training.loop", "data"),
    "inference imports data": ("inference.predictor", "data"),
    "runs import the command line": ("runs.train", "cli.main"),
    "the library imports the lab": ("runs.train", "lab.harness"),
    "a model imports the lab": ("models.fcn", "lab.papers"),
    "papers import results": ("lab.papers", "lab.results"),
    "claims import the harness": ("lab.claims", "lab.harness"),
    "the harness imports an experiment": ("lab.harness", "lab.experiments.fcn"),
    "an experiment imports another": ("lab.experiments.fcn", "lab.experiments.unet"),
    "an experiment imports the command line": ("lab.experiments.fcn", "cli"),
    "a package without a rule imports anything": ("somewhere.new", "layers"),
}
RIGHT = [
    ("models.fcn", "models.vgg"), ("models.upernet", "models.pspnet"), ("data.camvid", "data.spec"),
    ("factory.create", "models.segformer"), ("runs.predict", "inference"), ("lab.experiments.fcn", "models.fcn"),
    ("lab.experiments.fcn", "lab.protocols"), ("lab.chapter", "lab.claims"), ("cli.main", "lab.claims"),
]  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_arrow_is_refused(kind):
    assert not permitted(*WRONG[kind])


@pytest.mark.parametrize("arrow", RIGHT, ids=" to ".join)
def test_a_right_arrow_is_allowed(arrow):
    assert permitted(*arrow)


@every_model
def test_model_file_can_be_held_in_the_head(path):
    text = path.read_text(encoding="utf-8")
    lines = code_lines(text)
    cap = LINE_CAP_LONG if path.stem in LONG_FILES else LINE_CAP
    assert len(lines) <= cap, f"{len(lines)} lines of code"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            cap = FORWARD_CAP if node.name == "forward" else FUNCTION_CAP
            assert length <= cap, f"{node.name} has {length} lines"


def test_code_lines_counts_code():
    assert code_lines('"""Doc.\n\nMore."""\n\n# why\nx = [\n    1,\n]\n\n\ndef f():\n    """D."""\n    return x\n') == {
        6, 7, 8, 11, 13,
    }  # fmt: skip


@every_model
def test_model_file_opens_with_its_ledger(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('r"""'), "the docstring is raw, so that formulas survive"
    docstring = ast.get_docstring(ast.parse(text))
    assert re.search(r"departures", docstring, re.I), "no departures ledger"
    assert re.search(r"arxiv", docstring, re.I), "no paper"
    assert re.search(r"\(B, ", docstring), "no shapes"


@every_model
def test_model_file_prints_nothing_and_loads_nothing(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, (ast.Assert, ast.Global)), f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "torch.load", "torch.hub.load_state_dict_from_url"), f"line {node.lineno}"


@every_model
def test_network_is_a_module_with_presets(path):
    names = {n.targets[0].id for n in ast.parse(path.read_text(encoding="utf-8")).body
             if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}  # fmt: skip
    names |= {n.target.id for n in ast.parse(path.read_text(encoding="utf-8")).body
              if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}  # fmt: skip
    assert "PRESETS" in names


@every_source
def test_align_corners_is_written_out(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "interpolate", "Upsample", "grid_sample", "affine_grid",
        ):  # fmt: skip
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            nearest = "nearest" in given.get("mode", "'nearest'") and "Grid" not in ast.unparse(node.func)
            assert nearest or "align_corners" in given, f"line {node.lineno}: {ast.unparse(node)}"


@every_source
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            overload = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
            assert overload or ast.get_docstring(node), f"{node.name} has no docstring"


# Written in pieces, so that this file does not find itself
HOSTS = re.compile("pyp" + r"i\.org|pythonhoste" + r"d\.org|registry\.npm" + r"js|deb\.debia" + "n")
MACHINE = re.compile(r"(?:^|[^A-Za-z0-9_.])/(?:" + "|".join(["wor" + "k", "roo" + "t", "far" + "m"]) + ")/")
LEFT_OVER = re.compile("|".join(["TO" + "DO", "FIX" + "ME", r"\bXX" + r"X\b", "lorem " + "ipsum", "coming " + "soon"]))


def test_no_package_index_and_no_path_of_a_machine():
    for path, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            assert not HOSTS.search(line), f"{path}:{number} names a package index's host"
            assert path == ".gitignore" or not MACHINE.search(line), f"{path}:{number} holds a path of one machine"


def test_nothing_is_left_to_do():
    for path, text in texts():
        found = LEFT_OVER.search(text)
        assert not found, f"{path}: {found.group()}"


def test_files_are_small():
    large = {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > 1_000_000}
    assert large == {}


def test_tests_can_fail():
    weak = re.compile(r"^\s*(assert Tru" + r"e\b|@pytest\.mark\.(ski" + r"p\b|xfai" + "l))", re.M)
    for path, text in texts():
        if path.startswith("tests/"):
            assert not weak.search(text), f"{path}: {weak.search(text).group().strip()}"


def test_one_address_of_the_repository():
    configured = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    owner_and_name = configured.removeprefix("https://github.com/")
    project = owner_and_name.split("/")[1]
    for path, text in texts():
        for owner in re.findall(rf"github\.com/([\w.-]+)/{re.escape(project)}\b", text):
            assert f"{owner}/{project}" == owner_and_name, f"{path}: run `make repository`"
