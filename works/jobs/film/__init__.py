"""The job `film`: an action over a video. `job.py` is the job, `transcode.py` what its processes do."""
