"""The chat page in a real browser, against the real server with tiny models; what no such model says is put
into the browser's mouth by intercepting its requests.

    PYTHONPATH=. python tests/test_chat_page.py http://127.0.0.1:8000 dev   takes pictures for the README"""

import json
import math
import re
import shutil
import sys
import threading
from pathlib import Path
import pytest
import torch

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the page's tests need Playwright: uv pip install playwright")

from chat_server import ENDLESS, TOKENIZER, TOOL, Gated, bigram, random_model, served, serving  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the page's tests need Chromium: apt-get install chromium")
TIMEOUT = 20_000                                        # ms, of anything that is waited for


class Chat:
    """The page, as its user sees it."""

    def __init__(self, page, url: str):
        self.page, self.url = page, url
        page.goto(url)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def see(self, selector: str, **how):
        """The first that is visible, waited for."""
        return self.page.wait_for_selector(f"{selector}:visible" if "state" not in how else selector, **how)

    def type(self, text: str) -> None:
        """Into the question, then Enter."""
        self.page.fill("#ask textarea", text)
        self.page.press("#ask textarea", "Enter")

    def ask(self, text: str) -> str:
        """The whole answer."""
        self.type(text)
        return self.done()

    def done(self) -> str:
        self.see("#send")
        self.page.evaluate("new Promise(requestAnimationFrame)")
        return self.page.locator(".answer .body").last.inner_text()

    def until(self, condition: str) -> None:
        """Looks on every frame (the page's policy forbids Playwright's own way)."""
        self.page.evaluate(f"""new Promise((done, fail) => {{
            const look = () => ({condition}) ? done() : requestAnimationFrame(look);
            setTimeout(() => fail(new Error("never: " + {json.dumps(condition)})), {TIMEOUT}); look() }})""")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def act(self, name: str, last: bool = True) -> None:
        found = self.page.get_by_role("button", name=name, exact=True)
        (found.last if last else found.first).click()

    def asked(self, act) -> dict:
        """What the page sends when that is done."""
        with self.page.expect_request(lambda request: request.method == "POST") as sent:
            act()
        return sent.value.post_data_json

    @property
    def focus(self) -> str:
        return self.page.evaluate("""(node => node.ariaLabel || node.title || node.textContent)(
            document.activeElement)""")


def open_chat(browser, url: str, errors: list, **options) -> Chat:
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 700}} | options)
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
    page.on("console", lambda said: errors.append(said.text)
            if said.type in ("error", "warning") and "Failed to load resource" not in said.text else None)
    page.on("request", lambda request: None if request.url.startswith((url, "data:", "blob:"))
            else errors.append("asked elsewhere: " + request.url))
    return Chat(page, url)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture()
def visit(browser):
    """(client, **options of the browser) -> a Chat with a storage of its own. Nothing may go wrong on it."""
    errors, chats = [], []

    def visit(client, **options) -> Chat:
        chats.append(open_chat(browser, str(client.base_url), errors, **options))
        chats[-1].until("models.length > 0 || byId('settings').open")
        return chats[-1]

    yield visit
    for chat in chats:
        chat.context.close()
    assert errors == []


@pytest.fixture(scope="module")
def client():
    """Serves a model that calls its tool, and one that says anything."""
    with serving(models=[served(Gated(bigram(TOOL)), "tiny-sft"), served(Gated(random_model()), "tiny-base")],
                 flags="--max-batch=4 --max-waiting=4") as client:
        yield client


def stream(text: str, pieces: list[str] | None = None, reason: str | None = "stop", **told) -> str:
    """A server's stream of an answer, a token per word, of which the model is as sure as the word is long."""
    def entry(token: str, share: float) -> dict:
        return {"token": token, "id": sum(token.encode()), "logprob": math.log(share), "bytes": []}

    def chunk(delta: dict, entries: list = (), finish: str | None = None, **more) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": {"content": entries}}
        return "data: " + json.dumps({"choices": [choice], **more}) + "\n\n"

    out = chunk({"role": "assistant", "content": ""},
                nanochat={"prompt_tokens": 10, "dropped_turns": 0, "context": 200} | told)
    for piece in pieces or re.findall(r"\s*\S+\s*$|\s*\S+", text):
        share = 1 - 1 / (1 + len(piece))
        others = [entry(piece, share), entry(" other", (1 - share) / 2)]
        out += chunk({"content": piece}, [entry(piece, share) | {"entropy": 0.5, "top_logprobs": others}])
    return out + (chunk({}, finish=reason) + "data: [DONE]\n\n" if reason else "")


