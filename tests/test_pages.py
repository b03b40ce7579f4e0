"""The pages around the chapters say what is true of the package: tables, quoted messages, numbers, names."""

import importlib.util
import pathlib
import re
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import segtutor
from segtutor.lab.papers import PAPERS

ROOT = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- The map ---------------------------------------------------------------------------------------------------------


def toc() -> list[str]:
    def walk(node):
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for child in node.values():
                yield from walk(child)
        elif isinstance(node, list):
            for child in node:
                yield from walk(child)

    return list(walk(yaml.safe_load(page("_toc.yml"))))


def test_every_page_is_in_the_table_of_contents_once():
    pages = toc()
    assert len(pages) == len(set(pages))
    for name in pages:
        assert (ROOT / f"{name}.md").exists() or (ROOT / f"{name}.ipynb").exists(), f"_toc.yml names {name}"
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").rglob("*.md")}
    written |= {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert written - set(pages) == set(), "written, but not in _toc.yml"


def test_readme_and_index_show_every_chapter_and_no_other():
    chapters = {name for name in toc() if name.startswith("notebooks/")}
    assert set(re.findall(r"/blob/main/(notebooks/\w+)\.ipynb\)", page("README.md"))) == chapters
    assert set(re.findall(r":link: \.\./(notebooks/\w+)", page("book/index.md"))) == chapters


def test_one_version_everywhere():
    citation = yaml.safe_load(page("CITATION.cff"))
    assert citation["version"] == segtutor.__version__
    assert re.search(rf"^## {re.escape(segtutor.__version__)}$", page("CHANGELOG.md"), re.M)
    assert f"version = {{{segtutor.__version__}}}" in page("README.md")


# ---- Prose -----------------------------------------------------------------------------------------------------------

BANNED = r"simply|just|obviously|note that|worth mentioning|powerful|crucial|state-of-the-art|delve|leverages?"
PROSE = ["README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("name", PROSE)
def test_prose_keeps_the_voice_of_the_book(name):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page(name), flags=re.S)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    assert not re.findall(rf"\b(?:{BANNED})\b", prose, re.I)
    assert not re.findall(r"\w!(?=\s|$)", prose)


# ---- Data ------------------------------------------------------------------------------------------------------------


def specs() -> dict:
    """What each dataset of the package says about itself, by the name of its class."""
    from segtutor.data.registry import datasets

    return {entry.title: entry.spec for entry in datasets().values() if entry.spec is not None}


def test_the_table_of_datasets_is_what_the_specs_say():
    rows = []
    for name, spec in specs().items():
        source = f"[site]({spec.homepage}), {{cite:t}}`{spec.citation}`" if spec.citation else "this package"
        cells = [f"{{class}}`~segtutor.data.{name}`", str(spec.num_classes), str(spec.in_channels)]
        rows.append("| " + " | ".join([*cells, spec.licence, source]) + " |")
    head = "| dataset | classes | channels | licence | source |\n|---|---|---|---|---|\n"
    shown = page("book/data.md").partition(head)[2].partition("\n\n")[0].splitlines()
    assert sorted(shown) == sorted(rows), "book/data.md should have:\n" + head + "\n".join(rows)


def test_knobs_on_the_page_exist():
    from segtutor.data import SyntheticScenes

    calls = re.findall(r"= (SyntheticScenes\(.*\))$", page("book/data.md"), re.M)
    assert len(calls) == 2
    for call in calls:
        image, mask = eval(call, {"SyntheticScenes": SyntheticScenes})[0]
        assert image.shape[1:] == mask.shape


# ---- Numbers in prose -----------------------------------------------------------------------------------------------


def test_numbers_in_prose():
    import inspect

    from segtutor import data, metrics

    assert f"the crop of {PAPERS['fcn'].facts['crop_final_fcn32s'].value} pixels" in page("book/index.md")
    assert inspect.signature(metrics.boundary_band).parameters["width"].default == 3
    assert page("book/notation.md").count("three pixels") == page("book/glossary.md").count("three pixels wide") == 1
    assert {spec.ignore_index for spec in specs().values()} == {255}
    assert "its value is 255" in page("book/notation.md")
    pyproject = page("pyproject.toml")
    for found, where in ((r">=3\.10\"", "Python 3.10"), (r"torch>=2\.4\"", "torch 2.4")):
        assert re.search(found, pyproject) and where in page("book/setup.md")
    assert hasattr(data, "check_dataset")


# ---- Troubleshooting: each quoted message is made to appear ---------------------------------------------------------


def load_other_classes():
    with torch.device("meta"):
        source, target = segtutor.models.FCN8s(21), segtutor.models.FCN8s(11)
    target.load_state_dict(source.state_dict())


def load_renamed():
    with torch.device("meta"):
        model = segtutor.models.FCN8s(2, hidden=8)
    model.load_state_dict({f"module.{name}": tensor for name, tensor in model.state_dict().items()})


def load_pickled_objects(tmp_path):
    torch.save({"path": pathlib.PurePosixPath("x")}, tmp_path / "x.pth")
    torch.load(tmp_path / "x.pth", weights_only=True)


def grey_image():
    segtutor.models.FCN8s(2, widths=(2, 2, 2, 2, 2), hidden=2)(torch.zeros(1, 1, 32, 32))


def train_on_nan():
    dataset = [(torch.full((3, 4, 4), float("nan")), torch.zeros(4, 4, dtype=torch.long))] * 2
    segtutor.training.fit(nn.Conv2d(3, 2, 1), dataset, steps=1, batch_size=2)


def batch(*sides):
    return torch.utils.data.default_collate([torch.zeros(3, *side, device="meta") for side in sides])


MESSAGES = {
    "size mismatch": (
        load_other_classes,
        "size mismatch for score_fr.weight: copying a param with shape torch.Size([21, 4096, 1, 1]) from checkpoint, "
        "the shape in current model is torch.Size([11, 4096, 1, 1]).",
    ),
    "missing keys": (load_renamed, 'Missing key(s) in state_dict: "backbone.stage1.conv1_1.weight"'),
    "unexpected keys": (load_renamed, 'Unexpected key(s) in state_dict: "module.backbone.stage1.conv1_1.weight"'),
    "channels": (
        lambda: nn.Conv2d(2048, 512, 3)(torch.zeros(1, 512, 8, 8)),
        "Given groups=1, weight of size [512, 2048, 3, 3], expected input[1, 512, 8, 8] to have 2048 channels, "
        "but got 512 channels instead",
    ),
    "grey": (
        grey_image,
        "images have 1 channels, but the model was built with in_channels=3: pass in_channels=1 when building it, "
        "or convert the images.",
    ),
    "concatenate": (
        lambda: torch.cat([torch.zeros(1, 2, 22, 30), torch.zeros(1, 2, 23, 30)], dim=1),
        "Sizes of tensors must match except in dimension 1. Expected size 22 but got size 23 for tensor number 1 "
        "in the list.",
    ),
    "add": (
        lambda: torch.zeros(1, 2, 22, 30) + torch.zeros(1, 2, 23, 30),
        "The size of tensor a (22) must match the size of tensor b (23) at non-singleton dimension 2",
    ),
    "stack": (
        lambda: batch((360, 480), (375, 500)),
        "stack expects each tensor to be equal size, but got [3, 360, 480] at entry 0 and [3, 375, 500] at entry 1",
    ),
    "one value": (
        lambda: nn.BatchNorm2d(256)(torch.zeros(1, 256, 1, 1)),
        "Expected more than 1 value per channel when training, got input size torch.Size([1, 256, 1, 1])",
    ),
    "jpu": (
        lambda: segtutor.factory.create_model(
            {"backbone": {"type": "resnet", "depth": 18, "output_stride": 8}, "head": "jpu", "num_classes": 2}
        ),
        "head.type: 'jpu' stands in for dilation, but the backbone's c4 is dilated to stride 8: set "
        "backbone.output_stride to 32, or take the head 'aspp'.",
    ),
    "label 255": (
        lambda: F.cross_entropy(torch.zeros(1, 11, 2, 2), torch.full((1, 2, 2), 255)),
        "Target 255 is out of bounds.",
    ),
    "label 7": (
        lambda: segtutor.losses.CrossEntropyLoss()(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 7)),
        "CrossEntropyLoss: the target holds 7, but task 'multiclass' with 2 classes allows 0..1 and ignore_index 255",
    ),
    "nan": (train_on_nan, "the loss became nan at step 1"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_quoted_message_is_the_one_that_appears(name):
    fails, message = MESSAGES[name]
    with pytest.raises(Exception) as caught:
        fails()
    assert message in str(caught.value)
    quoted = re.findall(r"```text\n(.*?)```", page("book/troubleshooting.md"), re.S)
    [block] = [block for block in quoted if message in block]
    kind = re.match(r"(?:\w+\.)*(\w+): ", block)
    assert kind is None or kind.group(1) in {base.__name__ for base in type(caught.value).__mro__}


def test_quoted_message_of_unsafe_weights(tmp_path):
    with pytest.raises(Exception, match="Weights only load failed.") as caught:
        load_pickled_objects(tmp_path)
    assert type(caught.value).__name__ == "UnpicklingError"
    assert "_pickle.UnpicklingError: Weights only load failed." in page("book/troubleshooting.md")


def test_quoted_message_of_missing_internet(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(segtutor.weights.WeightsError) as caught:
        segtutor.weights.load_pretrained(segtutor.models.FCN8s(2, hidden=8))
    ending = "connect to the internet once, or pass path= to a local copy."
    assert str(caught.value).endswith(ending) and ending in page("book/troubleshooting.md")


def test_quoted_message_of_weights_of_another_network(tmp_path, monkeypatch):
    import timm
    from safetensors.torch import save_file

    from segtutor.runs import train

    monkeypatch.chdir(tmp_path)
    save_file(timm.create_model("resnet18").state_dict(), "resnet18.safetensors")
    backbone = {"type": "resnet", "depth": 34, "pretrained": "resnet18.safetensors"}
    with pytest.raises(segtutor.factory.ConfigError) as caught:
        train({"model": {"backbone": backbone, "head": "fcn"}, "data": {"type": "scenes", "length": 2}})
    assert f"ConfigError: {caught.value}" in page("book/troubleshooting.md")
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18.safetensors"], "nothing is in the way of the next"


def test_quoted_messages_of_runs_that_do_not_go_on():
    from segtutor.runs import RunError
    from segtutor.runs.lock import in_use
    from segtutor.runs.resume import Change, check_changes

    with pytest.raises(RunError) as caught:
        check_changes(Path("run"), [Change("training.batch_size", 8, 4)], 0)
    assert f"RunError: {caught.value}" in page("book/troubleshooting.md")
    taken = in_use(Path("run"), {"process": 4711, "computer": "gpu3"})
    assert f"InUseError: {taken}" in page("book/troubleshooting.md")


def test_an_all_void_batch_is_what_the_page_says():
    target = torch.full((1, 2, 2), 255)
    assert F.cross_entropy(torch.zeros(1, 11, 2, 2), target, ignore_index=255).isnan()
    assert segtutor.losses.CrossEntropyLoss()(torch.zeros(1, 11, 2, 2), target) == 0


def test_rendered_errors_show_the_cell_and_the_message_only():
    specification = importlib.util.spec_from_file_location("book_tools", ROOT / "tools" / "book.py")
    book = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(book)
    cell = nbformat.v4.new_code_cell("import json\njson.loads('[')", metadata={"tags": ["raises-exception"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.execute(notebook)
    before = [book.COLOUR.sub("", part) for part in notebook.cells[0].outputs[0].traceback]
    assert sum(part.startswith("File ") and "json" in part for part in before) >= 2
    book.shorten_tracebacks(notebook)
    shown = book.COLOUR.sub("", "\n".join(notebook.cells[0].outputs[0].traceback))
    assert "Cell In" in shown and "JSONDecodeError" in shown and "Expecting value" in shown
    assert "File " not in shown


# ---- Citations -------------------------------------------------------------------------------------------------------


def test_no_work_has_two_entries():
    text = page("book/references.bib")
    for field in ("eprint", "doi"):
        found = re.findall(rf"^\s*{field}\s*=\s*[{{\"]([^}}\"]+)", text, re.M)
        assert len(set(found)) == len(found), sorted(name for name in found if found.count(name) > 1)


def test_no_two_entries_are_cited_alike():
    database = pytest.importorskip("pybtex.database", reason="comes with the extra `book`")
    pytest.importorskip("sphinx", reason="comes with the extra `book`")
    path = ROOT / "book" / "_ext" / "segtutor_book.py"
    specification = importlib.util.spec_from_file_location("segtutor_book", path)
    extension = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(extension)
    entries = database.parse_file(ROOT / "book" / "references.bib").entries
    domain = SimpleNamespace(bibdata=SimpleNamespace(data=SimpleNamespace(entries=entries)))
    app = SimpleNamespace(env=SimpleNamespace(get_domain=lambda name: domain))
    for _ in range(2):  # a kept environment is lettered again
        extension.letter_years(app)
        cited = [f"{extension.cited_as(entry)} [{entry.fields['year']}]" for entry in entries.values()]
        assert len(set(cited)) == len(cited)
        assert entries["chen2018deeplab"].fields["year"] == "2018a"
        assert entries["chen2018deeplabv3plus"].fields["year"] == "2018b"
        assert entries["he2016resnetv2"].fields["year"] == "2016b"
        assert entries["long2015fcn"].fields["year"] == "2015"
    style = yaml.safe_load(page("_config.yml"))["sphinx"]["config"]["bibtex_default_style"]
    assert f'register_plugin("pybtex.style.formatting", "{style}"' in path.read_text(encoding="utf-8")
