"""The command line: verbs, each a few lines over the Python API. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn, cast

import typer

import dozan
from dozan.cli import complete
from dozan.cli.compare import compare
from dozan.cli.data import EMBEDDED_NAME
from dozan.cli.data import app as data_app
from dozan.cli.doctor import doctor
from dozan.cli.export import export
from dozan.cli.grammar import grammar
from dozan.cli.init import init
from dozan.cli.join import join
from dozan.cli.plan import plan
from dozan.cli.purposes import forget
from dozan.cli.push import push
from dozan.cli.ranks import Gpus, Port, Restarts, may_ask, trained_by_ranks
from dozan.cli.render_diff import render_diff
from dozan.cli.reproduce import reproduce
from dozan.cli.resume import resume
from dozan.cli.run import run
from dozan.cli.runs import clean, runs
from dozan.cli.serve import serve
from dozan.cli.sweep import sweep
from dozan.errors import InputError, Interrupted
from dozan.redact import redact
from dozan.world import is_silenced
from dozan.world.status import report_status

BAD_INPUT, INTERRUPTED = 2, 75
USAGE_ERROR = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""What Typer raises for a verb or an option that it does not take; it has no name for it of its own."""

app = typer.Typer(
    name="dozan",
    help="Tune Gemma 3 on your rows: check, train, score, merge, export to GGUF, run.",
    epilog="Start with: dozan demo. Each verb explains itself: dozan train --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.add_typer(data_app)

Model = Annotated[
    str,
    typer.Option(
        help="A run, a checkpoint folder or a hub id.", show_default=EMBEDDED_NAME, metavar="MODEL",
        autocompletion=complete.models,
    ),
]  # fmt: skip
Data = Annotated[Path | None, typer.Option("--data", "--dataset", help="Rows to train on (JSONL).", metavar="FILE")]
EvalData = Annotated[
    Path | None, typer.Option(help="Rows to measure the loss on. Without it a share is held out.", metavar="FILE")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as train.max_steps=50.", metavar="KEY=VALUE")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", metavar="N")]


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show:
        typer.echo(dozan.__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.", metavar="DIR")] = Path("output/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier demo left there.")] = False,
) -> None:
    """The whole way on a laptop: train, score, merge, GGUF, llama.cpp."""
    dozan.demo(out, fresh=fresh)


@app.command()
def train(
    context: typer.Context,
    model: Model = dozan.EMBEDDED_BASE,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="The run's folder.", metavar="DIR")] = Path("output/run"),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="embedded, mobile-actions, functiongemma-ar, gemma3-12b-trinity or a YAML file.", metavar="NAME|FILE",
            autocompletion=complete.recipes,
        ),
    ] = None,
    settings: Settings = None,
    eval_data: EvalData = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the whole recipe and leave.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Train on rows that the checks refuse; recorded.")] = False,
    precision: Annotated[str, typer.Option(help="t4: float16 as on a T4, on any GPU.", metavar="auto|t4")] = "auto",
    adapt: Annotated[
        bool, typer.Option("--adapt", help="May change the training to make it fit the GPU; recorded.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", help="Tell a tracker: wandb, tensorboard or trackio.", metavar="NAME"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train every weight of the base, not an adapter.")] = False,
    target: Annotated[
        str | None,
        typer.Option(help="Whose bytes to train on: ollama, llama.cpp or litert-lm.", metavar="RUNTIME",
                     show_default="transformers", autocompletion=complete.one_of(*complete.TARGETS)),
    ] = None,
    gpus: Gpus = 1,
    restarts: Restarts = None,
    port: Port = None,
) -> None:
    """Train an adapter, or every weight, on rows; held-out rows measure its loss."""
    settings = [*(settings or ()), *([f"data.target={target}"] if target is not None else ())]
    settings = [*settings, *["train.weights=full"] * full, *([f"track.to=[{','.join(track)}]"] if track else ())]
    if print_config:
        from dozan.recipe import dump, load_recipe

        typer.echo(dump(load_recipe(recipe or _recipe_of(model), settings)), nl=False)
    elif data is None:
        raise InputError("--data is missing: name a JSONL file of rows, for example --data rows.jsonl")
    elif not trained_by_ranks(context, gpus, restarts, port):
        may = adapt or (_agrees if may_ask() else False)
        dozan.train(data, model, out, recipe, settings, eval_data, force=force, precision=precision, adapt=may)


app.command()(init)
app.command()(resume)
app.command()(runs)
app.command()(clean)
app.command()(doctor)
app.command()(plan)
app.command()(join)
app.command()(compare)
app.command()(grammar)
app.command()(render_diff)
app.command()(push)
app.command()(forget)
app.command()(sweep)
app.command()(reproduce)


@app.command("eval")
def evaluate(
    data: Annotated[Path, typer.Option("--data", "--dataset", help="Rows to score on (JSONL).", metavar="FILE")],
    model: Model = dozan.EMBEDDED_BASE,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure and prediction here.", metavar="FILE")
    ] = None,
    limit: Limit = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="New tokens an answer may take.", metavar="N", show_default="256; 512 with --purpose"),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help='Answers made elsewhere: {"id", "prediction"} a line. No model runs.', metavar="FILE"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Another's score of the same answers too: mobile-actions, aisa, bfcl or metga97.", metavar="NAME",
            autocompletion=complete.one_of(*complete.PRESETS),
        ),
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option(
            help="Score for code, reasoning, conversation, domain or creative instead.", metavar="NAME",
            autocompletion=complete.one_of(*complete.PURPOSES),
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
    grammar: Annotated[
        bool, typer.Option("--grammar", help="Hold answers to the tools' schemas: no malformed call.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Score part I of N alone, into --json; dozan join joins them.", metavar="I/N")
    ] = None,
) -> None:
    """Score a run, a checkpoint or a GGUF file on rows."""
    if purpose is not None and (predictions is not None or preset is not None or grammar):
        raise InputError("--purpose: has scores of its own; leave --predictions, --preset and --grammar out")
    if predictions is not None and (model != dozan.EMBEDDED_BASE or grammar):
        raise InputError("--predictions are scored without a model: give one, predictions or --model (and --grammar)")
    from dozan.cli.evaluate import evaluate_part, evaluate_ranks, evaluate_rows
    from dozan.ship.sharded import Asked

    tokens = max_new_tokens or (256 if purpose is None else 512)
    asked = Asked(data, model, limit, tokens, predictions, preset, purpose, grammar)
    if shard is not None:
        evaluate_part(asked, shard, json_file, html)
    elif evaluate_ranks(asked, json_file, html):
        return
    elif purpose is not None:
        from dozan.cli.purposes import evaluate_for

        evaluate_for(purpose, model, data, json_file, html, limit, tokens)
    else:
        evaluate_rows(data, model, json_file, limit, tokens, predictions, preset, grammar, html)


