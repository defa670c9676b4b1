"""ModelCatalog: what anyone may ask about the models."""

from __future__ import annotations

from seqserve.v1 import catalog_pb2, catalog_pb2_grpc
from seqserve.v1.catalog_pb2 import ModelState, ModelStatus
from seqserve_server.models.repository import Entry, Repository, State
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.status import Context, answering
from seqserve_server.validation import check_model_name

_STATES = {
    State.LOADING: ModelState.MODEL_STATE_LOADING,
    State.READY: ModelState.MODEL_STATE_READY,
    State.FAILED: ModelState.MODEL_STATE_FAILED,
    State.UNLOADED: ModelState.MODEL_STATE_UNLOADED,
}


def model_status(entry: Entry) -> ModelStatus:
    """A version's state as a message."""
    return ModelStatus(
        name=entry.name,
        version=entry.version,
        state=_STATES[entry.state],
        digest=entry.digest,
        execution_provider=entry.model.execution_provider if entry.model else "",
        message=entry.message,
    )


class ModelCatalogServicer(catalog_pb2_grpc.ModelCatalogServicer):
    """Says which versions there are and what they are.

    Args:
        repository: Knows them.
        counts: Told of every call that ends.
    """

    def __init__(self, repository: Repository, counts: Calls | None = None) -> None:
        self._repository = repository
        self.counts = counts

    @answering
    async def ListModels(  # noqa: N802
        self, request: catalog_pb2.ListModelsRequest, _context: Context
    ) -> catalog_pb2.ListModelsResponse:
        """Every version known, by name and then version."""
        if request.model_name:
            check_model_name(request.model_name)
        entries = self._repository.entries(request.model_name)
        return catalog_pb2.ListModelsResponse(models=map(model_status, entries))

    @answering
    async def DescribeModel(  # noqa: N802
        self, request: catalog_pb2.DescribeModelRequest, _context: Context
    ) -> catalog_pb2.DescribeModelResponse:
        """The state and the manifest of one version."""
        check_model_name(request.model_name)
        entry = self._repository.entry(request.model_name, request.model_version)
        return catalog_pb2.DescribeModelResponse(
            status=model_status(entry), manifest=entry.manifest
        )