def says(chat: Chat, text: str, **how) -> None:
    """From now on every answer is this."""
    chat.unroute("**/v1/chat/completions")
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(
        body=stream(text, **how), content_type="text/event-stream"))


# ---- asking and answering

def test_it_streams_stops_remembers_and_shows_text_as_text(visit):
    engine = Gated(bigram(ENDLESS), gate=threading.Semaphore(3))
    with serving(engine) as client:
        chat = visit(client)
        chat.type("<img src=x onerror=boom()>")
        chat.until("document.querySelector('.body')?.textContent === 'aba'")
        assert chat.texts(".bubble") == ["<img src=x onerror=boom()>"] and chat.locator("img").count() == 0
        chat.click("[aria-label=Stop]")
        assert chat.see(".note").inner_text() == "Stopped." and chat.focus == "Your message"
        chat.reload()
        chat.click("#chats .open")
        assert chat.texts(".body") == ["aba"] and chat.texts(".note") == ["Stopped."]
        engine.gate.release(1000)
        sent = chat.asked(lambda: chat.act("Continue"))
        assert sent["answer_ids"] == TOKENIZER.encode("aba")
        assert chat.done().startswith("abab") and "longest" in chat.texts(".note")[0]
        engine.broken = True
        chat.ask("a third")
        assert chat.texts(".note.error") == ["No answer: the model failed on this request"]


def test_the_question_grows_with_its_lines_up_to_seven_and_shrinks_again(visit, client):
    chat = visit(client)
    height = lambda: chat.locator("#ask textarea").evaluate("node => node.getBoundingClientRect().height")
    one, heights = height(), []
    chat.page.focus("#ask textarea")
    for _ in range(9):
        chat.keyboard.insert_text("a line")
        heights.append(height())
        chat.press("Shift+Enter")
    line = 1.6 * 16                                     # px
    assert heights == pytest.approx([one + min(i, 6) * line for i in range(9)], abs=1)
    chat.fill("#ask textarea", "x" * 500)
    assert height() > one and chat.evaluate("ask.getBoundingClientRect().width <= innerWidth")
    chat.press("Enter")
    chat.done()
    assert height() == one


def test_enter_alone_sends_and_what_is_typed_during_an_answer_waits(visit):
    engine = Gated(bigram(TOOL), gate=threading.Semaphore(0))
    with serving(engine) as client:
        chat = visit(client)
        chat.type(" \n ")
        assert chat.texts(".bubble") == [] and chat.locator("#send").is_disabled()
        chat.fill("#ask textarea", "one")
        chat.press("Alt+Enter", "Control+Enter", "Shift+Enter")
        assert chat.evaluate("live.size") == 0 and chat.input_value("#ask textarea").startswith("one")
        chat.press("Enter")
        assert chat.evaluate("live.size") == 1 and chat.input_value("#ask textarea") == ""
        chat.type("two")
        assert chat.input_value("#ask textarea") == "two" and chat.texts(".bubble") == ["one"]
        engine.gate.release(1000)
        chat.click("#send")
        assert chat.done().split("\n\n") == ["ok", "Calculator: 6*7 = 42", "!"]
        assert chat.texts(".bubble") == ["one", "two"]


