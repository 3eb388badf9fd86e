"""Embedding of a file of any size on a Ray cluster.

The driver reads the input once, checks it, and cuts it into shards. A dataset of Ray Data has one row for each shard,
and a pool of actors embeds them: see :mod:`prott5nv.scale.embed_shards`. Ray gives the shard of an actor that dies to
another one. Only the numbers of shards go through the object store. Proteins and embeddings go through the folder of
the output, which all nodes share.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prott5nv.embedding.commits import write_skipped
from prott5nv.embedding.embedder import check_options
from prott5nv.embedding.job import Summary
from prott5nv.embedding.journal import fingerprint_of
from prott5nv.embedding.partial import check_same_settings, other_input
from prott5nv.embedding.run import Listener, Request
from prott5nv.embedding.shard_folder import SKIPPED, Manifest, is_shard_folder, read_manifest, write_manifest
from prott5nv.embedding.survey import CheckedProteins
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.io.inputs import reads_once
from prott5nv.io.text import counted
from prott5nv.scale.cluster import cause, connected, model_everywhere
from prott5nv.scale.embed_shards import EmbedShards, LoadedModel, ShardJob, describe
from prott5nv.scale.input_parts import cut, residues_per_shard
from prott5nv.scale.remote_input import with_local_copies
from prott5nv.scale.run_folder import RunFolder

_OBJECT_STORE_BYTES = 100_000_000  # of a Ray that is started here; rows of numbers need little


def embed_on_ray(
    request: Request, listener: Listener, *, address: str | None = None, actors: int | None = None
) -> Summary:
    """Embed a file on a Ray cluster. After an interruption, the same call continues where it stopped.

    Parameters
    ----------
    request : Request
        Input, output and options. Files of the input that are in an object store, such as ``s3://bucket/proteins/``,
        are copied to the folder of the run first. The output is a folder, which all nodes must share, as they must
        share the model. It appears when it is complete; until then, finished shards are kept in ``<output>.partial/``.
        The device is ``auto``, ``cuda`` or ``cpu``; ``auto`` uses GPUs if the cluster has any.
    listener : Listener
        Receives the progress.
    address : str, optional
        Address of a cluster, as for ``ray.init``. By default it is that of the environment variable ``RAY_ADDRESS``;
        without one, Ray is started on this machine and stopped at the end. If the program has connected to Ray already,
        that cluster is used.
    actors : int, optional
        Largest number of actors. By default there is one for each GPU, or one for each node if the CPUs compute.

    Returns
    -------
    Summary

    Raises
    ------
    ProtT5nvError
        If a record cannot be embedded, the output exists with other content, an unfinished run has other settings or
        another input, a remote file cannot be read, or the actors die again and again.
    OSError
        If the disk is full. Call the function again when there is room.
    """
    require_extra("ray", "--ray")
    _check(request)
    request = replace(request, output=Path(os.path.abspath(request.output)), model=model_everywhere(request.model))
    folder = RunFolder(request.output)
    with connected(address, _OBJECT_STORE_BYTES), folder.locked():
        request = replace(request, source=with_local_copies(request.source, folder.copies))
        return _Run(request, folder, listener, _resources(request, actors)).run()


@dataclass(frozen=True)
class _Resources:
    """What an actor gets, how many actors the cluster can hold now, and how many there may be."""

    cpus: int
    gpus: int
    actors: int
    most: int | None


@dataclass
class _Run:
    """One run, which leads the actors."""

    request: Request
    folder: RunFolder
    listener: Listener
    resources: _Resources

    def run(self) -> Summary:
        """Check the input, embed all shards that are not finished, and write the output."""
        request, folder = self.request, self.folder
        model = self._load()
        header = folder.header()
        bytes_per_residue = 0 if request.pooling else model.hidden_size * np.dtype(request.dtype).itemsize
        residues = header.get("residues_per_shard") or residues_per_shard(
            request.source, self.resources.actors, bytes_per_residue
        )
        is_known = bool(header)
        survey, count = cut(
            self._proteins(model), residues, folder.input, folder.is_done if is_known else lambda number: False
        )
        fingerprint = fingerprint_of(model.settings, survey.digest)
        if request.output.exists() and not request.overwrite:
            return self._complete(fingerprint)
        if is_known:
            check_same_settings(folder.path, header["settings"], model.settings)
            if header["digest"] != survey.digest:
                raise other_input(folder.path)
        else:
            folder.start({"settings": model.settings, "digest": survey.digest, "residues_per_shard": residues})
        self.listener.on_survey(survey)
        finished = [number for number in range(count) if folder.is_done(number)]
        resumed = [folder.read_done(number).shard for number in finished]
        self.listener.on_progress(sum(shard.residues for shard in resumed))
        attributes = {**model.settings, "fingerprint": fingerprint, "model_name": model.name}
        unfinished = sorted(set(range(count)) - set(finished))
        if unfinished:
            self._embed(ShardJob(request, model.settings, attributes), unfinished)
        manifest = self._finish(attributes, count)
        return Summary(manifest.proteins, manifest.residues, sum(shard.records for shard in resumed), manifest.skipped)

    def _load(self) -> LoadedModel:
        """Load the model once on the cluster, as an actor will, and report it."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        if self.resources.gpus and not ray.cluster_resources().get("GPU"):
            self.listener.on_warning("no node of the Ray cluster has a GPU; the command waits until there is one")
        # A task, because the driver may have no GPU, and because an error of the model is then that of all actors.
        task = ray.remote(max_retries=0, num_cpus=self.resources.cpus, num_gpus=self.resources.gpus)(describe)
        try:
            model: LoadedModel = ray.get(task.remote(self.request))
        except RayTaskError as error:
            if isinstance(error.cause, ProtT5nvError):
                raise ProtT5nvError(str(error.cause)) from None
            raise
        except RayError as error:
            raise ProtT5nvError(f"the process that loads the model died: {cause(error)}") from None
        self.listener.on_start(model.label, f"{model.hardware}; Ray, {counted(self.resources.actors, 'actor')}")
        return model

    def _proteins(self, model: LoadedModel) -> CheckedProteins:
        request = self.request
        return CheckedProteins(
            request.source,
            model.limit,
            request.long,
            request.skip_errors,
            request.id_column,
            request.sequence_column,
            request.cleaning,
            tokenizer=model.tokenizer,
            key=request.key,
        )

    def _complete(self, fingerprint: str) -> Summary:
        """Return what the existing output holds; raise an error if it is not that of this run."""
        output = self.request.output
        manifest = read_manifest(output)
        if manifest.attributes.get("fingerprint") != fingerprint:
            raise ProtT5nvError(
                f"{output} exists and holds the embeddings of another input, or with other settings: choose another "
                "name, delete it, or replace it with --overwrite"
            )
        self.folder.discard()
        return Summary(manifest.proteins, manifest.residues, skipped=manifest.skipped, complete_already=True)

    def _embed(self, job: ShardJob, numbers: list[int]) -> None:
        """Embed the shards of these numbers with a pool of actors."""
        import ray.data
        from ray.exceptions import RayError

        # One block for each shard, so that Ray can give each to any actor. The blocks are made here, because a task for
        # them would wait for a CPU that the actors hold.
        shards = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        results = shards.map_batches(
            EmbedShards,
            fn_constructor_args=(job,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=self.resources.most, initial_size=min(self.resources.actors, len(numbers))
            ),
            num_cpus=self.resources.cpus,
            num_gpus=self.resources.gpus,
        )
        try:
            with _quiet():
                for row in results.iter_rows():
                    if row["error"]:
                        raise ProtT5nvError(f"{row['error']}; {self._advice}")
                    self.listener.on_progress(row["residues"])
        except RayError as error:
            raise ProtT5nvError(f"Ray: {cause(error)}; {self._advice}") from error

    @property
    def _advice(self) -> str:
        return f"finished proteins are safe in {self.folder.path}: give the same command again to continue"

    def _finish(self, attributes: dict[str, str], count: int) -> Manifest:
        """Write manifest and list of skipped proteins, and give the output its name."""
        shards = [self.folder.read_done(number).shard for number in range(count)]
        skipped = sum(shard.skipped for shard in shards)
        if skipped:
            with open(self.folder.shards / SKIPPED, "w", encoding="utf-8", newline="") as file:
                write_skipped(file, (each for number in range(count) for each in self.folder.read_done(number).skipped))
                file.flush()
                os.fsync(file.fileno())
        manifest = Manifest({**attributes, "skipped": str(skipped)}, shards)
        write_manifest(self.folder.shards, manifest)
        self.folder.publish()
        return manifest


