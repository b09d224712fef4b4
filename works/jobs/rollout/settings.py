"""The settings of the job `rollout`: its files, and what a plan may take."""

from pathlib import Path

from pydantic import Field

from works.settings import Count, Seconds, SettingsGroup


class RolloutSettings(SettingsGroup):
    plans: str | None = Field(None, description="YAML file of the plans that rollouts may follow")
    ssh_known_hosts: str | None = Field(
        None, description="file with the host keys of rollouts; no others are spoken to"
    )
    ssh_key: str | None = Field(None, description="file with the private key of rollouts, without a passphrase")
    ssh_connect_timeout: Seconds = Field(10, description="seconds for a host to let us in")
    rollout_hosts: Count = Field(1000, description="hosts of a plan; each costs a state of some 3 KiB")
    rollout_forks: Count = Field(50, description="hosts of a stage at once; each handshake takes the loop some 10 ms")
    rollout_deadline: Seconds = Field(24 * 3600, description="most seconds that a plan may take")
    rollout_output: Count = Field(16 << 10, description="bytes of a host's output that go to the log")
    rollout_tail: int = Field(2048, gt=0, le=10_000, description="last bytes of a host's output, kept with its state")
    rollout_kill_timeout: Seconds = Field(5, description="seconds to end a command by a deadline or a cancel")

    @property
    def plans_path(self) -> Path | None:
        """The file of plans, if one is set."""
        return Path(self.plans) if self.plans else None