def test_questions_without_an_answer_are_not_sent_again(visit, client):
    chat = visit(client)
    chat.route("**/v1/chat/completions", lambda route: route.abort())
    chat.ask("lost")
    assert chat.texts(".note.error") == ["No answer: the server cannot be reached."]
    chat.unroute("**/v1/chat/completions")
    chat.evaluate("models = []")                        # as if the server had been away from the start
    sent = chat.asked(lambda: chat.type("found"))
    assert sent["messages"] == [{"role": "user", "content": "found"}] and sent["top_logprobs"] == 5
    chat.done()
    chat.until("models.length === 2")
    first, second, third = chat.asked(lambda: chat.type("again"))["messages"]
    assert second["content"][1] == {"type": "python", "text": "6*7"} and third["content"] == "again"
    chat.done()


# ---- versions

def test_an_edited_question_is_a_branch_and_all_branches_last(visit, client):
    chat = visit(client)
    chat.ask("first")
    chat.ask("more")
    chat.hover(".bubble >> nth=0")
    chat.act("Edit", last=False)
    assert chat.focus == "Your question"
    chat.fill(".edit", "second")
    chat.press("Enter")
    chat.done()
    assert chat.texts(".bubble") == ["second"]
    chat.act("Previous version")
    assert chat.texts(".bubble") == ["first", "more"] and chat.focus == "Previous version"
    chat.press("Enter")                                 # round: the second is before the first
    assert chat.texts(".bubble") == ["second"] and "2/2" in chat.texts(".acts")[0]
    chat.act("Edit")
    chat.press("Escape")
    assert chat.texts(".bubble") == ["second"] and chat.focus == "Edit"
    chat.act("Try again")
    chat.done()
    assert "2/2" in chat.texts(".acts")[-1]
    chat.reload()
    chat.click("#chats .open")
    assert chat.texts(".bubble") == ["second"] and "2/2" in chat.texts(".acts")[-1]


def test_a_deleted_conversation_can_be_brought_back(visit, client):
    chat = visit(client)
    chat.ask("precious")
    chat.hover("#chats li")
    chat.act("Delete precious")
    assert chat.texts("#chats .open") == [] and chat.see("#hello")
    chat.act("Undo")
    assert chat.texts("#chats .open") == ["precious"] and chat.texts(".bubble") == ["precious"]


# ---- look inside

def test_a_token_shows_its_alternatives_and_a_choice_continues_from_it(visit, client):
    chat = visit(client)
    said = chat.ask("Hi")
    chat.act("Look inside")
    assert "".join(chat.texts(".token")).startswith("ok<|python_start|>6*7<|python_end|>") and "!" in said
    sure = chat.locator(".token").first
    assert float(sure.evaluate("node => node.style.getPropertyValue('--doubt')")) < 0.05
    sure.hover()
    assert re.match(r"(100|9\d)\.\d% likely · entropy 0.\d\d nats", chat.see(".peek p").inner_text())
    assert chat.locator(".peek button").count() == 5 and chat.texts(".peek .taken span") == ["o"]
    chat.mouse.move(5, 600)
    chat.see(".peek", state="hidden")
    chat.locator(".token").nth(1).click()               # as a tap
    other = chat.locator(".peek button:not(.taken)").first
    token = chat.evaluate("path().at(-1).message.tokens[1][4][1][0]")
    sent = chat.asked(other.click)
    assert sent["answer_ids"] == [*TOKENIZER.encode("o"), token]
    chat.done()
    assert chat.texts(".token.begun") and chat.locator(".token").first.inner_text() == "o"
    assert "2/2" in chat.texts(".acts")[-1]
    chat.reload()
    chat.click("#chats .open")
    assert chat.texts(".token.begun") and "sure" in chat.see("#legend").inner_text()
    chat.act("Look inside")
    assert chat.locator(".token").count() == 0


