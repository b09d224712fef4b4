"""The job `batch`: an action over many pictures. `job.py` is the job; the others are its inputs and results."""
