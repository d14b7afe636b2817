"""Aitronos' published client on stores and their files, unmodified, against a server: every method of section
`store_files`, what it takes to have a store, and the vendor's page."""

import io
import sys
import time

import requests
from aitronos.core.api_error import ApiError
from aitronos.errors import UnprocessableEntityError

import aitronos_sdk as base
from aitronos_sdk import KEY, ORGANIZATION, URL, check, content, raises

WORD = "lighthouse"
TEXT = f"The keeper of the {WORD} counts the ships at dusk.\n".encode()


def in_store(name):
    """What every writing call is told twice."""
    return {"organization_id": ORGANIZATION, **name}


def knowledge_of(client, name):
    """Every method of `client.store_files`, and of the stores around it."""
    files, knowledge, attached = client.store_files, client.knowledge, client.vector_store_files
    store = knowledge.create_store(ORGANIZATION, name=f"Charts of {name}", description="Of the coast")
    again = (ORGANIZATION, store.id)
    made = []

    def stores():
        assert store.id.startswith("vs_") and store.access_mode == "organization" and store.is_active, store
        assert knowledge.get_store(ORGANIZATION, store.id).name == store.name
        listed = knowledge.list_stores_for_org(ORGANIZATION, search="CHARTS OF", sort="name", order="asc", limit=100)
        assert store.id in [one.id for one in listed.items], listed
        changed = knowledge.update_store(ORGANIZATION, store.id, name=f"Maps of {name}", is_active=False)
        assert changed.name == f"Maps of {name}" and not changed.is_active, changed
        second = knowledge.create_store_in_slice(ORGANIZATION, "kslice_abcdefghijkl", name="Of a slice")
        assert second.slice_id == "kslice_abcdefghijkl", second
        listed = knowledge.list_stores_by_slice(ORGANIZATION, "kslice_abcdefghijkl")
        assert [one.id for one in listed.items] == [second.id], listed
        knowledge.delete_store(ORGANIZATION, second.id)
        raises(ApiError, 404, knowledge.get_store, ORGANIZATION, second.id)

    def chunked():
        for path in (None, "data/imports"):
            opened = files.generate_chunked_upload_url(
                *again,
                organization_id=ORGANIZATION,
                file_name="keeper.txt",
                file_size=len(TEXT),
                mime_type="text/plain",
                relative_path=path,
            )
            assert opened.chunk_size == 8388608 and opened.upload_id.startswith("file_"), opened
            early = in_store({"upload_id": opened.upload_id, "relative_path": None})
            error = raises(ApiError, 400, files.register_chunked_upload, *again, **early)
            assert error["code"] == "UPLOAD_INCOMPLETE", error
            assert requests.put(opened.signed_url, data=TEXT).status_code == 200
            file = files.register_chunked_upload(*again, **early)
            assert (file.file_id, file.status) == (opened.upload_id, "pending"), file
            assert (file.name, file.size, file.relative_path) == ("keeper.txt", len(TEXT), path), file
            assert files.register_chunked_upload(*again, **early) == file
            made.append(file.file_id)

    def direct():
        file = files.upload_file_to_store(
            *again, organization_id=ORGANIZATION, file=("notes.txt", TEXT, "text/plain"), relative_path="notes"
        )
        assert (file.name, file.relative_path, file.size) == ("notes.txt", "notes", len(TEXT)), file
        file = files.upload_file_to_store(*again, organization_id=ORGANIZATION, file=io.BytesIO(b"%PDF-1.4 broken"))
        assert file.relative_path is None, file
        made.append(file.file_id)

    def processing():
        for number, file in enumerate(made):
            for _ in range(1000):
                status = files.get_processing_status(*again, file)
                if status.status in ("completed", "failed"):
                    break
                time.sleep(0.02)
            broken = number == len(made) - 1
            assert status.status == ("failed" if broken else "completed"), status
            assert bool(status.error_message) == broken and status.started_at, status
            logs = files.get_processing_logs(*again, file).logs
            assert logs[-1].level == ("error" if broken else "info"), logs
        detail = files.get_store_file(*again, made[0])
        assert detail.chunk_count == 1 and detail.processing_completed_at, detail
        status = files.retry_processing(*again, made[-1], organization_id=ORGANIZATION)
        assert status.status == "pending" and status.progress_percent == 0, status

    def listing():
        page = files.list_store_files(*again)
        assert (page.total, page.skip, page.limit, page.has_more) == (4, 0, 20, False), page
        page = files.list_store_files(*again, status="completed", search="KEEPER", skip=1, limit=1)
        assert page.total == 2 and [one.file_id for one in page.items] == [made[0]], page
        raises(ApiError, 400, lambda: files.list_store_files(*again, status="done"))

    def numbers():
        usage = files.get_storage_usage(ORGANIZATION)
        mine = [one for one in usage.stores if one.store_id == store.id][0]
        listed = files.list_store_files(*again, limit=100).items
        assert (mine.file_count, mine.used_bytes) == (4, sum(one.size for one in listed)), usage
        assert usage.total_bytes > usage.used_bytes >= mine.used_bytes, usage
        config = files.get_file_config()
        assert config.direct_upload_max_bytes == 32505856 and config.chunked_upload_chunk_bytes == 8388608, config
        assert config.supported_types["pdf"].extensions == [".pdf"], config

    def attaching():
        other = knowledge.create_store(ORGANIZATION, name="Other")
        place = (ORGANIZATION, other.id)
        answer = attached.add_file_to_vector_store(*place, file_id=made[0])
        assert answer.data.id.startswith("vsf_") and answer.data.file_id == made[0], answer
        assert attached.get_file_details(*place, made[0]).data.file_name == "keeper.txt"
        assert attached.list_files_in_vector_store(*place, page=1, page_size=10).data.total == 1
        assert attached.get_processing_status(*place, made[0]).data.vector_store_file_id == answer.data.id
        assert attached.get_file_processing_logs(*place, made[0]).data["logs"]
        attached.retry_failed_processing(*place, made[0])
        attached.remove_file_from_vector_store(*place, made[0])
        raises(ApiError, 404, attached.get_file_details, *place, made[0])
        knowledge.delete_store(ORGANIZATION, other.id)

    def refusals():
        unknown = (ORGANIZATION, "vs_unknown")
        error = raises(ApiError, 404, files.list_store_files, *unknown)
        assert error["code"] == "VECTOR_STORE_NOT_FOUND", error
        assert error["details"] == {"store_id": "vs_unknown", "organization_id": ORGANIZATION}, error
        raises(ApiError, 403, files.list_store_files, "org_of_others", store.id)
        ask = {"file_name": "a", "file_size": 1, "mime_type": "text/plain"}
        raises(ApiError, 400, files.generate_chunked_upload_url, *again, organization_id="other", **ask)
        ask["file_size"] = "x"
        wrong = (UnprocessableEntityError, 422, files.generate_chunked_upload_url, *again)
        raises(*wrong, **in_store(ask))

    def removal():
        files.remove_store_file(*again, made[0], organization_id=ORGANIZATION)
        raises(ApiError, 404, files.get_store_file, *again, made[0])
        files.bulk_remove_store_files(*again, organization_id=ORGANIZATION, file_ids=[made[1], "file_unknown"])
        assert files.list_store_files(*again).total == 2
        knowledge.delete_store(ORGANIZATION, store.id)
        raises(ApiError, 404, files.list_store_files, *again)

    for function in (stores, chunked, direct, processing, listing, numbers, attaching, refusals, removal):
        check(f"{name}: knowledge, {function.__name__}", function)


