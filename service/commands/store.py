"""The commands that work on the store itself, beside the service or without one."""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gradmem_core.extras import requires_extra
from gradmem_core.tenants import DEFAULT_TENANT, OWN_PREFIX, TENANT_PATTERN
from service.commands.progress import show_progress
from service.commands.terminal import (
    EXIT_FAILED,
    EXIT_REFUSED,
    exit_on_service_errors,
    fail,
    format_count,
    format_time,
    print_table,
)
from service.keys import ApiKey, KeyLimits, Role, make_key
from service.settings import Settings, refuse_unknown_names
from service.stores import Store
from service.stores.sqlite import SCHEME, parse_path

if TYPE_CHECKING:
    from service.audit_log import Act
    from service.copying import CopiedStore

T = TypeVar("T")

StoreUrl = Annotated[
    str | None,
    typer.Option(help="Store of the memories; that of GRADMEM_STORE_URL by default."),
]

keys = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Make, list and revoke the keys of clients, which are in the store.

    Once there has been a key, the service lets nobody in without one: clients send
    `Authorization: Bearer KEY`, or set GRADMEM_KEY.""",
)


@keys.command()
def create(
    tenant: Annotated[
        str,
        typer.Option(metavar="NAME", help="Tenant whose memories the key opens, and no others."),
    ] = DEFAULT_TENANT,
    role: Annotated[
        Role,
        typer.Option(
            help="read: read and describe memories; write: also write and delete them; admin: also"
            " the metrics."
        ),
    ] = "write",
    requests_per_second: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most requests per second, and at once."),
    ] = None,
    max_memories: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most memories of the tenant; those of GRADMEM_MAX_MEMORIES by default.",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most bytes of the tenant's memories in the store, names and metadata included;"
            " those of GRADMEM_MAX_MEMORY_BYTES by default.",
        ),
    ] = None,
    store_url: StoreUrl = None,
) -> None:
    """Make a key and print it.

    The store keeps a hash of it: nothing shows it a second time. Memories without a tenant, from
    before there were keys, are those of the tenant `default`.
    """
    with exit_on_service_errors():
        if not re.fullmatch(TENANT_PATTERN, tenant):
            fail("--tenant takes 1 to 63 lower-case letters, digits, - and _", EXIT_REFUSED)
        if tenant.startswith(OWN_PREFIX):
            fail(f"names that begin with {OWN_PREFIX} are the service's own", EXIT_REFUSED)
        limits = KeyLimits(
            requests_per_second=requests_per_second,
            max_memories=max_memories,
            max_bytes=max_bytes,
        )
        key, record = make_key(tenant, role, limits)
        _run(store_url, lambda store: store.save_key(record.key_id, record.model_dump_json()))
        _record("key.create", key_id=record.key_id, tenant=tenant, role=role)
        typer.echo(key)


@keys.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    store_url: StoreUrl = None,
) -> None:
    """List all keys by their ids, the oldest first; the secrets are unknown."""
    with exit_on_service_errors():
        records = _run(store_url, _list_records)
        if as_json:
            secret = {"salt", "digest"}
            shown = [record.model_dump(mode="json", exclude=secret) for record in records]
            typer.echo(json.dumps({"keys": shown}))
            return
        heads = ("ID", "TENANT", "ROLE", "CREATED", "REVOKED", "LIMITS")
        print_table(heads, list(map(_describe, records)))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as listed.")],
    store_url: StoreUrl = None,
) -> None:
    """Revoke a key for good: within five seconds it opens nothing."""
    with exit_on_service_errors():
        _run(store_url, lambda store: _revoke(store, key_id))
        _record("key.revoke", key_id=key_id)


def purge(store_url: StoreUrl = None) -> None:
    """Remove the bytes of deleted memories from the files of the store.

    Redis is told to rewrite its append-only file. A SQLite file needs this only where another
    program was reading it: the service does the same every minute.
    """
    with exit_on_service_errors():
        _run(store_url, lambda store: store.purge())
        _record("store.purge")


def copy(
    from_url: Annotated[
        str,
        typer.Argument(
            metavar="FROM_URL",
            help="Store to copy; - for that of GRADMEM_STORE_URL, which others cannot see.",
        ),
    ],
    to_url: Annotated[
        str, typer.Argument(metavar="TO_URL", help="Store that gets the copies; - as above.")
    ],
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="Copy jobs and idempotency keys, too: no service uses FROM_URL any more.",
        ),
    ] = False,
    with_keys: Annotated[bool, typer.Option("--keys", help="Copy the API keys, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Copy a store into another, such as from SQLite to Redis.

    Everything keeps its id, tenant and expiry, and what is encrypted stays encrypted. Memories that
    are there already are left as they are, so that a run that was interrupted is continued by the
    next. Services may run meanwhile, but what they do during the run may be missing until the next:
    stop them before the last, which is told so by --final. Jobs are copied only then, or both
    stores would write them; documents that a service was writing wait in the copy. Exit status 1
    means that some memories are damaged: they are named and not copied.
    """
    with requires_extra("service"):
        from service.audit_log import audit
        from service.copying import copy_store
        from service.log import configure_audit
        from service.stores import create_store

    async def run(source_url: str, target_url: str) -> "CopiedStore":
        async with (
            create_store(source_url, allow_eviction=True) as source,
            create_store(target_url) as target,
        ):
            with show_progress(None) as report:
                return await copy_store(
                    source,
                    target,
                    final=final,
                    with_keys=with_keys,
                    show_progress=lambda kind, so_far: report(
                        so_far.copied, f"{kind}, {so_far.present:,} there already"
                    ),
                )

    with exit_on_service_errors():
        urls = [_settings(None if url == "-" else url).store_url for url in (from_url, to_url)]
        _refuse_copy(*urls)
        configure_audit()
        copied = asyncio.run(run(*urls))
        counts: dict[str, Any] = {kind: each.copied for kind, each in copied.others.items()}
        audit("store.copy", memories=copied.memories.copied, **counts)
    _print_copied(copied, as_json=as_json)
    if not final:
        typer.echo(
            "jobs and idempotency keys are copied with --final, once no service uses FROM_URL",
            err=True,
        )
    if copied.memories.damaged:
        raise typer.Exit(EXIT_FAILED)


