"""A store in a bucket when its service refuses requests, hangs, or is down. Each failure gives an error in a short
time. The error says what to change, and the store works again when the service does.
"""

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

# Seconds in which even a very busy machine answers.
PATIENT = 60.0
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[S3]:
    """An S3 server for one test, which may stop and change it."""
    with s3_in(tmp_path) as running:
        yield running


def store_of(s3: S3, timeout: float = PATIENT, url: str = "s3://bucket/results") -> BucketResults:
    """Returns a store that repeats a failed request once."""
    store = open_results(url, StoreOptions(timeout, None, s3.values, retries=1))
    assert isinstance(store, BucketResults)
    return store


def every(store: BucketResults, path: Path) -> list[Callable[[], object]]:
    """Returns one call for each operation of a store."""
    name = "0" * 32 + ".jpg"
    return [
        lambda: store.put(b"x", ".jpg"),
        lambda: store.put_file(path, ".zip"),
        lambda: store.read(name),
        lambda: store.delete(name),
        lambda: store.sweep(1, 1),
        store.check,
    ]


def assert_error(store: BucketResults, path: Path, text: str) -> None:
    for do in every(store, path):
        with pytest.raises(OSError, match=text) as caught:
            do()
        assert not isinstance(caught.value, FileNotFoundError), (
            "FileNotFoundError would mean that the result has expired"
        )
        assert re.search(text, caught.value.strerror or "")
        assert SECRET not in str(caught.value)
    assert path.exists()


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, "AccessDenied", r"denies access \(403\)"),
        (401, "InvalidAccessKeyId", r"denies access \(403\)"),
        (507, "XMinioStorageFull", "is full"),
        (503, "SlowDown", "answered 503"),
        (500, "InternalError", "answered 500"),
    ],
)
def test_an_error_of_the_service_is_reported_and_the_store_recovers(
    own_s3: S3, tmp_path: Path, status: int, code: str, text: str
) -> None:
    """When the service refuses a put_file, the local file stays where it is."""
    store, file = store_of(own_s3), tmp_path / "file"
    file.write_bytes(b"x")
    own_s3.refuse(status, code)
    assert_error(store, file, text)
    own_s3.refuse(0, "")
    assert store.read(store.put_file(file, ".zip")) == b"x"


def test_a_service_that_hangs_causes_a_timeout_and_the_store_recovers(own_s3: S3, tmp_path: Path) -> None:
    store, file = store_of(own_s3, timeout=0.5), tmp_path / "file"
    file.write_bytes(b"x")
    own_s3.pause()
    assert_error(store, file, r"did not answer within 0\.5 s \(store_timeout\)")
    own_s3.go_on()
    assert store_of(own_s3).put_file(file, ".zip")


def test_a_service_that_is_down_is_reported_and_the_store_recovers(own_s3: S3, tmp_path: Path) -> None:
    store, file = store_of(own_s3), tmp_path / "file"
    file.write_bytes(b"x")
    store.check()
    own_s3.kill()
    assert_error(store, file, "cannot be reached")
    own_s3.start()
    assert store.read(store.put_file(file, ".zip")) == b"x"


def test_a_missing_bucket_is_not_reported_as_a_missing_result(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert_error(store_of(s3, url="s3://another/results"), tmp_path / "file", "the bucket does not exist")


def test_a_policy_that_denies_deletes_is_reported(own_s3: S3) -> None:
    """For a request that deletes several objects, S3 answers 200 and reports an error for each object."""
    store = store_of(own_s3)
    name = store.put(b"x", ".jpg")
    own_s3.deny("s3:DeleteObject")
    with pytest.raises(OSError, match=r"denies access \(403\)"):
        store.delete(name)


def test_an_object_is_stored_with_the_headers_for_its_download(s3: S3) -> None:
    stand = s3_stand(s3)
    prefix = address_of(stand.store.url).prefix  # type: ignore[union-attr]
    shown, saved = (s3.get(f"{prefix}/{stand.store.put(b'x', suffix)}").headers for suffix in (".mp4", ".csv"))
    assert (shown["Content-Type"], saved["Content-Type"]) == ("video/mp4", "text/csv; charset=utf-8")
    assert shown["Cache-Control"] == saved["Cache-Control"] == "private, max-age=86400, immutable"
    assert "Content-Disposition" not in shown
    assert saved["Content-Disposition"].startswith("attachment; filename=")


def test_a_signed_url_reads_one_object_and_contains_no_secret(s3: S3) -> None:
    bucket = Bucket("s3://bucket/signed", StoreOptions(PATIENT, None, s3.values))
    bucket.put("a.jpg", b"hello", JPEG)
    address = bucket.sign("a.jpg", 300)
    assert httpx.get(address).content == b"hello"
    assert address.startswith(f"{s3.url}/bucket/signed/a.jpg?")
    assert "X-Amz-Expires=300" in address
    assert SECRET not in address


def test_urls_are_signed_for_the_public_address(s3: S3) -> None:
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
def test_the_origin_of_signed_urls_is_known(url: str, values: dict[str, str], origin: str) -> None:
    signing = {"aws_access_key_id": "k", "aws_secret_access_key": "s"} if url.startswith("s3") else {}
    signing |= {"azure_storage_account_key": "c2VjcmV0"} if url.startswith("az") else {}
    bucket = Bucket(url, StoreOptions(PATIENT, None, values | signing))
    assert bucket.origin == origin
    if signing:
        assert bucket.sign("a", 60).startswith(f"{origin}/")


def test_unknown_and_missing_options_are_refused_at_the_start(tmp_path: Path) -> None:
    for url, values in (("az://container/p", {}), ("s3://bucket/p", {"aws_nonsense": "1"})):
        with pytest.raises(ValueError, match=f"^{url}: "):
            open_results(url, StoreOptions(1, None, values))


def test_settings_override_the_variables_of_the_provider_and_no_others_are_used() -> None:
    environment = {"AWS_REGION": "a", "AWS_ACCESS_KEY_ID": "b", "AWS_PROFILE": "c", "AZURE_CLIENT_ID": "d", "PATH": "e"}
    settings = StoreSettings(store_key="f", store_timeout=1.0)
    gathered = StoreOptions.gather("s3://bucket/p", settings, environment)
    assert gathered == StoreOptions(1.0, None, {"aws_region": "a", "aws_access_key_id": "f"})
    assert StoreOptions.gather("file:media", settings, environment).values == {}
    assert "f" not in repr(StoreOptions(1.0, None, {KEY: "f"})).replace("float", "")


def test_a_sweep_reads_a_limited_number_of_names_and_the_next_continues(s3: S3) -> None:
    """The store has ten objects. A sweep reads two pages of two names, so three sweeps see all ten. Only then is it
    known which objects exceed the limit of bytes.
    """
    stand = s3_stand(s3, page=2, pages=2)
    names = [stand.aged(bytes(10), 1000 * number) for number in range(10)]
    assert [stand.store.sweep(8500, 1000) for _ in range(3)].count(0) == 2
    assert [stand.there(name) for name in names] == [True] * 9 + [False], (
        "a result that is too old is deleted when the sweep sees it"
    )
    gone = sum(stand.store.sweep(20_000, 45) for _ in range(12))
    assert gone == 5
    assert [stand.there(name) for name in names] == [True] * 4 + [False] * 6, (
        "the oldest results are deleted, wherever their names are in the list"
    )
