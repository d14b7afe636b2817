"""Cognite's published client, unmodified, against a server.

One function per family of calls. Each check prints `ok NAME` or `not ok NAME`; see run.
An argument is a path that is put behind the server's URL.
"""

import io
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path

from cognite.client import ClientConfig, CogniteClient, global_config
from cognite.client.credentials import OAuthClientCredentials, Token
from cognite.client.data_classes import (
    FileMetadata,
    FileMetadataFilter,
    FileMetadataUpdate,
    FileMetadataWrite,
    GeoLocation,
    GeoLocationFilter,
    Geometry,
    GeometryFilter,
    Label,
    LabelFilter,
    TimestampRange,
)
from cognite.client.data_classes.data_modeling import NodeApply, NodeId
from cognite.client.data_classes.data_modeling.cdm.v1 import CogniteFileApply
from cognite.client.exceptions import (
    CogniteAPIError,
    CogniteDuplicatedError,
    CogniteNotFoundError,
    CogniteProjectAccessError,
)

URL = os.environ["LANDFALL_URL"] + (sys.argv[1] if len(sys.argv) > 1 else "")
KEY = os.environ.get("LANDFALL_KEY")
TOKEN_URL = os.environ.get("LANDFALL_TOKEN_URL")
PROJECT = os.environ["LANDFALL_TENANT"]
# It would ask the public index for its newest version.
global_config.disable_pypi_version_check = True
failed = 0
# Each run has names of its own: several share a server.
RUN = "run" + (sys.argv[1].strip("/") if len(sys.argv) > 1 else "") + ("oidc" if TOKEN_URL else "")


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


def credentials():
    """A key, or what a token is fetched with."""
    if not TOKEN_URL:
        return Token(KEY)
    return OAuthClientCredentials(
        token_url=TOKEN_URL,
        client_id=os.environ["LANDFALL_CLIENT_ID"],
        client_secret=os.environ["LANDFALL_CLIENT_SECRET"],
        scopes=None,
        resource=os.environ["LANDFALL_AUDIENCE"],
    )


def client(with_credentials=None):
    config = ClientConfig(
        client_name="tests",
        project=PROJECT,
        credentials=with_credentials or credentials(),
        base_url=URL,
        timeout=60,
    )
    return CogniteClient(config)


def content(length, seed=1):
    """The same bytes every time."""
    return random.Random(seed).randbytes(length)


def raises(kind, function, *arguments, **keywords):
    """Calls, and wants this error."""
    try:
        function(*arguments, **keywords)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def x(name):
    return f"{RUN}-{name}"


# -------------------------------------------------------------------------------------------------------- the methods


def create(files):
    made, url = files.create(FileMetadataWrite(name="a.txt", external_id=x("create"), mime_type="text/plain"))
    assert isinstance(made, FileMetadata) and made.id and not made.uploaded and url.startswith("http")
    error = raises(CogniteDuplicatedError, files.create, FileMetadataWrite(name="b", external_id=x("create")))
    assert error.duplicated == [{"externalId": x("create")}] and error.x_request_id
    again, _ = files.create(FileMetadataWrite(name="b", external_id=x("create"), source="s"), overwrite=True)
    assert (again.id, again.name, again.source, again.mime_type) == (made.id, "b", "s", "text/plain")


def upload_bytes(files):
    place = GeoLocation(type="Feature", geometry=Geometry(type="Point", coordinates=[10.5, 59.9]))
    made = files.upload_bytes(
        b"some bytes",
        name="bytes.bin",
        external_id=x("bytes"),
        source="s",
        mime_type="application/x-own",
        metadata={"k": "v"},
        directory="/d",
        asset_ids=[1, 2],
        data_set_id=3,
        labels=[Label("l")],
        geo_location=place,
        source_created_time=1,
        source_modified_time=2,
        security_categories=[4],
    )
    assert files.download_bytes(id=made.id) == b"some bytes"
    assert files.download_bytes(external_id=x("bytes")) == b"some bytes"
    found = files.retrieve(id=made.id)
    assert found.uploaded and found.uploaded_time and found.metadata == {"k": "v"} and found.asset_ids == [1, 2]
    assert found.labels == [Label("l")] and found.geo_location.geometry.coordinates == [10.5, 59.9]
    again = files.upload_bytes("text", name="bytes.bin", external_id=x("bytes"), overwrite=True)
    assert again.id == made.id and files.download_bytes(id=made.id) == b"text"
    handle = files.upload_bytes(io.BytesIO(content(300_000)), name="handle")
    assert files.download_bytes(id=handle.id) == content(300_000)
    empty = files.upload_bytes(b"", name="empty")
    assert files.download_bytes(id=empty.id) == b""


def upload(files):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.bin"
        path.write_bytes(content(200_000))
        made = files.upload(path, external_id=x("one"), mime_type="application/octet-stream")
        assert made.uploaded is not None and files.download_bytes(id=made.id) == content(200_000)
        for name, length in [("empty", 0), ("byte", 1), ("large", 60 * 1024 * 1024)]:
            (Path(folder) / name).write_bytes(content(length, 2))
        below = Path(folder) / "below"
        below.mkdir()
        (below / "deep").write_bytes(b"deep")
        all_of_them = files.upload(folder, recursive=True)
        assert len(all_of_them) == 5
        for file in all_of_them:
            got = files.download_bytes(id=file.id)
            assert got == next(Path(folder).rglob(file.name)).read_bytes(), file.name


