"""The page in a real browser, which reaches this machine only: what it shows is what the library computes.

Needs gradio, plotly, playwright and Debian's chromium: `make test-app` installs what is missing.
"""

from __future__ import annotations

import logging
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from onejump.app.generation import _Telling
from onejump.app.inputs import Limits
from onejump.app.served import Served
from onejump.app.study_results import StudyResults
from onejump.runtime.artefact import OneJump
from onejump.runtime.early_exit import EarlyExit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-app installs it")
pytest.importorskip("gradio", reason="needs gradio: pip install 'onejump[app]'")
pytest.importorskip("plotly", reason="needs plotly: pip install 'onejump[app]'")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: make test-app installs it"),
    pytest.mark.xdist_group("browser"),
    # gradio asks pandas for what it is about to leave out.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'", "ignore:The copy keyword"),
]

PROMPT = "The old farmer counted the green boat"
# Milliseconds that anything may take: the machine may be busy with other tests.
PATIENCE = 180_000
# Milliseconds after which the mouse tries again: a page that is still being laid out misses it.
AGAIN = 3_000


class Site(NamedTuple):
    """A page that is served."""

    address: str
    outside: list[Any]
    """Whatever the server tried to reach that is not this machine."""


def _local(address: Any) -> bool:
    return not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost", "0.0.0.0")


@pytest.fixture(scope="module")
def outside() -> Iterator[list[Any]]:
    """What this process tries to reach that is not this machine: it is refused and noted."""
    tried: list[Any] = []
    real_connect, real_find = socket.socket.connect, socket.getaddrinfo

    def connect(one: socket.socket, address: Any) -> None:
        if not _local(address):
            tried.append(address)
            raise OSError("no network")
        real_connect(one, address)

    def find(host: Any, *arguments: Any, **options: Any) -> Any:
        if host is not None and not _local((host.decode() if isinstance(host, bytes) else host,)):
            tried.append(host)
            raise socket.gaierror("no network")
        return real_find(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", find)
        yield tried


def _serve(served: Served | None, results: StudyResults | None, outside: list[Any]) -> Iterator[Site]:
    from onejump.app.web.server import application, listening, server_of

    with listening("127.0.0.1", 0) as one:
        server = server_of(application(served, results, hosts=["127.0.0.1"]))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [one]})
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{one.getsockname()[1]}", outside)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def site(served: Served, study_folder: Path, outside: list[Any]) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        # More updates than on a real page: the tiny model is done in a moment.
        patch.setattr("onejump.app.generation._PERIOD", 0.05)
        yield from _serve(served, StudyResults(study_folder), outside)


