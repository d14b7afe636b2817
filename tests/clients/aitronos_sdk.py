"""Aitronos' published client and Google's reference client for resumable uploads, unmodified, against a server.

One function per family of calls. Each check prints `ok NAME` or `not ok NAME`; see run.
"""

import base64
import hashlib
import http.client
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import traceback
import urllib.parse

import google_crc32c
import requests
from aitronos import Aitronos
from aitronos.core.api_error import ApiError
from aitronos.errors import UnprocessableEntityError
from google.resumable_media.requests import ResumableUpload

URL = os.environ["LANDFALL_URL"]
KEY = os.environ["LANDFALL_KEY"]
ORGANIZATION = os.environ["LANDFALL_TENANT"]
MIME = "application/octet-stream"
CHUNK = 1024 * 1024
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


def raises(kind, status, function, *arguments, **keywords):
    """Calls, and wants this error."""
    try:
        function(*arguments, **keywords)
    except kind as error:
        assert error.status_code == status, error
        body = error.body
        assert body["error"]["status"] == status and not body["success"], body
        return body["error"]
    raise AssertionError(f"no {kind.__name__}")


# ------------------------------------------------------------------------------------------------------------- Files


def upload_and_register(files, data, name="large.bin"):
    """What a program does with the client: ask, send, register."""
    asked = {"filename": name, "file_size": len(data), "mime_type": MIME}
    session = files.generate_upload_url(ORGANIZATION, request=asked)
    assert set(session) == {
        "upload_url",
        "gcs_path",
        "file_id",
        "expires_at",
        "max_file_size",
        "upload_type",
        "chunk_size_recommended",
    }, session
    sent = requests.put(session["upload_url"], headers={"Content-Type": MIME}, data=data)
    assert sent.status_code == 200, sent.text
    register = {"filename": name, "gcs_path": session["gcs_path"], "file_size": len(data), "mime_type": MIME}
    file = files.register_file(ORGANIZATION, request=register)
    assert file["id"] == session["file_id"] and file["storage_path"] == session["gcs_path"], file
    assert file["receipt"]["md5"] == hashlib.md5(data).hexdigest(), file
    again = files.register_file(ORGANIZATION, request=register)
    assert again == file, again
    return file


def files_of(client, name):
    """Every method of `client.files`."""
    files = client.files
    data = content(3 * CHUNK + 5)
    made = []

    def register():
        made.append(upload_and_register(files, data)["id"])

    def batches():
        asked = [{"filename": f"{n}.bin", "file_size": n, "mime_type": MIME} for n in (5, 6)]
        sessions = files.generate_upload_url(ORGANIZATION, request={"files": asked})["files"]
        registrations = []
        for one, session in zip(asked, sessions):
            assert requests.put(session["upload_url"], data=b"x" * one["file_size"]).status_code == 200
            registrations.append({**one, "gcs_path": session["gcs_path"]})
        answer = files.register_file(ORGANIZATION, request={"files": registrations})
        assert answer["success"] and answer["total_uploaded"] == 2, answer
        made.extend(file["id"] for file in answer["files"])

    def direct():
        answer = files.upload_file(ORGANIZATION, files=[("a.txt", b"one", "text/plain"), ("b.bin", data, MIME)])
        assert answer.success and answer.total_uploaded == 2 and len(answer.files) == 2, answer
        assert [file.original_filename for file in answer.files] == ["a.txt", "b.bin"]
        assert answer.files[1].file_size == len(data)
        made.extend(file.id for file in answer.files)
        answer = files.upload_file(ORGANIZATION, files=[("c.txt", b"three", "text/plain")])
        assert answer.total_uploaded == 1, answer
        made.append(answer.files[0].id)

    def listing():
        page = files.list_files(ORGANIZATION)
        assert page.total >= len(made) and page.page == 1 and page.limit == 50, page
        assert {file.id for file in page.files} >= set(made)
        page = files.list_files(ORGANIZATION, page=1, limit=1)
        assert len(page.files) == 1 and page.has_more, page

    def reading():
        file = files.get_file(ORGANIZATION, made[0])
        assert file.file_size == len(data) and file.uploaded_by is None and file.uploaded_by_api_key_id, file
        link = files.get_file_content(ORGANIZATION, made[0])
        answer = requests.get(link.download_url)
        assert answer.content == data and answer.headers["Content-Type"] == MIME
        part = requests.get(link.download_url, headers={"Range": "bytes=1-4"})
        assert part.status_code == 206 and part.content == data[1:5]
        # The client reads whatever comes as JSON: of use to those whose files are JSON.
        answer = files.upload_file(ORGANIZATION, files=[("a.json", b'{"a": [1, 2]}', "application/json")])
        made.append(answer.files[0].id)
        link = files.get_file_content(ORGANIZATION, made[-1])
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link.download_url).query))
        token, expires = query["token"], int(query["expires"])
        read = files.download_file_content(ORGANIZATION, made[-1], token=token, expires=expires)
        assert read == {"a": [1, 2]}, read

    def refusals():
        asked = {"filename": "a", "file_size": 0, "mime_type": MIME}
        error = raises(ApiError, 400, files.generate_upload_url, ORGANIZATION, request=asked)
        assert error["details"] == {"field": "file_size", "value": 0}, error
        raises(UnprocessableEntityError, 422, files.generate_upload_url, ORGANIZATION, request={})
        raises(UnprocessableEntityError, 422, files.register_file, ORGANIZATION, request={})
        raises(ApiError, 403, files.list_files, "org_of_others")
        raises(ApiError, 404, files.get_file, ORGANIZATION, "file_unknown")

    def deletion():
        for id in made:
            files.delete_file(ORGANIZATION, id)
        raises(ApiError, 404, files.get_file, ORGANIZATION, made[0])
        raises(ApiError, 404, files.delete_file, ORGANIZATION, made[0])

    for function in (register, batches, direct, listing, reading, refusals, deletion):
        check(f"{name}: files, {function.__name__}", function)


