"""The engine of Ray Data: networks in several processes, on one machine or on a cluster."""

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rmt.data.images import BadImage
from rmt.data.sources.collection import Collection
from rmt.errors import RMTError
from rmt.extras import missing_extra
from rmt.inference.bulk.work import Done, Work, Worker

CHUNK = 256
"""Images of one task. Those of a process that dies are given to another one."""
RETRIES = 5
"""Times that a task whose process dies is done again: a process that always runs out of memory must end the command."""


class RayEngine:
    """An engine of `write_answers`.

    Args:
        replicas: number of networks; 0: one for each GPU, or for each `workers` + 1 cores.
    """

    def __init__(self, replicas: int = 0) -> None:
        self.replicas = replicas
        require_ray()

    def __call__(self, work: Work, worker: Worker, collection: Collection, indices: np.ndarray) -> Iterator[Done]:
        chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        processes = work.workers + 1
        gpu = worker.predictor.device.type == "cuda" or work.load_options.get("device", "auto") == "auto"
        # "auto" would be another precision on a machine with a GPU than on one without
        work = replace(work, load_options=work.load_options | {"precision": worker.predictor.precision})
        results = run_chunks(_Replica, (work, collection), chunks, replicas=self.replicas, cores=processes, gpu=gpu)
        for result in results:
            done = _unpack(result)
            for model in set(done.table["model"].to_pylist()) - {worker.model}:
                raise RMTError(
                    f"--engine ray: a process answers by {model}, not by {worker.model}: the file {work.checkpoint} is "
                    "another one on its machine"
                )
            yield done


class _Replica:
    """One network in a process of Ray."""

    def __init__(self, work: Work, collection: Collection) -> None:
        self.worker, self.collection = work.start(), collection

    def __call__(self, indices: np.ndarray) -> bytes:
        done = list(self.worker.run(self.collection, indices))
        return _pack(
            [index for one in done for index in one.indices],
            pa.concat_tables([one.table for one in done]),
            [error for one in done for error in one.bad],
        )


def run_chunks(
    replica: Callable[..., Callable[[np.ndarray], bytes]],
    arguments: tuple[Any, ...],
    chunks: Sequence[np.ndarray],
    *,
    replicas: int,
    cores: int,
    gpu: bool,
) -> Iterator[bytes]:
    """Yields what a replica returns for each chunk, in any order, each exactly once.

    Ray starts a process again that dies, and repeats its chunk.

    Args:
        replica: called with `arguments` in each process; its result is called with chunks.
        arguments: can be pickled.
        chunks: int64 arrays.
        replicas: number of processes; 0: as many as there are GPUs, or as cores allow.
        cores: of each process.
        gpu: give each process a GPU, if there are any.
    Raises:
        RMTError: what a replica raises as one; Ray cannot be started; a chunk has ended its process `RETRIES` times.
    """
    require_ray()
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        _start()
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if gpu else 0
        available = int(resources.get("CPU", 1))
        count = replicas or gpus or max(1, available // cores)
        count = min(count, len(chunks))
        data = ray.data.from_items([{"chunk": chunk.tolist()} for chunk in chunks], override_num_blocks=len(chunks))
        results = data.map_batches(
            _Call,
            batch_size=1,
            fn_constructor_args=(replica, arguments),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=min(cores, max(1, available // count)),
            num_gpus=min(1.0, gpus / count) if gpus else None,
            max_task_retries=RETRIES,
        )
        for row in results.iter_rows():
            if row["error"]:
                raise RMTError(row["error"])
            yield row["result"]
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:200]
        raise RMTError(f"--engine ray: a process failed ({reason}); fewer --replicas need less memory") from error
    finally:
        if started_here:
            ray.shutdown()


class _Call:
    """What Ray Data calls: a batch of one chunk to a batch of one result, or the line of an error."""

    def __init__(self, replica: Callable[..., Callable[[np.ndarray], bytes]], arguments: tuple[Any, ...]) -> None:
        self.error = ""
        try:
            self.replica = replica(*arguments)
        except RMTError as error:  # raised here, Ray would start the process again and again
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result, error = b"", self.error
        if not error:
            try:
                result = self.replica(np.array(batch["chunk"][0], np.int64))
            except RMTError as failed:
                error = str(failed)
        return {"result": [result], "error": [error]}


def require_ray() -> None:
    """Raises RMTError if Ray Data is not installed."""
    if importlib.util.find_spec("ray") is None:
        missing = missing_extra("--engine ray", ModuleNotFoundError(name="ray"))
        assert missing is not None
        raise missing


def _start() -> None:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine."""
    import ray

    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            include_dashboard=False if not os.environ.get("RAY_ADDRESS") else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except Exception as error:
        raise RMTError(
            f"--engine ray: Ray cannot be started or reached ({' '.join(str(error).split())[:200]})"
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _pack(indices: list[int], table: pa.Table, bad: list[BadImage]) -> bytes:
    """A result as bytes: the table as an Arrow stream, with the rest in its metadata."""
    rest = json.dumps({"indices": indices, "bad": [[error.name, error.reason] for error in bad]})
    table = table.replace_schema_metadata({"rmt": rest})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpack(result: bytes) -> Done:
    table = pa.ipc.open_stream(result).read_all()
    rest = json.loads(table.schema.metadata[b"rmt"])
    return Done(rest["indices"], table.replace_schema_metadata(None), [BadImage(*why) for why in rest["bad"]])