@pytest.fixture(scope="module")
def empty_site(outside: list[Any]) -> Iterator[Site]:
    yield from _serve(None, None, outside)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Window:
    """A window of the browser that reaches this machine only, and notes what goes wrong in it."""

    def __init__(self, browser: Any, colours: str) -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=colours)
        self.context.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def _route(self, route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1":
            self.wrong.append(f"asked for {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(message.text)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def until(self, script: str, argument: Any = None) -> None:
        """Wait until a function of the page gives true; say what the page shows where it does not."""
        try:
            self.page.wait_for_function(script, arg=argument, timeout=PATIENCE)
        except playwright.TimeoutError:
            shown = self.page.locator("body").inner_text()
            pytest.fail(f"waited in vain for {script}\nWrong: {self.wrong}\nThe page shows:\n{shown}")

    def says(self, place: str, text: str) -> None:
        """Wait until a part of the page holds a text."""
        self.until("([place, text]) => document.querySelector(place).innerText.includes(text)", [place, text])

    def insist(self, act: Callable[[], None], script: str, argument: Any = None) -> None:
        """Do something with the mouse until a function of the page gives true."""
        for _ in range(PATIENCE // AGAIN):
            act()
            try:
                self.page.wait_for_function(script, arg=argument, timeout=AGAIN)
            except playwright.TimeoutError:
                continue
            return
        self.until(script, argument)


@pytest.fixture
def window(
    browser: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[Window]:
    caplog.set_level(logging.ERROR)
    found = Window(browser, getattr(request, "param", "light"))
    yield found
    found.context.close()
    assert found.wrong == []
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def opened(window: Window, site: Site) -> Iterator[Window]:
    window.page.goto(site.address)
    window.page.get_by_role("tab", name="Generate").wait_for()
    yield window
    assert "Traceback" not in window.page.content()
    assert site.outside == []


@pytest.fixture(scope="module")
def logits(tiny_model_folder: Path) -> torch.Tensor:
    """The model's own logits for the prompt at each level (L + 1, T, V), by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    tokens = AutoTokenizer.from_pretrained(tiny_model_folder)(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = model(tokens, output_hidden_states=True)
        # transformers gives the last state behind the norm.
        early = [model.lm_head(model.model.norm(state)) for state in found.hidden_states[:-1]]
    return torch.cat([*early, found.logits])


def show_lens(window: Window, prompt: str = PROMPT) -> None:
    window.page.locator("#lens-prompt textarea").fill(prompt)
    window.page.locator("#lens-start").click()
    window.page.locator("#lens-figure .hm").wait_for()


def choose(window: Window, menu: str, choice: str) -> None:
    # A menu closes when the page puts other choices into it.
    window.insist(
        window.page.locator(f"{menu} input").click, "() => document.querySelector('[role=option]') !== null"
    )
    window.page.get_by_role("option", name=choice, exact=True).click()


def heat_map(window: Window) -> dict[str, Any]:
    """What the figure of the page holds."""
    found: dict[str, Any] = window.page.evaluate(
        "() => { const all = document.querySelector('.js-plotly-plot').data;"
        " const map = all.find(one => one.type === 'heatmap');"
        " return {name: map.name, text: map.text, z: map.z}; }"
    )
    return found


def hover(window: Window, place: int, level: int) -> str:
    """Point at a cell, and read what is shown."""

    def point() -> None:
        x, y = window.page.evaluate(
            "([place, level]) => { const plot = document.querySelector('.js-plotly-plot');"
            " const {xaxis, yaxis} = plot._fullLayout; const box = plot.getBoundingClientRect();"
            " return [box.left + xaxis._offset + xaxis.l2p(place),"
            " box.top + yaxis._offset + yaxis.l2p(level)]; }",
            [place, level],
        )
        window.page.mouse.move(x - 3, y - 3)
        window.page.mouse.move(x, y)

    window.insist(
        point,
        "start => document.querySelector('.hoverlayer .hovertext')?.textContent.startsWith(start)",
        f"level {level},",
    )
    return str(window.page.locator(".hoverlayer .hovertext").text_content())


def assert_hover_is_right(window: Window, folder: Path, logits: torch.Tensor) -> None:
    """The numbers over two cells are those of the model's own states, norm and head."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    last = logits.log_softmax(-1)[-1]
    following = tokenizer(PROMPT)["input_ids"][1:]
    for place, level in ((3, 2), (1, 4)):
        said = hover(window, place, level)
        shares, tokens = logits[level, place].softmax(-1).topk(10)
        for share, token in zip(shares.tolist(), tokens.tolist(), strict=True):
            assert f"{share:.4f}  ·{tokenizer.convert_ids_to_tokens(token)}" in said.replace("\xa0", " ")
        log = logits[level, place].log_softmax(-1)
        divergence = float((last[place].exp() * (last[place] - log)).sum())
        for name, value in (
            ("entropy", float(-(log.exp() * log).sum())),
            ("surprisal", float(-log[following[place]])),
            ("forward kl", max(divergence, 0.0)),
        ):
            (shown,) = re.findall(rf"{name}: (-?[\d.]+(?:e-?\d+)?)", said)
            assert float(shown) == pytest.approx(value, rel=2e-3, abs=1e-5)


def test_typing_gives_a_trajectory_whose_last_row_is_the_models_own_prediction(
    opened: Window, tiny_model_folder: Path, logits: torch.Tensor
) -> None:
    show_lens(opened)
    choose(opened, "#lens-shortcut", "identity")
    opened.until("() => document.querySelector('.js-plotly-plot').data[0].name === 'identity'")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    found = heat_map(opened)
    for level in range(5):
        best = tokenizer.convert_ids_to_tokens(logits[level].argmax(-1).tolist())
        assert [unescape(text) for text in found["text"][level]] == [f"·{token}" for token in best]
    shares = logits.softmax(-1).amax(-1)
    torch.testing.assert_close(torch.tensor(found["z"]), shares, rtol=1e-4, atol=1e-5)
    opened.says("#lens-own", "the model itself says")
    own = opened.page.locator("#lens-own").inner_text()
    for share, token in zip(*(one.tolist() for one in logits[-1, -1].softmax(-1).topk(5)), strict=True):
        assert f"{tokenizer.convert_ids_to_tokens(token)} {share:.3f}" in own
    assert_hover_is_right(opened, tiny_model_folder, logits)
    # The same stands below the figure, for those who cannot see the label.
    opened.says("#lens-cell", "level 4, ")
    cell = opened.page.locator("#lens-cell").inner_text().split("\n")
    label = str(opened.page.locator(".hoverlayer .hovertext").text_content()).replace("\xa0", " ")
    assert cell[0].startswith("level 4, ")
    assert all(line in label for line in cell)
    choose(opened, "#lens-statistic", "entropy (nats)")
    opened.until("() => document.querySelector('.js-plotly-plot').data[0].z[0][0] > 1")
    log = logits.log_softmax(-1)
    entropy = -(log.exp() * log).sum(-1)
    torch.testing.assert_close(torch.tensor(heat_map(opened)["z"]), entropy, rtol=1e-4, atol=1e-4)


def test_the_page_of_onejump_lens_opens_without_a_network(
    window: Window, tmp_path: Path, tiny_model_folder: Path, logits: torch.Tensor
) -> None:
    from onejump.lens.trajectory import Trajectory

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    Trajectory.from_prompt(model, tokenizer, PROMPT).save_html(tmp_path / "lens.html")
    window.context.set_offline(True)
    window.page.goto((tmp_path / "lens.html").as_uri())
    window.page.locator(".js-plotly-plot .hm").wait_for()
    assert heat_map(window)["name"] == "identity"
    assert_hover_is_right(window, tiny_model_folder, logits)


def start(window: Window, **settings: str) -> None:
    """Begin to generate."""
    window.page.locator("#generate-prompt textarea").fill(settings.pop("prompt", PROMPT))
    for name, value in settings.items():
        if name == "mode":
            window.page.locator(f"#generate-mode input[value={value}]").check()
        else:
            window.page.locator(f"#generate-{name} input").fill(value)
    window.page.locator("#generate-start:enabled").click()


def ended(window: Window) -> str:
    """Wait until a text has ended, and give it without rejected drafts."""
    window.says("#generate-numbers", "FLOPs")
    text: str = window.page.evaluate(
        "() => { const text = document.querySelector('#generate-text .onejump-text').cloneNode(true);"
        " text.querySelectorAll('del').forEach(draft => draft.remove()); return text.textContent; }"
    )
    return text


def generate(window: Window, **settings: str) -> str:
    """Generate, and give the text without rejected drafts."""
    start(window, **settings)
    return ended(window)


def test_generating_streams_the_librarys_text_with_its_exit_levels(
    opened: Window, tiny_model_folder: Path, kept_jump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.tab("Generate")
    # The model goes on when the page shows a part of its text.
    seen, told = threading.Event(), _Telling.exits

    def exits(self: _Telling, *of: Any) -> None:
        told(self, *of)
        if len(self._text.exit_levels) > 9:
            seen.wait(PATIENCE / 1000)

    monkeypatch.setattr(_Telling, "exits", exits)
    start(opened, mode="trusted", **{"new-tokens": "50"})
    opened.until("() => document.querySelector('#generate-text .onejump-text')?.textContent")
    begun = opened.page.locator("#generate-text .onejump-text").text_content()
    assert "FLOPs" not in opened.page.locator("#generate-numbers").inner_text()
    seen.set()
    text = ended(opened)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    engine = EarlyExit(model, OneJump.from_pretrained(kept_jump), gate="95%", mode="trusted", packed=False)
    given = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = engine.generate(given, max_new_tokens=50)
    assert text == tokenizer.decode(expected.new_tokens[0], skip_special_tokens=True)
    assert 0 < len(begun) < len(opened.page.locator("#generate-text .onejump-text").text_content())
    levels = opened.page.evaluate(
        "() => [...document.querySelectorAll('#generate-text .onejump-text > span')].map("
        "one => Number(one.dataset.level ?? 4))"
    )
    shown = zip(expected.new_tokens[0], expected.exit_levels[0], strict=True)
    assert levels == [level for token, level in shown if token not in tokenizer.all_special_ids]
    assert min(levels) < 4
    titles = opened.page.locator("#generate-text .onejump-text [data-level='1']")
    assert titles.first.get_attribute("title") == "exit at level 1 of 4"
    plain = model.generate(given, max_new_tokens=50, do_sample=False, pad_token_id=0)
    own = tokenizer.decode(plain[0, given.shape[1] :], skip_special_tokens=True)
    opened.page.locator("#generate-plain").click()
    opened.until("() => document.querySelectorAll('#generate-numbers p').length === 1")
    assert opened.page.locator("#generate-plain-text .onejump-text").text_content() == own
    verdict = "The two texts differ" if own != text else "Both runs gave the same text"
    assert verdict in opened.page.locator("#generate-numbers").inner_text()


def test_levels_can_be_written_for_those_who_cannot_hover(opened: Window) -> None:
    opened.tab("Generate")
    generate(opened, mode="copied", **{"new-tokens": "9"})
    opened.page.get_by_label("Write exit levels behind tokens").check()
    opened.until("() => document.body.classList.contains('onejump-levels')")
    written = opened.page.evaluate(
        "() => { const one = document.querySelector('#generate-text [data-level]');"
        " return [getComputedStyle(one, '::after').content, one.dataset.level]; }"
    )
    assert written[0] == f'"{written[1]}"'


BAD = [
    ("prompt textarea", " ", "The prompt is empty: type some text."),
    ("prompt textarea", "boat " * 61, "The prompt has 61 tokens: at most 60 are accepted."),
    ("new-tokens input", "61", "New tokens: 61 given, a number from 1 to 60 is accepted."),
    ("temperature input", "-1", "Temperature: -1 given, a number from 0 to 5 is accepted."),
]


def test_a_bad_input_shows_a_message_and_the_page_goes_on(opened: Window) -> None:
    opened.tab("Generate")
    page = opened.page
    page.locator("#generate-prompt textarea").fill(PROMPT)
    for control, value, said in BAD:
        field = page.locator(f"#generate-{control}")
        before = field.input_value()
        field.fill(value)
        page.locator("#generate-start:enabled").click()
        page.locator("#generate-message [role=alert]").get_by_text(said, exact=True).wait_for()
        field.fill(before)
    assert generate(opened) != ""
    assert page.locator("#generate-message").inner_text().strip() == ""


def test_a_bad_prompt_of_the_lens_shows_a_message_and_the_page_goes_on(opened: Window) -> None:
    page = opened.page
    page.locator("#lens-start").click()
    page.locator("#lens-message [role=alert]").wait_for()
    assert "The prompt is empty" in page.locator("#lens-message").inner_text()
    show_lens(opened, "the green boat " * 5)
    opened.says("#lens-below", "Only the last 8 of 15 tokens are shown.")
    assert page.locator("#lens-message").inner_text().strip() == ""


def test_the_study_shows_figures_captions_and_tables(opened: Window, study_folder: Path) -> None:
    page = opened.page
    opened.tab("Study")
    page.locator("#study-figures img").first.wait_for()
    opened.until(
        "() => [...document.querySelectorAll('#study-figures img')].every(one => one.naturalWidth > 0)"
    )
    assert page.locator("#study-figures h3").all_inner_texts() == ["selected", "methods", "lens, interactive"]
    assert "The selected jump" in page.locator("#study-figures figcaption").first.inner_text()
    # The page runs its script, and has nothing of the page around it: its origin is none.
    frame = page.frame_locator("#study-figures iframe")
    frame.locator("#said").get_by_text("drawn, from null", exact=True).wait_for()
    with page.expect_popup() as opening:
        page.get_by_role("link", name="Open it in a new tab").click()
    opening.value.locator("#said").get_by_text("drawn, from null", exact=True).wait_for()
    opening.value.close()
    opened.tab("Tables")
    opened.until("() => document.querySelector('#study-table').innerText.includes('identity')")
    assert "1,500 rows, of which the first 1,000" in page.locator("#study-table-about").inner_text()
    choose(opened, "#study-table-name", "analysis")
    opened.until("() => document.querySelector('#study-table-about').innerText.startsWith('2 rows')")
    table = pd.read_parquet(study_folder / "tiny/plain-text/analysis.parquet")
    opened.until("() => !document.querySelector('#study-table').innerText.includes('\\n9\\n')")
    opened.until(
        "rows => document.querySelector('#study-table').innerText.split('identity').length === rows + 1",
        len(table),
    )
    choose(opened, "#study-place", "all models")
    opened.until("() => document.querySelector('#study-figures').innerText.includes('cross-scale')")


@pytest.mark.parametrize("window", ["light", "dark"], indirect=True)
def test_nothing_is_wider_than_the_page_and_tokens_can_be_read(opened: Window) -> None:
    def width_fits() -> None:
        for width, height in ((1400, 900), (390, 844)):
            opened.page.set_viewport_size({"width": width, "height": height})
            opened.until(
                "width => document.documentElement.clientWidth <= width"
                " && document.documentElement.scrollWidth <= document.documentElement.clientWidth",
                width,
            )

    show_lens(opened)
    width_fits()
    opened.tab("Generate")
    generate(opened, mode="copied", **{"new-tokens": "9"})
    width_fits()
    pairs = opened.page.evaluate(
        "() => [...document.querySelectorAll('.onejump-legend [data-step]')].map(one => {"
        " const style = getComputedStyle(one); return [style.color, style.backgroundColor]; })"
    )
    assert len(pairs) == 2
    assert all(contrast(*pair) > 5 for pair in pairs)
    page_colours = opened.page.evaluate(
        "() => [getComputedStyle(document.querySelector('.onejump-note')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(*page_colours) > 4.5
    opened.tab("Study")
    opened.page.locator("#study-figures img").first.wait_for()
    width_fits()


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_tabs_without_their_inputs_say_what_to_give(window: Window, empty_site: Site) -> None:
    window.page.goto(empty_site.address)
    for tab, said in (("Lens", "--model MODEL"), ("Generate", "--model MODEL"), ("Study", "--results")):
        window.tab(tab)
        shown = window.page.locator(".onejump-note:visible").get_by_text("This tab needs")
        shown.get_by_text(said).wait_for()
        assert shown.count() == 1
    assert empty_site.outside == []


def test_a_masked_model_has_a_lens_and_generates_nothing(
    window: Window, tiny_masked_folder: Callable[[str], Path], outside: list[Any]
) -> None:
    folder = tiny_masked_folder("bert")
    served = Served.load(str(folder), [], Limits(), device="cpu", dtype="bfloat16")
    for site in _serve(served, None, outside):
        window.page.goto(site.address)
        show_lens(window)
        tokenizer, model = AutoTokenizer.from_pretrained(folder), served.loaded.transformer.model
        given = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
        best = []
        for place in range(1, given.shape[1] - 1):
            masked = given.clone()
            masked[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                best.append(int(model(masked).logits[0, place].argmax()))
        shown = [unescape(text).removeprefix("·") for text in heat_map(window)["text"][-1]]
        assert shown == tokenizer.convert_ids_to_tokens(best)
        window.tab("Generate")
        window.page.get_by_text("this one is a masked language model").wait_for()
    served.close()


def test_an_encoder_decoder_has_a_lens_and_generates(
    window: Window, tiny_marian: tuple[Path, Path], outside: list[Any]
) -> None:
    folder, jump = tiny_marian
    served = Served.load(str(folder), [str(jump)], Limits(), device="cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    given = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    target = "My neighbour found"
    for site in _serve(served, None, outside):
        window.page.goto(site.address)
        window.page.locator("#lens-target textarea").fill(target)
        show_lens(window)
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            best = model(given, labels=labels).logits[0].argmax(-1).tolist()
        shown = [unescape(text).removeprefix("·") for text in heat_map(window)["text"][-1]]
        assert shown == tokenizer.convert_ids_to_tokens(best)
        window.page.locator("#lens-target textarea").fill("")
        window.page.locator("#lens-start").click()
        window.page.locator("#lens-message [role=alert]").get_by_text("The target is empty").wait_for()
        window.tab("Generate")
        assert window.page.locator("#generate-prompt").inner_text().strip() == "Source"
        text = generate(window, **{"new-tokens": "12"})
        own = model.generate(given, max_new_tokens=12, num_beams=1)
        assert text == tokenizer.decode(own[0], skip_special_tokens=True)
    served.close()


def own_gate(window: Window) -> list[str]:
    """Give the threshold and the levels that the page has."""
    fields = [window.page.locator(f"#generate-{name}") for name in ("threshold", "levels")]
    return [field.locator("input, textarea").first.input_value() for field in fields]


def test_a_forward_jump_drafts_and_the_lens_says_that_it_is_left_out(
    window: Window, forward: Served, outside: list[Any]
) -> None:
    for site in _serve(forward, None, outside):
        window.page.goto(site.address)
        window.page.locator("#lens-left-out").get_by_text("Left out here").wait_for()
        window.says("#lens-left-out", "Left out here: one-forward. It reads the last level's state")
        assert window.page.locator("#lens-shortcuts").get_by_label("one-forward").count() == 0
        show_lens(window)
        assert heat_map(window)["name"] == "ojfa"
        window.tab("Generate")
        assert own_gate(window) == ["0.1", "0"]
        assert not window.page.locator("#generate-recall").is_visible()
        window.page.locator("#generate-drafting button").first.click()
        window.page.locator("#generate-recall").wait_for()
        doubled = f"{PROMPT} {PROMPT}"
        settings = {"prompt": doubled, "threshold": "0", "new-tokens": "30"}
        # Numbers that nobody touches are what they say.
        generate(window, **settings)
        generate(window, **settings, recall="1", drafts="1", recalled="2")
        window.says("#generate-numbers", "Recalled drafts accepted")
        window.says("#generate-numbers", "FLOPs")
        table = window.page.locator("#generate-numbers").inner_text()
        assert re.search(r"Recalled drafts accepted\s+\d+ of \d+", table)
        window.page.locator("#generate-plain:enabled").click()
        window.says("#generate-numbers", "Both runs gave the same text.")
        # Numbers of one's own stay when another jump is chosen; those of the page change.
        choose(window, "#generate-jump", "ojfa")
        window.until("() => document.querySelector('#generate-gate input').value.startsWith('95%')")
        choose(window, "#generate-gate", "margin: your own threshold")
        assert own_gate(window) == ["0", "0"]
        window.page.locator("#generate-recalled input").fill("0")
        window.page.locator("#generate-drafts input").fill("0")
        window.page.locator("#generate-candidates input").fill("3")
        window.page.locator("#generate-start:enabled").click()
        window.says("#generate-message", "Candidates: 3 given with Drafts 0: say how many drafts, such as 1.")


def test_a_name_of_another_site_is_refused(site: Site) -> None:
    host = urlsplit(site.address).netloc
    answers = []
    for name in (host, "evil.example"):
        connection = HTTPConnection(host)
        connection.request("GET", "/", headers={"Host": name})
        answers.append(connection.getresponse().status)
        connection.close()
    assert answers == [200, 400]


def test_a_page_of_a_study_loads_nothing_and_is_a_file_of_the_study(
    site: Site, empty_site: Site, study_folder: Path
) -> None:
    def answer(asked: Site, **query: str) -> tuple[int, str, str]:
        connection = HTTPConnection(urlsplit(asked.address).netloc)
        connection.request("GET", f"/study-page?{urlencode(query)}")
        found = connection.getresponse()
        said = found.status, found.headers["content-security-policy"], found.read().decode()
        connection.close()
        return said

    status, policy, page = answer(site, place="tiny on plain-text", name="lens")
    assert status == 200
    assert page == (study_folder / "tiny/plain-text/lens.html").read_text(encoding="utf-8")
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; ")
    assert "connect-src" not in policy
    for place, name in (
        ("tiny on plain-text", "../../report"),
        ("../small", "lens"),
        ("all models", "report"),
    ):
        status, _, said = answer(site, place=place, name=name)
        assert status == 404
        assert "accepted is" in said
    assert answer(empty_site, place="tiny on plain-text", name="lens")[0] == 404