def test_ones_own_text_is_measured_as_the_model_measures_it(visit, client):
    text = "ab \u00e9\nba"
    ids = torch.tensor([[TOKENIZER.bos, *TOKENIZER.encode(text)]])
    model = random_model()
    with torch.no_grad():
        logprobs = model(ids[:, :-1]).float().log_softmax(-1)[0]
    nats = -logprobs.gather(1, ids[0, 1:, None]).sum().item()
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean().item()
    chat = visit(client)
    chat.select_option("#first", "tiny-base")
    chat.act("Your own text")
    chat.fill("#own textarea", text)
    chat.act("Measure")
    chat.see("#own .token")
    count = ids.shape[1] - 1
    means = [float(mean) for mean in re.findall(r"\d+\.\d\d", chat.texts("#means")[0])]
    assert means == pytest.approx([nats / count, nats / math.log(2) / len(text.encode()), entropy], abs=0.006)
    assert chat.locator("#own .token").count() == count
    chat.locator("#own .token").first.hover()
    chat.see(".peek")
    assert chat.locator(".peek div.row").count() >= 5 and chat.locator(".peek button").count() == 0
    chat.fill("#own textarea", "x" * 500)
    chat.act("Measure")
    assert "must be 1 to 200 tokens" in chat.see("#own .error").inner_text()
    chat.press("Escape")
    assert chat.focus == "Your own text"


def test_details_go_where_the_room_is_used_up_and_conversations_stay(visit, client):
    chat = visit(client)
    for question in ("one", "two", "three"):
        chat.click("#new")
        chat.ask(question)
    fill = "localStorage.setItem('{}', 'x'.repeat(5 * 2 ** 20 - {} - JSON.stringify(localStorage).length))"
    chat.evaluate(fill.format("first", 500))
    chat.click("#new")
    chat.ask("four")
    kept = chat.evaluate("stored(STORE).map(old => old.root.children[0].children[0])")
    assert len(kept) == 4 and all(one["content"] and "tokens" not in one for one in kept)
    chat.evaluate(fill.format("second", 100))
    chat.evaluate("chats[0].title = 'y'.repeat(9000), save()")
    assert "no room left" in chat.texts("footer")[0]


# ---- two models, settings, files

