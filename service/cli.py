"""`gradmem`: run the service, and write and read memories with it.

Results go to standard output, errors and notes to standard error, one per line; --json is for
programs. `gradmem --install-completion` completes commands and options in your shell.

Exit status: 0 success, 1 the service failed, cannot be reached or cannot start, 2 the command
cannot be carried out as it was given, 3 the memory does not answer a query.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from service.commands import (
    checkpoints,
    diagnosis,
    files,
    jobs,
    mcp,
    measuring,
    memories,
    planning,
    reading,
    serving,
    store,
    writing,
)

# Plain help: docs/CLI.md is made from it. No tracebacks: they may hold documents.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradmem {version('gradmem')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


app.command()(serving.serve)
app.command()(writing.write)
app.command()(reading.ask)
app.command()(reading.read)
app.command("ls")(memories.list_memories)
app.command()(memories.show)
app.command()(memories.patch)
app.command()(writing.replace)
app.command("rm")(memories.remove)
app.command("export")(files.export_memory)
app.command("import")(files.import_memory)
app.command()(checkpoints.models)
app.add_typer(jobs.jobs, name="jobs")
app.add_typer(store.keys, name="keys")
app.command()(store.copy)
app.command()(store.rekey)
app.command()(store.purge)
app.command("mcp")(mcp.serve_mcp)
app.command()(diagnosis.doctor)
app.command()(measuring.bench)
app.command()(planning.plan)
