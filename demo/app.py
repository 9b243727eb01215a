"""The page: what goes in on the left, what comes out on the right; and the server behind it."""

import contextlib
import os
import tempfile
from dataclasses import fields

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the demo needs gradio: pip install 'speechllm[demo]'") from error

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from . import views
from .checkpoints import ROUTING_WORDS, Checkpoint
from .examples import AUDIO, read_examples
from .page import Page
from .theme import FRAME, SCRIPT, STYLE, quiet_theme
from .transcription import Request

# Files of visitors are removed once they are so old; they are looked at so often. In seconds.
FILES_KEPT, FILES_LOOKED_AT = 3600, 600
WAITING_VISITORS = 20
TASKS = [("Transcribe", "transcribe"), ("Translate into English", "translate")]
PRIVATE = {"api_visibility": "private"}
# One computation at a time, whichever button asked for it.
COMPUTING = {"concurrency_limit": 1, "concurrency_id": "computing", "show_progress": "minimal"} | PRIVATE
AT_ONCE = {"queue": False, "show_progress": "hidden"} | PRIVATE


def language_choices(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Its own languages first, then all that Whisper knows, by name."""
    own = {code: views.language_name(code) for code in checkpoint.languages}
    others = sorted((name.title(), code) for code, name in LANGUAGES.items() if code not in own)
    return [("Find out by listening", ""), *((name, code) for code, name in own.items()), *others]


def routing_choices(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    router = checkpoint.config.router_config
    usual = f"as the checkpoint has it ({router.strategy})" if router else "by the language"
    return [(usual, ""), *((ROUTING_WORDS[name], name) for name in checkpoint.routings)]


def build(page: Page) -> gr.Blocks:
    """The page, not yet served."""
    with gr.Blocks(
        title="speechllm", analytics_enabled=False, delete_cache=(FILES_LOOKED_AT, FILES_KEPT)
    ) as blocks:
        gr.HTML(views.masthead())
        with gr.Row(elem_id="panes"):
            with gr.Column(scale=5, min_width=320):
                parts = sound(page) | examples() | choices(page) | settings()
            with gr.Column(scale=7, min_width=320):
                parts |= results(page)
        gr.HTML(views.colophon(page.most_megabytes, page.most_minutes))
        connect(page, blocks, parts)
    return blocks


def sound(page: Page) -> dict:
    """What is to be heard."""
    return {
        "audio": gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=f"Drop a file or record, up to {page.most_minutes:g} min",
            editable=False,
            buttons=[],
            elem_id="audio",
        )
    }


def choices(page: Page) -> dict:
    """Checkpoint, language and routing, and the buttons."""
    first = next(iter(page.checkpoints.values()))
    parts: dict = {}
    with gr.Group():
        parts["name"] = gr.Dropdown(
            list(page.checkpoints),
            value=first.name,
            label="Checkpoint",
            info=first.description,
            elem_id="name",
        )
        parts["language"] = gr.Dropdown(
            language_choices(first), value="", label="Language spoken", elem_id="language"
        )
        parts["routing"] = gr.Dropdown(
            routing_choices(first),
            value="",
            label="Choice of adapters",
            visible=bool(first.routings),
            elem_id="routing",
        )
    with gr.Row(elem_id="buttons"):
        parts["run"] = gr.Button("Transcribe", variant="primary", size="lg", elem_id="run", scale=3)
        parts["stop"] = gr.Button("Stop", size="lg", visible=False, elem_id="stop", scale=1, min_width=90)
    return parts


def settings() -> dict:
    """What few visitors change, folded away; the defaults are those of a `Request`."""
    usual = Request()
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        return {
            "task": gr.Dropdown(TASKS, value=usual.task, label="Task"),
            "words": gr.Textbox(label="Names and terms that may occur", placeholder="Digium, Asterisk"),
            "window_seconds": gr.Slider(
                5, 30, usual.window_seconds, step=1, label="Longest window, seconds",
                info="Longer sound is cut at pauses; short windows make short subtitles.",
            ),
            "beams": gr.Slider(1, 5, usual.beams, step=1, label="Beams", info="1 is greedy, and fastest."),
            "temperature": gr.Slider(
                0, 2, usual.temperature, step=0.1, label="Temperature", info="0 always takes the likeliest."
            ),
            "top_p": gr.Slider(0.1, 1, usual.top_p, step=0.05, label="Top p, where temperature is above 0"),
            "top_k": gr.Slider(1, 200, usual.top_k, step=1, label="Top k, where temperature is above 0"),
            "most_tokens": gr.Slider(
                0, 440, usual.most_tokens, step=10, label="Most tokens a window", info="0: by its duration."
            ),
        }  # fmt: skip


def examples() -> dict:
    """Clips to try, and a place for what is said in the one that was chosen."""
    clips = read_examples()
    return {
        "example": gr.Dataset(
            components=[gr.Audio(visible=False)],
            samples=[[str(clip.path)] for clip in clips],
            sample_labels=[views.language_name(clip.language) for clip in clips],
            type="index",
            label="Examples",
            elem_id="examples",
        ),
        "quoted": gr.HTML(elem_id="quoted"),
    }


def results(page: Page) -> dict:
    """Two tabs: one transcript, or two side by side where there are two systems."""
    names = list(page.systems)
    # Of several checkpoints the last; of one alone what it is without its adapters.
    rival = names[-1] if len(page.checkpoints) == 1 else list(page.checkpoints)[-1]
    with gr.Tabs(elem_id="tabs") as tabs:
        with gr.Tab("Transcript", id="transcript"):
            result = gr.HTML(views.welcome(), elem_id="result")
        with gr.Tab("Compare", id="compare", visible=len(names) > 1):
            with gr.Row(elem_id="against"):
                other = gr.Dropdown(names, value=rival, label="Compare with", elem_id="other", scale=3)
                compare = gr.Button("Compare", variant="primary", elem_id="compare", scale=1, min_width=110)
            compared = gr.HTML(views.invitation(), elem_id="compared")
    return {"tabs": tabs, "result": result, "other": other, "compare": compare, "compared": compared}


def connect(page: Page, blocks: gr.Blocks, parts: dict) -> None:
    """What happens when something is pressed or chosen."""
    clips, to_transcript = read_examples(), gr.update(selected="transcript")
    chosen = [parts[one.name] for one in fields(Request)]
    source = [parts["audio"], parts["name"]]
    pressed = parts["run"].click(lambda: to_transcript, None, parts["tabs"], **AT_ONCE)
    picked = parts["example"].click(
        lambda index: (str(clips[index].path), views.quoted(clips[index]), to_transcript),
        parts["example"],
        [parts["audio"], parts["quoted"], parts["tabs"]],
        **AT_ONCE,
    )
    asked = parts["compare"].click(lambda: None, **AT_ONCE)
    for start in (pressed, picked):
        works(page, parts, start, page.transcript, [*source, *chosen], parts["result"])
    works(page, parts, asked, page.compared, [*source, parts["other"], *chosen], parts["compared"])
    stoppable(page, blocks, parts["stop"])
    parts["audio"].clear(lambda: "", None, parts["quoted"], **AT_ONCE)
    parts["name"].change(
        lambda name: described(page.checkpoints[name]),
        parts["name"],
        [parts["name"], parts["language"], parts["routing"]],
        **AT_ONCE,
    )


def works(page: Page, parts: dict, start, function, inputs: list, output) -> None:
    """After `start` compute for long, with the buttons set for as long as it lasts."""
    buttons = [parts["run"], parts["compare"], parts["stop"]]

    def begin(visitor: gr.Request):
        page.visits.begin(visitor.session_hash)
        others = page.visits.others(visitor.session_hash)
        return *busy(True), views.waiting("Others came first: waiting" if others else "Reading the sound")

    def compute(visitor: gr.Request, *values):
        yield from function(*values, session=visitor.session_hash)

    def end(visitor: gr.Request):
        page.visits.end(visitor.session_hash)
        return busy(False)

    began = start.then(begin, None, [*buttons, output], **AT_ONCE)
    began.then(compute, inputs, output, **COMPUTING).then(end, None, buttons, **AT_ONCE)


def stoppable(page: Page, blocks: gr.Blocks, button) -> None:
    """The button that ends what a visitor has under way; leaving the page does, too."""

    def stop(visitor: gr.Request):
        page.visits.stop(visitor.session_hash)
        return gr.update(value="Stopping", interactive=False)

    def leave(visitor: gr.Request):
        page.visits.stop(visitor.session_hash)

    button.click(stop, None, button, **AT_ONCE)
    blocks.unload(leave)


def busy(working: bool) -> tuple[dict, dict, dict]:
    """Updates of the two buttons that start something, and of the one that stops it."""
    start = gr.update(interactive=not working)
    return start, start, gr.update(value="Stop", visible=working, interactive=True)


def described(checkpoint: Checkpoint) -> tuple[dict, dict, dict]:
    """What the page says and offers about a checkpoint."""
    return (
        gr.update(info=checkpoint.description),
        gr.update(choices=language_choices(checkpoint), value=""),
        gr.update(choices=routing_choices(checkpoint), value="", visible=bool(checkpoint.routings)),
    )


@contextlib.contextmanager
def serving(page: Page, host: str, port: int | None = None, share: bool = False, auth=None):
    """The page's address, for as long as the block lasts; visitors' files are gone behind it.

    `auth`: `(name, password)` that is asked for, or a list of such.
    """
    with tempfile.TemporaryDirectory(prefix="speechllm-demo-") as folder:
        # Components read it when they are made.
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = build(page).queue(max_size=WAITING_VISITORS, default_concurrency_limit=1)
        _, local, public = blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth,
            allowed_paths=[str(AUDIO)],
            max_file_size=f"{page.most_megabytes}mb",
            theme=quiet_theme(),
            css_paths=[STYLE],
            head=FRAME,
            js=SCRIPT.read_text(encoding="utf-8"),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        try:
            yield public or local
        finally:
            blocks.close(verbose=False)
