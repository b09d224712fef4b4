"""The job `rollout`: a named plan, carried out on many hosts over SSH.

`job.py` is the job; `inventory.py` reads the file of plans, `execution.py` follows one plan through its stages,
`host_run.py` is one host in it.
"""