def rekey(store_url: StoreUrl = None) -> None:
    """Encrypt the memories in the store with the first of the keys.

    Keys are those of GRADMEM_ENCRYPTION_KEYS or GRADMEM_ENCRYPTION_KEY_FILE. Memories under the
    other keys and plain ones are encrypted anew; services may run meanwhile. A run that was
    interrupted is continued by the next. Exit status 1 means that some could not be read.
    """
    with requires_extra("service"):
        from service.encryption import Keyring
        from service.encryption import rekey as rekey_store
    with exit_on_service_errors():
        settings = _settings(store_url)
        keyring = Keyring(settings.read_encryption_keys())
        result = _run(store_url, lambda store: rekey_store(store, keyring))
        encrypted = format_count(result.encrypted, "memory")
        typer.echo(f"encrypted {encrypted}; {result.current} had the key already")
        if result.unreadable:
            fail(
                f"{format_count(result.unreadable, 'memory')} could not be read, for damage or a"
                " missing key; keep the older keys",
                EXIT_FAILED,
            )


def _settings(store_url: str | None) -> Settings:
    """Return the settings, with another store where a URL is given."""
    refuse_unknown_names(os.environ)
    return Settings() if store_url is None else Settings(store_url=store_url)


def _run(store_url: str | None, operation: Callable[[Store], Awaitable[T]]) -> T:
    """Run an operation on the store that a URL or the settings name."""

    with requires_extra("service"):
        from service.log import configure_audit
        from service.stores import create_store

    async def run() -> T:
        async with create_store(url, allow_eviction=True) as store:
            return await operation(store)

    url = _settings(store_url).store_url
    configure_audit()
    return asyncio.run(run())


def _record(act: "Act", **details: str) -> None:
    """Record an act that `_run` has done."""
    from service.audit_log import audit

    audit(act, **details)


def _refuse_copy(source_url: str, target_url: str) -> None:
    """Refuse to copy a store into itself, or a SQLite file that opening would create."""
    if source_url == target_url:
        fail("FROM_URL and TO_URL name the same store", EXIT_REFUSED)
    if source_url.startswith(SCHEME) and not parse_path(source_url).exists():
        fail("FROM_URL names a SQLite file that does not exist", EXIT_REFUSED)


def _print_copied(copied: "CopiedStore", *, as_json: bool) -> None:
    memories = copied.memories
    damaged = [{"tenant": tenant, "memory_id": each} for tenant, each in memories.damaged]
    for name in damaged:
        typer.echo("damaged: {memory_id} of tenant {tenant}".format(**name), err=True)
    if as_json:
        result: dict[str, object] = vars(memories) | {"damaged": damaged}
        typer.echo(json.dumps(result | {kind: vars(each) for kind, each in copied.others.items()}))
        return
    typer.echo(
        f"copied {format_count(memories.copied, 'memory')};"
        f" {memories.present} there already, {len(damaged)} damaged"
    )
    for kind, each in copied.others.items():
        noun = kind.removesuffix("s").replace("_", " ")
        typer.echo(f"copied {format_count(each.copied, noun)}; {each.present} there already")


async def _list_records(store: Store) -> Sequence[ApiKey]:
    records = map(ApiKey.model_validate_json, await store.list_keys())
    return sorted(records, key=lambda record: record.created_at)


async def _revoke(store: Store, key_id: str) -> None:
    text = await store.find_key(key_id)
    if text is None:
        fail("no key has this id; `gradmem keys list` shows the ids", EXIT_REFUSED)
    await store.save_key(key_id, ApiKey.model_validate_json(text).revoke().model_dump_json())


def _describe(record: ApiKey) -> list[str]:
    """Return the columns of a key."""
    limits = record.limits.model_dump(exclude_none=True)
    return [
        record.key_id,
        record.tenant,
        record.role,
        format_time(record.created_at),
        format_time(record.revoked_at),
        " ".join(f"{name.replace('_', '-')}={value}" for name, value in limits.items()),
    ]
