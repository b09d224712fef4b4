"""The job kind `rollout`: runs a named plan on many hosts over SSH.

`job.py` is the job. `inventory.py` reads the file of plans, `execution.py` runs the stages of a plan, `host_run.py`
runs the steps on one host.
"""
