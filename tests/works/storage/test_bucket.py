"""Buckets with faults: every error says soon what to change, and disappears when the fault is over."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.s3 import KEY, S3, SECRET, s3_in
from tests.support.stores import s3_stand
from works.storage.address import StoreOptions, address_of
from works.storage.bucket import Bucket
from works.storage.open import open_results
from works.storage.results_bucket import BucketResults
from works.storage.settings import StoreSettings

# Long enough for an answer on the busiest machine.
PATIENT = 60.0
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[S3]:
    """A server for this test only, which the test may change."""
    with s3_in(tmp_path) as running:
        yield running


def store_of(s3: S3, timeout: float = PATIENT, url: str = "s3://bucket/results") -> BucketResults:
    """A call that fails is repeated once."""
    store = open_results(url, StoreOptions(timeout, None, s3.values, retries=1))
    assert isinstance(store, BucketResults)
    return store


def every(store: BucketResults, path: Path) -> list[Callable[[], object]]:
    """Every operation of a store."""
    name = "0" * 32 + ".jpg"
    return [
        lambda: store.put(b"x", ".jpg"),
        lambda: store.put_file(path, ".zip"),
        lambda: store.read(name),
        lambda: store.delete(name),
        lambda: store.sweep(1, 1),
        store.check,
    ]


def assert_said(store: BucketResults, path: Path, words: str) -> None:
    for do in every(store, path):
        with pytest.raises(OSError, match=words) as caught:
            do()
        assert not isinstance(caught.value, FileNotFoundError), "this would mean that the result has gone"
        assert re.search(words, caught.value.strerror or "")
        assert SECRET not in str(caught.value)
    assert path.exists()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", r"denies access \(403\)"),
        (401, "InvalidAccessKeyId", r"denies access \(403\)"),
        (507, "XMinioStorageFull", "is full"),
        (503, "SlowDown", "answered 503"),
        (500, "InternalError", "answered 500"),
    ],
)
def test_a_store_that_refuses_is_said_to_and_works_again_when_it_does(
    own: S3, tmp_path: Path, status: int, code: str, words: str
) -> None:
    """After a refused put, the file is where it was."""
    store, file = store_of(own), tmp_path / "file"
    file.write_bytes(b"x")
    own.refuse(status, code)
    assert_said(store, file, words)
    own.refuse(0, "")
    assert store.read(store.put_file(file, ".zip")) == b"x"


def test_a_store_that_hangs_is_given_up_and_works_again_when_it_goes_on(own: S3, tmp_path: Path) -> None:
    store, file = store_of(own, timeout=0.5), tmp_path / "file"
    file.write_bytes(b"x")
    own.pause()
    assert_said(store, file, r"did not answer within 0\.5 s \(store_timeout\)")
    own.go_on()
    assert store_of(own).put_file(file, ".zip")


def test_a_store_that_is_gone_is_said_to_be_and_works_again_when_it_is_back(own: S3, tmp_path: Path) -> None:
    store, file = store_of(own), tmp_path / "file"
    file.write_bytes(b"x")
    store.check()
    own.kill()
    assert_said(store, file, "cannot be reached")
    own.start()
    assert store.read(store.put_file(file, ".zip")) == b"x"


def test_a_bucket_that_is_not_there_is_not_taken_for_a_result_that_is_not(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert_said(store_of(s3, url="s3://another/results"), tmp_path / "file", "the bucket does not exist")


def test_a_policy_that_denies_deleting_is_said(own: S3) -> None:
    """S3 answers 200 to the whole request, and an error for each key."""
    store = store_of(own)
    name = store.put(b"x", ".jpg")
    own.deny("s3:DeleteObject")
    with pytest.raises(OSError, match=r"denies access \(403\)"):
        store.delete(name)


def test_an_object_carries_the_headers_it_is_to_be_fetched_with(s3: S3) -> None:
    stand = s3_stand(s3)
    prefix = address_of(stand.store.url).prefix  # type: ignore[union-attr]
    shown, saved = (s3.get(f"{prefix}/{stand.store.put(b'x', suffix)}").headers for suffix in (".mp4", ".csv"))
    assert (shown["Content-Type"], saved["Content-Type"]) == ("video/mp4", "text/csv; charset=utf-8")
    assert shown["Cache-Control"] == saved["Cache-Control"] == "private, max-age=86400, immutable"
    assert "Content-Disposition" not in shown
    assert saved["Content-Disposition"].startswith("attachment; filename=")


def test_a_signed_address_reads_one_object_and_holds_no_secret(s3: S3) -> None:
    bucket = Bucket("s3://bucket/signed", StoreOptions(PATIENT, None, s3.values))
    bucket.put("a.jpg", b"hello", JPEG)
    address = bucket.sign("a.jpg", 300)
    assert httpx.get(address).content == b"hello"
    assert address.startswith(f"{s3.url}/bucket/signed/a.jpg?")
    assert "X-Amz-Expires=300" in address
    assert SECRET not in address


def test_addresses_are_signed_for_the_name_that_clients_know(s3: S3) -> None:
    options = StoreOptions(PATIENT, "https://files.example", s3.values)
    bucket = Bucket("s3://bucket/signed", options)
    assert bucket.sign("a.jpg", 300).startswith("https://files.example/bucket/signed/a.jpg?")
    assert bucket.origin == "https://files.example"
    assert Bucket("s3://bucket/signed", StoreOptions(PATIENT, None, s3.values)).origin == s3.url


@pytest.mark.parametrize(
    ("url", "values", "origin"),
    [
        ("s3://bucket/p", {}, "https://s3.us-east-1.amazonaws.com"),
        ("s3://bucket/p", {"aws_region": "eu-north-1"}, "https://s3.eu-north-1.amazonaws.com"),
        ("gs://bucket/p", {}, "https://storage.googleapis.com"),
        ("az://container/p", {"azure_storage_account_name": "me"}, "https://me.blob.core.windows.net"),
    ],
)
def test_it_is_known_where_a_browser_will_be_sent(url: str, values: dict[str, str], origin: str) -> None:
    signing = {"aws_access_key_id": "k", "aws_secret_access_key": "s"} if url.startswith("s3") else {}
    signing |= {"azure_storage_account_key": "c2VjcmV0"} if url.startswith("az") else {}
    bucket = Bucket(url, StoreOptions(PATIENT, None, values | signing))
    assert bucket.origin == origin
    if signing:
        assert bucket.sign("a", 60).startswith(f"{origin}/")


def test_options_a_store_does_not_have_are_refused_at_the_start(tmp_path: Path) -> None:
    for url, values in (("az://container/p", {}), ("s3://bucket/p", {"aws_nonsense": "1"})):
        with pytest.raises(ValueError, match=f"^{url}: "):
            open_results(url, StoreOptions(1, None, values))


def test_settings_weigh_more_than_the_providers_variables_and_nothing_else_is_taken() -> None:
    environment = {"AWS_REGION": "a", "AWS_ACCESS_KEY_ID": "b", "AWS_PROFILE": "c", "AZURE_CLIENT_ID": "d", "PATH": "e"}
    settings = StoreSettings(store_key="f", store_timeout=1.0)
    gathered = StoreOptions.gather("s3://bucket/p", settings, environment)
    assert gathered == StoreOptions(1.0, None, {"aws_region": "a", "aws_access_key_id": "f"})
    assert StoreOptions.gather("file:media", settings, environment).values == {}
    assert "f" not in repr(StoreOptions(1.0, None, {KEY: "f"})).replace("float", "")


def test_a_sweep_looks_at_so_many_names_and_the_next_goes_on(s3: S3) -> None:
    """Two names at a time and twice per sweep, so three sweeps read all ten. After them, the excess files are known."""
    stand = s3_stand(s3, page=2, pages=2)
    names = [stand.aged(bytes(10), 1000 * number) for number in range(10)]
    assert [stand.store.sweep(8500, 1000) for _ in range(3)].count(0) == 2
    assert [stand.there(name) for name in names] == [True] * 9 + [False], "what is too old goes when it is seen"
    gone = sum(stand.store.sweep(20_000, 45) for _ in range(12))
    assert gone == 5
    assert [stand.there(name) for name in names] == [True] * 4 + [False] * 6, (
        "the oldest, wherever they were in the list"
    )
