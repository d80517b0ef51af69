"""The application: its paths, from request to answer. `rmt serve` runs what `create_app` returns."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rmt._version import __version__
from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.inference.embeddings import embedding_function
from rmt.inference.runtime import TorchRuntime
from rmt.serve.answers import (
    ANSWERS,
    Embedding,
    Explained,
    Model,
    Stage,
    Threshold,
    TopK,
    X,
    Y,
    describe,
    explains,
)
from rmt.serve.bodies import Body, Budget, Gone
from rmt.serve.errors import Refusal, error_body, error_response, json_response
from rmt.serve.guard import PAGE, Guard
from rmt.serve.hosted import Hosted, Watch
from rmt.serve.jobs import Embed, Explain, Job, Predict
from rmt.serve.limits import Limits
from rmt.serve.metrics import Metrics
from rmt.serve.openapi import IMAGES, answers_of, refusals
from rmt.serve.work import Work

PATHS = ("/predict", "/explain", "/embed", "/model", "/health", "/metrics", "/openapi.json", *PAGE)


def create_app(
    hosted: Hosted,
    limits: Limits | None = None,
    *,
    hosts: Sequence[str] = (),
    token: str = "",
    reload: bool = False,
) -> FastAPI:
    """The ASGI application that answers for one network.

    Args:
        hosted: the network.
        limits: of sizes, numbers and times.
        hosts, token: see `Guard`.
        reload: load the network's file again when it changes.
    """
    limits = limits or Limits()
    metrics = Metrics(PATHS)
    budget = Budget(limits.bodies)
    work = Work(hosted, limits, metrics.batch)
    metrics.gauge("rmt_images_waiting", "Images accepted and not answered yet.", lambda: work.accepted)
    metrics.gauge("rmt_body_bytes", "Bytes of the requests that are being sent or wait.", lambda: budget.used)
    metrics.gauge("rmt_model_version", "Number of the file that is served.", lambda: hosted.version)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch = Watch(hosted, metrics.reload) if reload else None
        yield
        if watch:
            watch.stop()
        work.close()

    app = FastAPI(
        title="rmt serve",
        version=__version__,
        description=f"Answers of a trained network for images; task: {hosted.predictor.task}.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Guard, metrics=metrics, hosts=hosts, token=token)
    _add_error_handlers(app)

    async def respond(request: Request, job: Job) -> Response:
        """The answer to a POST of images."""
        body = Body(request, limits, budget)
        try:
            images = await body.images()
            found = await _while_connected(request, work.answers(images, job))
        except Gone:
            return Response(status_code=499)  # nobody reads it
        finally:
            body.release()
        if len(found) == 1 and isinstance(found[0], BadImage):
            raise Refusal(422, str(found[0]))
        results = [error_body(422, str(one)) if isinstance(one, BadImage) else one for one in found]
        return json_response({"version": hosted.version, "results": results})

    def images_to(path: str, result: type[BaseModel], summary: str, job: Callable[..., Awaitable[Job]]) -> None:
        """Add a path that takes images. `job` has the options in the query as parameters."""
        options = tuple(inspect.signature(job).parameters)

        @app.post(
            path,
            openapi_extra=IMAGES,
            responses={200: answers_of(result), **refusals(408, 413, 415, 422, 503)},
            response_class=Response,
            summary=summary,
        )
        async def answer(request: Request, wanted: Annotated[Job, Depends(job)]) -> Response:
            _refuse_unknown(request.query_params, options)
            return await respond(request, wanted)

    task = hosted.predictor.task
    images_to("/predict", ANSWERS[task], "Classes, objects or a class map for each image", _predict_job(hosted))
    images_to("/explain", Explained, "What each head attends to from a point", _explain_job(hosted))
    images_to("/embed", Embedding, "The features of each image as a vector", _embed_job(hosted))

    @app.get("/model", responses={200: {"model": Model}, **refusals()}, response_class=Response, summary="The network")
    async def model() -> Response:
        named = ("max_body", "max_images", "max_pixels", "timeout")
        predictor, version = hosted.current
        return json_response(describe(predictor, version, {name: getattr(limits, name) for name in named}))

    @app.get("/health", summary="Whether the server answers", responses=refusals(token=False))
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "version": hosted.version}

    @app.get(
        "/metrics",
        response_class=Response,
        summary="Counters for Prometheus",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals()},
    )
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return json_response(app.openapi())

    for path, (name, kind) in PAGE.items():
        _add_file(app, path, name, kind)
    return app


async def _while_connected(request: Request, work: Awaitable[list[Any]]) -> list[Any]:
    """The result of the work, which is cancelled when the client closes the connection. Raises Gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refuse_unknown(options: Iterable[str], known: Sequence[str]) -> None:
    """Raises Refusal for an option in a query that the network does not have."""
    if unknown := sorted(set(options) - set(known)):
        possible = f"it has {', '.join(known)}" if known else "it has none"
        raise Refusal(422, f"no such option of this network: {unknown[0][:40]!r}; {possible}")


# The functions of options are coroutines, since FastAPI runs others in a thread: more work, and a wait for the threads
# that decode.
def _predict_job(hosted: Hosted) -> Callable[..., Awaitable[Job]]:
    async def classify(top_k: TopK = 5) -> Job:
        return Predict((("top_k", top_k),))

    async def detect(threshold: Threshold | None = None) -> Job:
        return Predict((), hosted.predictor.threshold if threshold is None else threshold)  # type: ignore[attr-defined]

    async def segment() -> Job:
        return Predict()

    jobs: dict[str, Callable[..., Awaitable[Job]]] = {"classify": classify, "detect": detect, "segment": segment}
    return jobs[hosted.predictor.task]


def _embed_job(hosted: Hosted) -> Callable[..., Awaitable[Job]]:
    async def embed(stage: Stage | None = None) -> Job:
        if not isinstance(hosted.predictor.runtime, TorchRuntime):
            raise Refusal(422, "an exported file has no features to embed, only predictions")
        try:
            embedding_function(hosted.predictor.model, stage)
        except RMTError as error:  # no such stage
            raise Refusal(422, str(error).removeprefix("--")) from None
        return Embed(stage)

    return embed


def _explain_job(hosted: Hosted) -> Callable[..., Awaitable[Job]]:
    async def explain(x: X = 0.5, y: Y = 0.5) -> Job:
        if not explains(hosted.predictor):
            raise Refusal(422, "only a model file of an RMT network can be explained, not an exported file")
        return Explain(x, y)

    return explain


def _add_file(app: FastAPI, path: str, name: str, kind: str) -> None:
    content = (files("rmt.serve") / "page" / name).read_bytes()

    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return error_response(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return error_response(500, "an error of the server; its log says more")
