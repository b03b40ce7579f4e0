"""The command ``segtutor``. Each subcommand imports what it needs when it runs, so that ``--help`` is quick."""

import argparse
import sys
from pathlib import Path

import segtutor
from segtutor import logs


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 for success, 1 when something was found wrong, 2 for a usage error, 130 when interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 0
    try:
        for path in options.imports:
            _import(path)
        with logs.shown():
            return options.run(options)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except (ValueError, LookupError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError) as error:
        from segtutor.cli.errors import sentence

        if (text := sentence(error)) is None:  # a mistake of the program's own: whoever mends it needs the traceback
            raise
        if text:
            print(f"segtutor: {_process()}{text}", file=sys.stderr)
        return 2


def _process() -> str:
    """Which of several processes speaks, where it is not the first one."""
    from segtutor.training.distributed import rank

    return f"process {rank()}: " if rank() else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtutor", description="Semantic segmentation, explained and proven.")
    parser.add_argument("--version", action="version", version=f"segtutor {segtutor.__version__}")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], type=Path, metavar="FILE",
        help="run a file of your own first, which registers backbones, heads or datasets",
    )  # fmt: skip
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    check = commands.add_parser("check-data", help="look for what is wrong with images and masks")
    check.add_argument(
        "path", type=Path, nargs="?", help="a folder with images/ and masks/, or a dataset such as camvid"
    )
    check.add_argument("--config", metavar="FILE", help="take the settings from the section data of a configuration")
    check.add_argument("--num-classes", type=int, default=None, help="how many classes the masks may hold")
    check.add_argument("--label-map", metavar="VALUE:LABEL,...", help="what other numbers mean, such as 0:0,255:1")
    check.add_argument("--palette", metavar="COLOUR,...", help="a colour per class, such as 000000,ff8000 or 000000:0")
    check.add_argument("--ignore-index", type=int, metavar="LABEL", help="the label of void pixels; default: 255")
    check.add_argument("--mask-suffix", metavar="TEXT", help="what names of masks have in addition, such as _mask")
    check.add_argument("--value-range", metavar="LOW,HIGH", help="image values that become 0 and 1; or uint12, unit")
    check.set_defaults(run=_check_data)

    models = commands.add_parser("models", help="list backbones and heads: cost, strides, licences, when to use which")
    models.add_argument("names", nargs="*", metavar="NAME", help="backbones and heads to show; default: all")
    models.set_defaults(run=_models)

    train = commands.add_parser("train", help="from a configuration to a trained model")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="a YAML file, a shipped configuration, or a model such as resnet18-fcn")
    source.add_argument("--resume", type=Path, metavar="RUN", help="continue a run that was cut short")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as model.backbone.depth=18")
    train.add_argument("--extend", type=int, metavar="STEPS", help="with --resume: train so many steps more")
    train.add_argument("--out", type=Path, metavar="RUN", help="the folder to make; default: runs/CONFIG")
    train.add_argument("--profile", type=int, metavar="STEPS", help="say after so many steps where their time went")
    train.add_argument("--no-check", action="store_true", help="do not look for what is wrong with the data first")
    train.add_argument(
        "--overfit", type=int, metavar="N", help="only see whether N images can be learnt by heart; writes nothing"
    )
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="score a saved model")
    evaluate.add_argument("folder", type=Path, metavar="MODEL", help="a folder that train made, or its best/ or last/")
    evaluate.add_argument("--data", metavar="CONFIG", help="a dataset, or a YAML file with data; default: the run's")
    evaluate.add_argument("--split", default=None, help="train, val or test; default: test where there is one")
    evaluate.add_argument("--weights", choices=("best", "last"), help="default: the best, where they were kept")
    evaluate.add_argument(
        "--interval", action="store_true", help="say how far the mIoU would move on other images of the kind"
    )
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="write report.html of a run: curves, scores, worst and best images")
    report.add_argument("folder", type=Path, metavar="RUN", help="a folder that train made")
    report.add_argument("--split", default="val", help="the images to show: train, val or test; default: val")
    report.add_argument("--weights", choices=("best", "last"), help="default: the best, where they were kept")
    report.set_defaults(run=_report)

    predict = commands.add_parser("predict", help="label images with a saved model")
    predict.add_argument("folder", type=Path, metavar="MODEL", help="a folder that train made, or its best/ or last/")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, folders, or patterns in quotes")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="where labels and overlays go")
    predict.add_argument("--weights", choices=("best", "last"), help="default: the best, where they were kept")
    predict.add_argument("--probabilities", action="store_true", help="write those of each class, too, as npz")
    predict.add_argument("--overwrite", action="store_true", help="replace earlier results")
    predict.add_argument(
        "--tile", type=int, metavar="SIDE", help="look at large images in tiles of so many pixels, at their own scale"
    )
    predict.add_argument("--overlap", type=int, default=128, metavar="PIXELS", help="that tiles share; default: 128")
    predict.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="FACTOR", help="average over images of these sizes"
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirror image")
    predict.set_defaults(run=_predict)

    schema = commands.add_parser("schema", help="print the JSON Schema of configurations, for editors")
    schema.add_argument("--out", type=Path, metavar="FILE", help="write it there")
    schema.set_defaults(run=_schema)

    bench = commands.add_parser("benchmark", help="measure the numbers that the book cites")
    bench.add_argument("ids", nargs="*", metavar="ID", help="experiments, first parts of ids, or claims; default: all")
    bench.add_argument("--list", action="store_true", help="list the experiments and what is measured")
    bench.add_argument("--quick", action="store_true", help="a run of seconds, into a temporary folder")
    bench.add_argument("--seeds", type=int, nargs="+", help="these seeds, in place of each experiment's own")
    bench.add_argument("--results", type=Path, metavar="DIR", help="where the rows go")
    bench.add_argument("--rerun", action="store_true", help="measure again what this machine has measured")
    bench.set_defaults(run=_benchmark)

    claims = commands.add_parser("claims", help="show the ledger of claims, or write its page")
    claims.add_argument("ids", nargs="*", metavar="ID", help="claims to show; default: all")
    claims.add_argument("--write", action="store_true", help="write book/claims.md")
    claims.set_defaults(run=_claims)

    doctor = commands.add_parser(
        "doctor", help="explain this environment: versions, device, weights, data, and what to do"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _import(path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--import {path}: there is no such Python file.")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _check_data(options: argparse.Namespace) -> int:
    from segtutor.cli.checking import check

    report = check(options)
    print(report)
    return 1 if report.problems else 0


def _train(options: argparse.Namespace) -> int:
    from segtutor import runs

    if options.overfit is not None:
        return _overfit(options)
    if options.profile is not None and options.profile < 1:
        raise ValueError(f"--profile {options.profile}: give the number of steps to look into, 1 or more.")
    if options.resume is None and options.extend is not None:
        raise ValueError("--extend trains a run on: name it with --resume.")
    if options.resume is None:
        history = runs.train(
            options.config,
            options.overrides,
            out=options.out,
            check_data=not options.no_check,
            profile=options.profile,
        )
    elif options.out is not None or options.no_check:
        raise ValueError("--resume continues a run in its own folder: leave --out and --no-check out.")
    elif options.extend is not None and options.extend < 1:
        raise ValueError(f"--extend {options.extend}: give the number of steps to train on, 1 or more.")
    else:
        history = runs.resume(options.resume, options.overrides, extend=options.extend, profile=options.profile)
    return 130 if history.interrupted else 0


def _overfit(options: argparse.Namespace) -> int:
    from segtutor import runs

    if options.config is None or options.out is not None:
        raise ValueError("--overfit looks at a configuration and writes nothing: give --config, without --out.")
    found = runs.overfit(options.config, options.overrides, images=options.overfit, check_data=not options.no_check)
    return 130 if found.interrupted else 0 if found.learnt else 1


def _evaluate(options: argparse.Namespace) -> int:
    from segtutor import runs

    runs.evaluate(options.folder, options.split, weights=options.weights, data=options.data, interval=options.interval)
    return 0


def _report(options: argparse.Namespace) -> int:
    from segtutor import runs

    print(f"Wrote {runs.report(options.folder, options.split, weights=options.weights)}.")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from segtutor import runs

    written, refused = runs.predict(
        options.folder,
        options.images,
        options.out,
        weights=options.weights,
        probabilities=options.probabilities,
        overwrite=options.overwrite,
        tile=options.tile,
        overlap=options.overlap,
        scales=options.scales,
        flip=options.flip,
    )
    what = "1 label file and overlay" if len(written) == 1 else f"{len(written)} label files and overlays"
    print(f"Wrote {what} to {options.out}.")
    for line in refused:
        print(f"segtutor: {line}", file=sys.stderr)
    if refused:
        print(f"segtutor: {len(refused)} of {len(written) + len(refused)} images were left out.", file=sys.stderr)
    return 2 if refused else 0


def _schema(options: argparse.Namespace) -> int:
    from segtutor.files import write_text
    from segtutor.runs.schema import schema_text

    if options.out is None:
        print(schema_text(), end="")
    else:
        print(f"Wrote {write_text(options.out, schema_text())}.")
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    from segtutor.lab import harness

    if options.list:
        print(harness.listing())
        return 0
    return harness.run(
        options.ids, quick=options.quick, seeds=options.seeds, folder=options.results, rerun=options.rerun
    )


def _claims(options: argparse.Namespace) -> int:
    from segtutor.lab import claims

    if options.write:
        path = claims.write_page()
        print(f"Wrote {path.parent.name}/{path.name}.")
        return 0
    for claim in [claims.find(id) for id in options.ids] or claims.CLAIMS:
        judged = claims.judge(claim)
        print(f"{claim.id}: {claim.statement}\n  {judged.verdict}. {judged.sentence}".rstrip())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from segtutor.cli import doctor

    text, problems = doctor.report()
    print(text)
    return 1 if problems else 0


def _models(options: argparse.Namespace) -> int:
    from segtutor.cli import catalogue

    print(catalogue.listing(options.names))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
