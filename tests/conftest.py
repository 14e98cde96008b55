from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from stores import KEYS

# Before torch is loaded: on products as small as those of tests a second thread only waits, and the last
# bits of a result hang on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket; one for all, as fsspec remembers its address."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    held = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    held.start()
    host, port = held.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(key, value)
        boto3.client("s3").create_bucket(Bucket="corpus")
        yield f"http://{host}:{port}"
    held.stop()
