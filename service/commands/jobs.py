"""`gradmem jobs`: documents that the service writes after `gradmem write --job`."""

import json
from itertools import islice
from typing import Annotated

import typer

from service.client import DEFAULT_URL, Memory, ProblemError, Unavailable
from service.commands.options import AsJson, Url, connect
from service.commands.progress import show_progress
from service.commands.terminal import (
    EXIT_FAILED,
    EXIT_REFUSED,
    format_time,
    print_fields,
    print_json_list,
    print_table,
)
from service.schemas import WriteResult

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]

jobs = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, await and cancel jobs, which `gradmem write --job` submits.",
)


@jobs.command("ls")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to print.")] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, the newest first."""
    with connect(url) as client:
        infos = [job.info for job in islice(client.jobs(), limit)]
    if as_json:
        print_json_list("jobs", infos)
        return
    print_table(
        ("ID", "STATUS", "DOCUMENTS", "WRITTEN", "FAILED", "CREATED"),
        [
            (
                info.job_id,
                info.status,
                str(info.documents),
                str(info.written),
                str(info.failed),
                format_time(info.created_at),
            )
            for info in infos
        ],
    )


@jobs.command("show")
def show_job(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Describe a job."""
    with connect(url) as client:
        info = client.job(job_id).describe()
    print_fields(info, as_json=as_json)


@jobs.command("wait")
def wait_for_job(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Wait until a job has ended, then print its results.

    The exit status is 1 if the service failed to write a document, otherwise 2 if one was refused
    or the job was cancelled.
    """
    with connect(url) as client:
        job = client.job(job_id)
        with show_progress(job.describe().documents) as report:
            info = job.wait(on_look=lambda seen: report(seen.written + seen.failed, seen.status))
        results = job.results()
    _print_results(results, as_json=as_json)
    if any(isinstance(result, Unavailable) for result in results):
        raise typer.Exit(EXIT_FAILED)
    if info.failed or info.status == "cancelled":
        raise typer.Exit(EXIT_REFUSED)


@jobs.command("results")
def print_results(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Print the results of a job so far, in the order of its documents."""
    with connect(url) as client:
        results = client.job(job_id).results()
    _print_results(results, as_json=as_json)


@jobs.command("cancel")
def cancel_job(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Cancel a job; forget one that has ended. What is written stays."""
    with connect(url) as client:
        client.job(job_id).cancel()


def _print_results(
    results: list[Memory[WriteResult] | ProblemError | None], *, as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps({"results": [_to_json(result) for result in results]}))
        return
    print_table(
        ("DOCUMENT", "MEMORY", "PROBLEM"),
        [
            (
                str(number),
                result.memory_id if isinstance(result, Memory) else "-",
                str(result) if isinstance(result, ProblemError) else "",
            )
            for number, result in enumerate(results, start=1)
        ],
    )


def _to_json(result: Memory[WriteResult] | ProblemError | None) -> object:
    """Return a result as `GET /jobs/{id}/results` has it."""
    match result:
        case Memory():
            return {"memory": result.info.model_dump(mode="json")}
        case ProblemError():
            return {"problem": result.problem.model_dump(mode="json")}
        case None:
            return None
