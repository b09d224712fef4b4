"""What happens to one picture: its header is read, it is decoded, an action is applied, the result is encoded.

`pipeline.py` is the whole way on one screen; the other files are its steps. Nothing here knows a queue or a network.
"""
