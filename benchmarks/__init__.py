"""Benchmarks of Sluice against other servers and against the codec alone: ``make bench``, or ``python -m benchmarks
--help``.

The machines that run them are noisy. Therefore most figures are ratios of two contenders that are measured alternately
in the same run.
"""

import os
from statistics import median


def quick(workers: int = 0, rounds: int = 5, seconds: float = 0.5) -> dict[str, float]:
    """Takes about 12 s. It needs only the sample picture and the packages of the tests, and detects regressions.

    Returns three ratios of Sluice to the codec alone. ``slices_per_second`` and ``cpu_per_slice`` are for the binary
    protocol, ``text_cpu_per_slice`` is for the 150-character protocol.
    """
    from benchmarks import pictures
    from benchmarks.alternating import alternate, socket_contender
    from benchmarks.client import BROWSER
    from benchmarks.codec import codec
    from benchmarks.figures import cpu_ratios, ratios
    from benchmarks.frames import binary, text
    from benchmarks.processes import sluice

    workers = workers or os.cpu_count() or 1
    slices = pictures.slices([pictures.SAMPLE])
    with codec(slices, workers) as limit, sluice(workers, messages_per_second=1_000_000) as server:
        rates = alternate(
            {
                "codec": lambda: limit.run(seconds),
                "binary": socket_contender(server, binary(slices, 10_000), seconds),
                "text": socket_contender(server, text(slices, 10_000), seconds, BROWSER),
            },
            rounds,
        )
    return {
        "slices_per_second": median(ratios(rates["binary"], rates["codec"])),
        "cpu_per_slice": median(cpu_ratios(rates["binary"], rates["codec"])),
        "text_cpu_per_slice": median(cpu_ratios(rates["text"], rates["codec"])),
    }
