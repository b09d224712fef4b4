"""Processing of one picture: read the header, decode, run the action, encode the result.

`pipeline.py` has the whole sequence on one screen. The other files are its steps. No code here knows queues or
networks.
"""
