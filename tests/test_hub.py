"""Downloads from a small hub on 127.0.0.1 that fails in known ways."""

import errno
import hashlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_server import serving

from nanochat import hub as hub_module
from nanochat.hub import download

ROOT = Path(__file__).parent.parent
FETCH_ALL = """if True:
    import sys
    from pathlib import Path
    from nanochat.hub import download
    download("some/set", {f"f{i}.bin": f"local-f{i}.bin" for i in range(5)}, Path(sys.argv[1]))"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))       # a real token is not for this hub
    with serving(monkeypatch) as server:
        server.files = {f"f{i}.bin": random.Random(i).randbytes(300_000 + i) for i in range(5)}
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that we were to wait between tries. Nobody waits, the library neither."""
    seconds, pause = [], hub_module._pause
    monkeypatch.setattr(hub_module, "_pause", lambda *what: seconds.append(pause(*what)) or 0)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return seconds


@pytest.fixture
def naps(monkeypatch):
    """The seconds that the library was to wait."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def quiet(line: str) -> None:
    pass


def get(folder, *names, **options):
    options = {"progress": quiet} | options
    return download("some/set", {name: f"local-{name}" for name in names}, folder, **options)


def dies(capsys, *words, call) -> None:
    with pytest.raises(SystemExit) as stop:
        call()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and all(word in error for word in words), error
    assert len(error.splitlines()) == 2 and error.startswith("error: ") and "\n  hint: " in error, error


def ranges(server, name) -> list[str | None]:
    """The Range header of each request for the content of a file, in order."""
    wanted = ("GET", f"/storage/{name}")
    return [headers.get("Range") for command, path, headers in server.asked if (command, path) == wanted]


def test_files_come_under_their_local_names_with_their_digests_and_nothing_else(hub, tmp_path, capfd):
    lines, folder = [], tmp_path / "out"
    digests = get(folder, *hub.files, progress=lines.append)
    for name, body in hub.files.items():
        file = folder / f"local-{name}"
        assert file.read_bytes() == body and not file.is_symlink()
        assert digests[f"local-{name}"] == hashlib.sha256(body).hexdigest()
    assert len(list(folder.iterdir())) == 6                     # and the lock
    assert not (tmp_path / "home").exists()                     # no cache that holds everything twice
    assert capfd.readouterr() == ("", "") and len(lines) == 1
    assert "5 of 5 files, 2 of 2 MB" in lines[0] and "MB/s" in lines[0]


def test_only_the_files_are_asked_for_and_little_is_told(hub, tmp_path):
    get(tmp_path, "f0.bin")
    assert [(command, path.split("/")[1]) for command, path, _ in hub.asked] == [
        ("HEAD", "datasets"), ("GET", "datasets"), ("GET", "storage")]
    for _, _, headers in hub.asked:
        headers = {key.lower(): value for key, value in headers.items()}
        assert "agent/" not in headers["user-agent"] and "torch" not in headers["user-agent"]


def test_a_small_file_is_compared_with_the_digest_of_git(hub, tmp_path, waits):
    hub.small, hub.faults = 1_000_000, {"f0.bin": ["wrong"]}
    get(tmp_path, "f0.bin")
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"] and waits == [2]


@pytest.mark.parametrize("fault", [500, 503, 429, 408, "cut", "page", "wrong"])
def test_a_failed_download_is_tried_again_and_never_seen_under_its_name(hub, tmp_path, monkeypatch, fault):
    seen = []
    here = lambda *_: seen.append((tmp_path / "local-f1.bin").exists()) or 0
    monkeypatch.setattr(hub_module, "_pause", here)
    monkeypatch.setattr(time, "sleep", here)
    hub.faults["f1.bin"] = [fault]
    get(tmp_path, "f1.bin")
    assert seen and not any(seen) and (tmp_path / "local-f1.bin").read_bytes() == hub.files["f1.bin"]
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("faults", [["cut"] * 8, ["cut", 503] * 8], ids=["cut", "cut and refused"])
def test_a_cut_connection_is_continued_where_it_was_cut_as_long_as_something_comes(
        hub, tmp_path, monkeypatch, faults):
    monkeypatch.setattr(hub_module, "CHUNK", 100)
    hub.faults["f0.bin"] = list(faults)                         # more than TRIES
    get(tmp_path, "f0.bin")
    asked = [int((value or "bytes=0-")[6:-1]) for value in ranges(hub, "f0.bin")]
    assert sorted(set(asked))[:4] == [0, 150_000, 225_000, 262_500] and len(asked) == len(faults) + 1
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_another_run_continues_what_one_that_was_cut_off_had_got(hub, tmp_path, capsys):
    hub.faults["f0.bin"] = ["cut"] + [503] * 5
    dies(capsys, "f0.bin: 503", "tries: 5", "what has come is kept", call=lambda: get(tmp_path, "f0.bin"))
    assert not (tmp_path / "local-f0.bin").exists()
    hub.asked.clear()
    get(tmp_path, "f0.bin")
    assert ranges(hub, "f0.bin") == [f"bytes={hub_module.CHUNK * 2}-"]         # of 150,000 bytes that came
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_a_killed_process_is_continued_too(hub, tmp_path):
    """SIGKILL while half of the file is here and the hub holds its breath."""
    hub.faults["f0.bin"] = ["hang"]
    child = subprocess.Popen([sys.executable, "-c", FETCH_ALL, str(tmp_path)], cwd=ROOT)
    size = lambda: sum(part.stat().st_size for part in tmp_path.glob(".local-f0.bin.*.part"))
    while size() < 100_000 and child.poll() is None:
        threading.Event().wait(0.01)
    child.kill()
    child.wait()
    hub.let_go.set()
    got = size()
    hub.asked.clear()
    get(tmp_path, "f0.bin")
    assert ranges(hub, "f0.bin") == [f"bytes={got}-"]
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    hub.faults["f0.bin"] = ["cut", "whole"]
    get(tmp_path, "f0.bin")
    assert len(ranges(hub, "f0.bin")) == 2
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


@pytest.mark.parametrize("size", [30, 400_000], ids=["short", "longer than the file"])
@pytest.mark.parametrize("faults", [["page"], ["cut", "page"]], ids=["at once", "after a cut"])
def test_a_page_of_somebody_in_between_does_not_stay_in_the_part(hub, tmp_path, faults, size):
    hub.faults["f0.bin"], hub.page = list(faults), b"<html>log in first</html>".ljust(size)
    get(tmp_path, "f0.bin")
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


@pytest.mark.parametrize("faults", [["page"], ["cut", 503, "wrong"]], ids=["page", "cut and wrong"])
def test_what_is_never_the_content_is_given_up_however_much_of_it_comes(hub, tmp_path, capsys, faults):
    hub.faults["f0.bin"], hub.page = faults * 20, b"<html>".ljust(400_000)
    dies(capsys, "f0.bin", "tries: 5", call=lambda: get(tmp_path, "f0.bin"))
    assert not (tmp_path / "local-f0.bin").exists() and len(ranges(hub, "f0.bin")) < 20


def test_another_content_is_never_appended_to_a_part(hub, tmp_path, capsys):
    hub.faults["f0.bin"] = ["cut"] + [503] * 5
    dies(capsys, "503", call=lambda: get(tmp_path, "f0.bin"))
    hub.files["f0.bin"] = b"new" * 100_000
    hub.asked.clear()
    get(tmp_path, "f0.bin")
    assert ranges(hub, "f0.bin") == [None] and (tmp_path / "local-f0.bin").read_bytes() == b"new" * 100_000


def test_tries_end_after_growing_waits(hub, tmp_path, waits, capsys):
    hub.faults["f0.bin"] = ["wrong"] * 9
    dies(capsys, "f0.bin", "digest", "tries: 5", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == [2, 4, 8, 16] and not list(tmp_path.glob("*local*"))


@pytest.mark.parametrize("told, seconds", [
    ({"Retry-After": "77"}, 78), ({"ratelimit": '"resolvers";r=0;t=55'}, 56),
    ({"ratelimit": '"resolvers";r=9;t=55'}, 1)])
def test_the_wait_that_a_busy_server_asks_for_is_kept(hub, tmp_path, waits, naps, told, seconds):
    hub.faults["f0.bin"], hub.told = [429], told
    get(tmp_path, "f0.bin")
    assert naps == [seconds] and waits == []


@pytest.mark.parametrize("told, seconds", [
    ({"ratelimit": '"resolvers";r=0;t=55'}, 56), ({"ratelimit": '"resolvers";r=9;t=55'}, 2), ({}, 2)])
def test_the_wait_is_kept_when_it_is_the_size_that_is_asked_for(hub, tmp_path, waits, naps, told, seconds):
    hub.refusals, hub.told = [429], told
    get(tmp_path, "f0.bin")
    assert waits == [seconds] and naps == []


def test_the_size_is_asked_for_again_after_a_fault(hub, tmp_path, waits):
    hub.refusals = [503, 500]
    get(tmp_path, "f0.bin")
    assert waits == [2, 4] and (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_finished_files_stay_when_another_fails_and_are_not_fetched_again(hub, tmp_path, capsys):
    hub.faults["f4.bin"] = [503] * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "THREADS", 1)                 # in order, so that the others are finished
        dies(capsys, "f4.bin: 503", call=lambda: get(tmp_path, *hub.files))
    assert len(list(tmp_path.glob("local-*"))) == 4
    hub.asked.clear()
    get(tmp_path, *hub.files)
    assert [path for command, path, _ in hub.asked if "/storage/" in path] == ["/storage/f4.bin"]


def test_a_file_that_is_not_the_hubs_is_replaced(hub, tmp_path):
    (tmp_path / "local-f0.bin").write_bytes(b"x" * len(hub.files["f0.bin"]))
    get(tmp_path, "f0.bin")
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_what_is_not_there_is_asked_for_once_and_before_anything_is_fetched(hub, tmp_path, waits, capsys):
    dies(capsys, "some/set", "f9.bin", "404", "HF_ENDPOINT", call=lambda: get(tmp_path, "f0.bin", "f9.bin"))
    assert waits == [] and not list(tmp_path.glob("*local*"))
    assert {command for command, _, _ in hub.asked} == {"HEAD"}


def test_a_gated_set_asks_for_a_token_and_the_token_stays_with_the_hub(
        hub, tmp_path, monkeypatch, waits, capsys):
    hub.token = "hf_secret"
    dies(capsys, "f0.bin", "401", "HF_TOKEN", "/datasets/some/set", call=lambda: get(tmp_path, "f0.bin"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(tmp_path, "f0.bin")
    assert waits == [] and (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]
    stored = [headers for _, path, headers in hub.asked if "/storage/" in path]
    assert stored and not any(key.lower() == "authorization" for headers in stored for key in headers)


def test_offline_nothing_is_asked_for(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)      # the environment's, at import
    dies(capsys, "lacks 1 of the files of some/set", "HF_HUB_OFFLINE", call=lambda: get(tmp_path, "f0.bin"))
    assert hub.asked == []


def test_without_the_library_the_error_says_so(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    dies(capsys, "huggingface_hub", "uv sync", call=lambda: get(tmp_path, "f0.bin"))


def test_no_network_is_named_with_the_server(tmp_path, monkeypatch, waits, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")     # the discard port: nobody listens
    dies(capsys, "f0.bin", "tries: 5", "http://127.0.0.1:9", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == [2, 4, 8, 16]


def test_a_full_disk_is_seen_before_the_download(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    dies(capsys, "MB to fetch", "MB free", call=lambda: get(tmp_path, "f0.bin"))


def test_two_processes_at_once_agree(hub, tmp_path):
    command = [sys.executable, "-c", FETCH_ALL, str(tmp_path)]
    children = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert all((tmp_path / f"local-{name}").read_bytes() == body for name, body in hub.files.items())
    assert sum("/storage/" in path for _, path, _ in hub.asked) == 5


def test_a_failure_ends_the_other_transfers(hub, tmp_path, monkeypatch, capsys):
    class Stop(threading.Event):
        def set(self):
            super().set()
            hub.let_go.set()                                    # only now does the rest of f1 come

    monkeypatch.setattr(hub_module, "Event", Stop)
    hub.faults = {"f0.bin": [403], "f1.bin": ["hang"]}
    dies(capsys, "f0.bin: 403", "HF_TOKEN", call=lambda: get(tmp_path, "f0.bin", "f1.bin"))
    assert not list(tmp_path.glob("local-*"))


def test_a_full_disk_in_the_middle_is_not_tried_again(hub, tmp_path, monkeypatch, waits, capsys):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module.File, "update", write)
    dies(capsys, "f0.bin", "No space left", "NANOCHAT_BASE_DIR", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == []


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_moves_in_a_terminal_and_is_a_line_now_and_then_elsewhere(
        hub, tmp_path, monkeypatch, capsys, terminal):
    lines, timeouts, wait = [], [], hub_module.wait

    def look_up(jobs, timeout, return_when):
        found = wait(jobs, timeout=0.01, return_when=return_when)
        timeouts.append(timeout)
        hub.let_go.set()                                        # f0 is not finished before
        return found

    monkeypatch.setattr(hub_module, "wait", look_up)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    hub.faults["f0.bin"] = ["hang"]
    get(tmp_path, *hub.files, progress=lines.append)
    moving = capsys.readouterr().err.split("\r")[:-1]
    assert set(timeouts) == {0.5 if terminal else 30} and all("MB/s" in line for line in lines + moving)
    assert "5 of 5 files" in lines[-1] and (len(lines) == 1) == terminal == bool(moving)
