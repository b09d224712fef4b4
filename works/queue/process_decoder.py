"""The server's handle of one decoder child."""

from works.errors import WorkError
from works.imaging.task import Result, Task
from works.processes.channel import Channel
from works.processes.forkserver import Forkserver
from works.queue.attempts import DecoderCrashed
from works.queue.serialization import decode_outcome, encode_task


class ProcessDecoder:
    """A Decoder in a child process, which is forked on first use and after every death."""

    def __init__(self, forkserver: Forkserver) -> None:
        self._forkserver = forkserver
        self._serial = 0
        self._channel: Channel | None = None

    def start(self) -> None:
        if self._channel is None:
            self._serial, end = self._forkserver.fork()
            self._channel = Channel(end)

    async def process(self, task: Task) -> Result:
        """Sends the task to the child and returns the result.

        When this coroutine is cancelled, for example by a deadline, the child is killed, because it may be stuck in
        native code.

        Raises:
            WorkError: the task has failed.
            DecoderCrashed: the child died during the task.
        """
        try:
            self.start()
        except OSError as error:
            raise WorkError(
                "internal", f"no decoder can be started now: {error.strerror}; send the slice again", temporary=True
            ) from None
        answered = False
        try:
            assert self._channel
            outcome = decode_outcome(*await self._channel.ask(encode_task(task), task.payload))
            answered = True
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DecoderCrashed from error
        finally:
            if not answered:
                self.kill()
        if isinstance(outcome, WorkError):
            raise outcome
        return outcome

    def kill(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
            self._forkserver.kill(self._serial)
