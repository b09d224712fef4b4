"""The job kind `batch`: an action on many pictures. `job.py` is the job, the other files are its inputs and results."""
