"""Downloads against a local server that misbehaves on purpose, and archives that try to write elsewhere."""

import functools
import gzip
import hashlib
import http.server
import io
import logging
import os
import stat
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from segtutor.data import camvid, download, drosophila_vnc, isbi2012, oxford_pets, voc
from segtutor.data.download import (
    CorruptFileError,
    DownloadError,
    Progress,
    UnsafeArchiveError,
    checksums,
    download_archives,
    download_file,
    download_files,
    extract,
)
from segtutor.logs import LOGGER

CONTENT = bytes(range(256)) * 1500  # 384,000 bytes: several blocks
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A web server on this machine: ``files`` by path, and faults to show."""

    def __init__(self):
        self.files, self.requests = {}, []
        self.ranges = True  # whether it answers a range request with a part
        self.drop_after = []  # bytes to send before the connection is cut, one entry for each request
        self.fail = []  # status codes to answer first
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        if self.fail:
            return handler.send_error(self.fail.pop(0))
        if handler.path not in self.files:
            return handler.send_error(404)
        body, status, extra = self.files[handler.path], 200, {}
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return handler.send_error(416)
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in extra.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.drop_after:
            body = body[: self.drop_after.pop(0)]
            handler.close_connection = True
        handler.wfile.write(body)

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.close()


fetch = functools.partial(download_file, sha256=SHA, pause=0.01)


def test_a_file_comes_whole_and_once(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    path = fetch(f"{server.url}/a.bin", tmp_path / "deep" / "a.bin")
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["a.bin"]
    fetch(f"{server.url}/a.bin", path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_dropped_connection_is_taken_up_again(server, tmp_path, ranges):
    server.files["/a.bin"], server.ranges, server.drop_after = CONTENT, ranges, [100_000, 150_000]
    path = fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert path.read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.requests]
    if ranges:
        assert asked == [None, "bytes=100000-", "bytes=250000-"]
    else:
        assert asked == [None, "bytes=100000-", "bytes=150000-"]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_later_call_resumes(server, tmp_path):
    server.files["/a.bin"], server.drop_after = CONTENT, [200_000] + [0] * 20
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert os.listdir(tmp_path) == ["a.bin.part"] and (tmp_path / "a.bin.part").stat().st_size == 200_000
    server.drop_after, server.requests = [], []
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert server.requests == [("/a.bin", "bytes=200000-")]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and os.listdir(tmp_path) == ["a.bin"]


def test_an_interrupted_call_leaves_no_file_of_that_name(server, tmp_path):
    server.files["/a.bin"] = CONTENT

    class Interrupt(Progress):
        def step(self, amount):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=Interrupt("a", None))
    assert os.listdir(tmp_path) == ["a.bin.part"]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_corrupt_file_is_named_and_removed(server, tmp_path):
    wrong = CONTENT[:-1] + b"!"
    server.files["/a.bin"] = wrong
    with pytest.raises(CorruptFileError) as caught:
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert SHA in str(caught.value) and hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stale", [b"something else", CONTENT + b"and more", CONTENT])
def test_stale_bytes_of_an_earlier_call_do_no_harm(server, tmp_path, stale):
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(stale)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_damaged_file_on_disk_is_replaced(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin").write_bytes(b"damaged")
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT


def test_the_next_address_is_tried(server, tmp_path):
    server.files["/b.bin"] = CONTENT
    urls = [f"{server.url}/gone.bin", f"{server.url}/b.bin"]
    assert fetch(urls, tmp_path / "a.bin").read_bytes() == CONTENT
    server.files["/c.bin"] = b"corrupt"
    urls = [f"{server.url}/c.bin", f"{server.url}/b.bin"]
    assert fetch(urls, tmp_path / "d.bin").read_bytes() == CONTENT


def test_missing_files_and_busy_servers(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        fetch(f"{server.url}/no.bin", tmp_path / "a.bin")
    assert len(server.requests) == 1  # no use in asking again
    server.files["/a.bin"], server.fail = CONTENT, [503, 429]
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT
    with pytest.raises(ValueError, match="sha256 or the md5"):
        download_file(f"{server.url}/a.bin", tmp_path / "b.bin")


def test_no_server_at_all(tmp_path):
    closed = Server()
    closed.close()
    with pytest.raises(DownloadError, match="check the connection"):
        fetch(f"{closed.url}/a.bin", tmp_path / "a.bin")
    assert os.listdir(tmp_path) == []


def test_md5_guards_too(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    url, md5 = f"{server.url}/a.bin", hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert download_file(url, tmp_path / "a.bin", md5=md5).exists()
    with pytest.raises(CorruptFileError, match="md5"):
        download_file(url, tmp_path / "b.bin", md5="0" * 32)


def many(server, count=12):
    files = {f"{'train' if i % 2 else 'test image'}/{i}.png": bytes([i]) * (i + 1) for i in range(count)}
    server.files = {f"/base/{path.replace(' ', '%20')}": body for path, body in files.items()}
    return files, {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}


def test_a_folder_appears_when_it_is_complete(server, tmp_path, capsys, monkeypatch):
    files, digests = many(server)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # a program that has set up no logging sees the lines
    folder = download_files("Toy", [f"{server.url}/base/"], digests, tmp_path / "toy", pause=0.01)
    for path, body in files.items():
        assert folder.joinpath(*path.split("/")).read_bytes() == body
    assert os.listdir(tmp_path) == ["toy"]
    assert capsys.readouterr().out.splitlines()[-1] == "Toy: 12 of 12 files"


def test_an_incomplete_folder_does_not_appear_and_is_completed_later(server, tmp_path):
    files, digests = many(server)
    body = server.files.pop("/base/train/7.png")
    with pytest.raises(DownloadError, match="7.png"):
        download_files("Toy", [f"{server.url}/base"], digests, tmp_path / "toy", pause=0.01)
    assert os.listdir(tmp_path) == ["toy.partial"]
    had = {path for path in digests if (tmp_path / "toy.partial").joinpath(*path.split("/")).exists()}
    server.files["/base/train/7.png"], server.requests = body, []
    download_files("Toy", [f"{server.url}/base"], digests, tmp_path / "toy", pause=0.01)
    assert os.listdir(tmp_path) == ["toy"]
    assert len(server.requests) == len(files) - len(had)
    assert not list(tmp_path.rglob("*.part"))


def test_a_corrupt_file_keeps_the_folder_away(server, tmp_path):
    _, digests = many(server)
    server.files["/base/train/3.png"] = b"not what it was"
    with pytest.raises(CorruptFileError, match=digests["train/3.png"]):
        download_files("Toy", [f"{server.url}/base"], digests, tmp_path / "toy", pause=0.01)
    assert not (tmp_path / "toy").exists() and not (tmp_path / "toy.partial" / "train" / "3.png").exists()


def test_an_interrupt_stops_the_other_files(server, tmp_path, monkeypatch):
    files, digests = many(server, 200)
    real, begun = download.download_file, []

    def interrupted(urls, path, **options):
        begun.append(path)
        if len(begun) == 10:
            raise KeyboardInterrupt
        return real(urls, path, **options)

    monkeypatch.setattr(download, "download_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_files("Toy", [f"{server.url}/base"], digests, tmp_path / "toy", pause=0.01)
    assert len(begun) < len(files) and os.listdir(tmp_path) == ["toy.partial"]


def test_progress_is_lines_of_the_packages_logger(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", logger="segtutor")
    progress = Progress("VOC", 4_000_000, "MB", every=0.0)
    progress.step(1_500_000)
    progress.close()
    said = [("segtutor.data.download", logging.INFO, "VOC: 1.5 of 4.0 MB")] * 2
    assert caplog.record_tuples == said
    quiet = Progress("VOC", None, every=1000.0)
    quiet.step(3)
    assert caplog.record_tuples == said


@pytest.mark.parametrize(
    "module, key, count", [(camvid, "camvid", 1402), (drosophila_vnc, "vnc", 40), (isbi2012, "isbi2012", 60)]
)
def test_the_lists_of_checksums(module, key, count):
    found = checksums(key, module.SPEC.digest)
    assert len(found) == count and all(len(value) == 64 for value in found.values())
    with pytest.raises(CorruptFileError, match="install segtutor again"):
        checksums(key, "0" * 64)


# ------------------------------------------------------------------------------------------------- whole datasets
def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png")
    return out.getvalue()


def tif(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "tiff")
    return out.getvalue()


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def replace_source(monkeypatch, module, server, files):
    import dataclasses

    server.files = {f"/data/{path}": body for path, body in files.items()}
    digests = {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}
    monkeypatch.setattr(module, "SPEC", dataclasses.replace(module.SPEC, urls=(f"{server.url}/data",)))
    monkeypatch.setattr(module, "checksums", lambda *_: digests)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """No data anywhere: an empty home folder and no SEGTUTOR_DATA."""
    monkeypatch.delenv("SEGTUTOR_DATA", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr("pathlib.Path.home", lambda: folder)
    return folder


def test_camvid_downloads_into_the_cache_and_into_a_root(server, monkeypatch, home, tmp_path):
    files = {}
    for split in ("train", "val", "test"):
        files[f"{split}/a.png"] = png(np.stack([GREY] * 3, -1))
        files[f"{split}annot/a.png"] = png(GREY % 12)
    replace_source(monkeypatch, camvid, server, files)
    camvid.label_mapping.cache_clear()
    dataset = camvid.CamVid("val", download=True)
    image, mask = dataset[0]
    assert image.shape == (3, 6, 8) and set(mask.unique().tolist()) == {*range(11), 255}
    assert dataset.root == home / ".cache" / "segtutor" / "camvid"
    asked = len(server.requests)
    assert len(camvid.CamVid("test", download=True)) == 1 and len(server.requests) == asked
    assert camvid.CamVid("train", root=tmp_path / "mine", download=True).root == tmp_path / "mine" / "camvid"
    monkeypatch.setenv("SEGTUTOR_DATA", str(tmp_path / "mine"))
    assert camvid.CamVid().root == tmp_path / "mine" / "camvid"
    camvid.label_mapping.cache_clear()


def test_vnc_and_isbi_download(server, monkeypatch, home):
    files = {f"stack1/raw/{i:02d}.tif": tif(GREY) for i in range(20)}
    files |= {f"stack1/labels/labels{i:08d}.png": png(np.full((6, 8), 159, np.uint8)) for i in range(20)}
    replace_source(monkeypatch, drosophila_vnc, server, files)
    assert drosophila_vnc.DrosophilaVNC("test", download=True)[0][1].unique().tolist() == [1]
    files = {f"train/image/{i}.png": png(GREY + i) for i in range(30)}
    files |= {f"train/label/{i}.png": png(np.where(GREY > 20, 255, 0).astype(np.uint8)) for i in range(30)}
    replace_source(monkeypatch, isbi2012, server, files)
    dataset = isbi2012.ISBI2012("val", download=True)
    assert len(dataset) == 3 and dataset[0][1].unique().tolist() == [0, 1]
    assert round(float(dataset[0][0][0, 0, 0]) * 255) == 21  # slices in the order of their numbers


def test_a_folder_that_holds_something_else_is_not_touched(home, tmp_path):
    (tmp_path / "camvid").mkdir()
    (tmp_path / "camvid" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="move it away"):
        camvid.CamVid(root=tmp_path, download=True)
    assert (tmp_path / "camvid" / "thesis.txt").read_text() == "mine"


def tarball(files, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for path, body in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return out.getvalue()


def md5(body):
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def test_pets_download_through_torchvisions_addresses(server, monkeypatch, home):
    from torchvision.datasets import OxfordIIITPet

    names = [f"cat_{i}" for i in range(20)]
    jpeg = io.BytesIO()
    Image.fromarray(np.stack([GREY] * 3, -1)).save(jpeg, "jpeg")
    images = tarball({f"images/{name}.jpg": jpeg.getvalue() for name in names})
    trimap = png((GREY % 3 + 1).astype(np.uint8))
    notes = {f"annotations/trimaps/{name}.png": trimap for name in names}
    notes["annotations/trainval.txt"] = "".join(f"{name} 1 1 1\n" for name in names).encode()
    notes["annotations/test.txt"] = b"cat_0 1 1 1\n"
    notes = tarball(notes)
    server.files = {"/images.tar.gz": images, "/annotations.tar.gz": notes}
    sources = tuple((f"{server.url}/{n}.tar.gz", md5(b)) for n, b in (("images", images), ("annotations", notes)))
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", sources)
    train = oxford_pets.OxfordPets("train", download=True)
    val = oxford_pets.OxfordPets("val")
    assert (len(train), len(val), len(oxford_pets.OxfordPets("test"))) == (18, 2, 1)
    assert not {image for image, _ in train.pairs} & {image for image, _ in val.pairs}
    expected = np.select([GREY % 3 == 0, GREY % 3 == 1], [1, 0], 255)
    assert np.array_equal(train[0][1].numpy(), expected)
    third = oxford_pets.OxfordPets("train", border="class")
    assert third.spec.num_classes == 3 and np.array_equal(third[0][1].numpy(), np.where(expected == 255, 2, expected))
    # torchvision reads the same folder, so either may have fetched it.
    assert len(OxfordIIITPet(train.root, split="trainval", target_types="segmentation")) == 20
    assert sorted(os.listdir(train.root.parent)) == ["oxford_pets"]


def test_voc_downloads_through_torchvisions_address(server, monkeypatch, home):
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    base = "VOCdevkit/VOC2012"
    jpeg = io.BytesIO()
    Image.fromarray(np.stack([GREY] * 3, -1)).save(jpeg, "jpeg")
    labels = Image.fromarray((GREY % 21).astype(np.uint8))
    labels.putpixel((0, 0), 255)
    labels.putpalette(sum((list(voc.voc_color(i)) for i in range(256)), []))
    mask = io.BytesIO()
    labels.save(mask, "png")
    body = tarball(
        {
            f"{base}/JPEGImages/x.jpg": jpeg.getvalue(),
            f"{base}/SegmentationClass/x.png": mask.getvalue(),
            f"{base}/ImageSets/Segmentation/train.txt": b"x\n",
            f"{base}/ImageSets/Segmentation/val.txt": b"x\n",
        },
        "w",
    )
    server.files["/VOC.tar"] = body
    entry = {**DATASET_YEAR_DICT["2012"], "url": f"{server.url}/VOC.tar", "md5": md5(body)}
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)
    dataset = voc.VOC("val", download=True)
    expected = GREY % 21
    expected[0, 0] = 255
    assert np.array_equal(dataset[0][1].numpy(), expected)  # indices of the palette, not its colours
    with pytest.raises(ValueError, match="VOC 2011 train"):
        voc.VOC("train", year=2011)
    with pytest.raises(ValueError, match="choose one of train, val, trainval"):
        voc.VOC("test")


# ------------------------------------------------------------------------------------------------------- archives
def write(path, body):
    path.write_bytes(body)
    return path


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_archives_are_unpacked(tmp_path, kind):
    files = {"a/b/c.txt": b"c", "d.txt": b"d", "./e.txt": b"e"}
    body = zipped(files) if kind == "zip" else tarball(files, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind])
    extract(write(tmp_path / "archive", body), tmp_path / "out")
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "C:evil", "..\\evil", "a\\evil"])
@pytest.mark.parametrize("pack", [zipped, tarball])
def test_paths_that_lead_outside_are_refused(tmp_path, name, pack):
    inner = tmp_path / "inner"
    inner.mkdir()
    body = pack({"good.txt": b"good", name: b"evil"})
    with pytest.raises(UnsafeArchiveError, match="outside"):
        extract(write(inner / "archive", body), inner / "out")
    assert os.listdir(tmp_path) == ["inner"] and os.listdir(inner) == ["archive"]  # not even the good entry


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = kind, "../../etc/passwd"
        archive.addfile(entry)
    with pytest.raises(UnsafeArchiveError, match="a link|a device"):
        extract(write(tmp_path / "a.tar", out.getvalue()), tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.tar"]


def test_links_in_zip_are_refused(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(entry, "../../etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="a link"):
        extract(write(tmp_path / "a.zip", out.getvalue()), tmp_path / "out")


@pytest.mark.parametrize(
    "body",
    [
        b"no archive",
        tarball({"a": os.urandom(9000)})[:4000],
        gzip.compress(b"no tar"),
        zipped({"a": bytes(9000)})[:-30],
    ],
    ids=["text", "cut tar", "gzip of no tar", "cut zip"],  # bytes as names hold the time, and processes would differ
)
def test_broken_archives_are_named(tmp_path, body):
    with pytest.raises(DownloadError, match="download it again"):
        extract(write(tmp_path / "broken.bin", body), tmp_path / "out")


def test_an_interrupted_unpacking_is_done_anew(server, tmp_path, monkeypatch):
    body = tarball({"x/a.txt": b"a", "x/b.txt": b"b"})
    server.files["/x.tar.gz"] = body
    real, calls = download.extract, []

    def interrupted(archive, folder):
        calls.append(archive)
        if len(calls) == 1:
            folder.mkdir(parents=True)
            (folder / "half.txt").write_text("half")
            raise KeyboardInterrupt
        return real(archive, folder)

    monkeypatch.setattr(download, "extract", interrupted)
    sources = [(f"{server.url}/x.tar.gz", md5(body))]
    with pytest.raises(KeyboardInterrupt):
        download_archives("X", sources, tmp_path / "x", pause=0.01)
    assert not (tmp_path / "x").exists()
    download_archives("X", sources, tmp_path / "x", pause=0.01)
    assert sorted(p.name for p in (tmp_path / "x").rglob("*")) == ["a.txt", "b.txt", "x"]
    assert os.listdir(tmp_path) == ["x"] and len(server.requests) == 1
