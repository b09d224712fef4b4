"""Child processes: how they are started, spoken with, bounded and ended. Decoders, captures and films share it.

A child reads what strangers made, so it is bounded before it reads its first byte, and its parent believes nothing that
it says without a check.
"""