def test_two_stages_answer_side_by_side_and_one_of_them_goes_on(visit, client):
    chat = visit(client)
    assert chat.input_value("#first") == "tiny-sft" and chat.input_value("#second") == ""
    chat.select_option("#second", "tiny-base")
    chat.ask("Who?")
    assert chat.texts(".pair .name") == ["tiny-sft", "tiny-base"]
    left, right = (box.bounding_box() for box in chat.locator(".pair > *").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    other = chat.evaluate("path().at(-1).parent.children[1].content")
    assert chat.locator(".pair .chosen .name").inner_text() == "tiny-sft"
    chat.act("Go on from here")
    assert chat.texts(".pair .chosen .name") == ["tiny-base"] and chat.focus == "Goes on from here"
    chat.select_option("#second", "")
    sent = chat.asked(lambda: chat.type("More"))
    assert sent["model"] == "tiny-sft"
    assert sent["messages"][1]["content"] == other
    chat.done()
    chat.set_viewport_size({"width": 360, "height": 700})
    left, right = (box.bounding_box() for box in chat.locator(".pair > *").all())
    assert left["x"] == right["x"] and left["y"] + left["height"] <= right["y"]
    chat.reload()
    chat.click("#menu")
    chat.click("#chats .open")
    assert chat.locator(".pair .chosen .name").inner_text() == "tiny-base"


def test_both_answers_stream_at_once_and_stop_together(visit):
    gate, over = threading.Semaphore(0), threading.Event()             # one for both, which take turns

    def let_through():
        while not over.wait(0.05):
            gate.release()

    threading.Thread(target=let_through, daemon=True).start()
    models = [served(Gated(bigram(ENDLESS), gate=gate), id) for id in ("tiny-rl", "tiny-sft")]
    with serving(models=models) as client:
        try:
            chat = visit(client)
            chat.select_option("#second", "tiny-sft")
            chat.type("Go")
            chat.until("[...document.querySelectorAll('.body')].every(one => one.textContent.length > 1)")
            chat.press("Escape")
            chat.done()
            assert chat.texts(".note") == ["Stopped."] * 2
        finally:
            over.set()
            gate.release(1000)


def test_settings_reach_the_model_last_and_are_reset(visit, client):
    chat = visit(client)
    chat.act("Settings")
    values = {"Temperature": 1.5, "Top-k": 7, "Top-p": 0.9, "Longest answer": 3, "Seed": 5}
    for label, value in values.items():
        chat.get_by_label(label).fill(str(value))
    chat.get_by_label("System prompt").fill("Be brief.")
    chat.act("Done")
    assert chat.focus == "Settings"
    chat.select_option("#first", "tiny-base")
    chat.reload()
    chat.until("models.length > 0")
    sent = chat.asked(lambda: chat.type("Hi"))
    names = ("temperature", "top_k", "top_p", "max_tokens", "seed")
    assert [sent[name] for name in names] == list(values.values())
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."} and sent["model"] == "tiny-base"
    first = chat.done()
    assert chat.texts(".note") == ["The answer reached its longest length."]
    chat.act("Try again")
    assert chat.done() == first                         # the seed
    chat.act("Settings")
    chat.act("Reset")
    chat.act("Done")
    sent = chat.asked(lambda: chat.type("Hi"))
    assert not {"temperature", "top_k", "seed"} & set(sent) and sent["messages"][0]["role"] == "user"
    chat.done()


def test_conversations_are_exported_and_imported(visit, client, tmp_path):
    chat = visit(client)
    chat.ask("Take me along")
    chat.act("Try again")
    chat.done()
    with chat.expect_download() as download:
        chat.act("Export")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == ".json" and json.loads(path.read_text())["chats"][0]["title"] == "Take me along"
    other = visit(client)
    for _ in range(2):                                  # the second time there is nothing new
        other.set_input_files("#file", path)
        other.until("document.querySelector('footer').textContent.startsWith('New')")
    assert other.texts("#chats .open") == ["Take me along"]
    other.click("#chats .open")
    assert other.texts(".body") == chat.texts(".body") and "2/2" in other.texts(".acts")[-1]


def exported(*messages: dict, at: object = 0) -> str:
    """A file of one conversation that begins with one of these messages."""
    children = [{"children": [], "at": 0} | message for message in messages]
    return json.dumps({"chats": [{"title": "x", "root": {"children": children, "at": at}}]})


FOREIGN = [
    "", "[]", "null", '{"chats": 1}', '{"chats": [{"title": "x"}]}', exported({}), exported(at="length"),
    exported({"role": "user", "content": {}}), exported({"role": "user", "content": "Hi", "children": 7}),
    exported({"role": "assistant", "content": [{"type": 1}]}), exported({"role": "system", "content": []}),
    '{"chats": [{"title": "x", "root": ' + '{"children": [' * 9000 + "]}" * 9000 + "}]}",
]


def test_foreign_files_are_refused(visit, client):
    chat = visit(client)
    for content in FOREIGN:
        chat.evaluate("tell('')")
        file = {"name": "a.json", "mimeType": "application/json", "buffer": content.encode()}
        chat.set_input_files("#file", file)
        chat.until("document.querySelector('footer').textContent.includes('no file of conversations')")
    assert chat.texts("#chats .open") == []
    good = exported({"role": "user", "content": "Hi"}, {"role": "assistant", "content": []}).encode()
    chat.set_input_files("#file", {"name": "a.json", "mimeType": "application/json", "buffer": good})
    chat.until("document.querySelector('footer').textContent.includes('New conversations: 1')")


# ---- what can go wrong

def test_a_server_with_a_key_is_asked_with_it(visit):
    with serving(Gated(bigram(TOOL)), flags="--api-key=secret") as client:
        chat = visit(client)
        assert chat.see("[name=key]") and chat.evaluate("document.activeElement.name") == "key"
        chat.keyboard.type("wrong")
        chat.act("Done")
        chat.until("byId('settings').open")
        chat.fill("[name=key]", "secret")
        chat.press("Enter")
        chat.until("models.length === 1")
        assert chat.ask("Hi").startswith("ok")
        chat.reload()
        assert chat.ask("Hi").startswith("ok")


def test_errors_of_the_server_are_told_and_can_be_tried_again(visit, client):
    chat = visit(client)

    def refuse(route):
        said = {"error": {"message": "too many requests"}}
        route.fulfill(status=429, json=said)

    for act, note in [(refuse, "No answer: too many requests"),
                      (lambda route: route.fulfill(status=502), "No answer: the server answered 502"),
                      (lambda route: route.abort(), "No answer: the server cannot be reached."),
                      (lambda route: route.fulfill(body=stream("half of it", reason=None)),
                       "No answer: the connection was lost")]:
        chat.unroute("**/v1/chat/completions")
        chat.route("**/v1/chat/completions", act)
        if chat.texts(".bubble"):
            chat.act("Try again")
            chat.done()
        else:
            chat.ask("Hello?")
        assert chat.texts(".note.error") == [note]
    assert chat.texts(".body") == ["half of it"] and "4/4" in chat.texts(".acts")[-1]
    says(chat, "a short one", reason="length", dropped_turns=2)
    chat.act("Try again")
    chat.done()
    assert chat.texts(".note") == ["Oldest turns left out, to fit: 2",
                                   "The answer reached its longest length."]


def test_context_and_speed_are_told(visit, client):
    chat = visit(client)
    chat.ask("Hi")
    prompt = len(TOKENIZER.encode("Hi")) + 4
    assert chat.see("#meter").inner_text().strip() == f"{prompt + 12} of 200 tokens"
    assert re.search(r"12 tokens · \d+ a second", chat.texts(".acts")[-1])
    for _ in range(4):
        chat.ask("x" * 40)
    assert re.match(r"Oldest turns left out, to fit: [1-3]", chat.texts(".note")[-1])


HOSTILE = """<script>document.title = "taken"</script><img src=x onerror="document.title = 'taken'">
<svg onload="document.title='taken'"> [link](javascript:document.title='taken') ![image](https://example.org/x.png)
<style>body { display: none }</style> &lt;b&gt; <a href="https://example.org">out</a>
| <b>x</b> | `y` |
|---|---|
| <iframe src="https://example.org"> | **<i>z</i>** |

```html"><script>document.title = "taken"</script>
<script>document.title = "taken"</script>
"""


def test_hostile_output_stays_text(visit, client):
    chat = visit(client)
    says(chat, HOSTILE)
    chat.ask(HOSTILE)
    for _ in range(2):                                  # as markdown, and by tokens
        chat.evaluate("new Promise(done => setTimeout(done, 50))")
        assert chat.title() == "nanochat"
        assert chat.locator("#log :is(script, img, style, iframe, a, b, i)").count() == 0
        assert '<img src=x onerror="' in chat.locator(".body").inner_text()
        chat.act("Look inside")


TRAPS = {
    "quotes": "> " * 5000 + "x", "more quotes": "\n".join(">" * i for i in range(300)),
    "lists": "\n".join("  " * i + "- x" for i in range(300)), "numbers": "999999999. x\n- y\n1. z",
    "stars": "*" * 20_000, "ticks": "`" * 20_000 + "\n" + "`a" * 9999, "bold": "**a" * 9999,
    "dashes": "|\n" + "|-" * 9999 + "x", "spaces": "|x\n" + " " * 50_000 + "x",
    "pipes": "|" * 5000 + "\n|-|\n" + "|" * 5000, "fences": "```a\n" * 3000, "a huge line": "x" * 200_000,
    "many lines": "\n" * 50_000 + "x", "rules": "- " * 9999 + "x", "hashes": "#" * 9999 + " x",
    "an open fence": "```" + "a" * 50_000 + "`", "numbers of lines": "1. x\n" * 3000,
}


def test_markdown_traps_take_no_time_and_no_width(visit, client):
    chat = visit(client)
    chat.ask("Hi")
    for name, text in TRAPS.items():
        taken = chat.evaluate("""text => { const message = path().at(-1).message, start = performance.now();
            message.content = [{ type: "text", text }]; fill(message);
            return performance.now() - start }""", text)
        assert taken < 1000, name
        assert chat.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert chat.evaluate("log.scrollWidth <= log.clientWidth"), name


def test_right_to_left_text_runs_from_the_right_and_disturbs_nothing_else(visit, client):
    chat = visit(client)
    says(chat, "\u05e9\u05dc\u05d5\u05dd \u202eevil")
    chat.ask("\u202eabc")
    left = chat.locator(".body p").evaluate(
        "node => { const range = document.createRange(); range.selectNodeContents(node);"
        "return range.getBoundingClientRect().left - node.getBoundingClientRect().left }")
    assert left > 300
    copy = chat.get_by_role("button", name="Copy", exact=True)
    assert copy.evaluate("node => getComputedStyle(node).direction") == "ltr"


MARKDOWN = """# Title
Some *words*, **bold** and `code`
on two lines.
1. one
2. two
   - deep
   - deeper

   still two
7. three

- [x] other
| a | b |
|:--|--:|
| 1 | `2` |
```python
if x:
    print("*no* <b>")
```
The end * of it."""


def test_markdown_becomes_headings_lists_tables_and_code(visit, client):
    chat = visit(client, permissions=["clipboard-read", "clipboard-write"])
    says(chat, "", pieces=[MARKDOWN])
    chat.ask("Show")
    shape = chat.locator(".body").evaluate("""body => {
        const inner = child => child.children.length ? `(${outline(child)})` : "";
        const outline = node => [...node.children].map(
            child => child.tagName.toLowerCase() + inner(child)).join(" ");
        return outline(body) }""")
    row = lambda tag, inner="": f"tr({tag} {tag}{inner})"
    assert shape == " ".join([
        "h1", "p(em strong code)", "ol(li(p) li(p ul(li(p) li(p)) p) li(p))", "ul(li(p))",
        f"div(table(thead({row('th')}) tbody({row('td', '(code)')})))",
        "div(div(span button) pre(code))", "p"])
    assert chat.texts("pre code") == ['if x:\n    print("*no* <b>")']
    assert chat.texts(".top span") == ["python"]
    assert chat.texts(".body > p")[-1] == "The end * of it."
    chat.click(".code button")
    assert chat.see(".code button:text('Copied')")
    assert chat.evaluate("navigator.clipboard.readText()") == 'if x:\n    print("*no* <b>")'
    chat.locator(".acts button:text('Copy')").click()
    assert chat.see(".acts button:text('Copied')")
    assert chat.evaluate("navigator.clipboard.readText()") == MARKDOWN


# ---- for everyone

def test_it_fits_a_phone(visit, client):
    chat = visit(client, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    wide = lambda: chat.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide() and chat.locator("#nav").is_hidden()
    chat.ask("A question that is rather long, so that it needs more than one line on a phone")
    assert not wide()
    chat.tap("#menu")
    assert chat.see("#chats .open") and chat.focus.endswith("New chat")
    chat.press("Escape")
    chat.see("#nav", state="hidden")
    assert chat.focus == "Conversations"
    chat.tap("#inside")
    chat.locator(".token").last.tap()
    box = chat.see(".peek").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] >= 0 and not wide()
    for opener in ("Settings", "Your own text"):
        chat.tap("#menu")
        chat.act(opener)
        box = chat.see("dialog[open]").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["height"] <= 640 and not wide()
        chat.press("Escape", "Escape")                  # the dialog, then what it was opened from
    small = chat.evaluate("""[...document.querySelectorAll('button')].filter(node => node.checkVisibility() &&
        Math.min(node.offsetWidth, node.offsetHeight) < 24).map(node => node.textContent)""")
    assert small == []


def test_everything_is_reached_by_keyboard(visit, client):
    chat = visit(client)
    reached = []
    for _ in range(30):
        chat.press("Tab")
        reached.append(chat.focus)
        assert chat.evaluate("""[question, document.body].includes(document.activeElement)
            || getComputedStyle(document.activeElement).outlineStyle !== 'none'"""), reached[-1]
    assert {"+ New chat", "Your own text", "Settings", "Export", "Import", "Model", "Look inside",
            "Second model", "Your message"} <= set(reached)
    chat.page.focus("#ask textarea")
    chat.keyboard.type("Hi")
    chat.press("Enter")
    chat.done()
    chat.page.focus("#inside")
    chat.press("Enter", "Tab")
    while "Tokens" not in chat.evaluate("document.activeElement.parentNode.ariaLabel ?? ''"):
        chat.press("Tab")
    chat.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert re.match(r"k, (9\d|100)\.\d%", chat.focus) and chat.see(".peek")
    chat.press("Enter", "Tab")
    assert chat.evaluate("document.activeElement.matches('.peek button:nth-of-type(2)')")
    chat.press("Escape")
    assert chat.focus.startswith("k, ") and chat.see(".peek")
    chat.press("Enter", "Tab")
    assert len(chat.asked(lambda: chat.press("Enter"))["answer_ids"]) == 2
    chat.done()
    assert chat.focus == "Conversation"                 # not lost


def test_a_screen_reader_hears_an_answer_once(visit, client):
    chat = visit(client)
    chat.evaluate("""window.heard = []; for (const node of document.querySelectorAll('[role=status]'))
        new MutationObserver(() => heard.push(node.textContent.trim())).observe(node, { childList: true })""")
    chat.ask("Hi")
    assert chat.evaluate("heard") == ["ok!"] and chat.get_by_role("log").get_attribute("aria-live") == "off"
    unnamed = chat.evaluate("""[...document.querySelectorAll('button, input, select, textarea, dialog')]
        .filter(node => !(node.ariaLabel || node.title || node.textContent.trim() || node.labels?.length))
        .map(node => node.outerHTML)""")
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_by_day_and_by_night(visit, client, scheme):
    chat = visit(client, color_scheme=scheme, reduced_motion="reduce")
    names = ["back", "side", "bubble", "code", "text", "soft", "accent", "on-accent", "error"]
    colors = chat.evaluate("""names => Object.fromEntries(names.map(name => [
        name, getComputedStyle(document.documentElement).getPropertyValue("--" + name)]))""", names)

    def light(color: str) -> float:                     # relative luminance of WCAG 2
        digits = color.strip("# ")
        digits = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
        parts = [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        high, low = sorted((light(colors[one]), light(colors[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert (light(colors["back"]) < 0.1) == (scheme == "dark")
    for back in ("back", "side", "bubble", "code"):
        assert contrast("text", back) >= 7 and contrast("soft", back) >= 4.5, back
    for pair in [("accent", "back"), ("on-accent", "accent"), ("error", "back")]:
        assert contrast(*pair) >= 4.5, pair
    chat.type("Hi")
    assert chat.evaluate("document.getAnimations().length") == 0
    chat.done()


# ---- the README's pictures

QUESTIONS = [["Which planet is the fourth from the Sun?", "What is 48 + 67?"],
             ["How is the word lantern spelled?"]]      # to look inside


def pictures(url: str, folder: Path) -> None:
    """Four pictures of a running server: by day, by night, on a phone, and a look inside."""
    views = {"chat": {}, "chat_dark": {"color_scheme": "dark"}, "chat_inside": {},
             "chat_phone": {"viewport": {"width": 360, "height": 640}}}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, options in views.items():
            chat = open_chat(browser, url, [], **{"viewport": {"width": 1000, "height": 620}} | options)
            chat.until("models.length > 0")
            for question in QUESTIONS[name == "chat_inside"]:
                chat.ask(question)
            if name == "chat_inside":
                chat.click("#inside")
                unsure = "nodes => nodes.map(node => +node.style.getPropertyValue('--doubt'))"
                doubts = chat.locator(".token").evaluate_all(unsure)
                chat.locator(".token").nth(doubts.index(max(doubts))).hover()
                chat.see(".peek")
            chat.evaluate("document.activeElement.blur()")
            chat.wait_for_timeout(500)
            chat.screenshot(path=folder / f"{name}.png")
            assert (folder / f"{name}.png").stat().st_size < 80_000
        browser.close()


if __name__ == "__main__":
    pictures(sys.argv[1], Path(sys.argv[2]))
