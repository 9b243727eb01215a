"""How the page looks: system fonts, a quiet palette, and the style and script that lie beside this file."""

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent
STYLE = FOLDER / "page.css"
SCRIPT = FOLDER / "page.js"
# The style is rewritten to hold for what is inside Gradio's container; this is for the container.
FRAME = """<style>
.gradio-container .main.app { padding: 12px max(14px, 2vw) !important; }
</style>"""
# Whatever the visitor's system reads best in: nothing is fetched from anywhere.
FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONOSPACED = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def quiet_theme() -> gr.themes.Base:
    """Teal on warm grey, in light and dark."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        font=FONT,
        font_mono=MONOSPACED,
        radius_size="lg",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        # Gradio's own are too faint to be read by everybody.
        body_text_color_subdued="*neutral_500",
        color_accent="*primary_600",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_shadow="none",
        block_title_text_weight="500",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
    )
