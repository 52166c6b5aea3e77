"""What can be wrong with a query, by the names that Prometheus' API gives it."""

from __future__ import annotations

from misstep.core.errors import InputError


class QueryError(InputError):
    """A query that is not answered.

    Args:
        kind: ``bad_data``, ``execution``, ``timeout``, ``canceled`` or ``unavailable``, as in the API's ``errorType``.
        message: what is wrong, for the one who asked.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def malformed(message: str) -> QueryError:
    """The text or a parameter of the query is wrong."""
    return QueryError("bad_data", message)


def failed(message: str) -> QueryError:
    """The query is well formed, but cannot be carried out on this data."""
    return QueryError("execution", message)


def too_many() -> QueryError:
    """The refusal of what would not fit into memory."""
    return failed("query processing would load too many samples into memory in query execution")
