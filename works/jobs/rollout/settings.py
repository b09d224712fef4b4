"""The settings of the job kind `rollout`: its files, and the limits of a plan."""

from pathlib import Path

from pydantic import Field

from works.settings import Count, Seconds, SettingsGroup


class RolloutSettings(SettingsGroup):
    """Files and limits of the job kind rollout."""

    plans: str | None = Field(None, description="YAML file of the plans that rollouts may run.")
    ssh_known_hosts: str | None = Field(
        None, description="File with the SSH host keys of the hosts. Rollouts connect to no other hosts."
    )
    ssh_key: str | None = Field(None, description="File with the private SSH key of rollouts, without a passphrase.")
    ssh_connect_timeout: Seconds = Field(10, description="Seconds to connect and log in to a host.")
    rollout_hosts: Count = Field(
        1000, description="Maximum number of hosts of one plan. Each takes about 3 KiB of memory."
    )
    rollout_forks: Count = Field(
        50,
        description=(
            "Maximum number of hosts that a rollout works on at the same time. Each SSH handshake takes about 10 ms "
            "of the event loop."
        ),
    )
    rollout_deadline: Seconds = Field(24 * 3600, description="Maximum number of seconds that a plan may allow itself.")
    rollout_output: Count = Field(
        16 << 10, description="Maximum number of bytes of the output of one host that are added to the log of the job."
    )
    rollout_tail: int = Field(
        2048, gt=0, le=10_000, description="Last bytes of the output of one host that are stored with its state."
    )
    rollout_kill_timeout: Seconds = Field(
        5,
        description="Seconds to stop a command on a host after a deadline or a cancel. At most half of "
        "job_cancel_timeout.",
    )

    @property
    def plans_path(self) -> Path | None:
        """The path of the file of plans, or None."""
        return Path(self.plans) if self.plans else None