def upload_content(files):
    made, _ = files.create(FileMetadataWrite(name="content", external_id=x("content")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        path.write_bytes(content(6_000_000))
        assert files.upload_content(path, external_id=x("content")).id == made.id
    assert files.download_bytes(id=made.id) == content(6_000_000)
    assert files.upload_content_bytes("other", external_id=x("content")).id == made.id
    assert files.download_bytes(id=made.id) == b"other"
    error = raises(CogniteNotFoundError, files.upload_content_bytes, b"x", external_id=x("nothing"))
    assert "nothing" in str(error)


def sessions(files):
    parts = [content(5 * 1024 * 1024, 1), content(5 * 1024 * 1024 + 1, 2), b"end"]
    with files.multipart_upload_session("parts", parts=3, external_id=x("parts")) as session:
        for number in (2, 0, 1):
            session.upload_part(number, parts[number])
    made = session.file_metadata
    assert files.download_bytes(id=made.id) == b"".join(parts)
    with files.multipart_upload_content_session(parts=1, external_id=x("parts")) as session:
        session.upload_part(0, b"one part")
    assert session.file_metadata.id == made.id
    assert files.download_bytes(id=made.id) == b"one part"
    try:
        with files.multipart_upload_session("fails", parts=1, external_id=x("fails")) as session:
            raise KeyError("the block fails")
    except KeyError:
        pass
    assert not files.retrieve(external_id=x("fails")).uploaded


def download(files):
    made = [files.upload_bytes(f"{n}".encode(), name=f"d{n}", directory="/in/a/folder") for n in range(3)]
    ids = [file.id for file in made]
    with tempfile.TemporaryDirectory() as folder:
        files.download(folder, id=ids)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["d0", "d1", "d2"]
        files.download(folder, id=ids, keep_directory_structure=True)
        assert (Path(folder) / "in/a/folder/d2").read_bytes() == b"2"
        files.download_to_path(Path(folder) / "x", id=ids[1])
        assert (Path(folder) / "x").read_bytes() == b"1"
    urls = files.retrieve_download_urls(id=ids, extended_expiration=True)
    assert set(urls) == set(ids)
    assert set(files.retrieve_download_urls(external_id=x("bytes"))) == {x("bytes")}
    nothing, _ = files.create(FileMetadataWrite(name="nothing"))
    assert raises(CogniteAPIError, files.download_bytes, id=nothing.id).code == 400


def retrieve(files):
    found = files.retrieve(external_id=x("bytes"))
    assert files.retrieve(id=found.id).external_id == x("bytes")
    assert files.retrieve(id=2**50) is None
    assert len(files.retrieve_multiple(ids=[found.id], external_ids=[x("one")])) == 2
    error = raises(CogniteNotFoundError, files.retrieve_multiple, external_ids=[x("one"), x("nobody")])
    assert "nobody" in str(error)
    assert len(files.retrieve_multiple(external_ids=[x("one"), x("nobody")], ignore_unknown_ids=True)) == 1


def lists(files):
    for n in range(25):
        files.create(FileMetadataWrite(name=f"list {n}", external_id=x(f"list-{n}"), source=x("list")))
    every = files.list(source=x("list"), limit=None)
    assert [file.name for file in every] == [f"list {n}" for n in range(25)]
    assert len(files.list(source=x("list"), limit=7)) == 7
    assert sum(1 for _ in files(source=x("list"))) == 25
    chunks = list(files(source=x("list"), chunk_size=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    parts = files.list(source=x("list"), limit=None, partitions=4)
    assert sorted(file.id for file in parts) == [file.id for file in every]
    shape = GeometryFilter("Polygon", [[[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]])
    for filters, count in [
        ({"external_id_prefix": x("list-1"), "limit": None}, 11),
        ({"name": "list 3", "source": x("list")}, 1),
        ({"source": x("list"), "uploaded": False, "limit": None}, 25),
        ({"source": x("list"), "uploaded": True}, 0),
        ({"source": x("list"), "created_time": TimestampRange(min=0), "limit": None}, 25),
        ({"source": x("list"), "last_updated_time": {"max": 1}}, 0),
        ({"external_id_prefix": x("filter"), "metadata": {"k": "v"}}, 1),
        ({"external_id_prefix": x("filter"), "asset_ids": [1, 9]}, 1),
        ({"external_id_prefix": x("filter"), "data_set_ids": [3]}, 1),
        ({"external_id_prefix": x("filter"), "labels": LabelFilter(contains_any=["l", "m"])}, 1),
        ({"external_id_prefix": x("filter"), "labels": LabelFilter(contains_all=["l", "m"])}, 0),
        ({"external_id_prefix": x("filter"), "directory_prefix": "/d"}, 1),
        ({"external_id_prefix": x("filter"), "mime_type": "a/b", "source_created_time": {"min": 5}}, 1),
        ({"external_id_prefix": x("filter"), "geo_location": GeoLocationFilter("within", shape)}, 1),
    ]:
        if not files.retrieve(external_id=x("filter")):
            place = GeoLocation(type="Feature", geometry=Geometry(type="Point", coordinates=[1, 2]))
            files.create(
                FileMetadataWrite(
                    name="filter",
                    external_id=x("filter"),
                    metadata={"k": "v"},
                    asset_ids=[1],
                    data_set_id=3,
                    labels=[Label("l")],
                    directory="/d/e",
                    mime_type="a/b",
                    source_created_time=5,
                    geo_location=place,
                )
            )
        found = files.list(**filters)
        assert len(found) == count, (filters, len(found))
    assert raises(CogniteAPIError, files.list, asset_subtree_ids=[1]).code == 400


def search_and_count(files):
    files.create(FileMetadataWrite(name=x("Needle in the Haystack"), source=x("search")))
    files.create(FileMetadataWrite(name=x("needle"), source=x("search")))
    found = files.search(name="NEEDLE", filter=FileMetadataFilter(source=x("search")))
    assert [file.name for file in found] == [x("needle"), x("Needle in the Haystack")]
    assert len(files.search(filter=FileMetadataFilter(source=x("search")), limit=1)) == 1
    assert files.aggregate_count(FileMetadataFilter(source=x("search"))) == 2
    assert files.aggregate_count() > 2


def update(files):
    made, _ = files.create(FileMetadataWrite(name="u", external_id=x("u"), source="s", metadata={"a": "1"}, labels=[Label("l")]))
    change = FileMetadataUpdate(id=made.id).source.set(None).metadata.add({"b": "2"}).labels.add(["m"]).asset_ids.add([5])
    changed = files.update(change)
    assert changed.source is None and changed.metadata == {"a": "1", "b": "2"} and changed.asset_ids == [5]
    assert [label.external_id for label in changed.labels] == ["l", "m"]
    changed.directory = "/new"
    changed = files.update(changed)
    assert (changed.directory, changed.metadata) == ("/new", {"a": "1", "b": "2"})
    replaced = files.update(FileMetadataWrite(name="u", external_id=x("u"), source="only"), mode="replace")
    assert replaced.source == "only" and not replaced.metadata and not replaced.labels and not replaced.directory
    raises(CogniteNotFoundError, files.update, FileMetadataUpdate(id=2**50).source.set("a"))


def delete(files):
    made, _ = files.create(FileMetadataWrite(name="gone", external_id=x("gone")))
    error = raises(CogniteNotFoundError, files.delete, id=made.id, external_id=x("nobody"))
    assert "nobody" in str(error)
    files.delete(id=made.id, external_id=x("nobody"), ignore_unknown_ids=True)
    assert files.retrieve(id=made.id) is None
    again, _ = files.create(FileMetadataWrite(name="gone", external_id=x("gone")))
    assert again.id != made.id
    files.delete(external_id=x("gone"))


def nodes(cognite):
    files = cognite.data_modeling.files
    node = CogniteFileApply(space="s", external_id=x("node"), name="node.txt", mime_type="text/plain")
    files.upload_bytes(b"of a node", node)
    which = NodeId("s", x("node"))
    assert files.download_bytes(which) == b"of a node"
    files.upload_content_bytes(b"anew", which)
    assert files.download_bytes(which) == b"anew"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n"
        path.write_bytes(content(6_000_000))
        files.upload(path, node)
        assert files.download_bytes(which) == content(6_000_000)
        files.upload_content(path, which)
    found = cognite.files.retrieve(instance_id=which)
    assert found.instance_id == which and found.name == "node.txt"
    assert cognite.files.download_bytes(instance_id=which) == content(6_000_000)
    assert set(files.retrieve_download_urls(which)) == {which}
    read = cognite.data_modeling.instances.retrieve(which, sources=CogniteFileApply.get_source())
    assert read.nodes[0].properties.data
    error = raises(CogniteNotFoundError, cognite.files.upload_content_bytes, b"x", instance_id=NodeId("s", "nobody"))
    assert error.code == 400
    assert cognite.data_modeling.instances.delete(which).nodes == [which]
    assert cognite.files.retrieve(instance_id=which) is None


def token(cognite):
    inspected = cognite.iam.token.inspect()
    assert inspected.projects[0].url_name == PROJECT
    raises(CogniteProjectAccessError, client(Token("nonsense")).files.list)


cognite = client()
WITH = " with a token" if TOKEN_URL else ""
for name, function in [
    ("create", create),
    ("upload_bytes", upload_bytes),
    ("upload", upload),
    ("upload_content", upload_content),
    ("multipart sessions", sessions),
    ("download", download),
    ("retrieve", retrieve),
    ("list", lists),
    ("search and aggregate_count", search_and_count),
    ("update", update),
    ("delete", delete),
]:
    check(f"cognite{WITH}: {name}", function, cognite.files)
check(f"cognite{WITH}: nodes", nodes, cognite)
check(f"cognite{WITH}: token", token, cognite)
sys.exit(1 if failed else 0)