def clients():
    """The client as it may be set up."""
    yield "sdk at the root", Aitronos(base_url=URL, api_key=KEY)
    yield "sdk under the prefix", Aitronos(base_url=f"{URL}/aitronos/", api_key=KEY)
    yield "sdk with a token", Aitronos(base_url=URL, api_key="dummy", token=KEY)


# ---------------------------------------------------------------------------------------- resumable uploads, Google's


def session_for(data):
    """A session's URL."""
    asked = {"filename": "resumable.bin", "file_size": len(data), "mime_type": MIME}
    files = Aitronos(base_url=URL, api_key=KEY).files
    return files.generate_upload_url(ORGANIZATION, request=asked)


def initiated(url, stream, checksum):
    """A session URL is its own upload's location, so that the client can begin as it does everywhere."""
    upload = ResumableUpload(url, CHUNK, checksum=checksum)
    upload.initiate(requests.Session(), stream, {}, MIME, stream_final=True)
    assert upload.resumable_url == url, upload.resumable_url
    return upload


def all_chunks(checksum):
    data = content(5 * CHUNK + 1000)
    session = session_for(data)
    upload = initiated(session["upload_url"], io.BytesIO(data), checksum)
    transport = requests.Session()
    while not upload.finished:
        answer = upload.transmit_next_chunk(transport)
    stored = answer.json()
    assert stored["size"] == str(len(data)), stored
    assert base64.b64decode(stored["md5Hash"]) == hashlib.md5(data).digest()
    assert base64.b64decode(stored["crc32c"]) == google_crc32c.Checksum(data).digest()


def interrupted(checksum):
    """One process sends two chunks and dies within the third; another one goes on."""
    data = content(5 * CHUNK + 1000, seed=2)
    session = session_for(data)
    url = session["upload_url"]
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        ended = subprocess.run([sys.executable, __file__, "die", url, file.name, checksum])
        assert ended.returncode == 7, ended
        transport = requests.Session()
        with open(file.name, "rb") as stream:
            upload = ResumableUpload(url, CHUNK, checksum=checksum)
            # The client has no public way to take up a session that another process began.
            upload._stream, upload._total_bytes, upload._content_type = stream, len(data), MIME
            upload._resumable_url, upload._invalid = url, True
            upload.recover(transport)
            begun = upload.bytes_uploaded
            assert 2 * CHUNK <= begun < 3 * CHUNK and begun % (256 * 1024) == 0, begun
            # Nor one to hash what the other process has sent.
            upload._update_checksum(0, data[:begun])
            upload._bytes_checksummed = begun
            while not upload.finished:
                answer = upload.transmit_next_chunk(transport)
    assert base64.b64decode(answer.json()["md5Hash"]) == hashlib.md5(data).digest()
    register = {
        "filename": "resumable.bin",
        "gcs_path": session["gcs_path"],
        "file_size": len(data),
        "mime_type": MIME,
        "md5": hashlib.md5(data).hexdigest(),
    }
    files = Aitronos(base_url=URL, api_key=KEY).files
    file = files.register_file(ORGANIZATION, request=register)
    link = files.get_file_content(ORGANIZATION, file["id"])
    assert requests.get(link.download_url).content == data


