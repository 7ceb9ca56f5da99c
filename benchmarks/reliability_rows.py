"""The rows of measurements of reliability, which docs/RELIABILITY.md shows.

Times are in seconds.
"""

from typing import Literal

from benchmarks.results import Amount, Count, Row, Seconds


class Fault(Row):
    """A fault of a store or a process while the service is written to, and what it cost."""

    measurement: Literal["fault"] = "fault"
    fault: str
    store: str
    times: Count
    "Number of times that it happened."
    acknowledged: Amount
    "WRITEs that the service acknowledged."
    deleted: Amount
    "Their memories that were deleted again, acknowledged too."
    refused: Amount
    "Requests answered with a problem."
    cut: Amount
    "Requests whose connection ended without an answer."
    unanswered: Amount
    "Requests without an answer or an end of the connection."
    lost: Amount
    "Acknowledged memories that are not there afterwards."
    wrong: Amount
    "Memories that are damaged, or of another document."
    undeleted: Amount
    "Deleted memories that are there afterwards."
    ready: Seconds | None
    "From the end of the fault until the service is ready; null where its process was killed."


class Isolation(Row):
    """Tenants who carried out random operations, held against a model of who owns what."""

    measurement: Literal["isolation"] = "isolation"
    store: str
    tenants: Count
    operations: Count
    foreign: Amount
    "Requests for what another tenant has."
    leaked: Amount
    "Those that were answered otherwise than for what nobody has."
    lost: Amount
    "Requests for what the tenant has that were not answered as the model says."
    revived: Amount
    "Requests for what was deleted that were answered otherwise than for what nobody has."


class Soak(Row):
    """A part of a long time under steady traffic: latencies, and the most that was held in it."""

    measurement: Literal["soak"] = "soak"
    store: str
    part: Count
    "The parts are equally long; 1 is the first."
    seconds: Seconds
    requests: Amount
    "Requests that were answered as they should be."
    failed: Amount
    write: Seconds | None
    "Median latency of WRITE; null where there was none."
    read: Seconds | None
    list: Seconds | None
    delete: Seconds | None
    p99: Seconds
    "Latency that 99 in 100 requests keep within."
    resident_bytes: Amount
    "Resident memory of the service's process."
    open_files: Amount
    "Open files and sockets."
    process_threads: Amount
    "Threads of the process."
    store_bytes: Amount
    "Size of SQLite's files, or of the memory that Redis uses."


class StoreScale(Row):
    """An operation of a store that holds some number of small memories."""

    measurement: Literal["store-scale"] = "store-scale"
    store: str
    memories: Count
    operation: str
    calls: Count
    p50: Seconds
    p99: Seconds


class FuzzedRoute(Row):
    """Answers of a route to random requests."""

    measurement: Literal["fuzzed-route"] = "fuzzed-route"
    route: str
    requests: Count
    succeeded: Amount
    refused: Amount
    "Answered with 4xx, or with 504 to a request that set a timeout."
    failed: Amount
    "Answered with another 5xx."
    violations: Amount
    "Answers that the OpenAPI document does not describe."