@app.command()
def merge(
    run: Annotated[
        Path, typer.Argument(help="The folder of a finished run.", metavar="RUN", autocompletion=complete.runs)
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.", metavar="DIR")],
    onto: Annotated[
        str | None,
        typer.Option(
            help="For a 4-bit run: dequantised (what was trained; the default), base (its 16-bit weights), or a path "
            "or hub id of these.",
            metavar="BASE",
        ),
    ] = None,
) -> None:
    """Fold a run's adapter into its base: a Hugging Face folder."""
    dozan.merge(run, out, onto, typer.echo)
    typer.echo(f"merged: {out}")


app.command()(export)
app.command()(run)
app.command()(serve)


def _agrees(missing: str) -> bool:
    """Whether who sits at the terminal lets the training be changed, told what is missing and what would do."""
    typer.echo(missing)
    return typer.confirm("Change the training as above, so that it fits?")


def _recipe_of(model: str) -> str:
    """The shipped recipe of a model for which none is named."""
    if model == dozan.EMBEDDED_BASE:
        return "embedded"
    from dozan.chat.tokenizer import Tokenizer
    from dozan.model.hub import resolve_model
    from dozan.train.prepare import default_recipe

    folder = resolve_model(model)
    return default_recipe(folder, Tokenizer.load(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 2 what was given cannot be used, 75 stopped but resumable, 1 the rest."""
    sys.excepthook = _show_redacted
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        sys.exit(app(args=given, prog_name="dozan", standalone_mode=False, obj=given) or 0)
    except USAGE_ERROR as error:
        _leave_usage(error)
    except typer.Abort:
        _leave("Aborted!", 1, name="")
    except InputError as error:
        _leave(str(error), error.exit_status)
    except Interrupted as error:
        _leave(str(error), INTERRUPTED)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _leave(f"{error.filename or 'disk'}: no space left; free some, or give another folder", BAD_INPUT)
        if error.filename is None:
            raise
        _leave(f"{error.filename}: {error.strerror}", BAD_INPUT)


def _leave(message: str, code: int, name: str = "dozan: ") -> NoReturn:
    from dozan.arabic_errors import told

    if not is_silenced():
        print(told(redact(message), redact(f"{name}{message}")), file=sys.stderr)
    sys.exit(report_status(code))


def _leave_usage(error: typer.BadParameter) -> NoReturn:
    from dozan.arabic_errors import told

    shown = io.StringIO()
    error.show(file=shown)
    print(told(redact(error.format_message()), shown.getvalue().removesuffix("\n")), file=sys.stderr)
    sys.exit(report_status(error.exit_code))


def _show_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback without secrets."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


if __name__ == "__main__":
    main()
