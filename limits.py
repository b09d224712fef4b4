"""Limits: every bound of Sluice, with its default and what it is for. config.py makes settings of them."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode

MIB = 1 << 20
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], NoDecode]
"""Several words, written with commas or spaces between them."""


class Limits(BaseSettings):
    max_slice_bytes: Count = Field(16 * MIB, description="bytes of one encoded slice")
    max_pixels: Count = Field(50_000_000, description="pixels of a picture and of its result")
    max_side: Count = Field(65_500, description="pixels a side; libjpeg takes no more")
    max_frames: Count = Field(1, description="frames of a picture; only the first is worked")
    formats: Names = Field(("jpeg", "png", "webp"), description="formats accepted")
    session_tasks: Count = Field(512, description="slices of a session that may wait")
    session_bytes: Count = Field(64 * MIB, description="bytes of a session that may wait")
    queue_tasks: Count = Field(50_000, description="slices of all sessions that may wait; each takes some 2 KiB")
    queue_bytes: Count = Field(256 * MIB, description="bytes of all sessions that may wait")
    session_events: Count = Field(10_000, description="events a stream keeps for clients that come back")
    child_memory: int = Field(
        0, ge=0, description="bytes of address space of a decoder child; 0: 1 GiB, 2 GiB where OCR is installed"
    )
    slice_timeout: Seconds = Field(10, description="seconds to work a slice")
    outbox: Count = Field(4 * MIB, description="bytes that may wait for a client that reads slowly")
    stall_timeout: Seconds = Field(20, description="seconds that a client may take to read one message")
    connections_per_user: Count = Field(8, description="open sockets of a user")
    connections_per_address: Count = Field(64, description="open sockets of an address")
    messages_per_second: Count = Field(1000, description="messages of a socket; bursts of twice that are let pass")
    chat_rate: Count = Field(20, description="messages of a chat socket; bursts of twice that, with a warning")
    chat_rooms: Count = Field(100, description="rooms that a chat socket joins")
    chat_text: Count = Field(4000, description="characters of a chat message")
    video_watches: Count = Field(16, description="watches of a video socket; a wall of sources has as many")
    video_viewers: Count = Field(200, description="watches of a video source, unless it says otherwise")
    video_viewers_per_user: Count = Field(100, description="of these a user's, so that others can watch it too")
    video_captures: Count = Field(32, description="video captures open at once, each a process of some 50 MiB")
    video_captures_per_user: Count = Field(16, description="recordings a user has open at once, so that others can too")
    video_sizes: Count = Field(6, description="widths and qualities that a capture is encoded in; the nearest beyond")
    video_actions: Count = Field(4, description="actions at work on the frames of a capture")
    video_width: int = Field(1920, ge=16, le=16_384, description="pixels across of a video frame")
    video_fps: float = Field(30, gt=0, le=240, description="frames a second of a watch; more are left out")
    video_grace: Seconds = Field(10, description="seconds that a capture stays open after its last viewer")
    video_watchdog: Seconds = Field(10, description="seconds for a capture to open or to send; then it is killed")
    video_retry: Seconds = Field(30, description="most seconds before a lost video source is tried again")
    video_memory: int = Field(1 << 30, ge=1 << 29, description="bytes of address space of a video capture")
    ping_interval: Seconds = Field(20, description="seconds between pings")
    pong_timeout: Seconds = Field(15, description="seconds for a pong to come")
    header_timeout: Seconds = Field(10, description="seconds for the headers of a request")
    body_timeout: Seconds = Field(60, description="seconds for the body of a request")
    media_ttl: Seconds = Field(24 * 3600, description="seconds that results are kept")
    media_bytes: Count = Field(10 << 30, description="bytes of results that are kept")
    upload_bytes: Count = Field(32 * MIB, description="bytes of one upload")
    upload_bytes_per_user: Count = Field(1 << 30, description="bytes of a user's uploads that are kept")
    upload_bytes_total: Count = Field(10 << 30, description="bytes of all uploads that are kept")
    uploads_per_user: Count = Field(4, description="uploads of a user under way at once")
    upload_timeout: Seconds = Field(300, description="seconds for an upload to come in")
    upload_grace: Seconds = Field(3600, description="seconds that an upload is kept which no message refers to")
    upload_ttl: Seconds = Field(30 * 24 * 3600, description="seconds that an upload is kept which a message refers to")
    session_grace: Seconds = Field(30, description="seconds that work goes on after a lost connection")
    session_ttl: Seconds = Field(600, description="seconds that a session can be resumed after the close")
    ssh_connect_timeout: Seconds = Field(10, description="seconds for a host to let us in")
    rollout_hosts: Count = Field(1000, description="hosts of a plan; each costs a state of some 3 KiB")
    rollout_forks: Count = Field(50, description="hosts of a stage at once; each handshake takes the loop some 10 ms")
    rollout_deadline: Seconds = Field(24 * 3600, description="most seconds that a plan may take")
    rollout_output: Count = Field(16 << 10, description="bytes of a host's output that go to the log")
    rollout_tail: int = Field(2048, gt=0, le=10_000, description="last bytes of a host's output, kept with its state")
    rollout_kill_timeout: Seconds = Field(5, description="seconds to end a command by a deadline or a cancel")
    jobs_running: Count = Field(8, description="jobs that run on this server at once; more are answered busy")
    jobs_running_per_user: Count = Field(4, description="of these a user's")
    jobs_kept_per_user: Count = Field(200, description="jobs of a user whose stories are kept")
    job_ttl: Seconds = Field(7 * 24 * 3600, description="seconds that a job's story is kept after its end")
    job_events: Count = Field(9000, description="events of a job's story, at most session_events; it is told in fewer")
    job_log_bytes: Count = Field(4 * MIB, description="bytes of a job's log; then it is cut, which it says")
    job_targets: Count = Field(20_000, description="targets of a job; each is told with every look at it")
    job_tasks: Count = Field(8, description="tasks of a job in the queue at once; more would only wait there")
    job_watchers: Count = Field(200, description="connections that watch one job; each has its own outbox")
    job_watches: Count = Field(20, description="jobs that one connection watches")
    job_lease: Seconds = Field(10, description="seconds after which a job whose server is silent is lost")
    job_cancel_timeout: Seconds = Field(30, description="seconds that a cancelled job has to clear away")
    job_approval_timeout: Seconds = Field(24 * 3600, description="seconds that a job waits for an approval")
    batch_pictures: Count = Field(10_000, description="pictures of a batch, and entries of a zip")
    batch_bytes: Count = Field(4 << 30, description="bytes of a batch's results; they wait on the disk until its end")
    archive_bytes: Count = Field(4 << 30, description="bytes that a zip may unpack to; more is taken for a bomb")
    archive_ratio: Count = Field(100, description="times that a picture in a zip may grow; pictures hardly do")
    sheet_pages: int = Field(40, ge=0, description="pages of a contact sheet, of 48 pictures each")
    film_frames: Count = Field(36_000, description="frames of a film that are worked: 20 minutes of 30 a second")
    film_pixels: Count = Field(9_000_000, description="pixels of a film's frame; 3840 x 2160 have 8.3 million")
    film_bytes: Count = Field(2 << 30, description="bytes of a film that is made; it waits on the disk until its end")
    studio_memory: int = Field(
        1 << 30, ge=1 << 29, description="bytes of address space of a process that reads or writes a film, or a sheet"
    )
    studio_timeout: Seconds = Field(60, description="seconds for such a process to answer; a frame takes some 50 ms")
    drain_timeout: Seconds = Field(10, description="seconds to finish what runs when told to stop")
