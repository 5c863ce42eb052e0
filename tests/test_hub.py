"""Downloads from a small hub on 127.0.0.1 that fails in known ways."""

import errno
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
import httpx2
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
    """The seconds that we, or the library, were to wait between tries. Nobody waits."""
    seconds, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda told: seconds.append(told) if told >= 1 else sleep(told))
    return seconds


def get(folder, *names, **options):
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


def test_files_come_under_their_local_names_and_nothing_else(hub, tmp_path, capfd):
    folder = tmp_path / "out"
    paths = get(folder, *hub.files)
    assert paths == [folder / f"local-{name}" for name in hub.files]
    for name, body in hub.files.items():
        file = folder / f"local-{name}"
        assert file.read_bytes() == body and not file.is_symlink()
    assert len(list(folder.iterdir())) == 6                     # and the lock
    assert not (tmp_path / "home").exists()                     # no cache that holds everything twice
    assert capfd.readouterr() == ("".join(f"some/set: {i} of 5 files\n" for i in range(1, 6)), "")


def test_only_the_files_are_asked_for_and_little_is_told(hub, tmp_path):
    get(tmp_path, "f0.bin")
    assert [(command, path.split("/")[1]) for command, path, _ in hub.asked] == [
        ("HEAD", "datasets"), ("GET", "datasets"), ("GET", "storage")]
    for _, _, headers in hub.asked:
        headers = {key.lower(): value for key, value in headers.items()}
        assert "agent/" not in headers["user-agent"] and "torch" not in headers["user-agent"]


@pytest.mark.parametrize("fault", [500, 503, 429, 408, "cut", "page", "wrong"])
def test_a_failed_download_is_tried_again_and_never_seen_under_its_name(hub, tmp_path, monkeypatch, fault):
    seen, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds) if seconds < 1 else
                        seen.append((tmp_path / "local-f1.bin").exists()))
    hub.faults["f1.bin"] = [fault]
    get(tmp_path, "f1.bin")
    assert seen and not any(seen) and (tmp_path / "local-f1.bin").read_bytes() == hub.files["f1.bin"]
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("faults", [["cut"] * 8, ["cut", 503] * 4], ids=["cut", "cut and refused"])
def test_a_cut_connection_is_continued_where_it_was_cut(hub, tmp_path, faults):
    hub.files["f0.bin"] = random.Random(0).randbytes(2**25)
    hub.faults["f0.bin"] = list(faults)
    get(tmp_path, "f0.bin")
    asked = [int((value or "bytes=0-")[6:-1]) for value in ranges(hub, "f0.bin")]
    halves = [2**25 - 2**(25 - i) for i in range(faults.count("cut") + 1)]
    assert sorted(set(asked)) == halves and len(asked) == len(faults) + 1
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_another_run_continues_what_one_that_was_cut_off_had_got(hub, tmp_path, capsys):
    hub.faults["f0.bin"] = ["cut"] + [503] * 5
    dies(capsys, "503", "f0.bin", "what has come is kept", call=lambda: get(tmp_path, "f0.bin"))
    assert not (tmp_path / "local-f0.bin").exists()
    hub.asked.clear()
    get(tmp_path, "f0.bin")
    assert ranges(hub, "f0.bin") == [f"bytes={2**17}-"]         # of 150,000 bytes that came
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
    dies(capsys, "f0.bin", call=lambda: get(tmp_path, "f0.bin"))
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
    dies(capsys, "f0.bin", "digest", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == [2, 4, 8, 16] and not list(tmp_path.glob("*local*"))


@pytest.mark.parametrize("asked", ["size", "content"])
@pytest.mark.parametrize("told, seconds", [
    ({"Retry-After": "77"}, 78), ({"ratelimit": '"resolvers";r=0;t=55'}, 56),
    ({"ratelimit": '"resolvers";r=9;t=55'}, 1)])
def test_the_wait_that_a_busy_server_asks_for_is_kept(hub, tmp_path, waits, told, seconds, asked):
    hub.told = told
    (hub.refusals if asked == "size" else hub.faults.setdefault("f0.bin", [])).append(429)
    get(tmp_path, "f0.bin")
    assert waits == [seconds]


def test_the_size_is_asked_for_again_after_a_fault(hub, tmp_path, waits):
    hub.refusals = [503, 500]
    get(tmp_path, "f0.bin")
    assert waits == [1, 2] and (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]


def test_finished_files_stay_when_another_fails_and_are_not_fetched_again(hub, tmp_path, capsys):
    hub.faults["f4.bin"] = [503] * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "ThreadPool", lambda _: ThreadPool(1))    # one after the other
        dies(capsys, "f4.bin", "503", call=lambda: get(tmp_path, *hub.files))
    assert len(list(tmp_path.glob("local-*"))) == 4
    hub.asked.clear()
    get(tmp_path, *hub.files)
    assert [path for command, path, _ in hub.asked if "/storage/" in path] == ["/storage/f4.bin"]


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
    dies(capsys, "some/set", "unset the `HF_HUB_OFFLINE`", call=lambda: get(tmp_path, "f0.bin"))
    assert hub.asked == []


