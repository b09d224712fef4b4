"""Child processes: how they are started, limited, used and ended. Decoders, captures and films use this package.

A child reads files from untrusted users. So its limits are set before it reads the first byte, and its parent checks
everything that it answers.
"""
