"""The file of plans: what is valid, what is not, and that every fault is reported with its place."""

from pathlib import Path

import pytest

from works.jobs.rollout.inventory import Inventory, InventoryError, load
from works.jobs.rollout.plan import Param, Stage, Step, script
from works.jobs.rollout.settings import RolloutSettings

WHOLE = """
defaults: {user: deploy, vars: {zone: north, tier: low, port: 80}}
hosts:
  web1: {address: 10.0.0.1, port: 2222, vars: {zone: south}}
  web2: {user: root}
  db1: {}
groups:
  web: {hosts: [web1, web2], vars: {tier: high}}
plans:
  update:
    hosts: [web, web1]
    params:
      version: {pattern: '\\d+\\.\\d+', default: '1.0'}
      careful: {type: boolean, default: true}
      retries: {type: integer, minimum: 0, maximum: 3}
    stages:
    - name: install
      batches: [1, 10%, 100%]
      steps: [{name: work, command: 'true'}]
"""
SETTINGS = RolloutSettings(rollout_hosts=10, rollout_forks=20, rollout_deadline=7200)


def read(folder: Path, text: str | bytes) -> Inventory:
    path = folder / "plans.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, SETTINGS)


def faults(folder: Path, text: str | bytes) -> list[tuple[int, str, str]]:
    with pytest.raises(InventoryError) as error:
        read(folder, text)
    return [(fault.line, fault.place, fault.message) for fault in error.value.faults]


def test_the_most_specific_value_wins_and_the_request_overrides_all(tmp_path: Path) -> None:
    plans = read(tmp_path, WHOLE)
    plan = plans.plans["update"]
    assert plans.all_hosts(plan) == ["web1", "web2"]
    values = plan.values({"retries": 2})
    assert values == {"version": "1.0", "careful": "true", "retries": "2"}
    web1 = plans.target("web1", plan, values)
    assert (web1.address, web1.port, web1.user) == ("10.0.0.1", 2222, "deploy")
    expected = {"zone": "south", "tier": "high", "port": "80", "host": "web1", "address": "10.0.0.1"}
    assert web1.values == expected | values
    web2 = plans.target("web2", plan, {"zone": "asked"})
    assert (web2.address, web2.port, web2.user, web2.values["zone"]) == ("web2", 22, "root", "asked")


def stage(*batches: int | str) -> Stage:
    return Stage(name="x", batches=list(batches), steps=[Step(name="x", command="true")])


@pytest.mark.parametrize(
    ("batches", "hosts", "sizes"),
    [
        ((1, "10%", "100%"), 20, [1, 2, 17]),
        ((1, "10%", "100%"), 2, [1, 1]),
        ((3,), 10, [3, 3, 3, 1]),
        (("10%",), 5, [1, 1, 1, 1, 1]),
        (("100%",), 7, [7]),
        (("50%", 1), 5, [2, 1, 1, 1]),
        ((5,), 0, []),
    ],
)
def test_batch_sizes_refer_to_the_hosts_of_the_stage_and_the_last_one_repeats(
    batches: tuple[int | str, ...], hosts: int, sizes: list[int]
) -> None:
    assert stage(*batches).sizes(hosts) == sizes


def test_all_faults_are_reported_together_each_with_its_place(tmp_path: Path) -> None:
    text = """
defaults: {user: deploy}
hosts:
  web1: {port: 99999}
  web1: {}
groups:
  web: {hosts: [web1, web9]}
plans:
  update:
    hosts: [web, unknown]
    bugdet: 3
    params:
      version: {type: string}
      count: {type: integer, minimum: 1, maximum: 3, default: 4}
    stages:
    - name: install
      batches: [1, "x%", 1.5]
      steps:
      - {name: no, command: "", timeout: ten}
      - {command: "a\\0b"}
"""
    found = {(line, place.removeprefix("plans.update.")) for line, place, _ in faults(tmp_path, text)}
    steps = "stages.0.steps"
    assert found == {
        (5, "hosts"),
        (7, "groups.web.hosts.1"),
        (10, "hosts.1"),
        (11, "bugdet"),
        (13, "params.version"),
        (14, "params.count"),
        (17, "stages.0.batches.1"),
        (17, "stages.0.batches.2"),
        (19, f"{steps}.0.name"),
        (19, f"{steps}.0.command"),
        (19, f"{steps}.0.timeout"),
        (20, f"{steps}.1"),
        (20, f"{steps}.1.command"),
    }


