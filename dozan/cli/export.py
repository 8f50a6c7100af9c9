"""`dozan export`: GGUF files, and what goes beside them for a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dozan
from dozan.cli import complete


def export(
    run: Annotated[
        str, typer.Argument(help="A run or a checkpoint folder.", metavar="RUN", autocompletion=complete.runs)
    ],
    gguf: Annotated[
        str | None,
        typer.Option(
            help="f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 or iq4_xs; several with commas.",
            show_default="q8_0", metavar="TYPE", autocompletion=complete.several_of(*complete.GGUF_TYPES),
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.", metavar="DIR")] = Path("output/gguf"),
    imatrix: Annotated[
        bool, typer.Option("--imatrix", help="Round with more care what your rows use: the run's, or --data's.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to measure on, instead of the run's own.", metavar="FILE")
    ] = None,
    token_embd_type: Annotated[
        str | None, typer.Option(help="A type for the embedding, such as q8_0 or q4_k.", metavar="TYPE")
    ] = None,
    adapter_gguf: Annotated[
        bool, typer.Option("--adapter-gguf", help="Write the adapter alone, to put beside a base.")
    ] = False,
    ollama: Annotated[bool, typer.Option("--ollama", help="Write a Modelfile beside each GGUF.")] = False,
    phone: Annotated[
        Path | None, typer.Option(help="Write all that a phone needs into a folder, Q8_0.", metavar="DIR")
    ] = None,
    litert: Annotated[
        Path | None, typer.Option(help="Write a LiteRT-LM model; needs litert-torch.", metavar="FILE")
    ] = None,
    tools: Annotated[
        Path | None, typer.Option(help="--phone: tools (JSON), if the rows' differ.", metavar="FILE")
    ] = None,
) -> None:
    """Write GGUF files, each measured against the trained model."""
    if adapter_gguf:
        from dozan.ship.adapter_gguf import write_adapter_gguf

        written = write_adapter_gguf(run, out / f"{Path(run).resolve().name}-adapter.gguf")
        typer.echo(f"{written}: the adapter alone, for the base it was trained on")
    if phone is not None:
        _phone(run, phone, tools, data)
    if litert is not None:
        from dozan.ship.litert import export_litert

        typer.echo(export_litert(run, litert, data, say=typer.echo).text)
    if gguf is None and not ollama and (adapter_gguf or phone is not None or litert is not None):
        return
    from dozan.ship.quants import table_text

    for exported in dozan.export(run, gguf or "q8_0", out, data, imatrix, token_embd_type, typer.echo):
        size = f"{exported.bytes / 2**20:.1f} MiB, {exported.bits_per_weight:.2f} bits a weight"
        typer.echo(f"{exported.path}: {size}, measured against the model")
        typer.echo("\n".join(table_text(exported.types)))
        if ollama:
            from dozan.ship.ollama import write_ollama

            modelfile = write_ollama(run, exported.path)
            typer.echo("\n".join([f"{modelfile.path}: for Ollama. Next:", *modelfile.commands]))


def _phone(run: str, folder: Path, tools: Path | None, data: Path | None) -> None:
    from dozan.ship.phone import export_phone
    from dozan.terminal import read_tools

    made = export_phone(run, folder, None if tools is None else read_tools(tools), data, typer.echo)
    speed = made.speed
    typer.echo(
        f"{folder}: {len(made.prompt.prefix_ids)} tokens of prompt stored; here the rest of a prompt takes "
        f"{1000 * speed['prompt_seconds_with_prefix']:.0f} ms instead of {1000 * speed['prompt_seconds']:.0f}, "
        f"{speed['generated_tokens_per_second']:.0f} tokens/s generated, {speed['peak_rss_bytes'] / 2**20:.0f} MiB. "
        "Read PROMPT.md there."
    )
