"""The page on several processes: its commands are commands, its configuration one, its numbers add up."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from segtutor.cli.main import _parser
from segtutor.factory import create_backbone
from segtutor.runs import read_recipe
from segtutor.training.sampling import batch_sizes

PAGE = (Path(__file__).resolve().parents[1] / "book" / "scaling.md").read_text(encoding="utf-8")
STREET = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
RUN = {"RUN": "runs/street", "FIRST": "node0", "SLURM_JOB_ID": "7"}


def script() -> str:
    return re.search(r"```slurm\n(.*?)```", PAGE, re.S)[1]


def commands() -> list[str]:
    """Every command of the page, those of the script for either of its cases."""
    found = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    started = re.search(r"^srun (.*)$", script(), re.M)[1]
    cases = re.findall(r'WHAT="(.*?)"', script())
    assert len(cases) == 2
    for case in cases:
        line = started.replace("$WHAT", case)
        for name, value in RUN.items():
            line = line.replace(f"${name}", value)
        found.append(line)
    return found


def processes(launcher: list[str]) -> int:
    """How many processes a launcher's own parser says that it would start."""
    if launcher[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args([*launcher[1:], "-m", "segtutor"])
        return int(options.nnodes.rpartition(":")[2]) * int(options.nproc_per_node)
    from accelerate.commands.launch import launch_command_parser

    assert launcher[:2] == ["accelerate", "launch"]
    return launch_command_parser().parse_args([*launcher[2:], "-m", "segtutor"]).num_processes


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_page_are_commands(line):
    launcher, _, rest = line.partition(" -m segtutor ")
    words = shlex.split(rest or line.removeprefix("segtutor "))
    options = _parser().parse_args(words)
    if options.config is not None:
        recipe = read_recipe(STREET, options.overrides)
        count = processes(shlex.split(launcher)) if rest else 1
        assert len(batch_sizes(recipe.data["length"], recipe.training.batch_size, count)) >= 4


def test_the_table_keeps_rate_and_images_in_proportion():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    table = {row[0].partition(",")[0].strip("`"): row[1:] for row in rows}
    batches, rates, steps = (
        [float(cell) for cell in table[f"training.{key}"]] for key in ("batch_size", "lr", "steps")
    )
    training = STREET["training"]
    assert [batches[0], rates[0], steps[0]] == [training["batch_size"], training["lr"], training["steps"]]
    assert [rate / batch for rate, batch in zip(rates, batches, strict=True)] == pytest.approx(
        [rates[0] / batches[0]] * 3
    )
    images = {int(batch * count) for batch, count in zip(batches, steps, strict=True)}
    assert images == {int(cell.replace(",", "")) for cell in table["images seen"]} == {64000}
    eight = next(line for line in commands() if "runs/eight" in line)
    assert f"training.batch_size={int(batches[1])} training.lr={rates[1]}" in eight
    assert f"training.warmup={table['training.warmup'][1]} training.steps={int(steps[1])}" in eight


def test_sizes_of_sets_and_networks_are_right():
    from segtutor.data.registry import datasets

    assert "367 training images of CamVid" in PAGE and "2,975 images of Cityscapes" in PAGE
    assert {"camvid", "cityscapes"} <= set(datasets())
    assert 2975 / 512 < 6
    with torch.device("meta"):
        backbone = create_backbone("convnext-xlarge")
    count = sum(weight.numel() for weight in backbone.parameters())
    assert f"{count / 1e6:.0f} million of `convnext-xlarge`" in PAGE.replace("\n", " ")
    assert f"make {count * 4 * 4 / 1e9:.1f} GB" in PAGE