BEYOND = {
    "deadline: 9000": "plans.update.deadline",
    "params: {host: {choices: [a]}}": "plans.update.params.host",
    "vars: {a: b}\n    params: {a: {choices: [a]}}": "plans.update.params.a",
}


@pytest.mark.parametrize("member", BEYOND)
def test_values_above_a_limit_of_the_settings_are_reported(tmp_path: Path, member: str) -> None:
    text = WHOLE[: WHOLE.index("    params:")] + f"    {member}\n" + WHOLE[WHOLE.index("    stages:") :]
    assert [place for _, place, _ in faults(tmp_path, text)] == [BEYOND[member]]


def test_too_many_forks_or_hosts_and_hosts_without_a_user_are_reported(tmp_path: Path) -> None:
    many = "\n".join(f"  h{number}: {{}}" for number in range(11))
    names = ", ".join(f"h{number}" for number in range(11))
    text = WHOLE.replace("  db1: {}", many).replace("[web, web1]", f"[{names}]").replace("user: deploy, ", "")
    text = text.replace("      batches", "      forks: 21\n      batches")
    places = [place for _, place, _ in faults(tmp_path, text)]
    nameless = ["hosts.web1", *(f"hosts.h{number}" for number in range(11))]
    assert places == [*nameless, "plans.update", "plans.update.stages.0.forks"]


ALIASES = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 9)
)
BROKEN: dict[str, tuple[str | bytes, str]] = {
    "half a list": ("a: [b", "expected"),
    "a list": ("- 1", "must have hosts"),
    "a part within itself": ("hosts: &a {web: *a}", "within itself"),
    "nested too deep": ("[" * 5000, "nested too deep"),
    "aliases to aliases": (ALIASES, "more than 500,000 values"),
    "a key that is no text": ("on: {}", "on is no name"),
    "no text": (b"a: \x80\x81", "no YAML"),
    "an object": ("hosts: !!python/object/apply:os.system ['touch ran']", "valid dictionary"),
    "too much": (b"#" * ((4 << 20) + 1), "bytes"),
    "an unknown member": ("host: {}", "Extra inputs"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_invalid_file_of_plans_is_explained_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, word = BROKEN[case]
    (fault,) = faults(tmp_path, text)
    assert word in fault[2]
    assert not (tmp_path / "ran").exists()


def test_only_declared_values_are_accepted(tmp_path: Path) -> None:
    plan = read(tmp_path, WHOLE).plans["update"]
    for bad in ("1", "1.0\n", "1.0; reboot", "$(reboot)", 1.0, True, None, ["1.0"], "1" * 300 + ".0", "1.0\0"):
        with pytest.raises(ValueError, match=r"version|must be given" if bad is None else "version"):
            plan.values({"version": bad, "retries": 0})
    for bad in (4, -1, "1", True, 1.5):
        with pytest.raises(ValueError, match="retries"):
            plan.values({"retries": bad})
    with pytest.raises(ValueError, match="careful"):
        plan.values({"careful": "yes", "retries": 0})
    with pytest.raises(ValueError, match="retries: must be given"):
        plan.values({})


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"choices": ["a"], "pattern": "a"},
        {"pattern": "(?=a)"},
        {"pattern": "("},
        {"type": "integer", "minimum": 1},
        {"choices": ["a"], "default": "b"},
        {"choices": []},
    ],
)
def test_a_parameter_must_declare_its_allowed_values(members: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"choices|pattern|minimum|should"):
        Param(**members)


def test_a_pattern_is_matched_in_linear_time() -> None:
    with pytest.raises(ValueError, match="must match"):
        Param(pattern="(a+)+b").text("a" * 200)


def test_a_script_sets_its_values_from_quoted_text() -> None:
    assert script("echo $a", {"a": "it's; $b"}) == "a='it'\"'\"'s; $b'\nset -eu\necho $a"
