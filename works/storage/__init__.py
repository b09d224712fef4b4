"""Files: what was made for users (`results.py`), and what users sent to refer to it later (`uploads.py`).

Each promise stands in one file, its implementations beside it: on a folder of this machine, or in a bucket.
"""