PAGE = '''
import requests

org_id = "org_xyz789"
store_id = "vs_abc123"
url = f"https://api.aitronos.com/v1/organizations/{org_id}/stores/{store_id}/files/upload-url"

headers = {
    "Authorization": "Bearer YOUR_ACCESS_TOKEN",
    "Content-Type": "application/json",
}

data = {
    "file_name": "large-dataset.csv",
    "file_size": 104857600,
    "mime_type": "text/csv",
    "relative_path": "data/imports",
}

response = requests.post(url, headers=headers, json=data)
print(response.json())
'''


def page():
    """The Python of "Get upload URL", with host, ids and token replaced."""
    store = next(base.clients())[1].knowledge.create_store(ORGANIZATION, name="Of the page")
    snippet = PAGE.replace("https://api.aitronos.com", URL).replace("org_xyz789", ORGANIZATION)
    snippet = snippet.replace("vs_abc123", store.id).replace("YOUR_ACCESS_TOKEN", KEY)
    said = []
    exec(snippet, {"print": said.append})
    assert set(said[0]) == {"upload_id", "signed_url", "chunk_size", "expires_at"}, said


def google():
    """Google's client sends a file of a store."""
    data = content(3 * base.CHUNK + 7, seed=5)
    client = next(base.clients())[1]
    store = client.knowledge.create_store(ORGANIZATION, name="In chunks")
    ask = {"file_name": "a.bin", "file_size": len(data), "mime_type": base.MIME}
    opened = client.store_files.generate_chunked_upload_url(ORGANIZATION, store.id, **in_store(ask))
    upload = base.initiated(opened.signed_url, io.BytesIO(data), "crc32c")
    while not upload.finished:
        upload.transmit_next_chunk(requests.Session())
    register = in_store({"upload_id": opened.upload_id})
    assert client.store_files.register_chunked_upload(ORGANIZATION, store.id, **register).size == len(data)


if __name__ == "__main__":
    for name, client in base.clients():
        knowledge_of(client, name)
    check("google-resumable-media, into a store", google)
    check("the page of stores, its own Python", page)
    sys.exit(1 if base.failed else 0)