def test_no_network_is_named_with_the_server(tmp_path, monkeypatch, waits, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")     # the discard port: nobody listens
    dies(capsys, "http://127.0.0.1:9/datasets/some/set", "refused", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == [1, 2, 4, 8, 8]


def test_connections_that_are_refused_now_and_then_end_nothing(hub, tmp_path, monkeypatch):
    count, handle = itertools.count(1), httpx2.HTTPTransport.handle_request

    def refuse(transport, request):
        if next(count) % 5 == 0:
            raise httpx2.ConnectError("refused", request=request)
        return handle(transport, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", refuse)
    hub.files = {f"f{i}.bin": random.Random(i).randbytes(3000) for i in range(40)}
    get(tmp_path, *hub.files)
    assert all((tmp_path / f"local-{name}").read_bytes() == body for name, body in hub.files.items())


def test_two_processes_at_once_agree(hub, tmp_path):
    command = [sys.executable, "-c", FETCH_ALL, str(tmp_path)]
    children = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert all((tmp_path / f"local-{name}").read_bytes() == body for name, body in hub.files.items())
    assert sum("/storage/" in path for _, path, _ in hub.asked) == 5


def test_a_refusal_ends_the_other_transfers(hub, tmp_path, waits, capsys):
    hub.faults = {"f0.bin": [403], "f1.bin": ["hang"]}
    dies(capsys, "f0.bin", "403", "HF_TOKEN", call=lambda: get(tmp_path, "f0.bin", "f1.bin"))
    assert waits == []
    hub.let_go.set()
    assert not list(tmp_path.glob("local-*"))


def test_ctrl_c_stops_a_transfer_that_hangs_within_a_second_and_leaves_no_half_file(hub, tmp_path):
    hub.faults = {f"f{i}.bin": ["hang"] for i in range(5)}
    command = [sys.executable, "-c", FETCH_ALL, str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob(".*.part"))) < 5 and child.poll() is None:
        threading.Event().wait(0.01)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate(timeout=2)[1]       # one for a busy machine
    assert not list(tmp_path.glob("local-*"))


def test_a_full_disk_in_the_middle_is_not_tried_again(hub, tmp_path, monkeypatch, waits, capsys):
    def write(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", write)
    dies(capsys, "some/set", "No space left", "NANOCHAT_BASE_DIR", call=lambda: get(tmp_path, "f0.bin"))
    assert waits == []


def test_a_plain_web_address_gets_no_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(tmp_path, "f0.bin", site=f"http://127.0.0.1:{hub.server_port}/storage")
    assert (tmp_path / "local-f0.bin").read_bytes() == hub.files["f0.bin"]
    assert not any(key.lower() == "authorization" for _, _, headers in hub.asked for key in headers)


def test_in_a_terminal_one_bar_of_the_bytes_moves_in_place_of_lines(hub, tmp_path, monkeypatch, capsys):
    huggingface_hub.utils.enable_progress_bars()        # reading tasks turns them off
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    get(tmp_path, *hub.files)
    lines, bar = capsys.readouterr()
    assert "some/set: 100%" in bar and "1.50M/1.50M" in bar and not lines
