"""The job kind `film`: an action on a video. `job.py` is the job, `transcode.py` the code of its helper processes."""
