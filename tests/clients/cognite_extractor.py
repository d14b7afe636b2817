"""Cognite's published uploader for extractors with the client of the version that it needs, unmodified, against a server.

Each check prints `ok NAME` or `not ok NAME`; see run.
"""

import io
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path

from cognite.client import ClientConfig, CogniteClient, global_config
from cognite.client.credentials import Token
from cognite.client.data_classes import FileMetadata, FileMetadataWrite
from cognite.client.data_classes.data_modeling import NodeId
from cognite.extractorutils.uploader import BytesUploadQueue, FileUploadQueue, IOFileUploadQueue
from cognite.extractorutils.uploader import files as uploader
from cognite.extractorutils.uploader.files import CogniteExtractorFileApply

URL = os.environ["LANDFALL_URL"]
KEY = os.environ["LANDFALL_KEY"]
PROJECT = os.environ["LANDFALL_TENANT"]
# It would ask the public index for its newest version.
global_config.disable_pypi_version_check = True
failed = 0


def check(name, function, *arguments):
    """Runs one check."""
    global failed
    try:
        function(*arguments)
        print(f"ok {name}")
    except Exception:  # Whatever it is, the other checks go on.
        failed += 1
        traceback.print_exc()
        print(f"not ok {name}")


def content(length, seed=1):
    """The same bytes every time."""
    return random.Random(seed).randbytes(length)


cognite = CogniteClient(
    ClientConfig(client_name="tests", project=PROJECT, credentials=Token(KEY), base_url=URL, timeout=60)
)
files = cognite.files


def client_of_version_7():
    made = files.upload_bytes(b"seven", name="seven", external_id="v7-bytes", mime_type="a/b", metadata={"k": "v"})
    assert files.download_bytes(id=made.id) == b"seven"
    files.upload_bytes(b"anew", name="seven", external_id="v7-bytes", overwrite=True)
    assert files.download_bytes(external_id="v7-bytes") == b"anew"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p"
        path.write_bytes(content(300_000))
        made = files.upload(str(path), external_id="v7-path")
        assert files.download_bytes(id=made.id) == content(300_000)
    with files.multipart_upload_session("v7 parts", parts=2, external_id="v7-parts") as session:
        session.upload_part(1, b"end")
        session.upload_part(0, content(5 * 1024 * 1024))
    assert files.download_bytes(external_id="v7-parts") == content(5 * 1024 * 1024) + b"end"
    assert [file.external_id for file in files.list(external_id_prefix="v7-", limit=None)] == [
        "v7-bytes",
        "v7-path",
        "v7-parts",
    ]
    files.delete(external_id=["v7-bytes", "v7-path", "v7-parts"])
    assert files.retrieve(external_id="v7-path") is None


def queues():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p"
        path.write_bytes(content(1_000_000))
        queue = FileUploadQueue(cdf_client=cognite, overwrite_existing=True, max_queue_size=5)
        queue.add_to_upload_queue(FileMetadata(external_id="q-path", name="path", directory="/d", source="s"), path)
        queue.upload()
    found = files.retrieve(external_id="q-path")
    assert (found.uploaded, found.directory, found.source) == (True, "/d", "s")
    assert files.download_bytes(external_id="q-path") == content(1_000_000)
    queue = BytesUploadQueue(cdf_client=cognite, overwrite_existing=True, max_queue_size=5)
    for n in range(12):
        queue.add_to_upload_queue(f"bytes {n}".encode(), FileMetadata(external_id=f"q-{n}", name=f"b{n}"))
    queue.add_to_upload_queue(b"", FileMetadata(external_id="q-empty", name="empty"))
    queue.upload()
    for n in range(12):
        assert files.download_bytes(external_id=f"q-{n}") == f"bytes {n}".encode()
    assert files.download_bytes(external_id="q-empty") == b""
    # Again, with other content and another folder.
    queue.add_to_upload_queue(b"anew", FileMetadata(external_id="q-0", name="b0", directory="/moved"))
    queue.upload()
    assert files.download_bytes(external_id="q-0") == b"anew"
    assert files.retrieve(external_id="q-0").directory == "/moved"


def large_files_in_parts():
    queue = IOFileUploadQueue(cdf_client=cognite, overwrite_existing=True, max_queue_size=5)
    # Its own limits are thousands of mebibytes.
    queue.max_single_chunk_file_size = queue.max_file_chunk_size = 6 * 1024 * 1024
    data = content(20 * 1024 * 1024)
    queue.add_io_to_upload_queue(FileMetadata(external_id="q-large", name="large"), lambda: Sized(data))
    queue.upload()
    assert files.download_bytes(external_id="q-large") == data
    node = CogniteExtractorFileApply(space="s", external_id="q-large-node", name="node")
    queue.add_io_to_upload_queue(node, lambda: Sized(data))
    queue.upload()
    assert files.download_bytes(instance_id=NodeId("s", "q-large-node")) == data


class Sized(io.BytesIO):
    """Bytes whose length the queue asks for."""

    @property
    def len(self):
        return len(self.getbuffer())

    def __len__(self):
        return len(self.getbuffer())


def nodes():
    queue = BytesUploadQueue(cdf_client=cognite, overwrite_existing=True, max_queue_size=5)
    node = CogniteExtractorFileApply(
        space="s", external_id="q-node", name="node.txt", mime_type="text/plain", directory="a/b", tags=["t"]
    )
    queue.add_to_upload_queue(b"of a node", node)
    queue.upload()
    assert files.download_bytes(instance_id=NodeId("s", "q-node")) == b"of a node"
    assert files.retrieve(instance_id=NodeId("s", "q-node")).mime_type == "text/plain"


assert uploader
check("cognite 7: files", client_of_version_7)
check("cognite extractor: queues", queues)
check("cognite extractor: parts", large_files_in_parts)
check("cognite extractor: nodes", nodes)
sys.exit(1 if failed else 0)
