"""The bodies of routes for batches and jobs."""

from pydantic import BaseModel, ConfigDict, Field

from service.schemas import Problem, RequestBody, WriteRequest, WriteResult

MAX_DOCUMENTS = 256
"Most documents of a batch."


class BatchRequest(RequestBody):
    """The body of `POST /write/batch`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "documents": [
                        {"document": "Alice: +49 30 5550123", "name": "Alice"},
                        {"document": "Door code: 4711#", "ttl_seconds": 3600},
                    ]
                }
            ]
        }
    )

    documents: list[WriteRequest] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    "Documents with their options, as in the body of `POST /write`."


class WrittenDocument(BaseModel):
    """The result of a document that was written."""

    memory: WriteResult


class FailedDocument(BaseModel):
    """The result of a document that was not written."""

    problem: Problem


DocumentResult = WrittenDocument | FailedDocument


class BatchResponse(BaseModel):
    """The results of documents, in their order."""

    results: list[DocumentResult]
