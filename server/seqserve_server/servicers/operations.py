"""ModelRepository: what operators may do with the models, where calls may do it at all."""

from __future__ import annotations

from seqserve.v1 import repository_pb2, repository_pb2_grpc
from seqserve_server.errors import OperatorCallsRefused
from seqserve_server.models.repository import Repository
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.servicers.catalog import model_status
from seqserve_server.status import Context, answering
from seqserve_server.validation import check_model_name


class ModelRepositoryServicer(repository_pb2_grpc.ModelRepositoryServicer):
    """Loads and unloads versions.

    Args:
        repository: Does it.
        refusal: Why nobody may call at all; empty where those may who have the right.
        counts: Told of every call that ends.
    """

    def __init__(
        self, repository: Repository, *, refusal: str, counts: Calls | None = None
    ) -> None:
        self._repository = repository
        self.counts = counts
        self._refusal = refusal

    @answering
    async def LoadModel(  # noqa: N802
        self, request: repository_pb2.LoadModelRequest, _context: Context
    ) -> repository_pb2.LoadModelResponse:
        """Answers when the version is ready."""
        self._check_allowed()
        check_model_name(request.model_name)
        entry = await self._repository.load(request.model_name, request.model_version)
        return repository_pb2.LoadModelResponse(status=model_status(entry))

    @answering
    async def UnloadModel(  # noqa: N802
        self, request: repository_pb2.UnloadModelRequest, _context: Context
    ) -> repository_pb2.UnloadModelResponse:
        """Answers when the version takes no more calls; those that run on it finish."""
        self._check_allowed()
        check_model_name(request.model_name)
        entry = await self._repository.unload(request.model_name, request.model_version)
        return repository_pb2.UnloadModelResponse(status=model_status(entry))

    @answering
    async def ReloadRepository(  # noqa: N802
        self, _request: repository_pb2.ReloadRepositoryRequest, _context: Context
    ) -> repository_pb2.ReloadRepositoryResponse:
        """Answers when what is served is what the policy wants."""
        self._check_allowed()
        await self._repository.reload()
        entries = self._repository.entries()
        return repository_pb2.ReloadRepositoryResponse(models=map(model_status, entries))

    def _check_allowed(self) -> None:
        if self._refusal:
            raise OperatorCallsRefused(self._refusal)