def die(url, path, checksum):
    """The process that does not come to its end."""
    with open(path, "rb") as stream:
        upload = initiated(url, stream, checksum)
        for _ in range(2):
            upload.transmit_next_chunk(requests.Session())
        size = os.path.getsize(path)
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc)
        connection.putrequest("PUT", f"{parts.path}?{parts.query}")
        connection.putheader("Content-Range", f"bytes {2 * CHUNK}-{3 * CHUNK - 1}/{size}")
        connection.putheader("Content-Length", str(CHUNK))
        connection.endheaders()
        connection.send(stream.read(CHUNK)[: CHUNK // 2])
    os._exit(7)


def resumable_uploads():
    """Google's client on session URLs."""
    for checksum in ("md5", "crc32c"):
        check(f"google-resumable-media, {checksum}", all_chunks, checksum)
        check(f"google-resumable-media, {checksum}, interrupted", interrupted, checksum)


# ------------------------------------------------------------------------------------------------- the vendor's page

ASK = '''
import os
import requests

api_key = os.environ["FREDDY_API_KEY"]
org_id = "org_123"
url = f"https://api.aitronos.com/v1/organizations/{org_id}/files/upload-url"
headers = {"X-API-Key": api_key}

data = {
    "filename": "large_video.mp4",
    "file_size": 524288000,
    "mime_type": "video/mp4"
}

response = requests.post(url, headers=headers, json=data)
upload_session = response.json()

print(f"Upload URL: {upload_session['upload_url']}")
print(f"File ID: {upload_session['file_id']}")
print(f"GCS Path: {upload_session['gcs_path']}")
'''

SEND = '''
import requests

# Step 1: Get upload URL (from above)
upload_url = upload_session['upload_url']
gcs_path = upload_session['gcs_path']
file_id = upload_session['file_id']

# Step 2: Upload file to GCS using resumable protocol
with open('/path/to/large_video.mp4', 'rb') as f:
    headers = {
        'Content-Type': 'video/mp4'
    }
    upload_response = requests.put(upload_url, headers=headers, data=f)

# Step 3: Register the completed upload (see Register File endpoint)
register_url = f"https://api.aitronos.com/v1/organizations/{org_id}/files"
register_data = {
    "filename": "large_video.mp4",
    "gcs_path": gcs_path,
    "file_size": 524288000,
    "mime_type": "video/mp4"
}
register_response = requests.post(
    register_url,
    headers={"X-API-Key": api_key},
    json=register_data
)
file_obj = register_response.json()
print(f"File registered: {file_obj['id']}")
'''


def files_page():
    """The Python of "Generate upload URL", with what it says to replace replaced; nothing of it is shown."""
    os.environ["FREDDY_API_KEY"] = KEY
    data = content(CHUNK + 3)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        said = io.StringIO()
        names = {"print": lambda text: said.write(text + "\n")}
        for snippet in (ASK, SEND):
            snippet = snippet.replace("https://api.aitronos.com", URL).replace("org_123", ORGANIZATION)
            snippet = snippet.replace("524288000", str(len(data))).replace("/path/to/large_video.mp4", file.name)
            exec(snippet, names)
    assert names["upload_response"].status_code == 200, names["upload_response"].text
    assert re.search(r"File registered: file_\w+", said.getvalue()), said.getvalue()


def throttled():
    """More calls than the server allows at once: each is answered in the end, by the client's own repetition."""
    files = Aitronos(base_url=URL, api_key=KEY).files
    for _ in range(10):
        assert files.list_files(ORGANIZATION).total == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["die"]:
        die(*sys.argv[2:])
    if sys.argv[1:2] == ["throttled"]:
        check("check_53 429, then success", throttled)
        sys.exit(1 if failed else 0)
    for name, client in clients():
        files_of(client, name)
    # Where locations are Google's own, the rest is Google's as well.
    if sys.argv[1:2] == ["files"]:
        sys.exit(1 if failed else 0)
    resumable_uploads()
    check("the page's own Python", files_page)
    sys.exit(1 if failed else 0)
