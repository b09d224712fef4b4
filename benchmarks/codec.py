"""The codec alone: the work of Sluice's decoder children without a server. Its rate is the upper limit for Sluice."""

import itertools
import multiprocessing
import multiprocessing.pool
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2

from benchmarks.client import Rate
from works.imaging.codec import decode, encode, target_size
from works.imaging.image_header import read_header

# The same values as works/queue/decoder_child.py sets for its children. Without them glibc frees the memory of a
# picture after each slice, and the codec alone would not be the upper limit.
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

_work: list[bytes] = []


def once(data: bytes, zoom: float = 0.5, fit: tuple[int, int] | None = None) -> bytes:
    header = read_header(data)
    return encode(decode(data, header, target_size(header, zoom, fit)), "auto", header.format)[0]


def _prepare(slices: list[bytes]) -> None:
    cv2.setNumThreads(1)
    _work.extend(slices)


def _run(start: int, seconds: float, zoom: float) -> tuple[int, float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    for count, index in enumerate(itertools.count(start), 1):
        once(_work[index % len(_work)], zoom)
        if time.perf_counter() - began >= seconds:
            return count, time.perf_counter() - began, time.process_time() - cpu
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Codec:
    """Processes the slices in as many processes as the server has workers."""

    pool: "multiprocessing.pool.Pool"
    workers: int
    count: int

    def run(self, seconds: float, zoom: float = 0.5) -> Rate:
        shares = [(index * self.count // self.workers, seconds, zoom) for index in range(self.workers)]
        done = self.pool.starmap(_run, shares, chunksize=1)
        rate = sum(count / spent for count, spent, _ in done)
        count = sum(count for count, _, _ in done)
        return Rate(count, count / rate, sum(cpu for _, _, cpu in done))


@contextmanager
def codec(slices: Sequence[bytes], workers: int) -> Iterator[Codec]:
    # Uses spawn: the benchmark process already has threads of OpenCV, and a fork would copy them in an inconsistent
    # state.
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers, _prepare, (list(slices),))
    finally:
        os.environ.clear()
        os.environ.update(before)
    with pool:
        yield Codec(pool, workers, len(slices))