def _check(request: Request) -> None:
    """Check what can be checked before the model is loaded."""
    check_options(request.pooling, request.long, request.dtype)
    if request.device not in ("auto", "cuda", "cpu"):
        raise ProtT5nvError(f"device={request.device}: with Ray, choose auto, cuda or cpu; Ray assigns the GPUs")
    if reads_once(request.source):
        raise ProtT5nvError("with --ray, INPUT must be files, because the input is read again when a run continues")
    if request.output.exists() and not is_shard_folder(request.output):
        raise ProtT5nvError(
            f"{request.output} exists, but prott5nv embed --ray has not written it: choose another name"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray Data print nothing until the block ends. The listener shows the progress, and errors are raised."""
    import ray.data

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _resources(request: Request, actors: int | None) -> _Resources:
    """Choose what an actor gets: a GPU, or the CPUs of the smallest node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if request.device == "cuda" or (request.device == "auto" and gpus):
        possible = max(1, gpus)  # A cluster that scales by itself may have none yet.
        return _Resources(1, 1, min(possible, actors or possible), actors)
    counts = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not counts:
        raise ProtT5nvError("the Ray cluster has no CPUs")
    cpus = max(1, min(min(counts), sum(counts) // actors)) if actors else min(counts)
    possible = sum(count // cpus for count in counts)
    return _Resources(cpus, 0, min(possible, actors or possible), actors)
